"""What unlearning produces: a change of a pipeline that can be attached, muted, scaled, merged, saved and removed.

Every kind answers to the same verbs: fade/lora.py (masked low rank), fade/patch.py (changed weights), fade/textedit.py
(the text embedding, no weights).
"""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.files import read_json, read_tensors, tensors_hash, whole, write_json, write_tensors

Masks = dict[str, Tensor]  # name of a weight -> bool, its shape
FORMAT = 1
KINDS = {"lora": "fade.lora.Lora", "patch": "fade.patch.Patch", "text": "fade.textedit.TextEdit"}  # as adapter.json names them


class Adapter(ABC):
    """One change of one pipeline. Trained in place, then saved; `off` gives the teacher, `detach` the untouched model.

    A subclass has `attach(model, ...)`, which puts a change of zero on the model and leaves earlier adapters on.
    """

    kind: ClassVar[str]

    def __init__(self, model: Diffusion, name: str) -> None:
        self.model, self.name = model, name
        self.teacher_passes = 0  # forwards of the U-Net inside `off`

    # what trains

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer gets."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The weights of the pipeline under the adapter, by name: the candidates of every mask."""

    @abstractmethod
    def masks(self) -> Masks: ...

    @abstractmethod
    def set_masks(self, masks: Masks) -> None:
        """Confine the change to the masks; the keys must be those of `weights`."""

    @abstractmethod
    def change(self, name: str) -> Tensor:
        """ΔW of one weight, at scale 1 or whatever the scale is."""

    @abstractmethod
    def names(self) -> list[str]:
        """One for each of `parameters`: the changed layer or weight, and what of it."""

    @abstractmethod
    def changes(self) -> dict[str, Tensor]:
        """ΔW by parameter name, as trained."""

    def project(self) -> None:  # noqa: B027 - a low-rank change cannot leave its mask
        """Called after every step of the optimizer: what lies outside the masks is put back."""

    def settle(self) -> None:  # noqa: B027
        """Called when training is over: from here on the change in memory is the one that the file will hold."""

    def density(self) -> float:
        """Kept fraction of all candidate weights; 0 for a change without weights."""
        masks = self.masks().values()
        return sum(int(m.sum()) for m in masks) / max(1, sum(m.numel() for m in masks))

    # switching

    @abstractmethod
    def _mute(self, muted: bool) -> None: ...

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the U-Net is the teacher: this adapter contributes nothing, earlier ones stay on."""
        handle = self.model.unet.register_forward_pre_hook(self._count)
        self._mute(True)
        try:
            yield
        finally:
            self._mute(False)
            handle.remove()

    def _count(self, *_: Any) -> None:
        self.teacher_passes += 1

    scale: float  # a property in each kind: 1 as trained, 0 the untouched model

    @abstractmethod
    def merge(self) -> None:
        """Write the change into the weights, keeping what is overwritten; generation then costs what the base costs."""

    @abstractmethod
    def unmerge(self) -> None:
        """Put the overwritten values back, bit for bit."""

    mergeable = True  # False where the change depends on the prompt

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the change applies at the lowest cost: merged where it can be, attached where not."""
        if not self.mergeable:
            yield
            return
        self.merge()
        try:
            yield
        finally:
            self.unmerge()

    @abstractmethod
    def detach(self) -> None:
        """Remove the adapter; the pipeline is again what it was, bit for bit."""

    # files

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""

    @abstractmethod
    def load_state(self, tensors: dict[str, Tensor]) -> None: ...

    @abstractmethod
    def compact(self) -> dict[str, Tensor]:
        """Only what the change needs: the tensors of the file."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `attach` needs to put an adapter of these tensors on another pipeline: plain values."""

    @classmethod
    @abstractmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], tensors: dict[str, Tensor], name: str) -> Adapter:
        """The adapter of a file. Raises BadInput, before anything is attached, where it does not fit the pipeline."""

    def sha256(self) -> str:
        """The identity: over the tensors of the file, and the settings where there are no tensors."""
        tensors = self.compact()
        return tensors_hash(tensors) if tensors else hashlib.sha256(repr(sorted(self.settings().items())).encode()).hexdigest()

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write `adapter.safetensors` and `adapter.json` (the card and what is needed to attach it again)."""
        about = {"format": FORMAT, "kind": self.kind, **self.settings(), "sha256": self.sha256()}
        with whole(folder) as temporary:
            write_tensors(temporary / "adapter.safetensors", self.compact(), {"format": str(FORMAT), "sha256": self.sha256()})
            write_json(temporary / "adapter.json", {**about, **card})

    @staticmethod
    def card(folder: Path | str) -> dict[str, Any]:
        """adapter.json. Raises BadInput where it is missing or newer than this version."""
        path = Path(folder) / "adapter.json"
        if not path.is_file():
            raise BadInput(f"no adapter at {folder}: adapter.json is missing")
        about = read_json(path)
        if about["format"] > FORMAT:
            raise BadInput(f"{folder} has format {about['format']}; this version reads up to {FORMAT}: upgrade fade")
        return about

    @staticmethod
    @torch.no_grad()
    def load(model: Diffusion, folder: Path | str, name: str = "fade") -> Adapter:
        """Attach a saved adapter of any kind. Raises BadInput, before anything is attached, where files do not fit."""
        folder, about = Path(folder), Adapter.card(folder)
        tensors, _ = read_tensors(folder / "adapter.safetensors")
        if tensors and tensors_hash(tensors) != about["sha256"]:
            raise BadInput(f"{folder / 'adapter.safetensors'} is not the file that adapter.json describes (its hash differs)")
        module, kind = KINDS[about["kind"]].rsplit(".", 1)
        return getattr(importlib.import_module(module), kind).restored(model, about, tensors, name)


def check_shapes(model: Diffusion, shapes: dict[str, list[int]]) -> None:
    """Raises BadInput where the U-Net lacks one of the named weights or has another shape."""
    found = {plain(name): list(weight.shape) for name, weight in model.unet.named_parameters()}
    for name, shape in shapes.items():
        if found.get(name) != shape:
            raise BadInput(f"the adapter changes {name} {shape}, which this U-Net does not have; it was made for another model")


def plain(name: str) -> str:
    """A parameter's name without what PEFT's layers add."""
    return name.replace(".base_layer.", ".")
