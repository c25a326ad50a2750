"""A change that is one matrix for all its layers: ΔW_i = W_i N, W_i the untouched weights (UCE's closed form).

Every weight (out_i, D) is multiplied from the right by the same I + N, so the file holds N (D, D) alone.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from fade.adapters.factors import Factors
from fade.adapters.patch import Decoded, Patch
from fade.errors import BadInput
from fade.models import Diffusion


class Matrix(Patch):
    """A patch whose differences follow from N (D, D), in double precision, rounded once.

    On other changes of the same kind N is theirs and its own multiplied out; on a change of another kind there is no
    such N, and the differences themselves are kept, as a patch keeps them.
    """

    kind = "matrix"
    maskable = False

    def __init__(self, model: Diffusion, name: str, chosen: dict[str, nn.Parameter]) -> None:
        wide = {key: list(weight.shape) for key, weight in chosen.items()}
        odd = [key for key, shape in wide.items() if len(shape) != 2 or shape[1] != next(iter(wide.values()))[-1]]
        if odd:
            raise BadInput(
                f"one matrix for all changes weights of one width, such as the keys and values of cross-attention; "
                f"{odd[0]} {wide[odd[0]]} is none: narrow adapter.targets, or adapter=patch"
            )
        super().__init__(model, name, chosen)
        self.matrix: Tensor | None = None

    @torch.no_grad()
    def multiply(self, n: Tensor) -> None:
        """Every weight as it stands now, times I + n, n (D, D)."""
        for weight in self.chosen.values():
            weight.copy_(weight.double() + weight.double() @ n)
        others = [w for w in self.ledger.writers if w is not self and w.overwrites().keys() & self.chosen.keys()]
        below = torch.eye(len(n)).to(n)
        for other in others:
            if not isinstance(other, Matrix) or other.matrix is None or not self.chosen.keys() <= other.chosen.keys():
                self.matrix = None
                return
            below = below + other.scale * other.matrix.to(n)
        self.matrix = (below @ n).float()

    def _found(self) -> dict[str, Tensor]:
        if self.matrix is None:
            return super()._found()
        n = self.matrix.cpu().double()
        products = {key: self.ledger.original[key].cpu().double() @ n for key in self.chosen}
        return {key: product.float().to(self.chosen[key].device) for key, product in products.items()}

    def stretch(self, by: float) -> None:
        super().stretch(by)
        self.matrix = None if self.matrix is None else by * self.matrix

    def state(self) -> dict[str, Tensor]:
        return super().state() | ({} if self.matrix is None else {"matrix": self.matrix})

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        super().load_state(tensors)
        self.matrix = tensors.get("matrix")

    def compact(self) -> dict[str, Tensor]:
        return super().compact() if self.matrix is None else {"matrix": self.matrix}

    @classmethod
    def decode(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Tensor | Decoded:  # type: ignore[override]
        """N, or every weight's difference and mask where there is none."""
        if "matrix" not in tensors:
            return super().decode(settings, tensors)
        n = tensors["matrix"]
        if any(list(n.shape) != [shape[1], shape[1]] for shape in settings["weights"].values()):
            raise ValueError(f"a matrix {list(n.shape)} for weights of another width")
        return n

    def factors(self) -> dict[str, Factors]:
        kept = {key: (delta.cpu(), delta.cpu() != 0) for key, delta in (self.deltas or self._found()).items()}
        return Patch.factors_of(self.settings(), kept, self.scale)

    @classmethod
    def factors_of(cls, settings: dict[str, Any], decoded: Tensor | Decoded, scale: float) -> dict[str, Factors]:  # type: ignore[override]
        if isinstance(decoded, dict):
            return super().factors_of(settings, decoded, scale)
        raise BadInput(
            "this change is a matrix that multiplies the weights of its base; the export needs --base PIPELINE"
        )

    @classmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], decoded: Tensor | Decoded, name: str) -> Patch:  # type: ignore[override]
        if isinstance(decoded, dict):
            return super().restored(model, settings, decoded, name)
        adapter = cls.attach(model, [f"^{re.escape(key)}$" for key in settings["weights"]], name)
        adapter.matrix = decoded.to(model.device)
        adapter.settle()
        return adapter
