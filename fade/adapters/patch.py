"""A change of whole weights: what the methods leave that train the network itself (ESD, UCE, SalUn, ...), or a text
encoder (Diff-QuickFix).

The weights of the pipeline are trained in place; the file holds the difference, kept entries only. Several patches on
one pipeline add up: W = W_0 + Σ s_i ΔW_i.
"""

from __future__ import annotations

import re
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from fade.adapters import Adapter, Masks, check_scale, check_shapes
from fade.adapters.factors import Factors
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.ledger import ledger

Decoded = dict[str, tuple[Tensor, Tensor]]  # name of a weight -> difference, mask


class Patch(Adapter):
    """Changed weights of a U-Net, or of a text encoder. The optimizer gets the weights themselves; `off` swaps the
    untouched ones in.

    Masks are enforced twice: gradients outside are zero, and after each step of the optimizer the values there are put
    back, so that weight decay does not move them either.
    """

    kind = "patch"

    def __init__(self, model: Diffusion, name: str, chosen: dict[str, nn.Parameter]) -> None:
        super().__init__(model, name)
        self.chosen = chosen
        self.deltas: dict[str, Tensor] = {}
        self._scale = 1.0
        self._masks: Masks = {}  # of weights that are not kept whole
        self._hooks: list[Any] = []
        self._away: dict[str, Tensor] = {}  # values in training, while the untouched ones are in their place
        self.ledger = ledger(model.network)
        self.ledger.add(self)
        self.start = {key: self.ledger.value(key, weight, without=self) for key, weight in chosen.items()}

    @classmethod
    def attach(cls, model: Diffusion, targets: list[str] | tuple[str, ...] | None = None, name: str = "fade") -> Self:
        """Free every parameter of the network whose name one of the regular expressions `targets` finds; without them
        what reads the text itself, such as the keys and values of its cross-attention. Those of a text encoder are
        found by expressions that begin with the encoder's name, never by `.*`.

        Raises BadInput where nothing matches or an expression is none.
        """
        targets = [key for key in (model.text_keys, model.pooled_keys) if key] if targets is None else targets
        try:
            found = {
                name: weight
                for name, weight in model.changeable().items()
                if name.rpartition(".")[0] not in model.idle and any(_finds(model, key, name) for key in targets)
            }
        except re.error as error:
            raise BadInput(
                f"adapter.targets {list(targets)}: {error}; give regular expressions over parameter names"
            ) from error
        if not found:
            raise BadInput(f"no weight of this {model.title} matches {list(targets)}; check adapter.targets")
        adapter = cls(model, name, found)
        for weight in found.values():
            weight.requires_grad_(True)
        return adapter

    def parameters(self) -> list[nn.Parameter]:
        return list(self.chosen.values())

    def names(self) -> list[str]:
        return list(self.chosen)

    def weights(self) -> dict[str, Tensor]:
        return dict(self.chosen)

    # masks

    def masks(self) -> Masks:
        return {key: self._masks.get(key, torch.ones_like(w, dtype=torch.bool)) for key, w in self.chosen.items()}

    def set_masks(self, masks: Masks) -> None:
        super().set_masks(masks)
        for hook in self._hooks:
            hook.remove()
        self._masks = {
            key: mask.to(self.chosen[key].device, torch.bool) for key, mask in masks.items() if not mask.all()
        }
        self._hooks = [
            self.chosen[key].register_hook(lambda g, mask=mask: g * mask) for key, mask in self._masks.items()
        ]

    def project(self) -> None:
        for key, mask in self._masks.items():
            weight = self.chosen[key]
            weight.data = torch.where(mask, weight.data, self.start[key].to(weight))

    def turn(self, name: str, by: Tensor) -> None:
        start = self.start[name].to(self.chosen[name])
        self.chosen[name].data = start + self.delta(name).detach() @ by.to(start)

    @torch.no_grad()
    def stretch(self, by: float) -> None:
        for name, weight in self.chosen.items():
            weight.data = self.start[name].to(weight) + by * self.delta(name)

    def delta(self, name: str) -> Tensor:
        return self.chosen[name] - self.start[name].to(self.chosen[name])

    @torch.no_grad()
    def settle(self) -> None:
        self.deltas = self._found()
        for weight in self.chosen.values():
            weight.requires_grad_(False)
            weight.grad = None
        self.ledger.refresh(self)

    def _found(self) -> dict[str, Tensor]:
        """The differences that stand in the weights now."""
        return {
            key: (weight.detach().float() - self.start[key].to(weight.device).float())
            for key, weight in self.chosen.items()
        }

    # as a writer of the ledger

    @property
    def training(self) -> bool:
        """Whether the values in place are the optimizer's, and no difference is known yet."""
        return not self.deltas

    def overwrites(self) -> dict[str, nn.Parameter]:
        return self.chosen

    def exact(self, name: str) -> Tensor | None:
        return self.scale * self.deltas[name] if name in self.deltas and self.scale != 0 else None

    # switching

    def _mute(self, muted: bool) -> None:
        if self.deltas:
            self.ledger.refresh(self)
            return
        for key, weight in self.chosen.items():
            if not muted:
                weight.data = self._away.pop(key)
                continue
            self.start[key] = self.start[key].to(weight)
            self._away[key], weight.data = weight.data, self.start[key]

    @property
    def scale(self) -> float:  # type: ignore[override]
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        value = check_scale(value)
        self.ledger.check_free(self)
        self._scale = value
        self.ledger.refresh(self)

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for weight in self.chosen.values():
            weight.requires_grad_(False)
            weight.grad = None
        self.ledger.remove(self)

    # files

    def state(self) -> dict[str, Tensor]:
        """The weights as they are, with their masks."""
        tensors = {f"{key}.value": weight.detach() for key, weight in self.chosen.items()}
        return tensors | {f"{key}.mask": mask for key, mask in self._masks.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.deltas = {}  # of values that are no longer in place
        whole = {key: torch.ones_like(w, dtype=torch.bool) for key, w in self.chosen.items()}
        self.set_masks({key: tensors.get(f"{key}.mask", mask) for key, mask in whole.items()})
        for key, weight in self.chosen.items():
            weight.data.copy_(tensors[f"{key}.value"])

    def compact(self) -> dict[str, Tensor]:
        """Differences of the changed weights: whole, or the kept entries in order with a bit mask of their places."""
        tensors = {}
        for key, delta in (self.deltas or self._found()).items():
            if not delta.any():
                continue
            mask = self._masks.get(key)
            tensors[f"{key}.delta"] = delta if mask is None else delta[mask]
            if mask is not None:
                tensors[f"{key}.bits"] = torch.from_numpy(np.packbits(mask.cpu().numpy()))
        return tensors

    def settings(self) -> dict[str, Any]:
        return {"weights": {key: list(weight.shape) for key, weight in self.chosen.items()}}

    @classmethod
    def decode(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Decoded:
        """Every weight's difference and its mask, on the CPU."""
        found = {}
        for key, shape in settings["weights"].items():
            delta, mask = torch.zeros(shape), torch.ones(shape, dtype=torch.bool)
            if f"{key}.bits" in tensors:
                bits = np.unpackbits(tensors[f"{key}.bits"].numpy(), count=delta.numel())
                mask = torch.from_numpy(bits.astype(bool)).reshape(shape)
            if f"{key}.delta" in tensors:
                delta[mask] = tensors[f"{key}.delta"].float().flatten()
            found[key] = (delta, mask)
        return found

    @classmethod
    def check(cls, model: Diffusion, settings: dict[str, Any]) -> None:
        check_shapes({name: list(weight.shape) for name, weight in model.changeable().items()}, settings["weights"])

    @classmethod
    def factors_of(cls, settings: dict[str, Any], decoded: Decoded, scale: float) -> dict[str, Factors]:
        found = {}
        for key, (delta, _) in decoded.items():
            layer, _, kind = key.rpartition(".")
            if not delta.any() or scale == 0:
                continue
            if kind != "weight" or delta.dim() != 2:
                raise BadInput(
                    f"the change touches {key} {list(delta.shape)}, which a LoRA of linear layers cannot carry; "
                    "export it to=patch"
                )
            found[layer] = Factors.select(scale * delta)
        return found

    @classmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], decoded: Decoded, name: str) -> Patch:
        adapter = cls.attach(model, [f"^{re.escape(key)}$" for key in decoded], name)
        device = model.device
        for weight in adapter.chosen.values():
            weight.requires_grad_(False)
        adapter._masks = {key: mask.to(device) for key, (_, mask) in decoded.items() if not mask.all()}
        adapter.deltas = {key: delta.to(device) for key, (delta, _) in decoded.items()}
        adapter.ledger.refresh(adapter)
        return adapter

    @classmethod
    def of(cls, model: Diffusion, deltas: dict[str, Tensor], name: str) -> Patch:
        """A patch with given differences, attached."""
        kept = {key: (delta.float(), delta != 0) for key, delta in deltas.items()}
        return cls.restored(model, {}, kept, name)


def _finds(model: Diffusion, target: str, name: str) -> bool:
    """Whether the expression finds the weight; of a text encoder only one that begins with the encoder's name does."""
    part = model.part_of(name)
    return bool(re.search(target, name)) and (part == model.denoiser or bool(re.match(rf"\^?{part}\b", target)))
