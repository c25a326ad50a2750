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
const dialog = document.querySelector("dialog");
for (const shot of document.querySelectorAll(".shot")) {
  shot.addEventListener("click", () => {
    dialog.querySelector("img").src = shot.querySelector("img").src;
    dialog.querySelector("img").alt = shot.querySelector("img").alt;
    dialog.querySelector("p").textContent = shot.querySelector("img").alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", () => dialog.close());
