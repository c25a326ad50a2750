"""An adapter as its folder holds it: adapter.safetensors, adapter.json (the card as data), README.md (the card to
read).

The file's metadata repeats the card as it was when the adapter was made, so a file and a card that do not belong
together are told apart. What is measured later goes into the card alone; the file and its hash stay.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fade.adapters import Adapter, check_scale
from fade.adapters.card import card_text
from fade.adapters.factors import Factors
from fade.adapters.lora import Lora
from fade.adapters.matrix import Matrix
from fade.adapters.patch import Patch
from fade.adapters.text import TextEdit
from fade.errors import BadInput
from fade.files import Harmed, atomic, atomic_folder, read_json, write_json, write_text
from fade.models import Diffusion
from fade.tensors import not_finite, read_tensors, tensors_hash, write_tensors
from fade.untouched import untouched

FORMAT = 2  # 1: no card in the file's metadata, no hashes of the base in other types
KINDS: dict[str, type[Adapter]] = {kind.kind: kind for kind in (Lora, Patch, Matrix, TextEdit)}  # by the card's name
LATER = ("results", "picture")  # what the card learns after the file is written
PASSING = ("cost", "machine", "overrides")  # differs between equal runs, whose files are equal; in the card alone
DTYPES = ("float32", "float16", "bfloat16")
FILES = ("adapter.safetensors", "adapter.json", "README.md", "before_after.png")


@dataclass(frozen=True)
class Stored:
    """`about`: adapter.json. `tensors`: of adapter.safetensors. folder: where it was read, for messages."""

    about: dict[str, Any]
    tensors: dict[str, Tensor]
    folder: str = "the adapter"

    @classmethod
    def of(cls, adapter: Adapter, card: dict[str, Any]) -> Stored:
        """An attached adapter as a folder will hold it; `card`: what its maker knows (concept, method, seeds, ...)."""
        about = {"format": FORMAT, "kind": adapter.kind, **adapter.settings(), "sha256": adapter.sha256()}
        tensors = {name: value.detach().clone() for name, value in adapter.compact().items()}
        return cls({**about, **card, **identity(adapter.model)}, tensors)

    @classmethod
    def read(cls, folder: Path | str) -> Stored:
        """Raises BadInput, one line, for what is missing, cut, tampered with, newer than this version, or a pickle."""
        folder = Path(folder)
        about, path = read_card(folder), folder / "adapter.safetensors"
        tensors, metadata = _tensors(path)
        if "sha256" not in metadata or (about["format"] > 1 and "card" not in metadata):
            raise BadInput(f"{path} has no metadata; it was not written by this tool, or was written again without it")
        if tensors and tensors_hash(tensors) != about["sha256"]:
            raise BadInput(f"{path} is not the file that adapter.json describes (its hash differs)")
        if "card" in metadata:
            odd = [k for k, v in json.loads(metadata["card"]).items() if about.get(k) != v]
            if odd:
                raise BadInput(
                    f"{folder}: adapter.json and adapter.safetensors differ in {odd[0]!r}; one of them was changed"
                )
        if broken := not_finite(tensors):
            raise BadInput(f"{path}: {broken} is not finite; its training failed: train it again at a lower rate")
        return cls(about, tensors, str(folder))

    def write(self, folder: Path | str) -> None:
        """The whole folder, or nothing. An adapter that is there already is replaced.

        Raises BadInput where the folder holds anything but an adapter, cannot be written, or a tensor is not finite.
        """
        if odd := not_finite(self.tensors):
            raise BadInput(f"{odd} of the adapter is not finite; nothing was written: train it again at a lower rate")
        made = {k: v for k, v in self.about.items() if k not in (*LATER, *PASSING)}
        metadata = {"format": str(FORMAT), "sha256": self.about["sha256"], "card": json.dumps(made)}
        with atomic_folder(Path(folder), FILES, is_adapter, "adapter") as temporary:
            write_tensors(temporary / "adapter.safetensors", self.tensors, metadata)
            write_json(temporary / "adapter.json", self.about)
            (temporary / "README.md").write_text(card_text(self.about), encoding="utf-8")

    def check_base(self, model: Diffusion) -> None:
        """Raises BadInput where the pipeline is another than the one it was made for; its precision is no matter."""
        wanted, known = self.about.get("base_sha256"), self.about.get("base_as", {})
        if wanted is None:
            raise BadInput(f"{self.folder} does not say which base it was made for; force=True attaches it anyway")
        own = model.sha256()
        narrower = getattr(torch, self.about.get("base_dtype", "float32"))
        if own not in (wanted, *known.values()) and model.sha256(narrower) != wanted:
            raise BadInput(
                f"{self.folder} was made for the base {wanted[:12]}, and this pipeline is {own[:12]}; force=True "
                "attaches it anyway"
            )

    def decode(self) -> tuple[type[Adapter], Any]:
        """The adapter's class, and the tensors as it reads them. Raises BadInput where they do not fit the card."""
        kind = KINDS[self.about["kind"]]
        try:
            return kind, kind.decode(self.about, self.tensors)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise BadInput(
                f"{self.folder}: its tensors do not fit its own card ({type(error).__name__}: {error})"
            ) from error

    def factors(self, scale: float = 1.0) -> dict[str, Factors]:
        """The change as a LoRA's factors, layer by layer, no pipeline being at hand; none at scale 0.

        Raises BadInput where a LoRA cannot carry it, or the file alone does not say it.
        """
        kind, decoded = self.decode()
        return kind.factors_of(self.about, decoded, scale) if check_scale(scale) else {}

    @torch.no_grad()
    def attach(self, model: Diffusion, name: str = "fade", force: bool = False) -> Adapter:
        """Put the change on a pipeline. Raises BadInput, before anything is attached, where it does not fit."""
        kind, decoded = self.decode()
        kind.check(model, self.about)
        if not force:
            self.check_base(model)
        with untouched(model, only_on_error=True):
            return kind.restored(model, self.about, decoded, name)


def identity(model: Diffusion) -> dict[str, Any]:
    """The base an adapter is made for: its hash, its floating-point type, and the hashes it has in others."""
    own = str(model.network.dtype).removeprefix("torch.")
    known = {name: model.sha256(getattr(torch, name)) for name in DTYPES}
    return {"base_sha256": known.get(own) or model.sha256(), "base_dtype": own, "base_as": known}


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


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise BadInput(f"no adapter at {path.parent}: adapter.safetensors is missing")
    try:
        return read_tensors(path)
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
