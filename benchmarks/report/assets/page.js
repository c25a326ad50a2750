"use strict";
const number = (cell) => { const v = cell.dataset.value ?? cell.textContent; const n = parseFloat(v); return Number.isNaN(n) ? null : n; };
function compare(a, b, column, down) {
  const [x, y] = [a.cells[column], b.cells[column]], [m, n] = [number(x), number(y)];
  if ((m === null) !== (n === null)) return m === null ? 1 : -1;
  const order = m === null ? x.textContent.localeCompare(y.textContent) : m - n;
  return down ? -order : order;
}
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...[...body.rows].sort((a, b) => compare(a, b, head.cellIndex, down)));
  });
}
for (const input of document.querySelectorAll("input[data-filters]")) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const items = document.querySelectorAll(`#${input.dataset.filters} [data-text]`);
    let shown = 0;
    for (const item of items) { item.hidden = !words.every((w) => item.dataset.text.includes(w)); shown += !item.hidden; }
    document.getElementById(`${input.dataset.filters}-count`).textContent = `${shown} of ${items.length}`;
  });
}
const dialog = document.getElementById("enlarged");
for (const shot of document.querySelectorAll(".shot")) {
  shot.addEventListener("click", () => {
    dialog.querySelector("img").src = shot.querySelector("img").src;
    dialog.querySelector("img").alt = shot.querySelector("img").alt;
    dialog.querySelector("p").textContent = shot.querySelector("img").alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw(figure) {
  const text = { labelColor: ink("--ink"), titleColor: ink("--ink"), gridColor: ink("--line"), domainColor: ink("--soft"), tickColor: ink("--soft"), labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal" };
  const config = { background: null, font: "system-ui, sans-serif", axis: text, text: { color: ink("--ink") }, legend: { disable: true }, view: { stroke: null } };
  const spec = JSON.parse(figure.querySelector("script").textContent);
  if (typeof spec.width === "number") Object.assign(spec, { width: "container", autosize: { type: "fit-x", contains: "padding" } });
  spec.config = config;
  return vegaEmbed(figure.querySelector(".drawing"), spec, { renderer: "svg", actions: false, tooltip: { theme: dark.matches ? "dark" : "light" } });
}
const seen = () => [...document.querySelectorAll("figure.chart")].filter((f) => !f.closest("details:not([open])"));
const pause = () => new Promise((go) => setTimeout(go));
// One at a time, the page answering in between: what is read first is there first, and a printer gets them all
async function redraw() {
  const views = [];
  for (const figure of seen()) { await pause(); views.push(await draw(figure)); }
  document.body.dataset.charts = views.length;
}
redraw();
dark.addEventListener("change", redraw);
for (const part of document.querySelectorAll("details")) {
  part.addEventListener("toggle", () => { if (part.open) part.querySelectorAll("figure.chart").forEach(draw); });
}
