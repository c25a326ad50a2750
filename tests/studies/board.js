// What tests/studies/test_board.py does with the page: filter, sort, click through.
const errors = [];
window.addEventListener("error", (e) => errors.push(String(e.message)));
const all = (query, within = document) => [...within.querySelectorAll(query)];
const seen = (query) => all(query).filter((row) => row.offsetParent !== null).length;
function give(query, value) {
  const field = document.querySelector(query);
  if (field.type === "checkbox") field.checked = value; else field.value = value;
  field.dispatchEvent(new Event("input"));
}
function filtered(query, value, none) {
  give(query, value);
  const found = [seen("tr.run"), seen("tr.group")];
  give(query, none);
  return found;
}
const column = (group) => all("tr.run", group).map((row) => Number(row.querySelector("[data-key=ira]").dataset.value));
const ira = () => all("tbody[data-target]").map(column);
function check() {
  const first = seen("tr.run"), held = filtered("[data-filters=held]", true, false)[0];
  const words = filtered("[data-filters=words]", "esd", "")[0];
  const [target, heads] = filtered("[data-filters=target]", "sketch", "");
  give("#sort", "ira");
  const best = ira(), button = document.querySelector("[data-sorts=ira]");
  button.click();
  const up = ira();
  button.click();
  const again = ira();
  const pinned = all("tbody[data-target]").every((group) => group.children[1].className === "beside");
  const link = document.querySelector("tr.run a");
  link.click();
  setTimeout(() => {
    const entry = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    const asked = performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith("data:"));
    const found = { first, words, target, heads, held, best, up, again, pinned, asked, errors };
    found.open = entry.open;
    found.numbers = all("tbody tr", entry).length;
    found.width = innerWidth;
    found.wide = document.documentElement.scrollWidth - innerWidth;
    found.count = document.getElementById("count").textContent;
    document.body.dataset.checked = JSON.stringify(found);
  }, 100);
}
window.addEventListener("load", () => setTimeout(check, 50));
