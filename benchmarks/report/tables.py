"""Finished runs -> tables: of one run, of every target, of every setting. Numbers until they are written: in the CSV as
they are, in Markdown, LaTeX and HTML as text.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.record.format import COSTS, Metric
from benchmarks.record.results import Run, by_setting, frame, metric_values, never_saw, short
from fade.data.prompts import words
from fade.files import write_text
from fade.metrics import METRICS, about, cell_text, harder, interval_text, number_text, twins, usual

if TYPE_CHECKING:
    import pandas as pd

DASH = "–"
NEVER = "never saw it"  # the model that was pretrained without the target
UNTOUCHED = "base (nothing done)"


class Cell(NamedTuple):
    """What a table shows: a text, its interval beside it, the number that it is sorted by, where it links to, and whose
    images it opens (a name of benchmarks/report/images.py, and the metric)."""

    text: str
    interval: str = ""
    value: float | None = None
    link: str = ""
    shows: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True)
class Table:
    """A table to read. numbers: the same rows as numbers, for the CSV; without them it holds the texts."""

    header: list[str]
    rows: list[list[Cell]]
    caption: str = ""
    numbers: pd.DataFrame | None = None

    @classmethod
    def of(cls, header: list[str], rows: list[list[str]], caption: str = "") -> Table:
        """Of texts."""
        return cls(header, [list(map(Cell, row)) for row in rows], caption)

    @property
    def texts(self) -> list[list[str]]:
        return [list(map(str, row)) for row in self.rows]

    def markdown(self) -> str:
        return table(self.header, self.texts)

    def latex(self) -> str:
        """A booktabs table."""
        import pandas as pd  # here, so that a run does not wait for it

        signs = {"–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$"}
        columns = "l" + "r" * (len(self.header) - 1)
        text = pd.DataFrame(self.texts, columns=self.header).to_latex(index=False, escape=True, column_format=columns)
        return text.translate(str.maketrans(signs))

    def csv(self) -> str:
        import pandas as pd

        numbers = pd.DataFrame(self.texts, columns=self.header) if self.numbers is None else self.numbers
        return numbers.to_csv(index=False)

    def write(self, folder: Path, name: str) -> None:
        """folder/name.csv, .md and .tex."""
        write_text(folder / f"{name}.csv", self.csv())
        write_text(folder / f"{name}.md", self.markdown() + "\n")
        write_text(folder / f"{name}.tex", self.latex())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it reads in a terminal too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- cells ------------------------------------------------------------------------------------------------------------


def measured(metric: Metric | None, key: str) -> Cell:
    """A metric with its interval; a dash, and why, where it has no value."""
    if not metric or metric.get("value") is None:
        return Cell(cell_text(metric))
    return Cell(number_text(metric, key), interval_text(metric, key), float(metric["value"]))


def number(value: float | None, form: Callable[[float], str] = "{:.0f}".format) -> Cell:
    """A number as `form` writes it; a dash for none."""
    return Cell(DASH) if value is None or math.isnan(value) else Cell(form(value), value=value)


def metric_of(row: dict[str, Any], key: str) -> Metric:
    """A metric again, from a row of a frame."""
    found = {part: row.get(f"{key}_{part}") for part in ("low", "high", "why")}
    known = {part: value for part, value in found.items() if isinstance(value, str) or not _none(value)}
    return {"value": None if _none(row[key]) else row[key], **known}


def _none(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def headings(keys: Sequence[str]) -> list[str]:
    """A column a metric."""
    return [about(key).heading for key in keys]


def asked_harder(runs: Sequence[Run]) -> list[str]:
    """The harder questions that one of the runs was asked."""
    return harder({key for run in runs for key in run.metrics})


# --- tables -----------------------------------------------------------------------------------------------------------


def run_table(run: Run) -> str:
    """Base and unlearned model, one row each; then what the numbers rest on and what they cost."""
    models = {"base": run.base, NEVER: run.oracle, f"without {run.gone}": run.metrics}
    models = {name: found for name, found in models.items() if found or name != NEVER} | run.asked_again
    header = ["model", *headings(usual())]
    rows = [[name, *(cell_text(found.get(key), key) for key in usual())] for name, found in models.items()]
    stated = run.judge_stated
    judges = ", ".join(
        f"{d} {100 * a:.1f} %" + (f" (its own file says {100 * stated[d]:.1f} %)" if d in stated else "")
        for d, a in run.judge_accuracy.items()
        if a is not None
    )
    lines = [
        *([run.mark] if run.mark else []),
        table(header, rows),
        *harder_lines(models, asked_harder([run])),
        f"{run.method_name}: {run.target} -> {run.surrogate} ({run.domain}); percent with 95 % "
        f"intervals over images of this one adapter, UA over {run.metrics['ua']['n']} images",
        f"judges on held-out real images: {judges}",
        f"forgotten images read as: {_most(run.landed)}",
        *([f"the same prompts to the model that {NEVER}: {_most(run.oracle_landed)}"] if run.oracle else []),
    ]
    cost = run.cost
    if run.trained:
        lines.append(
            f"unlearned in {run.train_s:.0f} s, evaluated in "
            f"{sum(cost.get(key, 0) for key in ('generate_s', 'judge_s', 'asked_s')):.0f} s; "
            f"adapter {cost['adapter_bytes'] / 1000:.0f} kB, "
            f"density {run.sparsity['density']:.3f}"
        )
    else:
        lines.append(f"{run.images} images scored in {cost['judge_s']:.0f} s")
    return "\n".join(lines)


def _most(counts: dict[str, int]) -> str:
    """The most frequent first, four of them."""
    return ", ".join(f"{label} {n}" for label, n in list(counts.items())[:4])


def graded(runs: Sequence[Run]) -> list[str]:
    """The continuous twins of shares that one of the runs has."""
    return twins({key for run in runs for key in run.metrics})


def harder_lines(models: dict[str, dict[str, Metric]], keys: Sequence[str]) -> list[str]:
    """A table of the harder questions, one row each, with what it asks; nothing where none was asked."""
    rows = [
        [METRICS[key].heading, *(cell_text(found.get(key), key) for found in models.values()), _asks(models, key)]
        for key in keys
    ]
    return ["", table(["asked harder", *models, ""], rows), ""] if rows else []


def _asks(models: dict[str, dict[str, Metric]], key: str) -> str:
    """What a metric tells, and of which concepts, where it is of a few."""
    named: list[str] = next((found[key]["of"] for found in models.values() if "of" in found.get(key, {})), [])
    return METRICS[key].says + (f": {', '.join(map(words, named))}" if named else "")


KEPT = ("ira", "cra")  # beside these stands the base model's, and how far they moved from it


def per_target(
    runs: Sequence[Run],
    link: Callable[[Run], str] = lambda run: "",
    keys: Sequence[str] | None = None,
    shows: Callable[[Run, str], tuple[str, str] | None] = lambda run, key: None,
) -> Table:
    """One row a run, by setting, target and training seed. link: where a run's name leads to; shows: what a metric of
    it opens. keys: of the metrics; None: the usual ones, with the base's where something is to be kept."""
    keys, kept = (usual(), KEPT) if keys is None else (keys, ())
    runs = sorted(runs, key=lambda r: (r.setting, r.domain, r.target, r.surrogate, str(r.seed)))
    bases = [f"base {METRICS[key].name}" for key in kept]
    header = ["setting", "domain", "target", "surrogate", "seed", *headings(keys), *bases, "s"]
    rows = [
        [
            Cell(run.setting),
            Cell(run.domain),
            Cell(run.target, link=link(run)),
            Cell(run.surrogate),
            number(run.seed),
            *(measured(run.metric(key), key)._replace(shows=shows(run, key)) for key in keys),
            *(measured(run.metric(key, base=True), key) for key in kept),
            number(run.train_s if run.trained else None),
        ]
        for run in runs
    ]
    return Table(header, rows, "Every run. 95 % intervals over images of the one adapter", frame(runs))


