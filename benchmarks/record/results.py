"""Finished runs as values: `read` finds them, `frame` makes one table of them. Imports no torch.

runs, left_out = read([Path("outputs")])
table = frame(runs)  # pandas: one row a run, numbers as numbers
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from benchmarks.measure.predictions import Row, read_rows
from benchmarks.record.attacks import Reached, over_seeds, read_attacks
from benchmarks.record.finished import Finished
from benchmarks.record.format import AGAIN, COSTS, Metric, check_run, read_results
from fade.data.prompts import words
from fade.errors import BadInput
from fade.files import read_json, unharmed
from fade.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd
F = TypeVar("F", bound=Finished)


class Run(Finished):
    """A finished run of one target."""

    @property
    def target(self) -> str:
        return str(self.results["target"])

    @property
    def gone(self) -> str:
        """What is forgotten, in words: the target, or the pair that it makes with a concept of another domain."""
        return " with ".join(words(str(self.results[key])) for key in ("target", "within") if self.results.get(key))

    @property
    def domain(self) -> str:
        return str(self.results["domain"])

    @property
    def surrogate(self) -> str:
        return str(self.results["surrogate"])

    @property
    def metrics(self) -> dict[str, Metric]:
        return self.results["metrics"]

    @property
    def base(self) -> dict[str, Metric]:
        """The same cells on the untouched model; empty where it was not measured."""
        return self.results["base"]

    @property
    def oracle(self) -> dict[str, Metric]:
        """The same cells on the model that never saw the target; empty where there is none."""
        return self.results.get("oracle", {})

    @property
    def oracle_landed(self) -> dict[str, int]:
        """What the same prompts are read as where `oracle` drew them."""
        return self.results.get("oracle_landed", {})

    @property
    def cost(self) -> dict[str, float]:
        """Seconds, bytes, MiB and counts, by the names of COSTS."""
        return self.results["cost"]

    @property
    def trained(self) -> bool:
        """Whether this suite trained it; else others made its images, and only judging them cost something."""
        return "distil_s" in self.cost

    @property
    def masked(self) -> bool:
        """Whether it says which part of the network was trained."""
        return "sparsity" in self.results

    @property
    def sparsity(self) -> dict[str, Any]:
        """kind, p and density; nothing is masked where others made the answers."""
        return self.results.get("sparsity", {"kind": "", "p": 1, "density": 1})

    @property
    def landed(self) -> dict[str, int]:
        """What the images that asked for the target are read as, most often first."""
        return self.results["landed"]

    @property
    def images(self) -> int:
        """How many images were judged."""
        return int(self.results["gates"]["images"])

    @property
    def judge_accuracy(self) -> dict[str, float | None]:
        """By domain, on held-out real images, in [0, 1]; None where nobody measured it."""
        return self.results["gates"]["judge_accuracy"]

    @property
    def judge_stated(self) -> dict[str, float]:
        """What a judge's own file says of its accuracy, where that is another number."""
        return self.results["gates"].get("judge_stated", {})

    @property
    def base_answers(self) -> str | None:
        """The base model's images: a folder of the cache; older results hold a path."""
        return self.results.get("base_answers")

    @property
    def train_s(self) -> float:
        """Seconds of both stages."""
        return float(self.cost.get("locate_s", 0.0) + self.cost.get("distil_s", 0.0))

    def metric(self, name: str, base: bool = False) -> Metric | None:
        """A metric with its interval, or the base's; None where it was not measured."""
        return (self.base if base else self.metrics).get(name)

    def value(self, metric: str, base: bool = False) -> float | None:
        """A metric's value, or the base's; None where there is none."""
        found = (self.metric(metric, base) or {}).get("value")
        return None if found is None else float(found)

    @property
    def label(self) -> str:
        """The name in comparisons: the method, its version, and what was chosen."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.chosen.items())])

    @cached_property
    def setting(self) -> str:
        """What a table groups runs by: dataset, protocol, method, kind of mask, kept fraction, and what was chosen."""
        return self.setting_without("")

    def setting_without(self, key: str) -> str:
        """The setting, one key left out: what runs that differ in it alone have in common."""
        p = self.sparsity["p"]
        chosen = {"sparsity.p": "" if p == 1 else f"p={p:g}"} | {k: f"{k}={v}" for k, v in self.chosen.items()}
        words = [text for name, text in chosen.items() if name != key]
        asked = f"{self.dataset}/{self.protocol}" + ("(development)" if self.mark else "")
        return " ".join(filter(None, [asked, self.method, self.sparsity["kind"], *words]))

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The numbers that were chosen for the run: the kept fraction, and those of the command line."""
        found = {} if self.sparsity["p"] == 1 else {"sparsity.p": float(self.sparsity["p"])}
        for key, value in self.chosen.items():
            with suppress(ValueError):
                found[key] = float(value)
        return found

    @property
    def predictions(self) -> list[Row]:
        """The rows of predictions.csv, read anew each time; none where the file is missing, or was cut short."""
        domain = self.domain
        try:
            rows = read_rows(self.folder / "predictions.csv")
        except (OSError, ValueError, csv.Error):
            return []
        complete = len(rows) == self.images and all(row.get(domain) and row.get(f"{domain}_predicted") for row in rows)
        return rows if complete else []

    @cached_property
    def attacks(self) -> list[dict[str, Any]]:
        """The rows that task=attack wrote beside the run, each with its picture."""
        return read_attacks(self.folder / "attacks")

    @cached_property
    def reached(self) -> dict[str, Reached]:
        """By attack what it brought back, over the attacker's seeds; nothing of what was void, or could not be made."""
        return over_seeds(self.attacks)

    @cached_property
    def again(self) -> dict[str, Any]:
        """The part of results.json that was measured again with more steps; empty where none was."""
        return unharmed(self.folder / AGAIN, read_json) or {}

    @property
    def asked_again(self) -> dict[str, dict[str, Metric]]:
        """Its metrics, and the base's, with more steps."""
        found = {"base": "base", "after": "metrics"} if self.again else {}
        return {f"{name}, {self.again['steps']} steps": self.again[part] for name, part in found.items()}

    @property
    def picture(self) -> Path | None:
        """The before-and-after picture, where it is there, and whole."""
        path = self.folder / "comparison.png"
        try:
            with Image.open(path) as file:
                file.verify()  # a PNG's sums: to decode it takes ten times as long
        except (OSError, SyntaxError):
            return None
        return path


