"""The report as one HTML file: no external request, readable on a phone, by keyboard and screen reader, printable."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import stdtrit

from benchmarks.measure.predictions import Row
from benchmarks.record.results import COSTS, Run, by_setting, metric_values
from benchmarks.report.tables import headings, published
from fade.files import write_text
from fade.metrics import METRICS, about, cell_text

HERE = Path(__file__).parent
PICTURES = 6_000_000  # bytes for all pictures together, before base64
MARKS = ("circle", "square", "diamond", "triangle", "cross")
COLOURS = ("#0b6bcb", "#d1480b", "#2f7d32", "#8e24aa", "#c2185b", "#00838f", "#6d4c41", "#5e6b00")
Found = Sequence[Run]
Lines = dict[str, list[tuple[float, float, str]]]  # name -> x, y, and what the mark says


# --- pieces of HTML ---------------------------------------------------------------------------------------------------


def cell(text: str, value: float | None = None, kind: str = "") -> str:
    """A table cell; `value` is what it is sorted by. The text is HTML."""
    about = (f' data-value="{value:.6g}"' if value is not None else "") + (f' class="{kind}"' if kind else "")
    return f"<td{about}>{text}</td>"


def table(name: str, caption: str, header: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """A sortable table that scrolls sideways on its own; each row comes with the text that the filter searches."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(h)}</button></th>' for h in header)
    body = "".join(f'<tr data-text="{escape(text.lower())}">{"".join(cells)}</tr>' for text, cells in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table id="{name}"><caption>'
        f"{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def filtered(name: str, n: int) -> str:
    return (
        f'<div class="filter"><label for="{name}-filter">Filter</label><input id="{name}-filter" type="search" '
        f'data-filters="{name}" placeholder="words, for example neuron cat"><span id="{name}-count" class="soft" '
        f'role="status">{n} of {n}</span></div>'
    )


def percent(metric: dict[str, Any] | None, key: str) -> str:
    """A metric's cell: percent with its interval, or a distance as it is."""
    if not metric or metric.get("value") is None:
        return cell(escape(cell_text(metric)))
    value = float(metric["value"])
    if not about(key).share:
        return cell(cell_text({"value": value}, key), value)
    interval = (
        f' <span class="interval">[{100 * metric["low"]:.1f}, {100 * metric["high"]:.1f}]</span>'
        if "low" in metric
        else ""
    )
    return cell(f"{100 * value:.1f}{interval}", value)


def mean_of(runs: Sequence[Run], key: str, base: bool = False) -> dict[str, Any] | None:
    """Mean of a metric over runs with a 95 % t-interval, cut to [0, 1]; without one the first run's, for its reason."""
    values = metric_values(runs, key, base)
    if not values:
        return next((found for r in runs if (found := r.metric(key, base))), None)
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"value": mean}
    half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return {"value": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}


# --- sections ---------------------------------------------------------------------------------------------------------


def what_was_run(found: Found) -> str:
    """Versions, commits, datasets, protocols: one line each, all values that occur."""

    def all_of(pick: Any) -> str:
        return escape(", ".join(sorted({str(pick(r)) for r in found})))

    libraries = sorted({name for r in found for name in r.versions})
    lines = [
        ("Runs", f"{len(found)}, of {len(by_setting(found))} settings and {len({r.target for r in found})} targets"),
        ("Dataset", all_of(lambda r: r.dataset)),
        ("Protocol", all_of(lambda r: r.protocol)),
        ("Method", all_of(lambda r: r.method_name)),
        ("Commit", all_of(lambda r: r.commit[:12] or "unknown")),
        ("Base weights", all_of(lambda r: r.base_sha256[:12] or "not given")),
        ("Machine", all_of(lambda r: r.machine)),
        ("Versions", "; ".join(f"{name} {all_of(lambda r, n=name: r.versions.get(n, '?'))}" for name in libraries)),
    ]
    return "<ul>" + "".join(f"<li><strong>{name}</strong>: {value}</li>" for name, value in lines) + "</ul>"


