"""The report as one HTML file: no external request, readable on a phone, by keyboard and by a screen reader,
printable. What stands in it is chosen here; how it looks is page.html.j2 and assets/.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from benchmarks.record.results import Run, by_setting, called, shared
from benchmarks.record.sequences import SequenceRun
from benchmarks.report import errors, figures, sequences, tables
from benchmarks.report.answer import answers, heading, lines, many, verdicts
from benchmarks.report.attacked import brings, write_attacked
from benchmarks.report.attacks import beside, brought_back
from benchmarks.report.curves import curves
from benchmarks.report.figures import Figure
from benchmarks.report.images import opens, write_images
from fade.files import write_text

HERE = Path(__file__).parent
PICTURES = 3_000_000  # bytes for all pictures together, before base64
RUNGS = ((1.0, 80), (1.0, 50), (0.6, 60), (0.6, 35), (0.4, 40), (0.3, 25))  # share of a side, and quality, of a picture


@dataclass(frozen=True)
class Section:
    """kind: the macro of page.html.j2 that shows the content; name: of a table, for its filter and for links."""

    title: str
    kind: str
    content: Any
    name: str = ""


@dataclass(frozen=True)
class Shot:
    """A picture in the page. data: WebP, base64."""

    target: str
    surrogate: str
    setting: str
    data: str

    @property
    def title(self) -> str:
        return f"{self.target} forgotten, {self.setting}, surrogate {self.surrogate}: before and after"


def shots(runs: Sequence[Run]) -> list[Shot]:
    """Before and after of every run, one picture each, small enough that all of them fit the page's budget."""
    pictures = [(run, path) for run in runs if (path := run.picture)]
    found, rung = [], 0
    for run, path in pictures:
        data, rung = shrunk(path, PICTURES // len(pictures), rung)  # pictures of runs are alike: the last one's is near
        found.append(Shot(run.target, run.surrogate, run.setting, base64.b64encode(data).decode()))
    return found


def shrunk(path: Path, budget: int, near: int = 0) -> tuple[bytes, int]:
    """A WebP of at most `budget` bytes where that can be had, by the first of RUNGS that gives one, and which that is;
    looked for from `near` on, for each rung gives fewer bytes than the one before."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    made = cache(lambda rung: _webp(image, *RUNGS[rung]))
    while near + 1 < len(RUNGS) and len(made(near)) > budget:
        near += 1
    while near and len(made(near - 1)) <= budget:
        near -= 1
    return made(near), near


def _webp(image: Image.Image, side: float, quality: int) -> bytes:
    buffer = io.BytesIO()
    small = image.resize((round(image.width * side), round(image.height * side)), Image.Resampling.LANCZOS)
    small.save(buffer, format="webp", quality=quality)
    return buffer.getvalue()


def warnings(runs: Sequence[Run], problems: Sequence[str]) -> list[str]:
    """What was left out, and what must not be compared."""
    notes = [*{run.mark for run in runs if run.mark}, *problems]
    protocols = {run.protocol for run in runs}
    if len(protocols) > 1:
        names = ", ".join(sorted(protocols))
        notes.append(f"runs under different protocols ({names}) stand in rows of their own; do not compare them")
    bases: dict[str, set[str]] = {}
    for run in runs:
        bases.setdefault(run.dataset, set()).add(run.base_sha256)
    different = {name: len(kinds) for name, kinds in bases.items() if len(kinds) > 1}
    return notes + [f"{name}: runs start from {n} different base models" for name, n in different.items()]


def gates(runs: Sequence[Run], problems: Sequence[str]) -> dict[str, Any]:
    """What the numbers rest on: how good the judges are, how many images a run has; and the warnings."""
    judges = {f"{d} {100 * a:.2f} %" for run in runs for d, a in run.judge_accuracy.items() if a is not None}
    images = [f"{n:,}" for n in sorted({run.images for run in runs})]
    return {"judges": sorted(judges), "images": images, "warnings": warnings(runs, problems)}


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Versions, commits, datasets, protocols: one line each, all values that occur."""

    def all_of(pick: Callable[[Run], str]) -> str:
        return ", ".join(sorted({pick(run) for run in runs}))

    libraries = sorted({name for run in runs for name in run.versions})
    versions = [f"{name} {', '.join(sorted({r.versions.get(name, '?') for r in runs}))}" for name in libraries]
    kinds, targets = by_setting(runs), {run.gone for run in runs}
    return [
        ("Runs", f"{len(runs)}, of {many(len(kinds), 'setting')} and {many(len(targets), 'target')}"),
        *([("Setting", next(iter(kinds)))] if len(kinds) == 1 else []),
        *([("In every setting", " ".join(common))] if (common := shared(list(kinds))) else []),
        ("Dataset", all_of(lambda r: r.dataset)),
        ("Protocol", all_of(lambda r: r.protocol)),
        ("Method", all_of(lambda r: r.method_name)),
        ("Commit", all_of(lambda r: r.commit[:12] or "unknown")),
        ("Base weights", all_of(lambda r: r.base_sha256[:12] or "not given")),
        ("Machine", all_of(lambda r: r.machine)),
        ("Versions", "; ".join(versions)),
    ]


def shortened(table: tables.Table | None, names: Mapping[str, str]) -> tables.Table | None:
    """A table whose settings are called by what tells them apart."""
    if table is None or table.header[0] != "setting":
        return table
    rows = [[row[0]._replace(text=names.get(row[0].text, row[0].text)), *row[1:]] for row in table.rows]
    return replace(table, rows=rows)


def marked(table: tables.Table | None, mark: str) -> tables.Table | None:
    """A table whose caption begins with what must stand beside its numbers."""
    return replace(table, caption=f"{mark}. {table.caption}") if table and mark else table


def of_runs(runs: Sequence[Run], problems: Sequence[str], home: Path, names: Mapping[Path, str]) -> list[Section]:
    commands = sorted({f"python run.py {' '.join(run.overrides)}" for run in runs if run.overrides})
    asked, graded = tables.asked_harder(runs), tables.graded(runs)
    attacked = brought_back(runs, lambda own, attack: brings(own, attack, names))
    several = runs if len(runs) > 1 else []  # the summary's row of one run is all of it

    def link(run: Run) -> str:
        return f"{os.path.relpath(run.folder, home)}/"

    def shows(run: Run, key: str) -> tuple[str, str] | None:
        return opens(run, key, names) or brings([run], key, names)

    asked_each = tables.per_target(runs, link, asked) if several and asked else None
    return [
        Section("The answer", "answers", answers(runs, link, shows)),
        Section("The answer", "facts", verdicts(runs)),
        Section("Target by target", "table", lines(runs), "lines"),
        Section("Summary", "table", beside(tables.settings(runs), runs), "main"),
        Section("Asked harder", "table", asked and tables.settings(runs, asked), "harder"),
        Section("Nearer than the base to a model that never saw the target?", "facts", tables.nearer(runs)),
        Section("Every target", "filtered", several and tables.per_target(runs, link, shows=shows), "targets"),
        Section("Every target, asked harder", "filtered", asked_each, "asked"),
        Section("As mean probabilities", "table", graded and tables.settings(runs, graded), "graded"),
        Section("Can it be brought back?", "table", attacked, "attacks"),
        Section("How soon does it come back?", "parted_figures", curves(runs)),
        Section("What else moved", "folded_figures", figures.moved(runs, names)),
        Section("What is wrong", "figures", [*errors.forest(runs), *errors.tradeoffs(runs)]),
        Section("Which differences are decided", "figures", errors.differences(runs)),
        Section("Over what was swept", "figures", figures.swept(runs)),
        Section("Before and after", "shots", shots(runs), "pictures"),
        Section("Cost", "table", tables.costs(runs), "cost"),
        Section("Gates and warnings", "gates", gates(runs, problems)),
        Section("Published numbers", "folded", tables.published(), "published"),
        Section("Published attacks", "folded", attacked and tables.published_attacks(), "published-attacks"),
        Section("What was run", "facts", facts(runs)),
        Section("Commands", "commands", commands),
    ]


def of_sequences(runs: Sequence[SequenceRun]) -> list[Section]:
    triangles = [(run.name, sequences.triangle(run)) for run in runs]
    attacked = [(run.name, found) for run in runs if (found := sequences.attacked(run))]
    return [
        Section("The answer", "facts", sequences.answers(runs)),
        Section("Sequences of requests", "table", sequences.summary(runs), "sequences"),
        Section("Over the requests", "figures", figures.over_requests(runs)),
        Section("Request by request", "folded_tables", triangles, "triangle"),
        Section("Can one be brought back?", "folded_tables", attacked, "attacked"),
        Section("Published sequences", "table", tables.published_sequences(), "published-sequences"),
    ]


def sections(
    runs: Sequence[Run],
    problems: Sequence[str],
    home: Path,
    requests: Sequence[SequenceRun],
    names: Mapping[Path, str] = {},
) -> list[Section]:
    """What the page holds. home: the folder it will lie in, from which links to runs start; names: of the images of
    runs, by their folders, and of attacks, by their pictures."""
    found = [*(of_sequences(requests) if requests else ()), *(of_runs(runs, problems, home, names) if runs else ())]
    brief = called(list(by_setting(runs)))
    mark = next((run.mark for run in [*runs, *requests] if run.mark), "")
    found = [
        replace(part, content=marked(shortened(part.content, brief), mark))
        if isinstance(part.content, tables.Table)
        else part
        for part in found
    ]
    return [section for section in found if section.content]


def drawn(parts: Sequence[Section]) -> list[Figure]:
    """The figures of the sections."""
    return [figure for part in parts if "figures" in part.kind for figure in part.content]


def template(name: str) -> jinja2.Template:
    """One of this room's templates."""
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


def page(parts: Sequence[Section], count: str) -> str:
    """The whole document."""
    vega = figures.vega() if any(figure.cells is None for figure in drawn(parts)) else ""
    return template("page.html.j2").render(sections=parts, count=count, vega=vega)


def write_page(
    runs: Sequence[Run], problems: Sequence[str], path: Path, requests: Sequence[SequenceRun] = ()
) -> list[Figure]:
    """Write the page, and the images of runs beside it; return its figures."""
    names, broken = write_images(runs, path.parent / "images")
    more, worse = write_attacked(runs, path.parent / "images")
    parts = sections(runs, [*problems, *broken, *worse], path.parent, requests, names | more)
    count = heading(runs) if runs else sequences.heading(requests)
    write_text(path, page(parts, count).strip() + "\n")
    return drawn(parts)