def result_files(folders: Sequence[Path]) -> list[Path]:
    return sorted({path for folder in folders for path in folder.rglob("results.json")})


def read(folders: Sequence[Path], alone: bool = True) -> tuple[list[Run], list[str]]:
    """The finished runs below the folders, sorted by folder, each configuration once; and a line for each file that is
    left out, and why. Raises BadInput where a folder is missing, or no run is left and nothing else was found
    (`alone`)."""
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"no folder {folder}; name folders that hold finished runs")
    found, problems = [], []
    for path in result_files(folders):
        try:
            results = read_results(path)
            if results.get("kind") == "sequence":
                continue
            check_run(results)
            run = Run(path.parent, results)
            found.append(run)
            problems += flaws(run)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            problems.append(f"{path}: left out, no usable result ({type(error).__name__}: {error})")
    runs, repeated = unique(found)
    runs, quick = without_quick(runs)
    problems += [*repeated, *quick]
    if not runs and alone:
        why = f" ({problems[0]})" if problems else ""
        raise BadInput(f"no results.json below {', '.join(map(str, folders))}; run something first{why}")
    return runs, problems


def flaws(run: Run) -> list[str]:
    """A line for each file beside results.json that is there and cannot be read, which the page does without, and one
    where predictions and results are not of one run."""
    rows = run.predictions
    usable = {"predictions.csv": bool(rows), "comparison.png": run.picture is not None}
    paths = [run.folder / name for name, good in usable.items() if not good]
    broken = [f"{path}: left out, broken" for path in paths if path.exists()]
    if rows and run.target not in {row[run.domain] for row in rows}:
        broken.append(f"{run.folder / 'predictions.csv'}: no image of the target {run.target!r} of results.json")
    return broken


def unique(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Each configuration once, its first folder; and a line for each of the others (copies, sweeps of one name)."""
    first: dict[str, Run] = {}
    lines = []
    for run in runs:
        kept = first.setdefault(run.identity, run)
        if kept is not run:
            lines.append(f"{run.folder}: left out, the same configuration as {kept.folder}")
    return list(first.values()), lines


def without_quick(runs: Sequence[F], name: str = "runs") -> tuple[list[F], list[str]]:
    """Where some runs may be reported, these alone; and a line for those that are left out, which fewer steps asked."""
    good = [run for run in runs if not run.mark]
    left = [run for run in runs if run.mark]
    if not good or not left:
        return list(runs), []
    return good, [f"{len(left)} of {len(runs)} {name} left out ({left[0].mark}); name the folders of these alone"]


def never_saw(runs: Iterable[Run]) -> list[Run]:
    """The models that never saw the targets as runs, where there are some."""
    return [Run(run.folder, {**run.results, "metrics": run.oracle}) for run in runs if run.oracle]


def metric_values(runs: Iterable[Run], metric: str, base: bool = False) -> list[float]:
    """The values of a metric, or the base's, of the runs that have one."""
    return [value for run in runs if (value := run.value(metric, base)) is not None]


def by_setting(runs: Iterable[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    return dict(sorted(groups.items()))


def shared(names: Sequence[str]) -> list[str]:
    """The words that all of several names have."""
    everywhere = set.intersection(*(set(name.split()) for name in names)) if len(names) > 1 else set()
    return [word for word in names[0].split() if word in everywhere] if everywhere else []


def short(names: Sequence[str]) -> list[str]:
    """Names without the words that all of them have; whole where nothing would be left of one."""
    common = set(shared(names))
    found = [" ".join(word for word in name.split() if word not in common) for name in names]
    return found if all(found) else list(names)


def called(names: Sequence[str]) -> dict[str, str]:
    """Each name -> what is left of it in `short`."""
    return dict(zip(names, short(names), strict=True))


def frame(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run: what it is, every metric with its interval and the base's value, its cost, the numbers chosen."""
    import pandas as pd  # here, so that who only reads runs does not wait for it

    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {
        "setting": run.setting,
        "target": run.target,
        "surrogate": run.surrogate,
        "seed": run.seed,
        "domain": run.domain,
        "dataset": run.dataset,
        "protocol": run.protocol,
        "method": run.method,
        "label": run.label,
        **run.sparsity,
    }
    for key in dict.fromkeys([*METRICS, *run.metrics]):
        found, value, base = run.metrics.get(key, {}), run.value(key), run.value(key, base=True)
        row[key] = math.nan if value is None else value
        row |= {f"{key}_{part}": found[part] for part in ("low", "high", "n", "why") if part in found}
        row[f"base_{key}"] = math.nan if base is None else base
    costs = {key: run.cost[key] for key in COSTS if key in run.cost}
    return (
        row | costs | {"train_s": run.train_s if run.trained else math.nan} | run.numbers | {"folder": str(run.folder)}
    )
