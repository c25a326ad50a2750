"""Lightning checkpoints without pickle: tensors in safetensors, the rest as JSON in its metadata; whole or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from fade.files import Harmed
from fade.tensors import read_tensors, write_tensors


def flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by references, and dictionaries by lists of pairs (their keys may be numbers)."""
    if isinstance(value, Tensor):
        key = f"t{len(tensors)}"
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[k, flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [flatten(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds a {type(value).__name__}; only tensors and plain values are stored")


def restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: restore(v, tensors) for k, v in content}
    items = [restore(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises Harmed for a file that is no checkpoint, or not the one that was written."""
    tensors, metadata = read_tensors(path)
    if "checkpoint" not in metadata:
        raise Harmed(f"{path} is no checkpoint")
    return restore(json.loads(metadata["checkpoint"]), tensors)


class SafeCheckpoint(CheckpointIO):
    """The plugin: `Trainer(plugins=[SafeCheckpoint()])`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        tensors: dict[str, Tensor] = {}
        plain = flatten(checkpoint, tensors)
        write_tensors(Path(path), tensors, {"checkpoint": json.dumps(plain)})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
