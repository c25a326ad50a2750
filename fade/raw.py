"""Safetensors without torch: what `fade info` reads and checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from fade.files import Harmed

DIGEST = "digest"  # in the metadata of every safetensors file that is written here
Bytes = bytes | bytearray | memoryview
TYPES = {  # safetensors' names -> torch's, numpy's; bfloat16, which numpy lacks, is the upper half of a float32
    "BOOL": ("bool", "?"),
    "U8": ("uint8", "u1"),
    "I8": ("int8", "i1"),
    "I16": ("int16", "<i2"),
    "I32": ("int32", "<i4"),
    "I64": ("int64", "<i8"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "F32": ("float32", "<f4"),
    "F64": ("float64", "<f8"),
}


@dataclass(frozen=True)
class Raw:
    """A tensor as the file holds it. dtype: torch's name. data: its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: Bytes

    def values(self) -> NDArray[np.generic]:
        """Flat; bfloat16 as float32."""
        kind = next(theirs for ours, theirs in TYPES.values() if ours == self.dtype)
        flat = np.frombuffer(self.data, kind)
        return (flat.astype("<u4") << 16).view("<f4") if self.dtype == "bfloat16" else flat

    def hashed(self) -> Bytes:
        """What of it goes into `parts_hash`."""
        return self.data if self.shape else repr(self.values()[0].item()).encode()


def read_raw(path: Path) -> tuple[dict[str, Raw], dict[str, str]]:
    """Tensors and metadata. Raises Harmed for a file that is cut short, is none, or has another digest than it was
    written with; a file without one (of an older version, or of another tool) is taken as it is."""
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
        found = {
            name: Raw(TYPES[value["dtype"]][0], tuple(value["shape"]), value["data"])
            for name, value in deserialize(path.read_bytes())
        }
    except (SafetensorError, KeyError) as error:
        raise Harmed(f"{path} is truncated or no safetensors file ({error})") from error
    check_digest(path, raw_hash(found), about)
    return found, about


def raw_hash(tensors: dict[str, Raw]) -> str:
    """`tensors_hash` of fade/tensors.py."""
    return parts_hash((name, f"torch.{t.dtype}", t.shape, t.hashed()) for name, t in sorted(tensors.items()))


def parts_hash(parts: Iterable[tuple[str, str, tuple[int, ...], Bytes]]) -> str:
    """SHA-256 over (name, type, shape, bytes) of each tensor, in the order given; a number's bytes are its digits."""
    digest = hashlib.sha256()
    for name, dtype, shape, data in parts:
        digest.update(f"{name}|{dtype}|{shape}|".encode())
        digest.update(data)
    return digest.hexdigest()


def whole_digest(tensors_sha256: str, metadata: dict[str, str]) -> str:
    """Of a file: its tensors and its metadata."""
    return hashlib.sha256(json.dumps([tensors_sha256, metadata], sort_keys=True).encode()).hexdigest()


def check_digest(path: Path, tensors_sha256: str, metadata: dict[str, str]) -> None:
    """Take the digest out of the metadata. Raises Harmed where it is another than the file was written with."""
    digest = metadata.pop(DIGEST, None)
    if digest is not None and digest != whole_digest(tensors_sha256, metadata):
        raise Harmed(f"{path} is not what was written there (its hash differs)")
