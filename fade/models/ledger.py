"""What is written into a U-Net's weights, so that it can be taken out again: in any order, bit for bit.

W = W_0 + Σ_i s_i ΔW_i is summed in double precision and rounded once, so the order of the writers does not show; where
no writer is left, W_0 itself stands again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from fade.errors import BadInput


class Writer(Protocol):
    """A change that stands in the weights themselves: a patch, or a merged low-rank adapter."""

    name: str
    muted: bool  # off: it contributes nothing now

    @property
    def training(self) -> bool:
        """Whether its values are still being trained in place; nobody else may write there then."""

    def overwrites(self) -> dict[str, nn.Parameter]:
        """The weights it writes to, by the U-Net's own names."""

    def exact(self, name: str) -> Tensor | None:
        """s·ΔW of one weight, None where it is nothing."""


class Ledger:
    """The untouched values W_0 of one U-Net's overwritten weights, and who wrote."""

    def __init__(self) -> None:
        self.original: dict[str, Tensor] = {}
        self.writers: list[Writer] = []

    def add(self, writer: Writer) -> None:
        self._refuse_training(writer)
        self._refuse_packed(writer)
        for name, weight in writer.overwrites().items():
            if name not in self.original:
                # in training the optimiser writes into the weight itself; else another tensor comes into its place
                self.original[name] = weight.detach().clone() if writer.training else weight.detach()
        self.writers.append(writer)
        if not writer.training:
            self.refresh(writer)

    def remove(self, writer: Writer) -> None:
        """Raises BadInput where another one is in training on the same weights."""
        self._refuse_training(writer)
        self.writers.remove(writer)
        self.refresh(writer)
        needed = {name for other in self.writers for name in other.overwrites()}
        for name, weight in writer.overwrites().items():
            if name not in needed:  # W_0 itself, no copy of it: its hash is remembered
                weight.data = self.original.pop(name).to(weight)

    def refresh(self, writer: Writer) -> None:
        """Put the sum in place again wherever `writer` writes. Raises BadInput as `check_free` does."""
        self.check_free(writer)
        for name, weight in writer.overwrites().items():
            weight.data = self.value(name, weight)

    @torch.no_grad()
    def value(self, name: str, like: Tensor, without: Writer | None = None) -> Tensor:
        """W_0 + Σ s_i ΔW_i as a fresh tensor of the type and on the device of `like`, one writer left out if asked."""
        on = [writer for writer in self.writers if writer is not without and not writer.muted]
        parts = [part for writer in on if (part := writer.exact(name)) is not None]
        return added(self.original[name].to(like.device), parts).to(like.dtype, copy=True)

    def check_free(self, writer: Writer) -> None:
        """Raises BadInput where values in training stand where a writer would put the sum."""
        self._refuse_training(writer, [other for other in self.writers if not other.muted])

    def _refuse_packed(self, writer: Writer) -> None:
        for name, weight in writer.overwrites().items():
            if not weight.is_floating_point():
                raise BadInput(
                    f"{name} is quantised, and nothing can be written into packed weights; attach the adapter without "
                    "merging it, or merge it into the pipeline that was quantised"
                )

    def _refuse_training(self, writer: Writer, others: Sequence[Writer] | None = None) -> None:
        for other in self.writers if others is None else others:
            if other is not writer and other.training and other.overwrites().keys() & writer.overwrites().keys():
                raise BadInput(f"{other.name!r} is in training on the same weights; finish or detach it first")


def added(original: Tensor, parts: list[Tensor]) -> Tensor:
    """W_0 plus the parts, rounded once; W_0 itself where there are none."""
    if not parts:
        return original
    total = original.double()
    for part in parts:
        total = total + part.to(total)
    return total.to(original.dtype)


def ledger(unet: nn.Module) -> Ledger:
    """The one ledger of a U-Net. It lives on the module, so it goes with it."""
    return vars(unet).setdefault("_ledger", Ledger())


def present_weights(unet: nn.Module) -> dict[str, Tensor]:
    """Every weight as it is now, with what is written into it, by the U-Net's own names."""
    return {plain(name): weight.detach() for name, weight in unet.named_parameters() if ".lora_" not in name}


def untouched_weights(unet: nn.Module) -> dict[str, Tensor]:
    """W_0 of every weight, by the U-Net's own names, whatever is written into it now."""
    return present_weights(unet) | ledger(unet).original


def plain(name: str) -> str:
    """A parameter's name without what PEFT's layers add."""
    return name.replace(".base_layer.", ".")