def main_table(found: Found) -> str:
    """One row a setting, and the base model under each protocol."""
    rows = []
    keys = list(METRICS)
    for name, runs in by_setting(found).items():
        if any(r.base for r in runs):
            base = [cell(escape(f"base model ({name.split()[0]})"), kind="text"), cell("–")]
            rows.append(
                (f"base {name}", base + [percent(mean_of([r for r in runs if r.base], k, base=True), k) for k in keys])
            )
        line = [cell(escape(name), kind="text"), cell(str(len(runs)), len(runs))]
        rows.append((name, line + [percent(mean_of(runs, k), k) for k in keys]))
    unique = dict((cells[0], (text, cells)) for text, cells in rows)
    return table(
        "main",
        "Means over runs with 95 % t-intervals over runs; ↑ higher is better, ↓ lower",
        ["setting", "runs", *headings()],
        list(unique.values()),
    )


def target_table(found: Found, home: Path) -> str:
    rows = []
    for r in found:
        link = escape(os.path.relpath(r.folder, home))
        line = [
            cell(f'<a href="{link}/">{escape(r.target)}</a>', kind="text"),
            cell(escape(r.surrogate), kind="text"),
            cell(escape(r.setting), kind="text"),
        ]
        line += [percent(r.metrics.get(k), k) for k in METRICS]
        rows.append((f"{r.target} {r.surrogate} {r.setting} {r.domain}", [*line, cell(f"{r.train_s:.0f}", r.train_s)]))
    return filtered("targets", len(rows)) + table(
        "targets",
        "Every run; its name links to its folder. 95 % intervals over images of the one adapter",
        ["target", "surrogate", "setting", *headings(), "s"],
        rows,
    )


def heat(value: float) -> str:
    """A background from white over amber to red as an accuracy falls; the text stays readable on it."""
    return f"background: hsl({round(10 + 200 * value)} 75% {round(60 + 28 * value)}%); color: #111"


def heat_map(runs: Sequence[Run], domain: str) -> str:
    """Rows: the forgotten concept; columns: the evaluated one; the judge's accuracy in percent."""
    tables: dict[str, list[Row]] = {r.target: r.predictions for r in runs}
    columns = sorted({row[domain] for rows in tables.values() for row in rows})
    heads = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    body = []
    for target, rows in sorted(tables.items()):
        cells = []
        for column in columns:
            hits = [row[f"{domain}_predicted"] == column for row in rows if row[domain] == column]
            value = float(np.mean(hits)) if hits else math.nan
            bold = "font-weight: 700;" if column == target else ""
            cells.append(f'<td class="heat" style="{heat(value)};{bold}">{100 * value:.0f}</td>' if hits else cell("–"))
        body.append(f'<tr><th scope="row">{escape(target)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="accuracy by {domain}"><table><caption>Accuracy on each '
        f"{domain} (columns) after forgetting one (rows); the forgotten one in bold should be 0</caption><thead><tr><th>forgotten"
        f"</th>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def heat_maps(found: Found) -> str:
    parts: list[str] = []
    for name in by_setting(found):
        for domain in sorted({r.domain for r in found if r.setting == name}):
            runs = [r for r in found if r.setting == name and r.domain == domain and r.predictions]
            if runs:
                parts.append(
                    f"<details{'' if parts else ' open'}><summary>{escape(name)}, {domain}s</summary>"
                    f"{heat_map(runs, domain)}</details>"
                )
    return "".join(parts)


# --- figures ----------------------------------------------------------------------------------------------------------


def round_numbers(low: float, high: float) -> np.ndarray:
    """The multiples of 1, 2 or 5 times a power of ten from low to high, at most seven."""
    width = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(width / 6))
    step = next(power * times for times in (1, 2, 5, 10) if width / (power * times) <= 6)
    return np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step


