"""The sparse low-rank change of a U-Net.

The change of a layer's weight is ΔW = s · M ⊙ (B A) with PEFT's factors A (r, in), B (out, r), s = alpha / r, and a 0/1
mask M (out, in). Where M is a rectangle u vᵀ this is the ordinary LoRA (diag(u) B)(A diag(v)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn
from torch.nn.functional import linear

from fade.adapters import Adapter, Masks, check_shapes
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.files import whole

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass
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
        module.kept[adapter_name] = Kept.of(torch.ones(shape, dtype=torch.bool, device=module.get_base_layer().weight.device))

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
            added = linear(x, module.change(active_adapter))
        gate = module.gates.get(active_adapter)
        return result + (added if gate is None else added * gate.to(added)[:, None, None])


class MaskedLinear(LoraLinear):
    """PEFT's LoRA layer with a mask for each adapter; an adapter in `muted` contributes nothing."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **settings: Any) -> None:
        self.kept: dict[str, Kept] = {}
        self.muted: set[str] = set()
        self.gates: dict[str, Tensor] = {}  # adapter -> strength (B,) for each sample of the batch that is on its way
        super().__init__(base_layer, adapter_name, **settings)

    def resolve_lora_variant(self, **_: Any) -> LoraVariant:
        return _Masked()

    def _apply(self, *args: Any, **settings: Any) -> nn.Module:
        """Masks are no buffers (a stock loader must never meet them); they follow the weights to another device here."""
        super()._apply(*args, **settings)
        self.kept = {name: kept.to(self.get_base_layer().weight.device) for name, kept in self.kept.items()}
        return self

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r) with the columns and rows outside the mask at zero."""
        kept = self.kept[name]
        return self.lora_A[name].weight * kept.cols, self.lora_B[name].weight * kept.rows[:, None]

    def change(self, name: str) -> Tensor:
        """ΔW (out, in)."""
        a, b = self.factors(name)
        return (b @ a) * self.kept[name].mask * self.scaling[name]


@dataclass(frozen=True)
class Gate:
    """SPM's facilitated transport (arXiv 2312.16145): how strongly a low-rank change applies to a prompt.

    γ = max over `prompts` of max(cosine of the flattened text embeddings, share of the prompt's tokens that are asked
    for), to the `power` 1; the released code multiplies γ in twice, which is power 2.
    """

    prompts: tuple[str, ...]
    power: float = 1.0

    def strength(self, model: Diffusion, asked: list[str]) -> Tensor:
        """γ (B,) of each prompt that is asked."""
        own, theirs = model.embed(list(self.prompts)).flatten(1), model.embed(asked).flatten(1)
        cosine = torch.nn.functional.cosine_similarity(theirs[:, None], own[None], dim=-1)
        concepts, prompts = [[set(ids) for ids in model.token_ids(texts)] for texts in (list(self.prompts), asked)]
        overlap = torch.tensor([[len(c & p) / max(1, len(c)) for c in concepts] for p in prompts]).to(cosine)
        return torch.maximum(cosine, overlap).amax(1).clamp(0, 1) ** self.power


class Lora(Adapter):
    """A low-rank change of linear layers, each confined to a mask."""

    kind = "lora"

    def __init__(self, model: Diffusion, name: str, layers: dict[str, MaskedLinear], rank: int, alpha: float) -> None:
        super().__init__(model, name)
        self.unet, self.layers, self.rank, self.alpha = model.unet, layers, rank, alpha
        self._overwritten: dict[str, Tensor] = {}
        self.gate: Gate | None = None
        self._gating = self.unet.register_forward_pre_hook(self._open, with_kwargs=True)

    def _open(self, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Before each pass of the U-Net: the gate of every sample, while prompts are being generated for."""
        gates = {}
        if self.gate is not None and self.model.asked:
            sample = args[0] if args else given["sample"]
            strength = self.gate.strength(self.model, self.model.asked)
            gates = {self.name: strength.repeat(len(sample) // len(strength))}
        for layer in self.layers.values():
            layer.gates.pop(self.name, None)
            layer.gates.update(gates)

    @classmethod
    def attach(
        cls,
        model: Diffusion,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        targets: list[str] | tuple[str, ...] = ATTENTION,
        name: str = "fade",
    ) -> Lora:
        """Put a change of zero on every linear layer whose name ends in one of `targets`; what was attached stays on.

        Raises BadInput where nothing matches, the rank is below 1, or a layer already holds a stock LoRA (a mask on top
        of it would be ignored silently).
        """
        if rank < 1:
            raise BadInput(f"adapter.rank is {rank}; it must be 1 or more")
        unet = model.unet
        earlier = list(getattr(unet, "peft_config", {}))
        if name in earlier:
            raise BadInput(f"an adapter named {name!r} is attached already; give name=")
        found = [n for n, m in unet.named_modules() if n.endswith(tuple(targets)) and isinstance(m, (nn.Linear, LoraLinear))]
        if not found:
            raise BadInput(f"no linear layer of the U-Net ends in {list(targets)}; check adapter.targets")
        for layer in found:
            module = unet.get_submodule(layer)
            if isinstance(module, LoraLinear) and not isinstance(module, MaskedLinear):
                raise BadInput(f"{layer} already holds a stock LoRA; merge or unload it before attaching {name!r}")
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=found)
        config._register_custom_module({nn.Linear: MaskedLinear})
        unet.add_adapter(config, adapter_name=name)
        unet.set_adapter([*earlier, name])
        layers = {n: unet.get_submodule(n) for n in found}
        for layer in layers.values():
            for key, parameter in layer.named_parameters():
                parameter.requires_grad_(key.split(".")[-2] == name)
        return cls(model, name, layers, rank, alpha)

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        return self.gate is None

    def parameters(self) -> list[nn.Parameter]:
        return [w for layer in self.layers.values() for w in (layer.lora_A[self.name].weight, layer.lora_B[self.name].weight)]

    def names(self) -> list[str]:
        return [f"{layer}.{factor}" for layer in self.layers for factor in "AB"]

    def changes(self) -> dict[str, Tensor]:
        return {f"{name}.weight": layer.change(self.name).detach() for name, layer in self.layers.items()}

    def weights(self) -> dict[str, Tensor]:
        return {name: layer.get_base_layer().weight for name, layer in self.layers.items()}

    # masks

    def set_masks(self, masks: Masks) -> None:
        if masks.keys() != self.layers.keys():
            raise BadInput(f"masks for {len(masks)} layers, the adapter has {len(self.layers)}: they must be the same layers")
        for name, layer in self.layers.items():
            layer.kept[self.name] = Kept.of(masks[name].to(layer.get_base_layer().weight.device, torch.bool))

    def change(self, name: str) -> Tensor:
        return self.layers[name].change(self.name)

    def masks(self) -> Masks:
        return {name: layer.kept[self.name].mask for name, layer in self.layers.items()}

    # switching

    def _mute(self, muted: bool) -> None:
        for layer in self.layers.values():
            (layer.muted.add if muted else layer.muted.discard)(self.name)

    @property
    def scale(self) -> float:
        return next(iter(self.layers.values())).scaling[self.name] * self.rank / self.alpha

    @scale.setter
    def scale(self, value: float) -> None:
        for layer in self.layers.values():
            layer.scaling[self.name] = value * self.alpha / self.rank

    @torch.no_grad()
    def merge(self) -> None:
        if self._overwritten:
            raise BadInput(f"adapter {self.name!r} is merged already")
        if self.gate is not None:
            raise BadInput(
                f"adapter {self.name!r} is gated by the prompt and cannot be merged; set gate to None to merge it whole"
            )
        for name, layer in self.layers.items():
            weight = layer.get_base_layer().weight
            self._overwritten[name] = weight.clone()
            weight += layer.change(self.name).to(weight.dtype)
            layer.muted.add(self.name)

    @torch.no_grad()
    def unmerge(self) -> None:
        for name, original in self._overwritten.items():
            self.layers[name].get_base_layer().weight.copy_(original)
            self.layers[name].muted.discard(self.name)
        self._overwritten = {}

    def detach(self) -> None:
        self.unmerge()
        self._gating.remove()
        if list(self.unet.peft_config) == [self.name]:
            self.unet.unload_lora()
            return
        self.unet.delete_adapters(self.name)
        for layer in self.layers.values():
            layer.kept.pop(self.name)

    # files

    def state(self) -> dict[str, Tensor]:
        """A and B of every layer, whole, with their masks."""
        tensors = {}
        for name, layer in self.layers.items():
            tensors[f"{name}.A"] = layer.lora_A[self.name].weight.detach()
            tensors[f"{name}.B"] = layer.lora_B[self.name].weight.detach()
            tensors[f"{name}.mask"] = layer.kept[self.name].mask
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.set_masks({name: tensors[f"{name}.mask"] for name in self.layers})
        for name, layer in self.layers.items():
            layer.lora_A[self.name].weight.copy_(tensors[f"{name}.A"])
            layer.lora_B[self.name].weight.copy_(tensors[f"{name}.B"])

    def compact(self) -> dict[str, Tensor]:
        """Only what the change needs: kept columns of A, kept rows of B, their places, and a bit mask if no rectangle."""
        tensors = {}
        for name, layer in self.layers.items():
            kept = layer.kept[self.name]
            if kept.empty:
                continue
            tensors[f"{name}.A"] = layer.lora_A[self.name].weight[:, kept.cols]
            tensors[f"{name}.B"] = layer.lora_B[self.name].weight[kept.rows]
            if not kept.rows.all():
                tensors[f"{name}.rows"] = kept.rows.nonzero()[:, 0].to(torch.int16)
            if not kept.cols.all():
                tensors[f"{name}.cols"] = kept.cols.nonzero()[:, 0].to(torch.int16)
            if not kept.rectangle:
                inner = kept.mask[kept.rows][:, kept.cols].cpu().numpy()
                tensors[f"{name}.bits"] = torch.from_numpy(np.packbits(inner))
        return tensors

    def settings(self) -> dict[str, Any]:
        shapes = {n: list(layer.get_base_layer().weight.shape) for n, layer in self.layers.items()}
        gate = {"gate": {"prompts": list(self.gate.prompts), "power": self.gate.power}} if self.gate else {}
        return {"rank": self.rank, "alpha": self.alpha, "layers": shapes, **gate}

    @classmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], tensors: dict[str, Tensor], name: str) -> Lora:
        check_shapes(model, {f"{layer}.weight": shape for layer, shape in settings["layers"].items()})
        adapter = cls.attach(model, settings["rank"], settings["alpha"], targets=list(settings["layers"]), name=name)
        adapter._expand(tensors)
        if "gate" in settings:
            adapter.gate = Gate(tuple(settings["gate"]["prompts"]), settings["gate"]["power"])
        return adapter

    def _expand(self, tensors: dict[str, Tensor]) -> None:
        masks = {}
        for name, layer in self.layers.items():
            a, b = layer.lora_A[self.name].weight, layer.lora_B[self.name].weight
            a.zero_()
            b.zero_()
            mask = torch.zeros(b.shape[0], a.shape[1], dtype=torch.bool)
            if f"{name}.A" in tensors:
                rows = tensors.get(f"{name}.rows", torch.arange(b.shape[0])).long()
                cols = tensors.get(f"{name}.cols", torch.arange(a.shape[1])).long()
                a[:, cols] = tensors[f"{name}.A"].to(a)
                b[rows] = tensors[f"{name}.B"].to(b)
                inner = torch.ones(len(rows), len(cols), dtype=torch.bool)
                if f"{name}.bits" in tensors:
                    bits = np.unpackbits(tensors[f"{name}.bits"].numpy(), count=inner.numel())
                    inner = torch.from_numpy(bits.astype(bool)).reshape(inner.shape)
                mask[rows[:, None], cols] = inner
            masks[name] = mask
        self.set_masks(masks)

    def export(self, folder: Path) -> None:
        """Write an ordinary LoRA that stock `pipe.load_lora_weights(folder)` reads. Raises BadInput for other masks."""
        layers = {n: layer for n, layer in self.layers.items() if not layer.kept[self.name].empty}
        if self.gate is not None:
            raise BadInput(
                "this adapter is gated by the prompt, which an ordinary LoRA is not; set gate to None to export it whole"
            )
        odd = [n for n, layer in layers.items() if not layer.kept[self.name].rectangle]
        if odd:
            raise BadInput(f"{len(odd)} masks are no rectangles (first: {odd[0]}): this adapter is no low-rank matrix, do not "
                           "hand it out as a LoRA; sparsity=neuron, module or dense can be exported")  # fmt: skip
        tensors = {}
        for name, layer in layers.items():
            a, b = layer.factors(self.name)
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = (
                a.detach().contiguous(),
                b.detach().contiguous(),
            )
        metadata = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(layers)).to_dict()
        with whole(folder) as temporary:
            StableDiffusionPipeline.save_lora_weights(
                temporary, unet_lora_layers=tensors, unet_lora_adapter_metadata=metadata, safe_serialization=True
            )
