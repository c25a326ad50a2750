"""Finished runs, opened again from their config.yaml: the dataset, judges, protocol and model that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.moved import current
from benchmarks.runs.task import Task
from fade.errors import BadInput
from fade.models import Diffusion

SHARED = ("dataset", "judges", "protocol", "model")  # what runs must have in common to be measured together


def opened(task: Task, run: Path, seeds: list[int] | None = None) -> Task:
    """The run's configuration in today's words; cache and device are those of `task`. seeds: in place of its own.

    Raises BadInput where config.yaml is missing or is no configuration.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise BadInput(f"{run} is no run: config.yaml is missing")
    try:
        config = current(yaml.safe_load(path.read_text(encoding="utf-8")))
        there: dict[str, Any] = {key: config[key] for key in SHARED}
        there["protocol"] |= {"seeds": seeds} if seeds else {}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, RecursionError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise BadInput(f"{path} is not the configuration of a run ({type(error).__name__}: {line})") from error
    return task.of({**config, **there, "cache_dir": task.config["cache_dir"], "device": task.config["device"]})


def shared(task: Task, runs: list[Path], seeds: list[int] | None = None) -> tuple[Diffusion, Benchmark]:
    """The model and the benchmark that the runs share. Raises BadInput where they do not share them."""
    first, *others = (opened(task, run, seeds) for run in runs)
    for run, other in zip(runs[1:], others, strict=True):
        for key in SHARED:
            if other.values(key) != first.values(key):
                raise BadInput(f"{run} and {runs[0]} differ in {key}; adapters are measured together on one {key}")
    return first.make("model"), first.benchmark(first.make("dataset"))
