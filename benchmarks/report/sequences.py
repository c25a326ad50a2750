"""Sequences beside each other, for the report: one line each, and their curves over the requests."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from benchmarks.record.results import Run
from benchmarks.report.page import COLOURS, MARKS, Frame, cell, legend, mark, of_papers, percent, span, table
from benchmarks.report.tables import published_sequences

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


def name_of(run: Run) -> str:
    """Method, strategy, and what else the command line chose."""
    others = {key: value for key, value in run.chosen.items() if key.split(".")[0] != "sequence" and key != "strategy"}
    return ", ".join([run.method, run.results["strategy"], *(f"{key}={value}" for key, value in others.items())])


def by_name(runs: Sequence[Run]) -> list[Run]:
    """The same strategies beside each other: by order of requests, name and seed."""
    return sorted(runs, key=lambda r: (r.results["requests"][0]["target"], name_of(r), r.seed))


def summary_rows(runs: Sequence[Run]) -> list[list[str]]:
    """One row a sequence: how much is gone at the end, how much is kept, what it cost (HEADER)."""
    rows = []
    for run in by_name(runs):
        s = run.results["summary"]
        percents = (
            s["ua_mean"],
            s["ua_worst"],
            s["rebound"],
            s["retention"],
            -s["retention_drop"],
            s["retention_area"],
            s["nearest"],
        )
        targets = " ".join(r["target"] for r in run.results["requests"])
        rows.append(
            [
                targets,
                name_of(run),
                str(run.seed),
                *(f"{100 * v:.1f}" for v in percents),
                f"{s['seconds']:.0f}",
                f"{s['last_over_first']:.2f}",
                f"{s['bytes'] / 1000:.0f}",
            ]
        )
    return rows


def section(runs: Sequence[Run]) -> str:
    """HTML: the table; then, over the requests, the mean UA of all so far and what is kept of what was never asked
    for.
    """
    if not runs:
        return ""
    runs = by_name(runs)
    rows = [(" ".join(row), [cell(escape(text)) for text in row]) for row in summary_rows(runs)]
    curves = {
        "mean UA of all requests so far, %": lambda step: float(np.mean([m["value"] for m in step["ua"].values()])),
        "kept: accuracy on never-requested concepts, %": lambda step: float(step["retention"]),
    }
    drawn = "".join(curve(runs, label, read) for label, read in curves.items())
    triangles = "".join(triangle(run, f"triangle{i}") for i, run in enumerate(runs))
    first = table("sequences", "One request after another; percent, in the order of the requests", HEADER, rows)
    papers = of_papers("published-sequences", "UnlearnCanvas, six requests one after another", *published_sequences())
    return first + drawn + triangles + papers


def triangle(run: Run, name: str) -> str:
    """HTML: after each request, UA of all so far and what is kept, with intervals; then each request that was taken
    back.
    """
    targets = [r["target"] for r in run.results["requests"]]
    domains = list(run.base["kept"])
    header = ["after", *targets, *(f"kept {domain}s" for domain in domains), "nearest", "fid_judge", "s", "kB"]
    steps = [("base", run.base), *((f"{k + 1} {targets[k]}", step) for k, step in enumerate(run.results["steps"]))]
    for step in run.results["revoked"]:
        steps.append((f"without {step['target']}'s", {**step, "ua": {**step["ua"], step["target"]: step["back"]}}))
    rows = []
    for after, step in steps:
        cost = step.get("cost")
        spent = [f"{cost['train_s']:.0f}", f"{cost['adapter_bytes'] / 1000:.0f}"] if cost else ["–", "–"]
        cells = [percent(step["ua"].get(target), "ua") for target in targets]
        cells += [percent(step["kept"][domain], "ira") for domain in domains]
        cells += [percent(step["nearest"], "ira"), percent(step["fid_judge"], "fid_judge"), *map(cell, spent)]
        rows.append((after, [cell(escape(after), kind="text"), *cells]))
    title = f"{name_of(run)}, seed {run.seed}, {targets[0]} first"
    caption = "Percent, 95 % intervals over images of these adapters"
    return f"<details><summary>{escape(title)}</summary>{table(name, caption, header, rows)}</details>"


def curve(runs: Sequence[Run], label: str, read: Any) -> str:
    lines = {
        f"{name_of(r)}, seed {r.seed} ({r.results['requests'][0]['target']} first)": [
            100 * read(step) for step in r.results["steps"]
        ]
        for r in runs
    }
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
