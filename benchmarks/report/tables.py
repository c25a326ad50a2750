"""results.json files -> tables: of one run, of every target, of every setting; as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.record.results import COSTS, Run, frame, metric_values
from fade.data.prompts import words
from fade.metrics import METRICS, cell_text

if TYPE_CHECKING:
    import pandas as pd


def headings() -> list[str]:
    """A column a metric."""
    return [about.heading for about in METRICS.values()]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it reads in a terminal too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_csv(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def as_latex(header: list[str], rows: list[list[str]]) -> str:
    """A booktabs table."""

    signs = {"\\": r"\textbackslash{}", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$"}
    special = str.maketrans(signs | {c: f"\\{c}" for c in "&%$#_{}"})

    def line(row: list[str]) -> str:
        return " & ".join(text.translate(special) for text in row) + r" \\"

    body = "\n".join(map(line, rows))
    columns = "l" + "r" * (len(header) - 1)
    inside = f"\\toprule\n{line(header)}\n\\midrule\n{body}\n\\bottomrule"
    return f"\\begin{{tabular}}{{{columns}}}\n{inside}\n\\end{{tabular}}\n"


def run_table(run: Run) -> str:
    """Base and unlearned model, one row each; then what the numbers rest on and what they cost."""
    header = ["model", *headings()]
    rows = [
        [name, *(cell_text(measured.get(key), key) for key in METRICS)]
        for name, measured in (("base", run.base), (f"without {words(run.target)}", run.metrics))
    ]
    stated = run.judge_stated
    judges = ", ".join(
        f"{d} {100 * a:.1f} %" + (f" (its own file says {100 * stated[d]:.1f} %)" if d in stated else "")
        for d, a in run.judge_accuracy.items()
        if a is not None
    )
    lines = [
        table(header, rows),
        f"{run.method_name}: {run.target} -> {run.surrogate} ({run.domain}); percent with 95 % "
        f"intervals over images of this one adapter, UA over {run.metrics['ua']['n']} images",
        f"judges on held-out real images: {judges}",
        f"forgotten images read as: {', '.join(f'{k} {v}' for k, v in list(run.landed.items())[:4])}",
    ]
    cost = run.cost
    if run.trained:
        lines.append(
            f"unlearned in {run.train_s:.0f} s, evaluated in "
            f"{cost['generate_s'] + cost['judge_s']:.0f} s; adapter {cost['adapter_bytes'] / 1000:.0f} kB, "
            f"density {run.sparsity['density']:.3f}"
        )
    else:
        lines.append(f"{run.images} images scored in {cost['judge_s']:.0f} s")
    return "\n".join(lines)


def seed_text(run: Run) -> str:
    return "–" if run.seed is None else str(run.seed)


def per_target(found: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """One row a run, by setting, target and training seed."""
    header = ["setting", "target", "surrogate", "seed", *headings(), "base IRA", "base CRA", "s"]
    rows = []
    for r in sorted(found, key=lambda r: (r.setting, r.domain, r.target, r.surrogate, seed_text(r))):
        rows.append(
            [
                r.setting,
                r.target,
                r.surrogate,
                seed_text(r),
                *(cell_text(r.metrics.get(c), c) for c in METRICS),
                cell_text(r.base.get("ira")),
                cell_text(r.base.get("cra")),
                f"{r.train_s:.0f}",
            ]
        )
    return header, rows


def mean_value(runs: Sequence[Run], key: str, base: bool = False) -> str:
    """A distance's mean over the runs that have it, as a cell's text; where none has, why."""
    values = metric_values(runs, key, base)
    reason = next((found for r in runs if (found := r.metric(key, base))), None)
    return cell_text({"value": float(np.mean(values))} if values else reason, key)


def spread(values: list[float]) -> str:
    """Mean over runs, with the range."""
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.0f}–{100 * max(values):.0f})"


KEPT = ("ira", "cra")  # beside these stands how far they moved from the base model's


def moved(runs: Sequence[Run], key: str) -> str:
    """The mean difference from the base model, in points."""
    apart = [r.metrics[key]["value"] - r.base[key]["value"] for r in runs if key in r.metrics and r.base]
    return f"{100 * np.mean(apart):+.1f}" if apart else "–"


def summary(found: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """One row for each setting and domain: means over its runs, and the difference from the base model, in points."""
    header = ["setting", "domain", "runs"]
    for key, about in METRICS.items():
        header += [about.name, *([f"Δ {about.name}"] if key in KEPT else [])]
    header += ["s/target", "kB"]
    rows = []
    groups = dict.fromkeys((r.setting, domain) for r in found for domain in (r.domain, "all"))
    for name, domain in sorted(groups, key=lambda g: (g[0], g[1] == "all", g[1])):
        runs = [r for r in found if r.setting == name and domain in ("all", r.domain)]
        row = [name, domain, str(len(runs))]
        for key, about in METRICS.items():
            values = metric_values(runs, key)
            row.append(mean_value(runs, key) if not about.share else spread(values) if values else "–")
            row += [moved(runs, key)] if key in KEPT else []
        trained = [r for r in runs if r.trained]
        row += [f"{np.mean([r.train_s for r in trained]):.0f}" if trained else "–"]
        row += [f"{np.mean([r.cost['adapter_bytes'] for r in trained]) / 1000:.0f}" if trained else "–"]
        rows.append(row)
    return header, rows


def summary_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """`summary` as numbers: of every metric the mean over the runs (`ua`), its lowest and its highest (`ua_low`,
    `ua_high`), and the base's mean (`base_ua`); of the costs the means."""
    import pandas as pd  # here, so that a run does not wait for it

    table = frame(runs)
    measured = [key for key in METRICS if table[key].notna().any()]
    how = {key: (key, "mean") for key in measured}
    how |= {f"{key}_{end}": (key, by) for key in measured for end, by in (("low", "min"), ("high", "max"))}
    how |= {f"base_{key}": (f"base_{key}", "mean") for key in measured}
    how |= {key: (key, "mean") for key in COSTS if key in table}
    by_domain = [table, table.assign(domain="all")]
    parts = [part.groupby(["setting", "domain"]).agg(runs=("target", "size"), **how) for part in by_domain]
    return pd.concat(parts).reset_index().sort_values("setting", kind="stable")


PUBLISHED = Path(__file__).parent / "published"


def published() -> tuple[list[str], list[list[str]]]:
    """UnlearnCanvas's methods as papers report them, each with its source."""
    columns = [
        *(f"{domain}_{number}" for domain in ("style", "object") for number in ("ua", "ira", "cra")),
        "fid",
        "time_s",
        "source",
        "evidence",
    ]
    return _published(PUBLISHED / "unlearncanvas.csv", ["method", *columns])


def published_sequences() -> tuple[list[str], list[list[str]]]:
    """The same for six requests one after another: UA of the first, and retain accuracy."""
    columns = ["method", "metric", *(f"after_{k}" for k in range(1, 7)), "source"]
    return _published(PUBLISHED / "unlearncanvas_sequential.csv", columns)


def _published(path: Path, columns: list[str]) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        return columns, [[row[c] or "–" for c in columns] for row in csv.DictReader(file)]
