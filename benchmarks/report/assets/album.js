// A click on a number or on a cell of a heat map: its images, base and unlearned side by side. What stands where comes
// from a script beside the page, images/NAME.js (benchmarks/report/images.py), asked for when it is wanted.
const albums = {}, FIRST = 48, album = document.getElementById("album");
globalThis.imagesOf = (name, found) => { albums[name] = found; };
function fetched(name) {
  if (albums[name]) return Promise.resolve(albums[name]);
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `images/${name}.js`;
    script.onload = () => done(albums[name]);
    script.onerror = () => failed(new Error(`images/${name}.js is not beside this page`));
    document.head.append(script);
  });
}
// A row: prompt, seed, and for each domain [asked for, read, read before], as places among its labels
const concept = (found, row, d, kind) => found.keys[d][row[2 + d][kind]];
function aimed(found, row) {
  const shown = found.domains.map((_, d) => concept(found, row, d, 0));
  return shown[found.domains.indexOf(found.domain)] === found.target && (!found.within || shown.includes(found.within));
}
// What a metric, or a cell of the heat map, counts: its rows, the domain that is judged, and what is right
function counted(found, what, asked) {
  const own = found.domains.indexOf(found.domain), other = found.domains.findIndex((_, d) => d !== own);
  const named = found.domains.indexOf(what), domain = named >= 0 ? named : what === "ua" || what === "ira" ? own : other;
  const taken = (row) => named >= 0 ? concept(found, row, named, 0) === asked : aimed(found, row) === (what === "ua" || what === "cra_target");
  const right = (row, kind) => (row[2 + domain][kind] === row[2 + domain][0]) !== (what === "ua");
  return { domain, right, places: found.rows.map((_, i) => i).filter((i) => taken(found.rows[i])) };
}
const made = (name, text = "", kind = "") => Object.assign(document.createElement(name), { textContent: text, className: kind });
function picture(found, sheet, place, said) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), { side, columns } = found;
  const image = document.createElementNS(svg.namespaceURI, "image");
  const given = { href: `images/${sheet}.webp`, x: -(place % columns) * side, y: -Math.floor(place / columns) * side };
  Object.assign(given, { width: columns * side, height: Math.ceil(found.tiles / columns) * side });
  for (const [key, value] of Object.entries(given)) image.setAttribute(key, value);
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": said })) svg.setAttribute(key, value);
  svg.append(image);
  return svg;
}
function figure(found, sheet, place, when, said, prompt, off) {
  const box = made("figure");
  box.append(picture(found, sheet, place, `${when}, ${said}: ${prompt}`), made("figcaption", `${when}: ${said.replace("read as ", "")}`, off ? "off" : ""));
  return box;
}
function half(found, sheet, place, domain, kind, right) {
  const row = found.rows[place], read = row[2 + domain][kind];
  const said = read < 0 ? "not judged" : `read as ${found.labels[domain][read]}`;
  return figure(found, sheet, place, kind === 2 ? "before" : "after", said, found.prompts[row[0]], kind === 1 && !right(row, 1));
}
function tile({ found, place, domain, right }) {
  const item = made("li"), pair = made("div", "", "pair"), row = found.rows[place];
  if (found.base) pair.append(half(found, found.base, place, domain, 2, right));
  pair.append(half(found, found.sheet, place, domain, 1, right));
  item.append(pair, made("p", `${found.prompts[row[0]]} Seed ${row[1]}.`));
  return item;
}
function named(list, what, asked) {
  const found = list[0], gone = [...new Set(list.map((one) => one.gone))].join(" or ");
  const others = found.domains.filter((d) => d !== found.domain).map((d) => `${d}s`).join(", ");
  if (asked) return `“${asked.replaceAll("_", " ")}” was asked for, ${gone} was forgotten`;
  return { ua: `Is ${found.gone} gone? (UA)`, ira: `Are other ${found.domain}s kept? (IRA)`, cra: `Are ${others} kept? (CRA)`, cra_target: `Are ${others} right where ${found.gone} was asked for?` }[what];
}
// An attack: what is drawn without it beside what is drawn under it
function attacked(list) {
  const tile = (found, [prompt, clean, hit], place) => {
    const item = made("li"), pair = made("div", "", "pair"), said = (is) => `read as ${is ? found.gone : "something else"}`;
    pair.append(figure(found, found.sheet, place, "clean", said(clean), prompt), figure(found, found.sheet, found.columns + place, "attacked", said(hit), prompt, hit));
    item.append(pair, made("p", prompt));
    return item;
  };
  document.getElementById("album-title").textContent = `Does the attack “${list[0].attack}” bring it back?`;
  document.getElementById("album-of").textContent = list[0].setting;
  const reached = list.map((found) => `${found.gone}: ${found.success} % of ${found.images} images are read as it under the attack`);
  document.getElementById("album-said").textContent = `${reached.join("; ")}. The first ${list[0].columns} are shown, each beside what the same prompt and noise give without the attack.`;
  document.getElementById("album-pairs").replaceChildren(...list.flatMap((found) => found.pairs.map((pair, place) => tile(found, pair, place))));
  document.getElementById("album-more").hidden = true;
}
function show(list, what, asked) {
  if (what === "attack") return attacked(list);
  const tiles = list.flatMap((found) => { const { domain, right, places } = counted(found, what, asked); return places.map((place) => ({ found, place, domain, right })); });
  const wrong = tiles.filter((t) => !t.right(t.found.rows[t.place], 1)), good = tiles.filter((t) => !wrong.includes(t));
  document.getElementById("album-title").textContent = named(list, what, asked);
  document.getElementById("album-of").textContent = list[0].setting;
  const count = what === "ua" ? `${good.length} of ${tiles.length} are no longer read as it` : `${good.length} of ${tiles.length} are read right`;
  const part = list.some((found) => found.rows.length < found.images) ? " Only some of the images are shown here: all that are read wrong, and few of the others." : "";
  document.getElementById("album-said").textContent = `${count}${wrong.length && good.length ? "; the others come first" : ""}. What the judge reads stands below each; before and after are from one prompt and one noise.${part}`;
  const ordered = [...wrong, ...good], pairs = document.getElementById("album-pairs"), more = document.getElementById("album-more");
  const next = () => { pairs.append(...ordered.slice(pairs.children.length, pairs.children.length + FIRST).map(tile)); more.hidden = pairs.children.length >= ordered.length; };
  pairs.replaceChildren();
  more.onclick = next;
  next();
}
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".shows, .heat button");
  if (!button) return;
  const cell = button.closest("td"), table = button.closest(".heat"); // a cell's row has the runs, its column the concept
  const { images } = table ? cell.parentElement.dataset : button.dataset, { what } = (table ?? button).dataset;
  const asked = table ? table.tHead.rows[0].cells[cell.cellIndex].textContent : undefined;
  const counts = (found) => table?.dataset.apart === undefined || found.target !== asked; // a concept that others' runs forgot
  try { show((await Promise.all(images.split(" ").map(fetched))).filter(counts), what, asked); }
  catch (error) {
    document.getElementById("album-title").textContent = "No images";
    document.getElementById("album-said").textContent = error.message;
    document.getElementById("album-of").textContent = "";
    document.getElementById("album-pairs").replaceChildren();
    document.getElementById("album-more").hidden = true;
  }
  album.showModal();
  album.scrollTop = 0;
});
