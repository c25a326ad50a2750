"""Tensors as files: safetensors with a digest, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fade.files import Harmed, atomic

DIGEST = "digest"  # in the metadata of every safetensors file that is written here


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors with a digest over tensors and metadata; equal content makes equal bytes.

    Shared or non-contiguous storage is copied; the metadata values are strings.
    """
    copies = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    about = dict(metadata or {})
    with atomic(path) as temporary:
        try:
            save_file(copies, temporary, about | {DIGEST: _digest(copies, about)})
            _sort_metadata(temporary)
        except SafetensorError as error:
            if "os error 28" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. Raises Harmed for a file that is cut short, is none, or has another digest than it was
    written with; a file without one (of an older version, or of another tool) is taken as it is."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors, about = {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise Harmed(f"{path} is truncated or no safetensors file ({error})") from error
    digest = about.pop(DIGEST, None)
    if digest is not None and digest != _digest(tensors, about):
        raise Harmed(f"{path} is not what was written there (its hash differs)")
    return tensors, about


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([tensors_hash(tensors), metadata], sort_keys=True).encode()).hexdigest()


def _sort_metadata(path: Path) -> None:
    """safetensors writes it in an order that changes from process to process; nothing else of the file moves."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds nan or inf."""
    return next((name for name, value in tensors.items() if not value.isfinite().all()), None)


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.dim() else repr(value.item()).encode())
    return digest.hexdigest()
