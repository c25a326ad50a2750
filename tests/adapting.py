"""Adapters with random values on the tiny model, and what the model then says."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.sparsity import Dense, Module, Neuron, Random, Sparsity, Weight
from fade.tensors import tensors_hash


def shake(adapter: Adapter) -> None:
    """Give every factor random values, so that the adapter does something."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def inputs(model: Diffusion, n: int = 2) -> tuple[torch.Tensor, torch.Tensor, Embedding]:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(n, 4, 8, 8, generator=generator)
    return z, torch.tensor([10, 900][:n]), model.embed(["A cat image in neon style."] * n)


KINDS: list[Sparsity] = [Dense(), Module(0.3), Neuron(0.1), Weight(0.1), Random(0.1, seed=1)]
PATCHED = [r"attn2\.to_[kv]\.weight", r"conv_in\.bias"]


def made(model: Diffusion, name: str, sparsity: Sparsity | None, seed: int, patch: Sequence[str] = PATCHED) -> Stored:
    """A finished adapter that does something: low rank, or a patch without a sparsity. The model is clean after it."""
    generator = torch.Generator().manual_seed(seed)
    adapter: Adapter
    if sparsity is None:
        adapter = Patch.attach(model, list(patch), name)
        with torch.no_grad():
            for weight in adapter.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    else:
        adapter = Lora.attach(model, rank=2, alpha=3, targets=["to_k", "to_v"], name=name)
        adapter.set_masks(sparsity({n: torch.rand(w.shape, generator=generator) for n, w in adapter.weights().items()}))
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapter.settle()
    stored = Stored.of(adapter, {"target": name})
    adapter.detach()
    return stored


def state(model: Diffusion) -> str:
    return tensors_hash(model.network.state_dict())


@torch.no_grad()
def predict(model: Diffusion) -> torch.Tensor:
    z, t, embedding = inputs(model)
    return model.predict(z.to(model.unet.dtype), t, embedding)


def sparsify(adapter: Adapter, sparsity: Sparsity) -> None:
    generator = torch.Generator().manual_seed(0)
    adapter.set_masks(sparsity({n: torch.rand(w.shape, generator=generator) for n, w in adapter.weights().items()}))


KEYS_AND_VALUES = [r"attn2\.to_[kv]\.weight"]


def train(
    model: Diffusion, patch: Patch, steps: int = 3, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
) -> None:
    """The loop's steps without the loop: any loss, weight decay, then `project`."""
    step = optimizer(patch.parameters(), lr=0.05, weight_decay=0.5)  # type: ignore[call-arg]
    for _ in range(steps):
        step.zero_grad()
        model.predict(*inputs(model)).square().mean().backward()
        step.step()
        patch.project()
    patch.settle()


def snapshot(model: Diffusion) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.unet.state_dict().items()}


ASKED = ["A cat image in neon style.", "A fish image in mosaic style.", "A neon fish"]


def ids_of(model: Diffusion, text: str) -> list[int]:
    return model.pipe.tokenizer(text, add_special_tokens=False).input_ids
