"""An adapter's folder as far as it is read without torch: adapter.json, the card as data; README.md, the card to read;
and whether adapter.safetensors is the file that they describe.

The file's metadata repeats the card as it was when the adapter was made, so a file and a card that do not belong
together are told apart. What is measured later goes into the card alone; the file and its hash stay.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fade.adapters.card import card_text
from fade.errors import BadInput
from fade.files import Harmed, atomic, read_json, write_json, write_text
from fade.raw import Raw, raw_hash, read_raw

FORMAT = 2  # 1: no card in the file's metadata, no hashes of the base in other types
KINDS = {  # by the card's name
    "lora": "fade.adapters.lora:Lora",
    "patch": "fade.adapters.patch:Patch",
    "matrix": "fade.adapters.matrix:Matrix",
    "text": "fade.adapters.text:TextEdit",
}
LATER = ("results", "picture")  # what the card learns after the file is written
DTYPES = ("float32", "float16", "bfloat16")
CYCLES = 100  # of `fade verify`
HOW = {  # what an export is read with, by its form; {part}: the name in the pipeline of what is changed
    "diffusers": 'pipe.load_lora_weights("this folder")',
    "peft": 'peft.PeftModel.from_pretrained(pipe.{part}, "this folder")',
    "patch": 'pipe.{part}.load_state_dict(safetensors.torch.load_file("this folder/patch.safetensors"), strict=False)',
}


def stock(to: str, part: str, length: int | None) -> list[str]:
    """The lines of Python that read an export without this package and call the pipeline."""
    return [HOW[to].format(part=part), *called(length)]


def called(length: int | None) -> list[str]:
    """How the pipeline is called then. length: rows of text that a language model makes of a caption, where it is a
    setting: the adapter's, for the pipeline's own may be another."""
    return [f'pipe("...", max_sequence_length={length})'] if length else []


def read_card(folder: Path | str) -> dict[str, Any]:
    """adapter.json. Raises BadInput where it is missing, no card, or newer than this version."""
    path = Path(folder) / "adapter.json"
    if not path.is_file():
        nearby = sorted([*Path(folder).glob("adapter/adapter.json"), *Path(folder).glob("*/adapter/adapter.json")])
        hint = f"; did you mean {nearby[0].parent}?" if nearby else ""
        raise BadInput(f"no adapter at {folder}: adapter.json is missing{hint}")
    about = read_json(path)
    if not isinstance(about, dict) or not isinstance(about.get("format"), int) or "sha256" not in about:
        raise BadInput(f"{path} is no adapter's card: format or sha256 is missing")
    if about["format"] > FORMAT:
        raise BadInput(f"{folder} has format {about['format']}; this version reads up to {FORMAT}: upgrade fade")
    about.setdefault("kind", "lora")  # format 1, before there were other kinds
    if about["kind"] not in KINDS:
        raise BadInput(f"{path} is of the kind {about['kind']!r}, which this version does not know: upgrade fade")
    return about


def checked_card(folder: Path) -> dict[str, Any]:
    """The card of an adapter whose file is its own.

    Raises BadInput, one line, for what is missing, cut, tampered with, not finite, newer than this version, or a
    pickle.
    """
    about, path = read_card(folder), folder / "adapter.safetensors"
    tensors, metadata = _tensors(path)
    if "sha256" not in metadata or (about["format"] > 1 and "card" not in metadata):
        raise BadInput(f"{path} has no metadata; it was not written by this tool, or was written again without it")
    if tensors and raw_hash(tensors) != about["sha256"]:
        raise BadInput(f"{path} is not the file that adapter.json describes (its hash differs)")
    if "card" in metadata:
        odd = [k for k, v in json.loads(metadata["card"]).items() if about.get(k) != v]
        if odd:
            raise BadInput(
                f"{folder}: adapter.json and adapter.safetensors differ in {odd[0]!r}; one of them was changed"
            )
    if broken := [name for name, value in tensors.items() if not np.isfinite(value.values()).all()]:
        raise BadInput(f"{path}: {broken[0]} is not finite; its training failed: train it again at a lower rate")
    return about


def _tensors(path: Path) -> tuple[dict[str, Raw], dict[str, str]]:
    if not path.is_file():
        raise BadInput(f"no adapter at {path.parent}: adapter.safetensors is missing")
    try:
        return read_raw(path)
    except Harmed as error:
        with path.open("rb") as file:
            start = file.read(2)
        if start[:1] == b"\x80" or start == b"PK":
            raise BadInput(
                f"{path} is a pickle, which can run code and is never loaded; only safetensors files are"
            ) from error
        raise


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a card of this package's."""
    try:
        return bool(read_card(folder))
    except BadInput:
        return False


def complete(folder: Path, results: dict[str, Any], picture: Path | None = None) -> None:
    """Write the card again, now with results and the before-and-after picture; everything else in the folder stays.

    Each file whole or not at all, adapter.json last: until then the folder is the adapter without results.
    """
    about = read_card(folder) | {"results": results}
    if picture is not None:
        with atomic(folder / "before_after.png") as temporary:
            shutil.copyfile(picture, temporary)
        about["picture"] = "before_after.png"
    write_text(folder / "README.md", card_text(about))
    write_json(folder / "adapter.json", about)
