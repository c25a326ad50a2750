"""A change of whole weights: what the methods leave that train the network itself (ESD, UCE, SalUn, ...).

The weights of the pipeline are trained in place; the file holds the difference, kept entries only. Several patches on
one pipeline add up: W = W_0 + Σ s_i ΔW_i.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fade.adapters import Adapter, Masks, check_shapes, plain
from fade.diffusion import Diffusion
from fade.errors import BadInput


class _Stack:
    """The untouched values W_0 of one U-Net's patched weights, and the patches on it in the order of attachment."""

    def __init__(self) -> None:
        self.original: dict[str, Tensor] = {}
        self.patches: list[Patch] = []

    @torch.no_grad()
    def value(self, name: str, without: Patch | None = None) -> Tensor:
        """W_0 + Σ s_i ΔW_i of one weight, one patch left out if asked; W_0 itself where nothing is added."""
        value = self.original[name]
        for patch in self.patches:
            if patch is not without and name in patch.deltas and patch.scale != 0:
                value = value + patch.scale * patch.deltas[name].to(value)
        return value


_stacks: WeakKeyDictionary[nn.Module, _Stack] = WeakKeyDictionary()


class Patch(Adapter):
    """Changed weights of a U-Net. The optimizer gets the weights themselves; `off` swaps the untouched ones in.

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
        self._away: dict[str, Tensor] = {}  # the changed values, while the untouched ones are in their place
        self.stack = _stacks.setdefault(model.unet, _Stack())
        for key, weight in chosen.items():
            if key not in self.stack.original:
                self.stack.original[key] = weight.detach().clone()
        self.stack.patches.append(self)
        self.start = {key: self.stack.value(key, without=self) for key in chosen}

    @classmethod
    def attach(
        cls, model: Diffusion, targets: list[str] | tuple[str, ...] = (r"attn2\.to_[kv]\.weight",), name: str = "fade"
    ) -> Patch:
        """Free every parameter of the U-Net whose name one of the regular expressions `targets` finds.

        Raises BadInput where nothing matches or an expression is none.
        """
        try:
            found = {plain(n): p for n, p in model.unet.named_parameters()
                     if ".lora_" not in n and any(re.search(t, plain(n)) for t in targets)}  # fmt: skip
        except re.error as error:
            raise BadInput(
                f"adapter.targets {list(targets)}: {error}; give regular expressions over parameter names"
            ) from error
        if not found:
            raise BadInput(f"no parameter of the U-Net matches {list(targets)}; check adapter.targets")
        adapter = cls(model, name, found)
        for weight in found.values():
            weight.requires_grad_(True)
        return adapter

    @classmethod
    def of(cls, model: Diffusion, changes: dict[str, Tensor], name: str = "fade") -> Patch:
        """A patch that makes the given changes of parameters, by name."""
        adapter = cls.attach(model, [f"^{re.escape(key)}$" for key in changes], name)
        adapter.deltas = {key: changes[key].float() for key in adapter.chosen}
        for weight in adapter.chosen.values():
            weight.requires_grad_(False)
        adapter._refresh()
        return adapter

    def parameters(self) -> list[nn.Parameter]:
        return list(self.chosen.values())

    def names(self) -> list[str]:
        return list(self.chosen)

    def changes(self) -> dict[str, Tensor]:
        return dict(self.deltas)

    def weights(self) -> dict[str, Tensor]:
        return dict(self.chosen)

    # masks

    def masks(self) -> Masks:
        return {key: self._masks.get(key, torch.ones_like(w, dtype=torch.bool)) for key, w in self.chosen.items()}

    def set_masks(self, masks: Masks) -> None:
        if masks.keys() != self.chosen.keys():
            raise BadInput(f"masks for {len(masks)} weights, the patch has {len(self.chosen)}: they must be the same")
        for hook in self._hooks:
            hook.remove()
        self._masks = {key: mask.to(self.chosen[key].device, torch.bool) for key, mask in masks.items() if not mask.all()}
        self._hooks = [self.chosen[key].register_hook(lambda g, mask=mask: g * mask) for key, mask in self._masks.items()]

    def project(self) -> None:
        for key, mask in self._masks.items():
            weight = self.chosen[key]
            weight.data = torch.where(mask, weight.data, self.start[key].to(weight))

    def change(self, name: str) -> Tensor:
        return self.chosen[name] - self.start[name].to(self.chosen[name])

    @torch.no_grad()
    def settle(self) -> None:
        self.deltas = {
            key: (weight.detach().float() - self.start[key].to(weight.device).float()) for key, weight in self.chosen.items()
        }
        for weight in self.chosen.values():
            weight.requires_grad_(False)
            weight.grad = None
        self._refresh()

    def _refresh(self) -> None:
        for key, weight in self.chosen.items():
            weight.data = self.stack.value(key).to(weight).clone()

    # switching

    def _mute(self, muted: bool) -> None:
        for key, weight in self.chosen.items():
            if not muted:
                weight.data = self._away.pop(key)
                continue
            if self.deltas:  # trained: other patches may have come and gone since
                self.start[key] = self.stack.value(key, without=self)
            self.start[key] = self.start[key].to(weight)
            self._away[key], weight.data = weight.data, self.start[key]

    @property
    def scale(self) -> float:  # type: ignore[override]
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = value
        self._refresh()

    def merge(self) -> None:
        """Nothing to do: the change is in the weights, and what it overwrote is kept."""

    def unmerge(self) -> None:
        """Nothing to do."""

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self.stack.patches.remove(self)
        for key, weight in self.chosen.items():
            weight.requires_grad_(False)
            weight.grad = None
            weight.data = self.stack.value(key).to(weight).clone()

    # files

    def state(self) -> dict[str, Tensor]:
        """The weights as they are, with their masks."""
        tensors = {f"{key}.value": weight.detach() for key, weight in self.chosen.items()}
        return tensors | {f"{key}.mask": mask for key, mask in self._masks.items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        whole = {key: torch.ones_like(w, dtype=torch.bool) for key, w in self.chosen.items()}
        self.set_masks({key: tensors.get(f"{key}.mask", mask) for key, mask in whole.items()})
        for key, weight in self.chosen.items():
            weight.data.copy_(tensors[f"{key}.value"])

    def compact(self) -> dict[str, Tensor]:
        """Differences of the weights that changed: whole, or the kept entries in order and a bit mask of their places."""
        tensors = {}
        for key, delta in self.deltas.items():
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
    def restored(cls, model: Diffusion, settings: dict[str, Any], tensors: dict[str, Tensor], name: str) -> Patch:
        check_shapes(model, settings["weights"])
        adapter = cls.attach(model, [f"^{re.escape(key)}$" for key in settings["weights"]], name)
        deltas, masks = {}, {}
        for key, weight in adapter.chosen.items():
            delta = torch.zeros(weight.shape, device=weight.device)
            masks[key] = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
            if f"{key}.bits" in tensors:
                bits = np.unpackbits(tensors[f"{key}.bits"].numpy(), count=weight.numel())
                masks[key] = torch.from_numpy(bits.astype(bool)).reshape(weight.shape).to(weight.device)
            if f"{key}.delta" in tensors:
                delta[masks[key]] = tensors[f"{key}.delta"].to(delta).flatten()
            deltas[key] = delta
            weight.requires_grad_(False)
        adapter.set_masks(masks)
        adapter.deltas = deltas
        adapter._refresh()
        return adapter