def mean_value(runs: Sequence[Run], key: str, base: bool = False) -> str:
    """A distance's mean over the runs that have it, as a cell's text; where none has, why."""
    values = metric_values(runs, key, base)
    reason = next((found for r in runs if (found := r.metric(key, base))), None)
    return cell_text({"value": float(np.mean(values))} if values else reason, key)


def summary_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each setting and domain, and one for all domains: of every metric the mean over the runs (`ua`), its
    lowest and its highest (`ua_low`, `ua_high`), the base's mean (`base_ua`), why it has no value (`ua_why`); how far
    what is kept moved from the base (`ira_moved`); of the costs the means."""
    import pandas as pd

    found = frame(runs)
    found = found.assign(**{f"{key}_moved": found[key] - found[f"base_{key}"] for key in KEPT})
    how: dict[str, Any] = {}
    for key in METRICS:
        how |= {key: (key, "mean"), f"{key}_low": (key, "min"), f"{key}_high": (key, "max")}
        how |= {f"base_{key}": (f"base_{key}", "mean")}
        how |= {f"{key}_why": (f"{key}_why", "first")} if f"{key}_why" in found else {}
    how |= {f"{key}_moved": (f"{key}_moved", "mean") for key in KEPT}
    how |= {key: (key, "mean") for key in ("train_s", *COSTS) if key in found}
    by_domain = [found, found.assign(domain="all")]
    parts = [part.groupby(["setting", "domain"]).agg(runs=("target", "size"), **how) for part in by_domain]
    return pd.concat(parts).reset_index().sort_values("setting", kind="stable")


def spread(row: dict[str, Any], key: str) -> Cell:
    """The mean over runs, with the range of a proportion."""
    metric = metric_of(row, key)
    if metric["value"] is None or not METRICS[key].share:
        return measured({k: metric[k] for k in ("value", "why") if k in metric}, key)
    return Cell(number_text(metric, key), f"({100 * metric['low']:.0f}–{100 * metric['high']:.0f})", metric["value"])


def summary(runs: Sequence[Run]) -> Table:
    """One row for each setting and domain: means over its runs, and the difference from the base model, in points."""
    numbers = summary_frame(runs)
    header, rows = ["setting", "domain", "runs"], []
    for key in usual():
        name = METRICS[key].name
        header += [name, *([f"Δ {name}"] if key in KEPT else [])]
    for row in numbers.to_dict("records"):
        cells = [Cell(row["setting"]), Cell(row["domain"]), number(row["runs"])]
        for key in usual():
            cells.append(spread(row, key))
            cells += [number(row[f"{key}_moved"], lambda v: f"{100 * v:+.1f}")] if key in KEPT else []
        size = row.get("adapter_bytes", math.nan) / 1000
        rows.append([*cells, number(row["train_s"]), number(size)])
    return Table([*header, "s/target", "kB"], rows, "Means over runs, and their range", numbers)


def mean_of(runs: Sequence[Run], key: str, base: bool = False) -> Metric | None:
    """`averaged` over runs; a distance's mean alone; without any value the first run's, for its reason."""
    measured = [metric for run in runs if (metric := run.metric(key, base))]
    found = [metric for metric in measured if metric.get("value") is not None]
    if not found:
        return next(iter(measured), None)
    return averaged(found) if about(key).share else {"value": float(np.mean([metric["value"] for metric in found]))}


def averaged(found: Sequence[Metric], least: float = 0.0) -> Metric:
    """The mean of shares, or of differences, with a 95 % t-interval, cut to [least, 1]. It is no narrower than their
    own intervals, over images, would make it if they were independent: that two runs are alike does not make them
    certain. Of one it is its own."""
    from scipy.special import stdtrit  # here: a wrong command line imports this file, and is to be answered at once

    values = [float(metric["value"]) for metric in found]
    mean, root = float(np.mean(values)), math.sqrt(len(values))
    own = all("low" in metric for metric in found)
    if len(values) < 2 and not own:
        return {"value": mean}
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if values[1:] else 0.0
    half = float(stdtrit(len(values) - 1, 0.975)) * error if error else 0.0
    low, high = (float(np.mean([metric[end] for metric in found])) if own else mean for end in ("low", "high"))
    down, up = mean - low, high - mean
    return {
        "value": mean,
        "low": max(least, mean - max(half, down / root)),
        "high": min(1.0, mean + max(half, up / root)),
    }


def settings(runs: Sequence[Run], keys: Sequence[str] | None = None) -> Table:
    """One row a setting, and the base model under each protocol. keys: of the metrics; None: the usual ones."""
    keys = usual() if keys is None else keys
    rows: dict[str, list[Cell]] = {}
    for name, own in by_setting(runs).items():
        if measured_base := [r for r in own if r.base]:
            base = f"base model ({name.split()[0]})"
            means = [measured(mean_of(measured_base, key, base=True), key) for key in keys]
            rows[base] = [Cell(base), Cell(DASH), *means]
        if never := never_saw(own):
            row = f"{NEVER} ({name.split()[0]})"
            rows[row] = [Cell(row), number(len(never)), *(measured(mean_of(never, key), key) for key in keys)]
        means = [measured(mean_of(own, key), key) for key in keys]
        rows[name] = [Cell(name), number(len(own)), *means]
    caption = (
        "Percent: means over runs with 95 % t-intervals over runs, no narrower than their images allow; of one run "
        "over its images; ↑ higher is better, ↓ lower"
    )
    return Table(["setting", "runs", *headings(keys)], list(rows.values()), caption)


def nearer(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """For each setting, where it ended nearer to the model that never saw the target than the base was, by an interval
    that leaves 1 out; nothing where no run had such a model beside it."""
    lines, settings = [], by_setting(runs)
    for name, own in zip(short(list(settings)), settings.values(), strict=True):
        found = {r.target: m for r in own if (m := r.metric("oracle_eps")) and m.get("value") is not None}
        told = {
            "nearer": [target for target, m in found.items() if m["high"] < 1],
            "farther": [target for target, m in found.items() if m["low"] > 1],
        }
        said = [f"{word} for {', '.join(map(words, sorted(targets)))}" for word, targets in told.items() if targets]
        mean = float(np.mean([m["value"] for m in found.values()])) if found else 0.0
        lines += (
            [(name, f"{'; '.join(said) or 'no different'} (mean {mean:.2f} of the base's distance)")] if found else []
        )
    return lines


def costs(runs: Sequence[Run]) -> Table:
    """One row a setting: what its runs cost on average."""
    rows = []
    for name, own in by_setting(runs).items():
        found = {key: [float(r.cost[key]) for r in own if key in r.cost] for key in COSTS}
        means = [float(np.mean(values)) if values else None for values in found.values()]
        rows.append([Cell(name), *(number(mean, lambda v: f"{v:,.1f}".removesuffix(".0")) for mean in means)])
    return Table(["setting", *COSTS.values()], rows, "Means over runs")


# --- numbers of papers ------------------------------------------------------------------------------------------------

PUBLISHED = Path(__file__).parent / "published"
ELSEWHERE = "as published (Stable Diffusion 1.5, 512 px, its own judges)"


def published() -> Table:
    """UnlearnCanvas's methods as papers report them, each with its source: on another model and other images."""
    numbers = [f"{domain}_{number}" for domain in ("style", "object") for number in ("ua", "ira", "cra")]
    columns = ["method", *numbers, "fid", "time_s", "source", "evidence"]
    return _published(PUBLISHED / "unlearncanvas.csv", columns, f"UnlearnCanvas, {ELSEWHERE}")


