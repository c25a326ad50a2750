"use strict";
const groups = [...document.querySelectorAll(".board tbody")], runs = [...document.querySelectorAll("tr.run")];
const fields = [...document.querySelectorAll("[data-filters]")], choices = fields.filter((f) => f.localName === "select");
function filter() {
  const words = fields.find((f) => f.dataset.filters === "words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const held = fields.find((f) => f.dataset.filters === "held").checked;
  for (const run of runs) {
    const said = { ...run.parentElement.dataset, ...run.dataset };
    run.hidden = !(words.every((w) => said.text.includes(w)) && choices.every((c) => !c.value || said[c.dataset.filters] === c.value) && (!held || said.held));
  }
  for (const group of groups) group.hidden = ![...group.querySelectorAll("tr.run")].some((run) => !run.hidden);
  document.getElementById("count").textContent = `${runs.filter((run) => !run.hidden).length} of ${runs.length} runs`;
}
for (const field of fields) field.addEventListener("input", filter);
const value = (run, key) => run.querySelector(`[data-key="${key}"]`)?.dataset.value ?? null;
function order(key, down) {
  const compare = (a, b) => {
    const [x, y] = [value(a, key), value(b, key)];
    if ((x === null) !== (y === null)) return x === null ? 1 : -1;
    const found = key === "name" ? x.localeCompare(y) : x - y;
    return down ? -found : found;
  };
  for (const group of groups) group.append(...[...group.querySelectorAll("tr.run")].sort(compare));
  for (const button of document.querySelectorAll("[data-sorts]")) {
    if (button.dataset.sorts === key) button.closest("th").setAttribute("aria-sort", down ? "descending" : "ascending");
    else button.closest("th").removeAttribute("aria-sort");
  }
}
for (const button of document.querySelectorAll("[data-sorts]")) {
  button.addEventListener("click", () => order(button.dataset.sorts, button.closest("th").getAttribute("aria-sort") === "ascending"));
}
const sort = document.getElementById("sort");
sort.addEventListener("input", () => order(sort.value, "down" in sort.selectedOptions[0].dataset));
function open() {
  const entry = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (entry && entry.localName === "details") { entry.open = true; entry.scrollIntoView(); }
}
addEventListener("hashchange", open);
open();
