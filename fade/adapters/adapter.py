"""What every kind of change answers to: masks, off (the teacher), scale, merge, detach, and what its file holds."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from fade.adapters.factors import PROMPT, Factors
from fade.errors import BadInput
from fade.models import Diffusion
from fade.tensors import tensors_hash

Masks = Mapping[str, Tensor]  # name of a weight -> bool, its shape
Of = TypeVar("Of")
LARGEST_SCALE = 1000.0  # far above any use; what lies beyond is a slip


class Formed(Mapping[str, Tensor], Generic[Of]):
    """Masks of which each is formed when it is asked for, of what is kept in its place: FLUX's at once are 2.5 GB."""

    def __init__(self, kept: Mapping[str, Of], form: Callable[[Of], Tensor]) -> None:
        self.kept, self.form = kept, form

    def __getitem__(self, name: str) -> Tensor:
        return self.form(self.kept[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)


class Adapter(ABC):
    """One change of one pipeline. Trained in place, then saved; `off` gives the teacher, `detach` the untouched model.

    A subclass has `attach(model, ...)`, which puts a change of zero on the model and leaves earlier adapters on. What a
    kind says nothing about is what stands here: no weights, nothing to train, nothing to keep.
    """

    kind: ClassVar[str]
    scale: float  # a property in each kind: 1 as trained, 0 the untouched model
    mergeable = True  # False where the change depends on the prompt
    maskable = True  # False where single weights cannot be left out of it

    def __init__(self, model: Diffusion, name: str) -> None:
        self.model, self.name = model, name
        self.muted = False  # inside `off`
        self.teacher_passes = 0  # forwards of the U-Net there

    # what trains

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer gets."""
        return []

    def names(self) -> list[str]:
        """One for each of `parameters`: the changed layer or weight, and what of it."""
        return []

    def weights(self) -> dict[str, Tensor]:
        """The weights of the pipeline under the adapter, by name: the candidates of every mask."""
        return {}

    def candidates(self) -> int:
        """How many numbers `weights` stand for."""
        return sum(weight.numel() for weight in self.weights().values())

    def masks(self) -> Masks:
        return {}

    def set_masks(self, masks: Masks) -> None:
        """Confine the change to the masks. Raises BadInput where their names are not those of `weights`, and for a part
        of a change that is all or nothing.
        """
        self.check_names(masks)
        if not self.maskable and not all(mask.all() for mask in masks.values()):
            raise BadInput(f"an adapter of kind {self.kind} cannot be masked; use sparsity=dense, or another adapter")

    def check_names(self, masked: Collection[str]) -> None:
        """Raises BadInput where they are not those of `weights`."""
        wanted = self.weights().keys()
        if set(masked) != wanted:
            raise BadInput(f"masks for {len(masked)} weights, the adapter has {len(wanted)}: they must be the same")

    def density(self) -> float:
        """Kept fraction of all candidate weights; 0 for a change without weights."""
        masks = self.masks().values()
        return sum(int(m.sum()) for m in masks) / max(1, sum(m.numel() for m in masks))

    def delta(self, name: str) -> Tensor:
        """s·ΔW of one of `weights` as it stands, differentiable."""
        raise NotImplementedError(f"{self.kind} changes no weights")

    def turn(self, name: str, by: Tensor) -> None:
        """ΔW ← ΔW `by` (in, in) of one weight (out, in) that trains, in place; for masks that keep all or nothing."""
        raise NotImplementedError(f"{self.kind} changes no weights")

    def stretch(self, by: float) -> None:
        """ΔW ← `by`·ΔW of all that trains, in place; the masks stay."""
        raise NotImplementedError(f"{self.kind} changes no weights")

    def project(self) -> None:  # noqa: B027 - a low-rank change cannot leave its mask
        """Called after every step of the optimizer: what lies outside the masks is put back."""

    def settle(self) -> None:  # noqa: B027
        """Called when training is over: from here on the change in memory is the one that the file will hold."""

    # switching

    def _mute(self, muted: bool) -> None:  # noqa: B027
        """What else than `muted` there is to change. Raises BadInput, and nothing is changed, where it cannot be."""

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the U-Net is the teacher: this adapter contributes nothing, earlier ones stay on."""
        if self.muted:
            yield
            return
        self._turn(True)
        handle = self.model.network.register_forward_pre_hook(self._count)
        try:
            yield
        finally:
            handle.remove()
            self._turn(False)

    def _turn(self, muted: bool) -> None:
        self.muted = muted
        try:
            self._mute(muted)
        except BadInput:
            self.muted = not muted
            raise

    def _count(self, *_: Any) -> None:
        self.teacher_passes += 1

    def merge(self) -> None:
        """Write the change into the weights, keeping what is overwritten; generation then costs what the base costs.

        Nothing to do where it stands there already. Raises BadInput where the change depends on the prompt.
        """
        if not self.mergeable:
            raise BadInput(
                f"adapter {self.name!r} depends on the prompt and cannot be merged; it applies while it is attached"
            )

    def unmerge(self) -> None:  # noqa: B027
        """Put the overwritten values back, bit for bit."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the change applies at the lowest cost: merged where it can be, attached where not."""
        if not self.writable:
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

    # as a writer of the ledger

    def overwrites(self) -> dict[str, nn.Parameter]:
        """The weights of the U-Net that the change is of, by the U-Net's own names."""
        return {}

    @property
    def writable(self) -> bool:
        """Whether the weights can take the change: it does not depend on the prompt, and none of them is packed."""
        return self.mergeable and all(weight.is_floating_point() for weight in self.overwrites().values())

    def exact(self, name: str) -> Tensor | None:
        """s·ΔW of one of `overwrites` to the last bit, None where it is nothing."""
        return None

    # what is kept of it

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:  # noqa: B027
        """See `state`."""

    def compact(self) -> dict[str, Tensor]:
        """Only what the change needs: the tensors of the file."""
        return {}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `attach` needs to put an adapter of these tensors on another pipeline: plain values."""

    def sha256(self) -> str:
        """The identity: over the tensors of the file, and the settings where there are no tensors."""
        if tensors := self.compact():
            return tensors_hash(tensors)
        return hashlib.sha256(repr(sorted(self.settings().items())).encode()).hexdigest()

    @classmethod
    @abstractmethod
    def decode(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
        """The change in a file, on the CPU; no pipeline is needed yet; any exception: a file unlike its card."""

    @classmethod  # noqa: B027
    def check(cls, model: Diffusion, settings: dict[str, Any]) -> None:
        """Raises BadInput where the pipeline lacks what the change is of."""

    @classmethod
    @abstractmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], decoded: Any, name: str) -> Adapter:
        """The adapter of a file, attached."""

    @classmethod
    def factors_of(cls, settings: dict[str, Any], decoded: Any, scale: float) -> dict[str, Factors]:
        """The decoded change as exact factors, layer by layer; no pipeline is needed.

        Raises BadInput where a LoRA cannot carry it, or where the file alone does not say it.
        """
        raise BadInput(PROMPT)

    def factors(self) -> dict[str, Factors]:
        """`factors_of` of the attached change, at its scale."""
        settings, tensors = self.settings(), {name: value.detach().cpu() for name, value in self.compact().items()}
        return self.factors_of(settings, self.decode(settings, tensors), self.scale)


def check_shapes(found: dict[str, list[int]], shapes: dict[str, list[int]]) -> None:
    """Raises BadInput where a pipeline, whose weights' shapes are `found`, lacks one of the named weights or has
    another shape."""
    for name, shape in shapes.items():
        if found.get(name) != shape:
            raise BadInput(
                f"the adapter changes {name} {shape}, which this U-Net does not have; it was made for another model"
            )


def check_scale(scale: Any) -> float:
    """The scale as a number. Raises BadInput for what is none, and for what no change is meant to be multiplied by."""
    try:
        value = float("nan") if isinstance(scale, (str, bool)) else float(scale)
    except (TypeError, ValueError):
        value = float("nan")
    if not abs(value) <= LARGEST_SCALE:
        raise BadInput(
            f"scale is {scale!r}; it must be a number of at most {LARGEST_SCALE:g} in size; 1 is as trained, 0 off"
        )
    return value
