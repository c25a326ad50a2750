"""The parts of a finished run, built again from its config.yaml: dataset, judges, protocol, model. Hydra is not asked."""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

import fade
from benchmarks.benchmark import Benchmark
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.judges import Judge

SHARED = ("dataset", "protocol", "model")  # what runs must have in common to be measured together


def config_of(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        raise BadInput(f"{run} is no run: config.yaml is missing")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def built(spec: Any, **given: Any) -> Any:
    """What Hydra makes of a `_target_`: the object, or a partial one. Raises BadInput for interpolations but shipped."""
    if isinstance(spec, list):
        return [built(part) for part in spec]
    if isinstance(spec, str):
        weights = Path(fade.__file__).parent / "weights"
        found = re.sub(r"\$\{shipped:([^}]*)\}", lambda match: str(weights / match[1]), spec)
        if "${" in found:
            raise BadInput(f"{spec!r} in config.yaml is resolved by run.py alone; write its value into config.yaml")
        return found
    if not isinstance(spec, dict):
        return spec
    values = {key: built(value) for key, value in spec.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in spec:
        return values
    where, _, name = spec["_target_"].rpartition(".")
    try:
        target = getattr(importlib.import_module(where), name)
    except ModuleNotFoundError:  # a method of a class
        module, _, owner = where.rpartition(".")
        target = getattr(getattr(importlib.import_module(module), owner), name)
    return partial(target, **values, **given) if spec.get("_partial_") else target(**values, **given)


def rebuilt(runs: list[Path], cache: Path, seeds: list[int] | None = None) -> tuple[Diffusion, Benchmark]:
    """The model and the benchmark that the runs share. Raises BadInput where they do not share them."""
    configs = [config_of(run) for run in runs]
    for run, config in zip(runs[1:], configs[1:], strict=True):
        for key in SHARED:
            if config[key] != configs[0][key]:
                raise BadInput(f"{run} and {runs[0]} differ in {key}; adapters are measured together on one {key}")
    config = configs[0]
    dataset = built(config["dataset"]["source"])
    judges = {}
    for domain, labels in dataset.domains.items():
        spec = config["dataset"]["judges"].get(domain)
        judges[domain] = Judge.load(built(spec)) if isinstance(spec, str) else built(spec, domain=domain, labels=labels)
    protocol = built({**config["protocol"], **({"seeds": seeds} if seeds else {})})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return built(config["model"]), Benchmark(dataset, judges, protocol, cache, device)
