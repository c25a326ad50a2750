"""What attached adapters cost: images a second and memory with 0, 1, 4, 16 of them, attached and merged.

python -m benchmarks.studies.attached --base PIPELINE
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.report.tables import table
from fade.adapters.lora import Lora
from fade.adapters.stored import Stored
from fade.console import command, one_line
from fade.errors import at_least
from fade.files import shipped
from fade.models import Diffusion, Noise, Sampling
from fade.models.ledger import ledger
from fade.models.stable_diffusion import StableDiffusion
from fade.sparsity import Neuron, Sparsity, Weight

_MASKS = {"neuron": Neuron, "weight": Weight}


def adapters(model: Diffusion, n: int, rank: int, sparsity: Sparsity) -> list[Stored]:
    """n different adapters on the same layers, with random values: cost does not ask what was learned."""
    made = []
    for seed in range(n):
        generator = torch.Generator().manual_seed(seed)
        adapter = Lora.attach(model, rank, rank, name=f"random{seed}")
        adapter.set_masks(
            sparsity({name: torch.rand(w.shape, generator=generator) for name, w in adapter.weights().items()})
        )
        for parameter in adapter.parameters():
            parameter.data.copy_(1e-3 * torch.randn(parameter.shape, generator=generator))
        made.append(Stored.of(adapter, {}))
        adapter.detach()
    return made


def _speed(model: Diffusion, images: int, steps: int, repeats: int) -> float:
    """Images a second, the best of the repeats; one batch before them warms up."""
    prompts, noise = ["A cat image in neon style."] * images, [Noise(k) for k in range(images)]
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        model.generate(prompts, noise, Sampling(steps=steps))
        taken.append(time.perf_counter() - began)
    return images / min(taken[1:])


def _megabytes(model: Diffusion) -> float:
    """Of the U-Net's tensors: parameters, what adapters add, and what is remembered or kept aside for them."""
    held = [*model.network.parameters(), *model.network.buffers(), *ledger(model.network).original.values()]
    for module in model.network.modules():
        held += [module._folded[1]] if hasattr(module, "_folded") else []
        held += [kept.mask for kept in module.kept.values()] if hasattr(module, "kept") else []
    return sum(tensor.numel() * tensor.element_size() for tensor in held) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Images a second and memory with adapters attached, and merged.")
    parser.add_argument("--base", default=shipped("canvas/pipeline"))
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--p", type=float, default=0.1)
    parser.add_argument("--mask", choices=list(_MASKS), default="neuron")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with one_line():
        at_least(1, counts=min(given.counts), images=given.images, steps=given.steps, repeats=given.repeats)
        model = StableDiffusion.load(given.base, given.steps, 4.0)
        if torch.cuda.is_available():
            model.to("cuda")
        stored = adapters(model, max(given.counts), given.rank, _MASKS[given.mask](given.p))
    size = given.images, given.steps, given.repeats
    base, weight = _speed(model, *size), _megabytes(model)
    rows = [["none", "0", f"{base:.2f}", "1.00", f"{weight:.1f}"]]
    for state in ("attached", "merged"):
        for n in given.counts:
            on = [s.attach(model, f"n{k}") for k, s in enumerate(stored[:n])]
            if state == "merged":
                for adapter in on:
                    adapter.merge()
            found = _speed(model, *size)
            rows.append([state, str(n), f"{found:.2f}", f"{found / base:.2f}", f"{_megabytes(model):.1f}"])
            for adapter in on:
                adapter.detach()
    rows.append(
        ["none", "0", f"{(again := _speed(model, *size)):.2f}", f"{again / base:.2f}", f"{_megabytes(model):.1f}"]
    )
    print(table(["adapters", "n", "images/s", "of none", "U-Net MB"], rows))


if __name__ == "__main__":
    command(main)