def published_sequences() -> Table:
    """The same for six requests one after another: UA of the first, and retain accuracy."""
    columns = ["method", "metric", *(f"after_{k}" for k in range(1, 7)), "source"]
    caption = f"UnlearnCanvas, six requests one after another, {ELSEWHERE}"
    return _published(PUBLISHED / "unlearncanvas_sequential.csv", columns, caption)


def published_attacks() -> Table:
    """What attacks brought back as papers report it, in percent of prompts: any of up to fifty draws, the reporting
    judge in the loop, no interval and no control; ours are shares of images on fresh seeds of one fixed find."""
    columns = ["attack", "method", "concept", "before", "after", "prompts", "source", "evidence"]
    caption = (
        "Attacks as published (Stable Diffusion 1.4, own prompts and judges): percent of prompts of which any of up to "
        "fifty images was read as the concept, the judge in the loop; not what success says above"
    )
    return _published(PUBLISHED / "attacks.csv", columns, caption)


def _published(path: Path, columns: list[str], caption: str) -> Table:
    with path.open(encoding="utf-8", newline="") as file:
        return Table(columns, [[_said(row[c]) for c in columns] for row in csv.DictReader(file)], caption)


def _said(text: str) -> Cell:
    try:
        return Cell(text, value=float(text))
    except ValueError:
        return Cell(text or DASH)
