"""Where things are that a command line or a finished run names by where they were.

A run's config.yaml keeps its words for ever.
"""

from __future__ import annotations

import re
from typing import Any

from fade.errors import BadInput

# a module, or what it held -> where it is today; the longer name stands first
MOVED = {
    "fade.lora": "fade.adapters.lora",
    "fade.patch": "fade.adapters.patch",
    "fade.matrix": "fade.adapters.matrix",
    "fade.textedit": "fade.adapters.text",
    "fade.diffusion.Diffusion": "fade.models.stable_diffusion.StableDiffusion",
    "fade.models.Diffusion": "fade.models.stable_diffusion.StableDiffusion",
    "fade.diffusion": "fade.models",
    "fade.logs": "fade.training.logs",
    "benchmarks.benchmark": "benchmarks.measure.benchmark",
    "benchmarks.fidelity": "benchmarks.measure.features",
}
GONE = {"fade.data.minicanvas": "the grid of nine styles and eight objects, of version 0.1, which can ask it again"}
# the fields of a protocol that are those of its sampling
SAMPLING = ("steps", "guidance", "sampler", "size", "precision", "negative", "noise_device", "skip")
# what a command line chose by an older word -> by today's
OPTIONS = {
    "adapter=weights": "adapter=patch",
    "experiment=unlearncanvas_style": "+sweeps=unlearncanvas_style",
    "experiment=unlearncanvas_object": "+sweeps=unlearncanvas_object",
}
KEYS = {
    "weights": "method.terms",
    "dataset.source": "dataset",
    "dataset.judges": "judges",
    "dataset.classifiers": "classifiers",
    "dataset.labels": "dataset.domains.object",
    "dataset.styles": "dataset.domains.style",
    "dataset.objects": "dataset.domains.object",
    "protocol.weights": "protocol.backbones",
    **{f"protocol.{name}": f"protocol.sampling.{name}" for name in SAMPLING},
}


def _by_beginning(path: str, names: dict[str, str]) -> str:
    """A dotted path, its first parts by their name of today."""
    for old, new in names.items():
        if path == old or path.startswith(f"{old}."):
            return new + path[len(old) :]
    return path


def target(path: str) -> str:
    """A `_target_`, by its name of today. Raises BadInput for what is there no more."""
    for name, where in GONE.items():
        if path.startswith(f"{name}."):
            raise BadInput(f"{path} is gone: {where}; the report reads such a run as it is")
    return _by_beginning(path, MOVED)


def key(path: str) -> str:
    """A key of the configuration, by its name of today; where it has no other, itself."""
    return _by_beginning(path, KEYS)


def current(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config.yaml in today's words and shape. Raises KeyError and TypeError for what never was a run's."""
    if "source" in config["dataset"]:
        config = _filled(config, config["dataset"])
        named = {"name": config["dataset"]["name"]} if "name" in config["dataset"] else {}
        judges = config["dataset"]["judges"]
        config = {**config, "dataset": {**named, **config["dataset"]["source"]}, "judges": judges}
    if "sampling" not in config["protocol"]:
        config = {**config, "protocol": _sampling_apart(config["protocol"])}
    return _targets(config)


def _sampling_apart(protocol: dict[str, Any]) -> dict[str, Any]:
    """With its sampling as one value, and the files of its backbones by their name of today."""
    sampling = {name: protocol[name] for name in SAMPLING if name in protocol}
    rest = {"backbones" if k == "weights" else k: v for k, v in protocol.items() if k not in SAMPLING}
    return {**rest, "sampling": {"_target_": "fade.models.Sampling", **sampling}}


def _filled(node: Any, dataset: dict[str, Any]) -> Any:
    """With the values that its ${dataset.x} name: keys that are not there today."""
    if isinstance(node, dict):
        return {name: _filled(value, dataset) for name, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, dataset) for value in node]
    if not isinstance(node, str):
        return node
    alone = re.fullmatch(r"\$\{dataset\.(\w+)\}", node)
    if alone:  # it keeps its type
        return dataset[alone[1]]
    return re.sub(r"\$\{dataset\.(\w+)\}", lambda match: str(dataset[match[1]]), node)


def _targets(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: target(value) if name == "_target_" else _targets(value) for name, value in node.items()}
    return [_targets(value) for value in node] if isinstance(node, list) else node
