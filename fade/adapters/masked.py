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


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, also where its weight is packed (4 bit) and has another shape."""
    return layer.out_features, layer.in_features  # type: ignore[return-value]


@dataclass(eq=False)  # compared by identity: a layer knows by it whether what it folded still holds
class Kept:
    """Which weights (out, in) of a layer a change may touch: a rectangle of rows and columns, or a part of one.

    The mask of a rectangle is formed only when it is asked for: at the size of Stable Diffusion all of them take 0.1 GB
    and longer than everything else that puts an adapter on.
    """

    rows: Tensor  # (out,) bool: has any kept weight
    cols: Tensor  # (in,) bool
    part: Tensor | None  # (out, in) bool; None: every row with every column
    places: Tensor  # the kept columns by number: a mask as an index would make a GPU wait
    every_row: bool
    every_col: bool
    empty: bool

    @classmethod
    def of(cls, mask: Tensor) -> Kept:
        bytes_ = mask.view(torch.uint8)  # their maxima take a fraction of the time of `any` and `sum`
        rows, cols = bytes_.amax(1).bool(), bytes_.amax(0).bool()
        whole = bool((bytes_ == (rows[:, None] & cols).view(torch.uint8)).all())
        return cls.crossed(rows, cols, None if whole else mask)

    @classmethod
    def crossed(cls, rows: Tensor, cols: Tensor, part: Tensor | None = None) -> Kept:
        return cls(rows, cols, part, cols.nonzero()[:, 0], bool(rows.all()), bool(cols.all()), not bool(rows.any()))

    @classmethod
    def whole(cls, layer: nn.Module) -> Kept:
        device = layer.weight.device
        rows, cols = (torch.ones(n, dtype=torch.bool, device=device) for n in shape_of(layer))
        return cls(rows, cols, None, torch.arange(len(cols), device=device), True, True, False)

    @property
    def rectangle(self) -> bool:
        return self.part is None

    @property
    def mask(self) -> Tensor:
        """(out, in) bool."""
        return self.rows[:, None] & self.cols if self.part is None else self.part

    def count(self) -> int:
        """How many weights are kept."""
        return int(self.rows.sum() * self.cols.sum() if self.part is None else self.part.sum())

    def within(self, change: Tensor) -> Tensor:
        """A change (out, in) that is zero outside the rectangle, confined to the mask."""
        return change if self.part is None else change * self.part

    def to(self, device: torch.device) -> Kept:
        part = None if self.part is None else self.part.to(device)
        rows, cols, places = (each.to(device) for each in (self.rows, self.cols, self.places))
        return replace(self, rows=rows, cols=cols, part=part, places=places)


class _Masked(LoraVariant):
    """PEFT's hook for the arithmetic of a masked layer."""

    @staticmethod
    def init(module: MaskedLinear, adapter_name: str, **_: Any) -> None:
        module.kept[adapter_name] = Kept.whole(module.get_base_layer())

    @staticmethod
    def forward(module: MaskedLinear, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        kept = module.kept[active_adapter]
        if active_adapter in module.muted or kept.empty:
            return result
        x = module.lora_dropout[active_adapter](x)
        if kept.rectangle:
            (a, b), scale = module.factors(active_adapter), module.scaling[active_adapter]
            change = linear(linear(x, a), b)
            change = change if scale == 1 else change * scale
        else:
            change = linear(x[..., kept.places], module.delta(active_adapter)[:, kept.places])
        gate = module.gates.get(active_adapter)
        change = change if gate is None else change * gate.to(change)[:, None, None]
        if torch.is_grad_enabled() or change.dtype != result.dtype:
            return result + change
        return result.add_(change)  # nobody else has it: to the bit the same, and no other tensor


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
        """Several adapters that do not train cost what one weight costs: their sum is folded, once. One alone is not:
        what it gives is then to the bit what it gave in training, and what a stock LoRA of its factors gives."""
        if self.disable_adapters or self.merged or settings:
            return super().forward(x, *args, **settings)
        if len(self.muted) == len(self.lora_A):  # all of them merged, or off
            return self.base_layer(x)
        names = self._foldable()
        if len(names) < 2 and torch.is_grad_enabled():
            return super().forward(x, *args, **settings)
        base = self.get_base_layer()
        result = linear(x, self.folded(names), base.bias) if len(names) > 1 else base(x)
        kind = result.dtype
        for name in self.active_adapters:
            if name in self.lora_A and (len(names) < 2 or name not in names):
                result = _Masked.forward(self, name, self._cast_input_dtype(x, self.lora_A[name].weight.dtype), result)
        return result.to(kind)

    def _foldable(self) -> list[str]:
        """The adapters whose sum stands still: frozen, on a frozen weight that is not packed, and asking for no
        prompt."""
        base = self.get_base_layer().weight
        if base.requires_grad or not base.is_floating_point():
            return []
        down, drops = self.lora_A, self.lora_dropout  # each look costs a microsecond, and layers are many
        return [
            name
            for name in self.active_adapters
            if name in down
            and name not in self.muted
            and name not in self.gates
            and not self.kept[name].empty
            and not down[name].weight.requires_grad
            and not (isinstance(drop := drops[name], nn.Dropout) and drop.training)
        ]

    def folded(self, names: list[str]) -> Tensor:
        """W + Σ ΔW (out, in) of the named adapters, remembered until one of them, or W, is another.

        The key holds the tensors themselves: a remembered address could be another tensor's by now.
        """
        base, down, up = self.get_base_layer().weight, self.lora_A, self.lora_B
        parts = [(down[n].weight, up[n].weight, self.scaling[n], self.kept[n]) for n in names]
        key = [(id(a), _version(a), id(b), _version(b), s, kept) for a, b, s, kept in parts]
        now = (base.data_ptr(), _version(base), base.dtype, key)
        if self._folded[0] is None or self._folded[0][0] != now:
            held = (base.data, parts)
            with torch.inference_mode(False), torch.no_grad():  # a later pass may ask for gradients
                self._folded = ((now, held), added(base, [self.exact(name) for name in names]))
        return self._folded[1]

    def exact(self, name: str) -> Tensor:
        """ΔW (out, in) in double precision."""
        a, b = self.factors(name)
        return self.kept[name].within(b.double() @ a.double()) * self.scaling[name]

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r) with the columns and rows outside the mask at zero."""
        kept, a, b = self.kept[name], self.lora_A[name].weight, self.lora_B[name].weight
        return a if kept.every_col else a * kept.cols, b if kept.every_row else b * kept.rows[:, None]

    def delta(self, name: str) -> Tensor:
        """ΔW (out, in)."""
        a, b = self.factors(name)
        return self.kept[name].within(b @ a) * self.scaling[name]


def _version(tensor: Tensor) -> int:
    """How often it was written into; tensors of inference mode do not count, and nothing trains them."""
    return 0 if tensor.is_inference() else tensor._version
