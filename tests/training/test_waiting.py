"""A training step never makes the host wait for a GPU: run on tensors without values ("meta"), which have none to give:
a number asked of one, a copy of it and a shape that depends on it raise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapting import sparsify
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.adapters.masked import MaskedLinear
from fade.data.pairs import Pairs
from fade.methods.fade import Fade
from fade.models import Diffusion
from fade.sparsity import Neuron, Sparsity, Weight
from fade.timesteps import Targeted
from fade.training.unlearner import Unlearner

ELSEWHERE = torch.device("meta")


class Waits(TorchDispatchMode):
    """What makes the host wait and raises nothing: lookups by an index that lies on it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put):
            devices = {tensor.device.type for tensor in given}
            self.found += [str(func)] if len(devices) > 1 else []
        return func(*args, **(kwargs or {}))


def there(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=ELSEWHERE)


def on_the_gpu(model: Diffusion, pairs: Pairs) -> None:
    """As Lightning and `prepare` leave them."""
    for module in model.network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(there(parameter), parameter.requires_grad)
        if isinstance(module, MaskedLinear):
            module.kept = {name: kept.to(ELSEWHERE) for name, kept in module.kept.items()}
    pairs.own, pairs.overwritten = pairs.own.each(there), pairs.overwritten.each(there)
    pairs.concept, pairs.end = there(pairs.concept), there(pairs.end)
    pairs.latents = {side: there(latents) for side, latents in pairs.latents.items()}


def step_of(
    monkeypatch: pytest.MonkeyPatch, model: Diffusion, pairs: Pairs, adapter: Adapter, folder: Path
) -> Callable[[], None]:
    """Step 3 of 100, forward and backward, without Lightning's part."""
    on_the_gpu(model, pairs)
    learner = Unlearner(
        model, adapter, pairs, Fade(), Neuron(0.3), partial(torch.optim.AdamW, lr=1e-3), Targeted(), folder / "s"
    )
    trainer = SimpleNamespace(accumulate_grad_batches=1, max_steps=100, global_rank=0, world_size=1)
    trainer.fit_loop = SimpleNamespace(total_batch_idx=2)
    trainer.strategy = SimpleNamespace(reduce=lambda total, reduce_op: total)
    trainer.optimizers = [SimpleNamespace(param_groups=[{"lr": 1.0}])]
    monkeypatch.setattr(Unlearner, "trainer", trainer)
    monkeypatch.setattr(learner, "log", lambda *_, **__: None)
    monkeypatch.setattr(learner, "log_dict", lambda *_, **__: None)
    learner.measured = torch.ones(20)
    return lambda: learner.training_step(torch.zeros(1), 2).backward()


@pytest.mark.parametrize("sparsity", [Neuron(0.3), Weight(0.3)], ids=lambda s: s.kind)
def test_a_step_asks_a_gpu_for_nothing(
    model: Diffusion, pairs: Pairs, sparsity: Sparsity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Lora.attach(model, rank=2, alpha=2)
    sparsify(adapter, sparsity)
    step = step_of(monkeypatch, model, pairs, adapter, tmp_path)
    with Waits() as waits:
        step()
    assert waits.found == []
    assert {p.grad.device for p in adapter.parameters() if p.grad is not None} == {ELSEWHERE}


def test_what_waits_is_seen() -> None:
    """As the step was before: a copy to the host, a mask as an index, a number asked for; an index that lies there."""
    there = torch.ones(3, device=ELSEWHERE)
    acts: list[Callable[[], object]] = [there.cpu, lambda: there[there > 0], lambda: float(there.sum())]
    for act in acts:
        with pytest.raises(RuntimeError):
            act()
    with Waits() as waits, suppress(RuntimeError):
        there[torch.tensor([0, 1])]
    assert waits.found == ["aten.index.Tensor"]
