"""Files as the record: whole or not at all, and never pickled."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fade.errors import BadInput


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` (file or folder); rename it to `path` if all went well, else remove it.

    A folder that is there already steps aside first and is deleted last, so that no moment has neither.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    old = path.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, names: Collection[str], made: Callable[[Path], bool], what: str) -> Iterator[Path]:
    """`whole`, for a folder that may be there already; it is replaced only where all that it holds was written for it.

    names: the files that may be in it. made: whether this package wrote what is there. Raises BadInput, nothing being
    written or deleted, where something else is in it or in its place, and where it cannot be written.
    """
    place = folder.resolve()
    try:
        found = sorted(place.iterdir()) if place.exists() else []
        strangers = [path.name for path in found if path.name not in names or not path.is_file()]
        if not strangers and found and not made(place):
            strangers = [path.name for path in found]
        if strangers:
            more = ", ..." if len(strangers) > 3 else ""
            raise BadInput(f"{folder} holds files that are no {what}'s ({', '.join(strangers[:3])}{more}); name a new folder")
        if place == Path.cwd():
            raise BadInput(f"{folder} is the folder that you are in, and cannot be replaced; name a new folder")
        with whole(place) as temporary:
            yield temporary
    except OSError as error:
        if error.errno == errno.ENOSPC:  # has a line of its own
            raise
        raise BadInput(f"cannot write {folder}: {error.strerror or error}; name another folder") from error


def write_text(path: Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors. Shared or non-contiguous storage is copied; the metadata values are strings."""
    copies = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with whole(path) as temporary:
        try:
            save_file(copies, temporary, metadata)
        except SafetensorError as error:
            if "os error 28" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict


def not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds nan or inf."""
    return next((name for name, value in tensors.items() if not value.isfinite().all()), None)


def content_hash(value: Any) -> str:
    """12 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.dim() else repr(value.item()).encode())
    return digest.hexdigest()
