"""Sequences beside each other, for the report: one line each, and their curves over the requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from benchmarks.record.results import Metric
from benchmarks.record.sequences import SequenceRun, State
from benchmarks.report.page import COLOURS, MARKS, Frame, cell, legend, mark, of_papers, percent, span, table
from benchmarks.report.tables import published_sequences
from benchmarks.report.tables import table as as_text

HEADER = [
    "sequence",
    "method, strategy",
    "seed",
    "UA mean",
    "UA worst",
    "rebound",
    "kept",
    "Δ kept",
    "area",
    "nearest",
    "s",
    "last/first",
    "kB",
]


def summary_rows(runs: Sequence[SequenceRun]) -> list[list[str]]:
    """One row a sequence: how much is gone at the end, how much is kept, what it cost (HEADER)."""
    rows = []
    for run in runs:
        s = run.summary
        percents = (
            s["ua_mean"],
            s["ua_worst"],
            s["rebound"],
            s["retention"],
            -s["retention_drop"],
            s["retention_area"],
            s["nearest"],
        )
        rows.append(
            [
                " ".join(run.targets),
                run.label,
                str(run.seed),
                *(f"{100 * v:.1f}" for v in percents),
                f"{s['seconds']:.0f}",
                f"{s['last_over_first']:.2f}",
                f"{s['bytes'] / 1000:.0f}",
            ]
        )
    return rows


def section(runs: Sequence[SequenceRun]) -> str:
    """HTML: the table; then, by request, the mean UA of all so far and what is kept of what no one asked for."""
    if not runs:
        return ""
    rows = [(" ".join(row), [cell(escape(text)) for text in row]) for row in summary_rows(runs)]
    curves = {
        "mean UA of all requests so far, %": lambda step: step.ua_mean,
        "kept: accuracy on never-requested concepts, %": lambda step: step.retention,
    }
    drawn = "".join(curve(runs, label, read) for label, read in curves.items())
    triangles = "".join(triangle(run, f"triangle{i}") for i, run in enumerate(runs))
    first = table("sequences", "One request after another; percent, in the order of the requests", HEADER, rows)
    papers = of_papers("published-sequences", "UnlearnCanvas, six requests one after another", *published_sequences())
    return first + drawn + triangles + papers


def triangle(run: SequenceRun, name: str) -> str:
    """HTML: after each request, UA of all so far and what is kept; then each request that was taken back."""
    targets, domains = run.targets, list(run.base.kept)
    header = ["after", *targets, *(f"kept {domain}s" for domain in domains), "nearest", "fid_judge", "s", "kB"]
    states: list[tuple[str, State, dict[str, Metric]]] = [("base", run.base, {})]
    states += [(f"{k} {targets[k - 1]}", step, step.ua) for k, step in enumerate(run.steps, 1)]
    states += [(f"without {step.target}'s", step, step.ua_of_all) for step in run.revoked]
    rows = []
    for after, state, ua in states:
        spent = [f"{state.train_s:.0f}", f"{state.adapter_bytes / 1000:.0f}"] if state.trained else ["–", "–"]
        cells = [percent(ua.get(target), "ua") for target in targets]
        cells += [percent(state.kept[domain], "ira") for domain in domains]
        cells += [percent(state.nearest, "ira"), percent(state.distance("fid_judge"), "fid_judge"), *map(cell, spent)]
        rows.append((after, [cell(escape(after), kind="text"), *cells]))
    title = f"{run.label}, seed {run.seed}, {targets[0]} first"
    caption = "Percent, 95 % intervals over images of these adapters"
    return f"<details><summary>{escape(title)}</summary>{table(name, caption, header, rows)}</details>"


def curve(runs: Sequence[SequenceRun], label: str, read: Callable[[State], float]) -> str:
    lines = {f"{r.label}, seed {r.seed} ({r.targets[0]} first)": [100 * read(step) for step in r.steps] for r in runs}
    most = max(len(line) for line in lines.values())
    frame = Frame((1, max(2, most)), span([y for line in lines.values() for y in line]), ("request", label))
    content = ""
    for i, (name, line) in enumerate(lines.items()):
        points = [frame.at(k + 1, y) for k, y in enumerate(line)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        content += f'<path fill="none" stroke="{COLOURS[i % 8]}" stroke-width="2" d="M{path}"/>'
        content += "".join(
            mark(MARKS[i % 5], x, y, COLOURS[i % 8], f"{name}, request {k + 1}: {v:.1f}")
            for k, ((x, y), v) in enumerate(zip(points, line, strict=True))
        )
    return frame.draw(content, label, range(1, most + 1)) + legend(list(lines))


def sequence_table(run: SequenceRun) -> str:
    """The triangle of UA, with retention beside it; then the summary."""
    rows = []
    for number, step in enumerate(run.steps, 1):
        ua = [f"{100 * step.ua[t]['value']:.0f}" if t in step.ua else "" for t in run.targets]
        rows.append([f"{number} {run.targets[number - 1]}", *ua, *_kept(step)])
    for taken in run.revoked:
        shown = {t: f"{100 * metric['value']:.0f}" for t, metric in taken.ua.items()}
        shown[taken.target] = f"({100 * taken.back['value']:.0f})"
        rows.append([f"without {taken.target}'s", *(shown[t] for t in run.targets), *_kept(taken)])
    s = {key: 100 * value for key, value in run.summary.items()}
    return "\n".join(
        [
            as_text(["after request", *run.targets, "kept", "nearest"], rows),
            "UA of every request so far, and accuracy on never-requested concepts "
            f"(base {100 * run.base.retention:.1f}), in percent",
            f"{run.method_name}, strategy {run.strategy}: UA mean {s['ua_mean']:.1f}, worst "
            f"{s['ua_worst']:.1f}, largest rebound {s['rebound']:.1f}; kept {s['retention']:.1f} "
            f"({-s['retention_drop']:+.1f}), area {s['retention_area']:.1f}; {s['seconds'] / 100:.0f} s of training "
            f"(last request {s['last_over_first'] / 100:.2f} of the first), {s['bytes'] / 1e5:.0f} kB",
        ]
    )


def _kept(state: State) -> list[str]:
    return [f"{100 * state.retention:.1f}", f"{100 * state.nearest['value']:.1f}"]