class Frame:
    """A plot area in an SVG: data in percent on both axes, or log p below."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str], log: bool = False
    ) -> None:
        self.x, self.y, self.labels, self.log = x, y, labels, log
        self.left, self.top, self.width, self.height = 56, 12, 520, 300

    def at(self, x: float, y: float) -> tuple[float, float]:
        low, high, value = (math.log10(v) if self.log else v for v in (*self.x, x))
        return (
            self.left + self.width * (value - low) / (high - low or 1),
            self.top + self.height * (1 - (y - self.y[0]) / (self.y[1] - self.y[0] or 1)),
        )

    def draw(self, content: str, title: str, ticks: Iterable[float]) -> str:
        lines = []
        for value in round_numbers(*self.y):
            _, y = self.at(self.x[0], float(value))
            lines.append(
                f'<line class="grid" x1="{self.left}" x2="{self.left + self.width}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>'
            )
        bottom = self.top + self.height
        for value in ticks:
            x, _ = self.at(value, self.y[0])
            lines.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:.3g}</text>')
        names = (
            f'<text x="{self.left + self.width / 2}" y="{bottom + 34}" text-anchor="middle">{escape(self.labels[0])}</text>'
            f'<text transform="translate(14 {self.top + self.height / 2}) rotate(-90)" text-anchor="middle">{escape(self.labels[1])}'
            "</text>"
        )
        axis = f'<path class="axis" fill="none" d="M{self.left} {self.top}V{bottom}H{self.left + self.width}"/>'
        return (
            f'<svg viewBox="0 0 {self.left + self.width + 20} {bottom + 44}" role="img" aria-label="{escape(title)}">'
            f"{''.join(lines)}{axis}{names}{content}</svg>"
        )


def mark(kind: str, x: float, y: float, colour: str, title: str) -> str:
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/>',
        "square": f'<rect x="{x - 5.5:.1f}" y="{y - 5.5:.1f}" width="11" height="11"/>',
        "diamond": f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>',
        "triangle": f'<path d="M{x:.1f} {y - 7:.1f}l7 12h-14z"/>',
        "cross": f'<path stroke="{colour}" stroke-width="3" d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>',
    }
    return f'<g fill="{colour}"><title>{escape(title)}</title>{shapes[kind]}</g>'


def span(values: list[float]) -> tuple[float, float]:
    """A range of percents with room around it, within 0 and 100."""
    room = max(1.0, 0.15 * (max(values) - min(values)))
    return max(0.0, min(values) - room), min(100.0, max(values) + room)


def legend(names: list[str]) -> str:
    items = [
        f'<li><svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true" style="vertical-align: -3px">'
        f"{mark(MARKS[i % 5], 8, 8, COLOURS[i % 8], name)}</svg> {escape(name)}</li>"
        for i, name in enumerate(names)
    ]
    return f'<ul style="list-style: none; padding: 0">{"".join(items)}</ul>'


def drawn(lines: Lines, labels: tuple[str, str], title: str, log: bool = False, ticks: Sequence[float] = ()) -> str:
    """Lines of marks, their colours and legend. Percent on both axes; below it what `ticks` say, or a logarithm."""
    points = [point for line in lines.values() for point in line]
    xs = [x for x, _, _ in points]
    percent_below = not log and not ticks
    frame = Frame(span(xs) if percent_below else (min(xs), max(xs)), span([y for _, y, _ in points]), labels, log)
    content = ""
    for i, line in enumerate(lines.values()):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (frame.at(x, y) for x, y, _ in line))
        content += (
            f'<path fill="none" stroke="{COLOURS[i % 8]}" stroke-width="2" d="M{path}"/>' if len(line) > 1 else ""
        )
        content += "".join(mark(MARKS[i % 5], *frame.at(x, y), COLOURS[i % 8], about) for x, y, about in line)
    below = np.geomspace(*frame.x, 5) if log else round_numbers(*frame.x)
    return frame.draw(content, title, ticks or below) + legend(list(lines))


def both(runs: Sequence[Run]) -> tuple[float, float]:
    """UA, and retention: the mean of IRA and CRA; in percent."""
    kept = metric_values(runs, "ira") + metric_values(runs, "cra")
    return 100 * float(np.mean(metric_values(runs, "ua"))), 100 * float(np.mean(kept)) if kept else math.nan


def pareto(found: Found) -> str:
    """UA against retention, and either against the seconds of training: one mark a setting, one line over p."""
    pictures: dict[str, Lines] = {"retention": {}, "UA": {}, "": {}}
    for runs in by_setting(found).values():
        ua, kept = both(runs)
        if math.isnan(kept):
            continue
        name, p = runs[0].setting_without("sparsity.p"), runs[0].sparsity["p"]
        about = f"{runs[0].setting}: UA {ua:.1f}, retention {kept:.1f}"
        pictures[""].setdefault(name, []).append((kept, ua, about))
        if all(r.trained for r in runs):
            seconds = max(0.1, float(np.mean([r.train_s for r in runs])))
            for label, value in (("UA", ua), ("retention", kept)):
                pictures[label].setdefault(name, []).append((seconds, value, f"{about}, {seconds:.0f} s, p={p:g}"))
    plain, timed = pictures.pop(""), {label: lines for label, lines in pictures.items() if lines}
    if not plain:
        return ""
    first = drawn(plain, ("retention: mean of IRA and CRA, %", "UA, %"), "UA against retention, one mark a setting")
    return first + "".join(
        drawn(lines, ("seconds of training", f"{label}, %"), f"{label} against seconds of training", log=True)
        for label, lines in timed.items()
    )


def curves(found: Found) -> str:
    """UA and retention over every number that was swept, for each domain of targets: one line for each setting."""
    parts = []
    runs = [r for r in found if r.masked]  # of others' answers nothing was swept
    for key, domain in sorted({(key, r.domain) for r in runs for key in r.numbers}):
        families: dict[str, dict[float, list[Run]]] = {}
        for r in (r for r in runs if r.domain == domain and key in r.numbers):
            families.setdefault(r.setting_without(key), {}).setdefault(r.numbers[key], []).append(r)
        lines = {name: sorted(by_value.items()) for name, by_value in families.items() if len(by_value) > 1}
        if not lines:
            continue
        values = sorted({value for line in lines.values() for value, _ in line})
        parts.append(f"<h3>{escape(key)}, {escape(domain)}s</h3>")
        for place, label in enumerate(("UA, %", "retention: mean of IRA and CRA, %")):
            points = {
                name: [
                    (value, y, f"{name}, {key}={value:g}: {y:.1f} ({len(own)} runs)")
                    for value, own in line
                    if not math.isnan(y := both(own)[place])
                ]
                for name, line in lines.items()
            }
            points = {name: line for name, line in points.items() if line}
            if points:
                parts.append(drawn(points, (key, label), f"{label} over {key}", log=values[0] > 0, ticks=values))
    return "".join(parts)


def shots(found: Found) -> str:
    """Before and after of every run, one picture each, small enough that all of them fit the page's budget."""
    pictures = [(r, path) for r in found if (path := r.picture)]
    if not pictures:
        return "<p>No pictures.</p>"
    budget = PICTURES // len(pictures)
    figures = []
    for r, path in pictures:
        title = f"{r.target} forgotten, {r.setting}, surrogate {r.surrogate}: before and after"
        data = base64.b64encode(shrunk(path, budget)).decode()
        figures.append(
            f'<figure data-text="{escape(title.lower())}"><button type="button" class="shot" aria-label="Enlarge: {escape(title)}">'
            f'<img src="data:image/webp;base64,{data}" alt="{escape(title)}"></button><figcaption>{escape(r.target)} → '
            f'{escape(r.surrogate)} <span class="soft">{escape(r.setting)}</span></figcaption></figure>'
        )
    return filtered("pictures", len(figures)) + f'<div class="shots" id="pictures">{"".join(figures)}</div>'


