"""An adapter as its folder holds it, with its tensors: written, read, put on a pipeline (fade/adapters/folder.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor

from fade.adapters import Adapter, check_scale
from fade.adapters.card import card_text
from fade.adapters.factors import Factors
from fade.adapters.folder import DTYPES, FORMAT, KINDS, LATER, checked_card, is_adapter
from fade.errors import BadInput
from fade.files import atomic_folder, write_json
from fade.models import Diffusion
from fade.models.families import named
from fade.tensors import not_finite, read_tensors, write_tensors
from fade.untouched import untouched

PASSING = ("cost", "machine", "overrides")  # differs between equal runs, whose files are equal; in the card alone
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
        """Raises BadInput, one line, where `checked_card` does."""
        about = checked_card(Path(folder))
        return cls(about, read_tensors(Path(folder) / "adapter.safetensors")[0], str(folder))

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

    def check_family(self, model: Diffusion) -> None:
        """Raises BadInput, whatever is forced, where the pipeline is of another family."""
        if not isinstance(model, family := named(self.about.get("family"))):
            raise BadInput(
                f"{self.folder} was made for {family.title}, and this pipeline is a {model.title}; its weights "
                "have other names"
            )

    def check_length(self, model: Diffusion) -> None:
        """Raises BadInput, whatever is forced, where the text has another number of rows than in its training."""
        wanted = self.about.get("text_length")
        if wanted is not None and model.text_length != wanted:
            raise BadInput(
                f"{self.folder} was trained with {wanted} rows of text, and this model reads {model.text_length}; give "
                f"model.text_length={wanted}"
            )

    def decode(self) -> tuple[type[Adapter], Any]:
        """The adapter's class, and the tensors as it reads them. Raises BadInput where they do not fit the card."""
        kind = resolve_name(KINDS[self.about["kind"]])
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
        self.check_family(model)
        self.check_length(model)
        kind.check(model, self.about)
        if not force:
            self.check_base(model)
        with untouched(model, only_on_error=True):
            return kind.restored(model, self.about, decoded, name)


def identity(model: Diffusion) -> dict[str, Any]:
    """The base an adapter is made for: its family, how many rows of text it reads where that is a setting, its hash,
    its type, and the hashes it has in others."""
    own = str(model.network.dtype).removeprefix("torch.")
    known = dict(zip(DTYPES, model.sha256_in([getattr(torch, name) for name in DTYPES]), strict=True))
    base = {"base_sha256": known.get(own) or model.sha256(), "base_dtype": own, "base_as": known}
    length = {"text_length": model.text_length} if model.text_length else {}
    return {"family": type(model).__name__, **length, **base}
