"""A finished run's parts, built again from its config.yaml: dataset, judges, protocol, model. Hydra is not asked."""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

import fade
from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.moved import current
from fade.data.dataset import Dataset
from fade.errors import BadInput
from fade.judges import Judge
from fade.models import Diffusion
from fade.pretrain import check_images

INTERPOLATION = re.compile(r"\$\{(shipped:[^{}]*|[A-Za-z_][\w.]*)\}")
SHARED = ("dataset", "judges", "protocol", "model")  # what runs must have in common to be measured together


def config_of(run: Path, cache: Path = Path("cache")) -> dict[str, Any]:
    """What the run's parts are made of, interpolations put in. cache: stands for the run's own, which its config leaves
    out.

    Raises BadInput where config.yaml is missing, is no configuration, or names what only run.py knows.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise BadInput(f"{run} is no run: config.yaml is missing")
    try:
        config = current(yaml.safe_load(path.read_text(encoding="utf-8")))
        whole = {**config, "cache_dir": str(cache)}
        return {key: resolved(config[key], whole) for key in SHARED}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, RecursionError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise BadInput(f"{path} is not the configuration of a run ({type(error).__name__}: {line})") from error


def resolved(value: Any, config: dict[str, Any]) -> Any:
    """With the values that its ${a.b} name in `config`, and the folders that its ${shipped:NAME} name."""
    if isinstance(value, dict):
        return {key: resolved(part, config) for key, part in value.items()}
    if isinstance(value, list):
        return [resolved(part, config) for part in value]
    if not isinstance(value, str):
        return value
    alone = INTERPOLATION.fullmatch(value)
    if alone:  # it keeps its type
        return named(alone[1], config)
    found = INTERPOLATION.sub(lambda match: str(named(match[1], config)), value)
    if "${" in found:
        raise BadInput(f"{value!r} in config.yaml is resolved by run.py alone; write its value into config.yaml")
    return found


def named(key: str, config: dict[str, Any]) -> Any:
    kind, _, name = key.partition(":")
    if kind == "shipped":
        return str(Path(fade.__file__).parent / "shipped" / name)
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return resolved(value, config)


def built(spec: Any, **given: Any) -> Any:
    """What Hydra makes of a `_target_`: the object, or a partial one."""
    if isinstance(spec, list):
        return [built(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    values = {key: built(value) for key, value in spec.items() if key not in ("_target_", "_partial_", "_convert_")}
    if "_target_" not in spec:
        return values
    where, _, name = spec["_target_"].rpartition(".")
    try:
        made = getattr(importlib.import_module(where), name)
    except ModuleNotFoundError:  # a method of a class
        module, _, owner = where.rpartition(".")
        made = getattr(getattr(importlib.import_module(module), owner), name)
    return partial(made, **values, **given) if spec.get("_partial_") else made(**values, **given)


def rebuilt(runs: list[Path], cache: Path, seeds: list[int] | None = None) -> tuple[Diffusion, Benchmark]:
    """The model and the benchmark that the runs share. Raises BadInput where they do not share them."""
    configs = [config_of(run, cache) for run in runs]
    for run, config in zip(runs[1:], configs[1:], strict=True):
        for key in SHARED:
            if config[key] != configs[0][key]:
                raise BadInput(f"{run} and {runs[0]} differ in {key}; adapters are measured together on one {key}")
    config = configs[0]
    if seeds:
        config = {**config, "protocol": {**config["protocol"], "seeds": seeds}}
    return built(config["model"]), benchmark(config, built(config["dataset"]), cache)


def benchmark(config: dict[str, Any], dataset: Dataset, cache: Path, device: str = "auto") -> Benchmark:
    """The judges, of those that the dataset names, and the protocol, ready to measure on a device."""
    specs = config["judges"]
    for folder in {Path(spec).parent.parent for spec in specs.values() if isinstance(spec, str)}:
        check_images(folder, dataset)
    judges = {
        domain: Judge.load(spec) if isinstance(spec, str) else built(spec, domain=domain, labels=labels)
        for domain, labels in dataset.domains.items()
        if (spec := specs.get(domain)) is not None
    }
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return Benchmark(dataset, judges, built(config["protocol"]), cache, kind)
