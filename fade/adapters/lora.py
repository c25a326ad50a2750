"""The sparse low-rank change of a U-Net: every layer's ΔW = s · M ⊙ (B A), fade/adapters/masked.py."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from pydantic import Field
from torch import Tensor, nn

from fade.adapters import Adapter, Formed, Masks, check_scale, check_shapes
from fade.adapters.factors import PROMPT, Factors
from fade.adapters.gate import Gate
from fade.adapters.masked import Kept, MaskedLinear, shape_of
from fade.checked import Count, Positive
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.ledger import Ledger, ledger

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
Decoded = dict[str, tuple[Tensor, Tensor, Kept]]  # layer -> A (r, in), B (out, r), which weights


class Lora(Adapter):
    """A low-rank change of linear layers, each confined to a mask."""

    kind = "lora"

    def __init__(self, model: Diffusion, name: str, layers: dict[str, MaskedLinear], rank: int, alpha: float) -> None:
        super().__init__(model, name)
        self.layers, self.rank, self.alpha = layers, rank, alpha
        self.merged = False
        self._gate: Gate | None = None
        self._met: tuple[list[str] | None, Tensor] = None, torch.empty(0)  # the last batch's prompts, how strongly
        self._gating = self.model.network.register_forward_pre_hook(self._open, with_kwargs=True)

    def _open(self, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        """Before each pass of the U-Net: the gate of every sample, while prompts are being generated for."""
        if self.gate is None:
            return
        gates, asked = {}, self.model.prompts.asked
        if not asked:
            self._met = None, torch.empty(0)
        elif self._met[0] is not asked:  # the prompts are the same in every pass of a batch
            self._met = asked, self.gate.strength(self.model, asked)
        if asked:
            sample: Tensor = args[0] if args else given.get("sample", given.get("hidden_states"))
            strength = self._met[1]
            gates = {self.name: strength.repeat(len(sample) // len(strength))}
        for layer in self.layers.values():
            layer.gates.pop(self.name, None)
            layer.gates.update(gates)

    @classmethod
    def attach(
        cls,
        model: Diffusion,
        rank: Count,
        alpha: Positive,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        targets: list[str] | tuple[str, ...] = ATTENTION,
        name: str = "fade",
    ) -> Lora:
        """Put a change of zero on every linear layer whose name ends in one of `targets`; what was attached stays on.

        Raises BadInput where nothing matches, the rank is no whole number of 1 or more, or above what any of the layers
        can have, alpha or dropout make no sense, or a layer already holds a stock LoRA (a mask on top of it would be
        ignored silently).
        """
        check_numbers(rank, alpha, dropout)
        network = model.network
        earlier = list(getattr(network, "peft_config", {}))
        if name in earlier:
            raise BadInput(f"an adapter named {name!r} is attached already; give name=")
        found = {layer: part for layer, part in chosen(network, targets, name).items() if layer not in model.idle}
        largest = max(min(shape_of(layer)) for layer in found.values())
        if rank > largest:
            raise BadInput(
                f"adapter.rank is {rank}, and no matrix of these layers has more than {largest}; give a lower one"
            )
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(found))
        config._register_custom_module({nn.Linear: MaskedLinear})
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there is one already: it is meant
            network.add_adapter(config, adapter_name=name)
        if earlier:
            network.set_adapter([*earlier, name])
        layers = {n: network.get_submodule(n) for n in found}
        for layer in layers.values():
            for key, parameter in layer.named_parameters():
                if key.split(".")[-2] == name:  # trained in single precision on a base in half
                    parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
                parameter.requires_grad_(key.split(".")[-2] == name)
        return cls(model, name, layers, rank, alpha)

    @property
    def gate(self) -> Gate | None:
        return self._gate

    @gate.setter
    def gate(self, gate: Gate | None) -> None:
        self._gate = gate
        for layer in self.layers.values():
            layer.gates.pop(self.name, None)
        (self.model.prompts.add if gate else self.model.prompts.remove)(self)

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        return self.gate is None

    def parameters(self) -> list[nn.Parameter]:
        return [
            w
            for layer in self.layers.values()
            for w in (layer.lora_A[self.name].weight, layer.lora_B[self.name].weight)
        ]

    def names(self) -> list[str]:
        return [f"{layer}.{factor}" for layer in self.layers for factor in "AB"]

    def weights(self) -> dict[str, Tensor]:
        return {name: layer.get_base_layer().weight for name, layer in self.layers.items()}

    def candidates(self) -> int:
        return sum(math.prod(shape_of(layer)) for layer in self.layers.values())

    # masks

    def set_masks(self, masks: Masks) -> None:
        super().set_masks(masks)
        for name, layer in self.layers.items():
            layer.kept[self.name] = Kept.of(masks[name].to(layer.get_base_layer().weight.device, torch.bool))

    @torch.no_grad()
    def fit(self, name: str, change: Tensor) -> None:
        """Makes a layer's ΔW the nearest to the masked part of `change` (out, in) that the rank can hold, by singular
        values. Of A, what that does not need stays as it was drawn, with zeros against it in B: it can still learn."""
        layer = self.layers[name]
        a, b = layer.lora_A[self.name].weight, layer.lora_B[self.name].weight
        near, share = Factors.fit(change * layer.kept[self.name].mask, self.rank), layer.scaling[self.name] ** -0.5
        lengths = near.a.norm(dim=1)
        used = int((lengths > 1e-3 * lengths.max()).sum())
        a[:used] = (near.a[:used] * share).to(a)
        b.zero_()[:, :used] = (near.b[:, :used] * share).to(b)

    @torch.no_grad()
    def turn(self, name: str, by: Tensor) -> None:
        """A ← A `by`: B (A `by`) is the change turned."""
        a = self.layers[name].lora_A[self.name].weight
        a.copy_(a @ by.to(a))

    @torch.no_grad()
    def stretch(self, by: float) -> None:
        for layer in self.layers.values():
            layer.lora_B[self.name].weight.mul_(by)

    def delta(self, name: str) -> Tensor:
        return self.layers[name].delta(self.name)

    def masks(self) -> Masks:
        return Formed({name: layer.kept[self.name] for name, layer in self.layers.items()}, lambda kept: kept.mask)

    def density(self) -> float:
        return sum(layer.kept[self.name].count() for layer in self.layers.values()) / self.candidates()

    # switching

    def _mute(self, muted: bool) -> None:
        if self.merged:
            self.ledger.refresh(self)
            return
        for layer in self.layers.values():
            (layer.muted.add if muted else layer.muted.discard)(self.name)

    @property
    def scale(self) -> float:
        return next(iter(self.layers.values())).scaling[self.name] * self.rank / self.alpha

    @scale.setter
    def scale(self, value: float) -> None:
        value = check_scale(value)
        if self.merged:
            self.ledger.check_free(self)
        for layer in self.layers.values():
            layer.scaling[self.name] = value * self.alpha / self.rank
        if self.merged:
            self.ledger.refresh(self)

    # as a writer of the ledger, while it is merged

    @property
    def training(self) -> bool:
        return False

    @property
    def ledger(self) -> Ledger:
        return ledger(self.model.network)

    def overwrites(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.weight": layer.get_base_layer().weight
            for name, layer in self.layers.items()
            if not layer.kept[self.name].empty
        }

    @torch.no_grad()
    def exact(self, name: str) -> Tensor | None:
        layer = self.layers.get(name.removesuffix(".weight"))
        if layer is None or layer.kept[self.name].empty or layer.scaling[self.name] == 0:
            return None
        return layer.exact(self.name)

    def merge(self) -> None:
        if self.merged:
            raise BadInput(f"adapter {self.name!r} is merged already")
        if self.gate is not None:
            raise BadInput(
                f"adapter {self.name!r} is gated by the prompt and cannot be merged; set gate to None to merge it whole"
            )
        self.ledger.add(self)
        self._mute(True)
        self.merged = True

    def unmerge(self) -> None:
        if self.merged:
            self.ledger.remove(self)
            self.merged = False
            self._mute(self.muted)

    def detach(self) -> None:
        self.unmerge()
        self.gate = None
        self._gating.remove()
        if list(self.model.network.peft_config) == [self.name]:
            self.model.network.unload_lora()
            return
        self.model.network.delete_adapters(self.name)
        for layer in self.layers.values():
            layer.kept.pop(self.name)
            layer.gates.pop(self.name, None)
            layer.muted.discard(self.name)

    # files

    def settle(self) -> None:
        """Dropout is for training; what remains is frozen."""
        self.model.network.eval()
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """A and B of every layer, whole, with the rows and columns that are kept, or a mask that is no rectangle."""
        tensors = {}
        for name, layer in self.layers.items():
            kept = layer.kept[self.name]
            tensors[f"{name}.A"] = layer.lora_A[self.name].weight.detach()
            tensors[f"{name}.B"] = layer.lora_B[self.name].weight.detach()
            sides = {"rows": kept.rows, "cols": kept.cols} if kept.part is None else {"mask": kept.part}
            tensors |= {f"{name}.{side}": places for side, places in sides.items()}
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, layer in self.layers.items():
            mask = tensors.get(f"{name}.mask")  # of rectangles too where the checkpoint is an older version's
            kept = Kept.crossed(tensors[f"{name}.rows"], tensors[f"{name}.cols"]) if mask is None else Kept.of(mask)
            layer.kept[self.name] = kept.to(layer.get_base_layer().weight.device)
            layer.lora_A[self.name].weight.copy_(tensors[f"{name}.A"])
            layer.lora_B[self.name].weight.copy_(tensors[f"{name}.B"])

    def compact(self) -> dict[str, Tensor]:
        """Only what the change needs: kept columns of A, kept rows of B, their places, a bit mask if no rectangle."""
        tensors = {}
        for name, layer in self.layers.items():
            kept = layer.kept[self.name]
            if kept.empty:
                continue
            tensors[f"{name}.A"] = layer.lora_A[self.name].weight[:, kept.cols]
            tensors[f"{name}.B"] = layer.lora_B[self.name].weight[kept.rows]
            if not kept.every_row:
                tensors[f"{name}.rows"] = kept.rows.nonzero()[:, 0].to(torch.int16)
            if not kept.every_col:
                tensors[f"{name}.cols"] = kept.cols.nonzero()[:, 0].to(torch.int16)
            if not kept.rectangle:
                inner = kept.mask[kept.rows][:, kept.cols].cpu().numpy()
                tensors[f"{name}.bits"] = torch.from_numpy(np.packbits(inner))
        return tensors

    def settings(self) -> dict[str, Any]:
        shapes = {name: list(shape_of(layer)) for name, layer in self.layers.items()}
        gate = {"gate": {"prompts": list(self.gate.prompts), "power": self.gate.power}} if self.gate else {}
        return {"rank": self.rank, "alpha": self.alpha, "layers": shapes, **gate}

    @classmethod
    def decode(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Decoded:
        """Every layer's A (r, in), B (out, r) and mask (out, in), on the CPU."""
        strangers = {key.rsplit(".", 1)[0] for key in tensors} - settings["layers"].keys()
        if strangers:
            raise KeyError(f"{sorted(strangers)[0]} is no layer of the card")
        return {n: _expanded(n, out, into, settings["rank"], tensors) for n, (out, into) in settings["layers"].items()}

    @classmethod
    def check(cls, model: Diffusion, settings: dict[str, Any]) -> None:
        linear = {n: m for n, m in model.network.named_modules() if isinstance(m, nn.Linear)}
        found = {f"{n.removesuffix('.base_layer')}.weight": list(shape_of(layer)) for n, layer in linear.items()}
        check_shapes(found, {f"{layer}.weight": shape for layer, shape in settings["layers"].items()})

    @classmethod
    def restored(cls, model: Diffusion, settings: dict[str, Any], decoded: Decoded, name: str) -> Lora:
        adapter = cls.attach(model, settings["rank"], settings["alpha"], targets=list(settings["layers"]), name=name)
        adapter.check_names(decoded)
        for layer, (a, b, kept) in decoded.items():
            base = adapter.layers[layer].get_base_layer().weight
            like = base if base.is_floating_point() else a.to(base.device)
            adapter.layers[layer].lora_A[name].weight.data = a.to(like)
            adapter.layers[layer].lora_B[name].weight.data = b.to(like)
            adapter.layers[layer].kept[name] = kept.to(base.device)
        for parameter in adapter.parameters():
            parameter.requires_grad_(False)
        if "gate" in settings:
            adapter.gate = Gate(tuple(settings["gate"]["prompts"]), settings["gate"]["power"])
        return adapter

    @classmethod
    def factors_of(cls, settings: dict[str, Any], decoded: Decoded, scale: float) -> dict[str, Factors]:
        """A rectangle leaves as the ordinary LoRA that it is, any other mask by selection: fade/adapters/export.py."""
        if "gate" in settings:
            raise BadInput(PROMPT)
        found, alpha = {}, scale * settings["alpha"]
        for name, (a, b, kept) in decoded.items():
            if kept.empty:
                continue
            a, b = a * kept.cols, b * kept.rows[:, None]
            exact = kept.rectangle
            found[name] = Factors(a, b, alpha) if exact else Factors.select(kept.within(b @ a) * (alpha / len(a)))
        return found