def shrunk(path: Path, budget: int) -> bytes:
    """A WebP of at most `budget` bytes where that can be had: quality falls first, then size."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    for side, quality in ((1.0, 80), (1.0, 50), (0.6, 60), (0.6, 35), (0.4, 40), (0.3, 25)):
        buffer = io.BytesIO()
        small = image.resize((round(image.width * side), round(image.height * side)), Image.Resampling.LANCZOS)
        small.save(buffer, format="webp", quality=quality)
        if buffer.tell() <= budget:
            break
    return buffer.getvalue()


def costs(found: Found) -> str:
    rows = []
    for name, runs in by_setting(found).items():
        line = [cell(escape(name), kind="text")]
        for key in COSTS:
            values = [float(r.cost[key]) for r in runs if key in r.cost]
            line.append(
                cell(f"{np.mean(values):,.1f}".removesuffix(".0"), float(np.mean(values))) if values else cell("–")
            )
        rows.append((name, line))
    return table("cost", "Means over runs", ["setting", *COSTS.values()], rows)


def gates(found: Found, problems: list[str]) -> str:
    judges = sorted({f"{d} {100 * a:.2f} %" for r in found for d, a in r.judge_accuracy.items() if a is not None})
    images = sorted({r.images for r in found})
    text = f"<p>Judges on held-out real images: {escape(', '.join(judges))}. Images a run: {', '.join(f'{n:,}' for n in images)}.</p>"
    notes = list(problems)
    protocols = {r.protocol for r in found}
    if len(protocols) > 1:
        notes.append(
            f"runs under different protocols ({', '.join(sorted(protocols))}) stand in rows of their own; do not compare them"
        )
    bases: dict[str, set[str]] = {}
    for r in found:
        bases.setdefault(r.dataset, set()).add(r.base_sha256)
    notes += [
        f"{name}: runs start from {len(kinds)} different base models" for name, kinds in bases.items() if len(kinds) > 1
    ]
    warnings = "".join(f'<li class="warn">{escape(note)}</li>' for note in notes)
    return text + (f"<ul>{warnings}</ul>" if warnings else "<p>Nothing to warn of.</p>")


def of_papers(name: str, caption: str, header: list[str], rows: list[list[str]]) -> str:
    """Numbers of papers, on another model and other images: never in one table with the measured ones."""
    words = ("method", "metric", "source", "evidence")
    body = [
        (
            row[0],
            [cell(escape(text), kind="text" if name in words else "") for name, text in zip(header, row, strict=True)],
        )
        for row in rows
    ]
    return table(name, f"{caption}, as published (Stable Diffusion 1.5, 512 px, its own judges)", header, body)


def commands(found: Found) -> str:
    lines = sorted({f"python run.py {' '.join(r.overrides)}" for r in found if r.overrides})
    shown = "".join(f"<li><code>{escape(line)}</code></li>" for line in lines)
    return f"<details><summary>{len(lines)} commands</summary><ol>{shown}</ol></details>"


def page(found: Found, problems: list[str], home: Path, first: list[tuple[str, str]]) -> str:
    """The document. home: the folder it will lie in, from which links to runs start. first: sections made elsewhere."""
    about_runs = (
        [
            ("Summary", main_table(found)),
            ("Every target", target_table(found, home)),
            ("What else moved", heat_maps(found)),
            ("UA against retention", pareto(found)),
            ("Over what was swept", curves(found)),
            ("Before and after", shots(found)),
            ("Cost", costs(found)),
            ("Gates and warnings", gates(found, problems)),
            ("Published numbers", of_papers("published", "UnlearnCanvas", *published())),
            ("What was run", what_was_run(found)),
            ("Commands", commands(found)),
        ]
        if found
        else []
    )
    sections = [*first, *about_runs]
    kept = [(title, content) for title, content in sections if content]
    links = "".join(f'<li><a href="#s{i}">{title}</a></li>' for i, (title, _) in enumerate(kept))
    body = "".join(f'<section id="s{i}"><h2>{title}</h2>{content}</section>' for i, (title, content) in enumerate(kept))
    style, script = ((HERE / "assets" / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    count = f"{len(found)} runs, {len(by_setting(found))} settings" if found else "sequences of requests"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>FADE report: {count}</title><link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<header><h1>Concept unlearning: {count}</h1><p class="soft">UA: the concept is gone. IRA, CRA: what was to stay is still '
        "read by the judges, in the concept's own domain and in the other. Percent, 95 % intervals.</p></header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>{body}</main><dialog aria-label="Enlarged picture"><form '
        'method="dialog"><button>Close</button></form><img alt="" src="data:,"><p></p></dialog>'
        f"<script>{script}</script></body></html>\n"
    )


def write_page(found: Found, problems: list[str], path: Path, first: list[tuple[str, str]] | None = None) -> None:
    write_text(path, page(found, problems, path.parent, first or []))
