"""Finished sequences of requests as values: what was asked, how the model stood after each request, what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record.attacks import Reached, over_seeds, read_attacks
from benchmarks.record.finished import Finished
from benchmarks.record.format import Metric, read_results
from benchmarks.record.results import result_files, without_quick

if TYPE_CHECKING:
    import pandas as pd


BACK = (0.9, 0.5)  # a UA below which a concept counts as coming back, in part and in the main


def request_folder(run: Path, k: int, target: str) -> Path:
    """Where a sequence keeps its request k (from 0)."""
    return run / f"{k + 1:02d}-{target}"


@dataclass(frozen=True)
class Asked:
    """One request as results.json keeps it."""

    target: str
    surrogate: str = ""
    domain: str = ""


@dataclass(frozen=True, eq=False)
class State:
    """The model as it was measured once: before, after a request, or with one taken back."""

    results: dict[str, Any]

    @property
    def ua(self) -> dict[str, Metric]:
        """By target: how far each request in force is met."""
        return self.results["ua"]

    @property
    def ua_mean(self) -> float:
        return sum(metric["value"] for metric in self.ua.values()) / len(self.ua) if self.ua else math.nan

    @property
    def ua_ends(self) -> tuple[float, float]:
        """The 95 % interval of that mean over images, each request's being others: deviations add in squares; NaN
        where a request has none."""
        own = list(self.ua.values())
        if not own or not all("low" in metric for metric in own):
            return math.nan, math.nan
        down, up = (math.hypot(*(m["value"] - m[end] for m in own)) / len(own) for end in ("low", "high"))
        return self.ua_mean - down, self.ua_mean + up

    @property
    def kept(self) -> dict[str, Metric]:
        """By domain: accuracy on the concepts that are never requested."""
        return self.results["kept"]

    @property
    def retention(self) -> float:
        """The mean of `kept`, in [0, 1]."""
        return float(self.results["retention"])

    @property
    def retention_ends(self) -> tuple[float, float]:
        """The mean ends of the domains' 95 % intervals, which are of the same images; NaN where one has none."""
        own = list(self.kept.values())
        if not all("low" in metric for metric in own):
            return math.nan, math.nan
        low, high = (sum(metric[end] for metric in own) / len(own) for end in ("low", "high"))
        return low, high

    @property
    def nearest(self) -> Metric:
        """Accuracy on the never-requested concepts nearest to the requests."""
        return self.results["nearest"]

    def distance(self, metric: str) -> Metric | None:
        """Of the never-requested images from real ones; None where it was not asked for."""
        return self.results.get(metric)

    @property
    def trained(self) -> bool:
        """Whether a request was met on the way here: then it says what that cost."""
        return "cost" in self.results

    @property
    def train_s(self) -> float:
        return float(self.results["cost"]["train_s"])

    @property
    def adapter_bytes(self) -> int:
        return int(self.results["cost"]["adapter_bytes"])


@dataclass(frozen=True, eq=False)
class Revoked(State):
    """With one request taken back, the others in force."""

    @property
    def target(self) -> str:
        return str(self.results["target"])

    @property
    def back(self) -> Metric:
        """UA of the request that was taken back: low where the concept is there again."""
        return self.results["back"]

    @property
    def ua_of_all(self) -> dict[str, Metric]:
        """UA of every request, that of the one taken back among them."""
        return {**self.ua, self.target: self.back}


class SequenceRun(Finished):
    """A finished sequence: its requests, the state after each, what was taken back, and its summary."""

    @property
    def strategy(self) -> str:
        return str(self.results["strategy"])

    @cached_property
    def requests(self) -> list[Asked]:
        return [Asked(r["target"], r.get("surrogate", ""), r.get("domain", "")) for r in self.results["requests"]]

    @cached_property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    @property
    def base(self) -> State:
        return State(self.results["base"])

    @cached_property
    def steps(self) -> list[State]:
        return [State(step) for step in self.results["steps"]]

    @cached_property
    def revoked(self) -> list[Revoked]:
        return [Revoked(step) for step in self.results["revoked"]]

    @cached_property
    def reached(self) -> dict[str, dict[str, Reached]]:
        """By target and attack, what it brought back after the last request, over the attacker's seeds; no target that
        was not attacked."""
        names = {target: request_folder(self.folder, k, target).name for k, target in enumerate(self.targets)}
        found = {t: over_seeds(read_attacks(self.folder / "attacks", f"**/{name}")) for t, name in names.items()}
        return {target: own for target, own in found.items() if own}

    def first_back(self, below: float) -> int | None:
        """After which request the concept that was removed first has a UA below this, from its own on; None: never."""
        first = self.targets[0]
        return next((k for k, step in enumerate(self.steps, 1) if step.ua[first]["value"] < below), None)

    @property
    def summary(self) -> dict[str, float]:
        """What benchmarks/runs/sequence.py sums up: proportions in [0, 1], seconds, a ratio, bytes."""
        return self.results["summary"]

    @property
    def label(self) -> str:
        """Method, strategy, and what else the command line chose."""
        others = [f"{k}={v}" for k, v in self.chosen.items() if k.split(".")[0] != "sequence" and k != "strategy"]
        return ", ".join([self.method, self.strategy, *others])

    @property
    def name(self) -> str:
        """The label, the seed, and which request came first: a sequence among others."""
        return f"{self.label}, seed {self.seed}, {self.targets[0]} first"


def read_sequences(folders: Sequence[Path]) -> tuple[list[SequenceRun], list[str]]:
    """The finished sequences of requests below the folders, and a line where some are left out (`without_quick`); of
    what is broken `read` says it."""
    found = []
    for path in result_files(folders):
        with suppress(ValueError, KeyError, TypeError, OSError):
            results = read_results(path)
            if results.get("kind") == "sequence":
                found.append(SequenceRun(path.parent, results))
    kept, left_out = without_quick(found, "sequences")
    return sorted(kept, key=lambda run: (run.targets[0], run.label, str(run.seed))), left_out


def frame(runs: Iterable[SequenceRun]) -> pd.DataFrame:
    """One row a sequence: what was asked, by whom it was met, and its summary as numbers."""
    import pandas as pd  # here, so that who only reads runs does not wait for it

    rows = [
        {
            "requests": " ".join(run.targets),
            "sequence": run.label,
            "seed": run.seed,
            **run.summary,
            **{f"first_back_{100 * below:.0f}": run.first_back(below) for below in BACK},
            "folder": str(run.folder),
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def steps_frame(runs: Iterable[SequenceRun]) -> pd.DataFrame:
    """One row a request of a sequence: the mean UA of all so far, and what is kept of what was never asked for, each
    with its interval over images."""
    import pandas as pd

    rows = [
        {
            "sequence": run.name,
            "request": number,
            "target": run.targets[number - 1],
            "ua": state.ua_mean,
            **dict(zip(("ua_low", "ua_high"), state.ua_ends, strict=True)),
            "retention": state.retention,
            **dict(zip(("retention_low", "retention_high"), state.retention_ends, strict=True)),
            "train_s": state.train_s,
        }
        for run in runs
        for number, state in enumerate(run.steps, 1)
    ]
    return pd.DataFrame(rows)
