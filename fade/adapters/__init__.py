"""What unlearning produces: a change of a pipeline that can be attached, muted, scaled, merged, saved and removed.

Every kind answers to the same verbs: fade/adapters/lora.py (masked low rank), fade/adapters/patch.py (changed weights),
fade/adapters/matrix.py (one matrix for all of them), fade/adapters/text.py (the text embedding, no weights).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fade.adapters.export import NOTHING, PROMPT, Factors, check_form, export_factors, export_patch
from fade.adapters.stored import FORMAT, Stored, identity, read_card
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.ledger import added, ledger, plain
from fade.tensors import tensors_hash

Masks = dict[str, Tensor]  # name of a weight -> bool, its shape


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

    def project(self) -> None:  # noqa: B027 - a low-rank change cannot leave its mask
        """Called after every step of the optimizer: what lies outside the masks is put back."""

    def turn(self, name: str, by: Tensor) -> None:
        """ΔW ← ΔW `by` (in, in) of one weight (out, in) that trains, in place; for masks that keep it whole or not at
        all.
        """
        raise NotImplementedError(f"{self.kind} changes no weights")

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
    def unpacked(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        """What `restored` puts on the pipeline; no pipeline is needed yet, and any exception means a file unlike its
        card.
        """

    @classmethod
    @abstractmethod
    def check(cls, model: Diffusion, settings: dict[str, Any]) -> None:
        """Raises BadInput where the pipeline lacks what the change is of."""

    @classmethod
    @abstractmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], unpacked: Any, name: str) -> Adapter:
        """The adapter of a file, attached."""

    def sha256(self) -> str:
        """The identity: over the tensors of the file, and the settings where there are no tensors."""
        tensors = self.compact()
        return (
            tensors_hash(tensors)
            if tensors
            else hashlib.sha256(repr(sorted(self.settings().items())).encode()).hexdigest()
        )

    def stored(self, card: dict[str, Any]) -> Stored:
        """The adapter as a folder will hold it; `card`: what only the caller knows (concept, method, seeds, ...)."""
        about = {"format": FORMAT, "kind": self.kind, **self.settings(), "sha256": self.sha256()}
        tensors = {name: value.detach().clone() for name, value in self.compact().items()}
        return Stored({**about, **card, **identity(self.model)}, tensors)

    def save(self, folder: Path | str, card: dict[str, Any]) -> None:
        """Write `adapter.safetensors`, `adapter.json` and `README.md`: fade/adapters/stored.py."""
        self.stored(card).write(folder)

    @staticmethod
    def card(folder: Path | str) -> dict[str, Any]:
        """adapter.json. Raises BadInput where it is missing or newer than this version."""
        return read_card(folder)

    @staticmethod
    def load(model: Diffusion, folder: Path | str, name: str = "fade", force: bool = False) -> Adapter:
        """Attach a saved adapter of any kind. Raises BadInput, before anything is attached, where files do not fit, or
        where the pipeline is another than the adapter was made for, unless `force`."""
        return Stored.read(folder).attach(model, name, force)

    # what stock tools read

    @abstractmethod
    def places(self) -> dict[str, nn.Parameter]:
        """The weights of the U-Net that the change is of, by the U-Net's own names."""

    @abstractmethod
    def delta(self, name: str) -> Tensor | None:
        """s·ΔW of one of `places`, None where it is nothing."""

    @torch.no_grad()
    def values(self) -> dict[str, Tensor]:
        """The changed weights as this change alone leaves them: W_0 + s·ΔW, whatever else is merged or attached."""
        untouched = ledger(self.model.unet).original
        return {
            name: added(untouched.get(name, weight.data), [delta])
            for name, weight in self.places().items()
            if (delta := self.delta(name)) is not None
        }

    @classmethod
    @abstractmethod
    def factors(cls, settings: dict[str, Any], unpacked: Any, scale: float) -> dict[str, Factors]:
        """The change as exact factors, layer by layer; no pipeline is needed.

        Raises BadInput where a LoRA cannot carry it, or where the file alone does not say it.
        """

    def export(self, folder: Path | str, to: str = "diffusers", rank: int | None = None, limit: float = 0.05) -> float:
        """Write what tools without this package read, at the present scale; returns the error of the fit, if `rank`
        asks for one, else 0. Raises BadInput where the form cannot carry the change: fade/adapters/export.py.
        """
        check_form(to)
        if self.scale == 0:
            raise BadInput(NOTHING)
        if to == "patch":
            if not self.mergeable:
                raise BadInput(PROMPT)
            return export_patch(Path(folder), self.values())
        return export_factors(Path(folder), to, self.factored(), rank, limit)

    def factored(self) -> dict[str, Factors]:
        """`factors` of the attached change, at its scale."""
        settings = self.settings()
        return self.factors(settings, self.unpacked(settings, self._on_cpu()), self.scale)

    def _on_cpu(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu() for name, value in self.compact().items()}


def check_shapes(model: Diffusion, shapes: dict[str, list[int]]) -> None:
    """Raises BadInput where the U-Net lacks one of the named weights or has another shape."""
    found = {plain(name): list(weight.shape) for name, weight in model.unet.named_parameters()}
    for name, shape in shapes.items():
        if found.get(name) != shape:
            raise BadInput(
                f"the adapter changes {name} {shape}, which this U-Net does not have; it was made for another model"
            )
