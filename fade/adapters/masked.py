"""PEFT's LoRA layer with a mask: ΔW = s · M ⊙ (B A), A (r, in), B (out, r), s = alpha / r, M (out, in) of 0 and 1.

Where M is a rectangle u vᵀ this is the ordinary LoRA (diag(u) B)(A diag(v)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn
from torch.nn.functional import linear

from fade.models.ledger import added


@dataclass(eq=False)  # compared by identity: a layer knows by it whether what it folded still holds
class Kept:
    """A mask, and its rows and columns where it is a rectangle (then `mask` is not needed to apply it)."""

    mask: Tensor  # (out, in) bool
    rows: Tensor  # (out,) bool: has any kept weight
    cols: Tensor  # (in,) bool
    rectangle: bool
    empty: bool

    @classmethod
    def of(cls, mask: Tensor) -> Kept:
        rows, cols = mask.any(1), mask.any(0)
        return cls(mask, rows, cols, bool(mask.sum() == rows.sum() * cols.sum()), not bool(rows.any()))

    def to(self, device: torch.device) -> Kept:
        return replace(self, mask=self.mask.to(device), rows=self.rows.to(device), cols=self.cols.to(device))


class _Masked(LoraVariant):
    """PEFT's hook for the arithmetic of a masked layer."""

    @staticmethod
    def init(module: MaskedLinear, adapter_name: str, **_: Any) -> None:
        shape = module.get_base_layer().weight.shape
        module.kept[adapter_name] = Kept.of(
            torch.ones(shape, dtype=torch.bool, device=module.get_base_layer().weight.device)
        )

    @staticmethod
    def forward(module: MaskedLinear, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        kept = module.kept[active_adapter]
        if active_adapter in module.muted or kept.empty:
            return result
        x = module.lora_dropout[active_adapter](x)
        if kept.rectangle:
            a, b = module.factors(active_adapter)
            added = linear(linear(x, a), b) * module.scaling[active_adapter]
        else:
            added = linear(x[..., kept.cols], module.delta(active_adapter)[:, kept.cols])
        gate = module.gates.get(active_adapter)
        return result + (added if gate is None else added * gate.to(added)[:, None, None])


class MaskedLinear(LoraLinear):
    """PEFT's LoRA layer with a mask for each adapter; an adapter in `muted` contributes nothing."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **settings: Any) -> None:
        self.kept: dict[str, Kept] = {}
        self.muted: set[str] = set()
        self.gates: dict[str, Tensor] = {}  # adapter -> strength (B,) for each sample of the batch that is on its way
        self._folded: tuple[Any, Tensor] = (None, torch.empty(0))
        super().__init__(base_layer, adapter_name, **settings)

    def resolve_lora_variant(self, **_: Any) -> LoraVariant:
        return _Masked()

    def _apply(self, *args: Any, **settings: Any) -> nn.Module:
        """Masks are no buffers (a stock loader must never meet them); they follow the weights to a device here."""
        super()._apply(*args, **settings)
        self.kept = {name: kept.to(self.get_base_layer().weight.device) for name, kept in self.kept.items()}
        self._folded = (None, torch.empty(0))
        return self

    def forward(self, x: Tensor, *args: Any, **settings: Any) -> Tensor:
        """Several adapters at once, none of them in training, cost what one weight costs: their sum is folded, once."""
        if torch.is_grad_enabled() or self.disable_adapters or self.merged or settings:
            return super().forward(x, *args, **settings)
        if len(self.muted) == len(self.lora_A):  # all of them merged, or off
            return self.base_layer(x)
        names = self._foldable()
        if len(names) < 2:
            return super().forward(x, *args, **settings)
        result = linear(x, self.folded(names), self.get_base_layer().bias)
        for name in self.active_adapters:
            if name in self.lora_A and name not in names:
                result = _Masked.forward(self, name, x, result)
        return result

    def _foldable(self) -> list[str]:
        return [
            name
            for name in self.active_adapters
            if name in self.lora_A
            and name not in self.muted
            and name not in self.gates
            and not self.kept[name].empty
            and (isinstance(self.lora_dropout[name], nn.Identity) or not self.lora_dropout[name].training)
        ]

    def folded(self, names: list[str]) -> Tensor:
        """W + Σ ΔW (out, in) of the named adapters, remembered until one of them, or W, is another.

        The key holds the tensors themselves: a remembered address could be another tensor's by now.
        """
        base = self.get_base_layer().weight
        parts = [(self.lora_A[n].weight, self.lora_B[n].weight, self.scaling[n], self.kept[n]) for n in names]
        key = [(id(a), a._version, id(b), b._version, s, kept) for a, b, s, kept in parts]
        now = (base.data_ptr(), base._version, base.dtype, key)
        if self._folded[0] is None or self._folded[0][0] != now:
            held = (base.data, parts)
            self._folded = ((now, held), added(base, [self.exact(name) for name in names]))
        return self._folded[1]

    def exact(self, name: str) -> Tensor:
        """ΔW (out, in) in double precision."""
        a, b = self.factors(name)
        return (b.double() @ a.double()) * self.kept[name].mask * self.scaling[name]

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r) with the columns and rows outside the mask at zero."""
        kept = self.kept[name]
        return self.lora_A[name].weight * kept.cols, self.lora_B[name].weight * kept.rows[:, None]

    def delta(self, name: str) -> Tensor:
        """ΔW (out, in)."""
        a, b = self.factors(name)
        return (b @ a) * self.kept[name].mask * self.scaling[name]