def check_numbers(rank: int, alpha: float, dropout: float) -> None:
    """Raises BadInput for numbers that make no low-rank change."""
    if not isinstance(rank, int) or rank < 1:
        raise BadInput(f"adapter.rank is {rank!r}; it must be a whole number, 1 or more")
    if not 0 < alpha < float("inf"):
        raise BadInput(f"adapter.alpha is {alpha}; it must be a number above 0")
    if not 0 <= dropout < 1:
        raise BadInput(f"adapter.dropout is {dropout}; it must lie in [0, 1)")


def chosen(network: nn.Module, targets: Sequence[str], name: str) -> dict[str, nn.Module]:
    """The linear layers whose names end in one of `targets`. Raises BadInput for none, and for a stock LoRA's."""
    linear = {n: m for n, m in network.named_modules() if isinstance(m, (nn.Linear, LoraLinear))}
    found = {layer: module for layer, module in linear.items() if layer.endswith(tuple(targets))}
    if not found:
        raise BadInput(f"no linear layer of what denoises ends in {list(targets)}; check adapter.targets")
    for layer, module in found.items():
        if isinstance(module, LoraLinear) and not isinstance(module, MaskedLinear):
            raise BadInput(f"{layer} already holds a stock LoRA; merge or unload it before attaching {name!r}")
    return found


def _expanded(name: str, out: int, into: int, rank: int, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Kept]:
    a, b = torch.zeros(rank, into), torch.zeros(out, rank)
    rows, cols = torch.zeros(out, dtype=torch.bool), torch.zeros(into, dtype=torch.bool)
    if f"{name}.A" not in tensors:
        return a, b, Kept.crossed(rows, cols)
    down = tensors.get(f"{name}.rows", torch.arange(out)).long()
    along = tensors.get(f"{name}.cols", torch.arange(into)).long()
    a[:, along], b[down] = tensors[f"{name}.A"].float(), tensors[f"{name}.B"].float()
    rows[down] = cols[along] = True
    if f"{name}.bits" not in tensors:
        return a, b, Kept.crossed(rows, cols)
    bits = np.unpackbits(tensors[f"{name}.bits"].numpy(), count=len(down) * len(along))
    part = torch.zeros(out, into, dtype=torch.bool)
    part[down[:, None], along] = torch.from_numpy(bits.astype(bool)).reshape(len(down), len(along))
    return a, b, Kept.crossed(rows, cols, part)
