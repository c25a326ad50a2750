"""Finished runs, opened again from their config.yaml: the dataset, judges, protocol and model that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.moved import current
from benchmarks.runs.task import Task
from fade.errors import BadInput
from fade.judges import Judge
from fade.models import Diffusion
from fade.published import filled, made

SHARED = ("dataset", "judges", "protocol", "model")  # what runs must have in common to be measured together


def config_of(run: Path) -> dict[str, Any]:
    """A run's configuration in today's words, its interpolations as they were written. Raises BadInput where
    config.yaml is missing or is no configuration."""
    path = run / "config.yaml"
    if not path.is_file():
        raise BadInput(f"{run} is no run: config.yaml is missing")
    try:
        config = current(yaml.safe_load(path.read_text(encoding="utf-8")))
        return {**config, **{key: config[key] for key in SHARED}}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, RecursionError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise BadInput(f"{path} is not the configuration of a run ({type(error).__name__}: {line})") from error


def opened(task: Task, run: Path, seeds: list[int] | None = None) -> Task:
    """The run's configuration as a task; cache and device are those of `task`. seeds: in place of its own.

    Raises BadInput as `config_of` does.
    """
    config = config_of(run)
    protocol = {**config["protocol"], **({"seeds": seeds} if seeds else {})}
    where = {key: task.config[key] for key in ("cache_dir", "device")}
    return task.of({**config, "protocol": protocol, **where})


def shared(task: Task, runs: list[Path], seeds: list[int] | None = None) -> tuple[Diffusion, Benchmark]:
    """The model and the benchmark that the runs share. Raises BadInput where they do not share them."""
    tasks = [opened(task, run, seeds) for run in runs]
    check_shared(runs, [{key: one.values(key) for key in SHARED} for one in tasks])
    return tasks[0].make("model"), tasks[0].benchmark(tasks[0].make("dataset"))


def together(runs: Sequence[Path], cache: Path) -> tuple[Diffusion, Benchmark]:
    """The same for who does not know Hydra, on the GPU where there is one."""
    parts = [filled({**config_of(run), "cache_dir": str(cache)}, SHARED) for run in runs]
    check_shared(runs, parts)
    first = parts[0]
    dataset, device = made(first["dataset"]), "cuda" if torch.cuda.is_available() else "cpu"
    judges = {
        domain: Judge.load(spec) if isinstance(spec, str) else made({**spec, "domain": domain, "labels": labels})
        for domain, labels in dataset.whole.items()
        if (spec := first["judges"].get(domain)) is not None
    }
    protocol = made({**first["protocol"], "sampling": made(first["protocol"]["sampling"])})
    return made(first["model"]), Benchmark(dataset, judges, protocol, cache, device)


def check_shared(runs: Sequence[Path], parts: Sequence[Mapping[str, Any]]) -> None:
    """Raises BadInput for the first run that differs from the first in what SHARED names."""
    for run, part in zip(runs, parts, strict=True):
        for key in (key for key in SHARED if part[key] != parts[0][key]):
            raise BadInput(f"{run} and {runs[0]} differ in {key}; adapters are measured together on one {key}")
