// What tests/report/test_page.py does with the page by script: sort, filter, enlarge.
(() => {
  const pictures = [...document.querySelectorAll(".shot img")];
  const ua = [...document.querySelectorAll("#targets thead button")][5];
  const rows = () => [...document.querySelectorAll("#targets tbody tr")];
  const column = () => rows().map((r) => parseFloat(r.cells[5].dataset.value));
  ua.click(); const up = column(); ua.click(); const down = column();
  const input = document.querySelector("#targets-filter");
  input.value = "random neon"; input.dispatchEvent(new Event("input"));
  const shown = rows().filter((r) => !r.hidden).length;
  input.value = ""; input.dispatchEvent(new Event("input"));
  pictures[0].closest("button").click();
  const loaded = pictures.filter((i) => i.complete && i.naturalWidth > 0).length;
  const open = document.getElementById("enlarged").open;
  document.getElementById("enlarged").close();
  const charts = [...document.querySelectorAll("figure.chart")].filter((f) => !f.closest("details:not([open])"));
  const marks = charts.map((f) => f.querySelectorAll("svg [role=graphics-symbol][aria-label]").length);
  return { pictures: loaded, up, down, shown, open, marks, width: innerWidth, wide: document.documentElement.scrollWidth };
})()
