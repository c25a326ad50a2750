"""Tensors as files: safetensors with a digest, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fade.files import Harmed, atomic
from fade.raw import DIGEST, Bytes, check_digest, parts_hash, whole_digest


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors with a digest over tensors and metadata; equal content makes equal bytes.

    Shared or non-contiguous storage is copied; the metadata values are strings.
    """
    copies = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    about = dict(metadata or {})
    with atomic(path) as temporary:
        try:
            save_file(copies, temporary, about | {DIGEST: whole_digest(tensors_hash(copies), about)})
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
    check_digest(path, tensors_hash(tensors), about)
    return tensors, about


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


def tensors_hash(tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names; dtype: as `in_type`, one at a time."""
    values = ((name, in_type({name: tensors[name].detach()}, dtype)[name]) for name in sorted(tensors))
    parts = ((name, value.cpu().contiguous()) for name, value in values)
    return parts_hash((name, str(v.dtype), tuple(v.shape), _bytes(v)) for name, v in parts)


def _bytes(value: Tensor) -> Bytes:
    return value.reshape(-1).view(torch.uint8).numpy().data if value.dim() else repr(value.item()).encode()


def in_types(tensors: dict[str, Tensor], dtypes: Sequence[torch.dtype | None]) -> dict[torch.dtype | None, str]:
    """The hash in each of these types, a thread each: a hash waits for nothing but a processor."""
    with ThreadPoolExecutor(max(1, len(dtypes))) as threads:
        return dict(zip(dtypes, threads.map(partial(tensors_hash, tensors), dtypes), strict=True))


class Digests:
    """The hash of a set of tensors, remembered while they are the same ones and nobody has written into them.

    Known by their storages, their version counters and a few of their values: a write through `.data` moves no counter,
    and is seen where it changes one of these.
    """

    SAMPLED = 16  # values of a tensor

    def __init__(self) -> None:
        self._storages: list[StorageWeakRef] = []  # alive, so that no other storage can have the same address
        self._state: tuple[object, ...] = ()
        self._known: dict[torch.dtype | None, str] = {}

    def of(self, tensors: dict[str, Tensor], dtypes: Sequence[torch.dtype | None] = (None,)) -> list[str]:
        """`tensors_hash`, as it would be with the floating-point tensors in each of these types; None is their own."""
        own = {value.dtype for value in tensors.values() if value.is_floating_point()}
        dtypes = [None if own == {dtype} else dtype for dtype in dtypes]
        if any(value.is_inference() for value in tensors.values()):  # they count no versions
            return [tensors_hash(tensors, dtype) for dtype in dtypes]
        storages = [StorageWeakRef(value.untyped_storage()) for value in tensors.values()]
        state = (
            *((name, _place(value), s.cdata) for (name, value), s in zip(tensors.items(), storages, strict=True)),
            self._sample(tensors),
        )
        if state != self._state:
            self._storages, self._state, self._known = storages, state, {}
        self._known |= in_types(tensors, [dtype for dtype in dtypes if dtype not in self._known])
        return [self._known[dtype] for dtype in dtypes]

    def _sample(self, tensors: dict[str, Tensor]) -> bytes:
        """Read at once from each device, so that a GPU is waited for once."""
        few: dict[torch.device, list[Tensor]] = {}
        for value in tensors.values():
            flat = value.detach().reshape(-1)
            few.setdefault(value.device, []).append(flat[:: max(1, len(flat) // self.SAMPLED)].double())
        return b"".join(torch.cat(parts).cpu().numpy().tobytes() for parts in few.values())


def _place(value: Tensor) -> tuple[object, ...]:
    return value._version, value.storage_offset(), value.dtype, tuple(value.shape), value.stride()


def in_type(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The same with the floating-point ones in `dtype`; None leaves all as they are."""
    if dtype is None:
        return tensors
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
