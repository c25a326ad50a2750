"""Stage one on packed layers against autograd on what they stand for, in every family."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from families import CAPTIONS, TINY
from packing import packed
from torch import Tensor

from fade.adapters.lora import Lora
from fade.data.pairs import Batch
from fade.gradients import add_gradients, trainable
from fade.models import Diffusion
from fade.saliency import denoising_loss, flat, gathered, sides_of_abs, sum_of_abs, sum_of_signed
from fade.sparsity import Module, Neuron, Random, Weight


@pytest.fixture(params=["sd1", *TINY])
def both(request: pytest.FixtureRequest) -> tuple[Diffusion, Diffusion]:
    return packed(str(request.param))


def batches(model: Diffusion, n: int = 2) -> list[Batch]:
    """Of which sums can cancel: latents and captions differ."""
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(2, model.channels, 8, 8, generator=generator) for _ in range(n)]
    made: list[Any] = [{"forget": {"latents": z, "prompt": model.embed(CAPTIONS[:2])}} for z in latents]
    return made


def weights(model: Diffusion) -> dict[str, Tensor]:
    return Lora.attach(model, 2, 2, targets=list(model.attention_layers)).weights()


def located(model: Diffusion, act: Any, *more: Any) -> dict[str, Tensor]:
    drawn, under = batches(model), weights(model)
    torch.manual_seed(1)
    found: dict[str, Tensor] = act(model, under, drawn, *more)
    assert not any(p.requires_grad for p in under.values())
    assert all(not part._forward_hooks for part in model.network.modules() if isinstance(part, torch.nn.Linear))
    return found


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys() and all(score.any() for score in wanted.values())
    for name, score in found.items():
        assert score.dtype == torch.float32
        torch.testing.assert_close(score, wanted[name], rtol=1e-5, atol=1e-6 * float(wanted[name].max()))


@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_a_packed_layer_has_the_gradient_of_what_it_stands_for(
    both: tuple[Diffusion, Diffusion], checkpointed: bool
) -> None:
    model, dense = both
    if checkpointed:
        model.network.enable_gradient_checkpointing()
    found, wanted = located(model, sum_of_abs, "forget"), located(dense, sum_of_abs, "forget")
    same(found, wanted)
    for sparsity in (Neuron(0.1), Module(0.3), Weight(0.1)):
        ours, theirs = sparsity(found), sparsity(wanted)
        assert all(torch.equal(ours[name], mask) for name, mask in theirs.items())


@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_a_layer_that_runs_twice_has_one_gradient(both: tuple[Diffusion, Diffusion], checkpointed: bool) -> None:
    """Guidance asks the network twice in a batch, and the two calls cancel in part: |g + h|, not |g| + |h|."""
    model, dense = both
    if checkpointed:
        model.network.enable_gradient_checkpointing()
    for act, more in ((sum_of_abs, ["forget"]), (sum_of_signed, [])):
        empty = model.embed([""])
        same(located(model, act, *more, 3.0, empty), located(dense, act, *more, 3.0, empty))
        for each in both:
            each.network.unload_lora()


def test_sides_are_the_sums_of_the_scores(both: tuple[Diffusion, Diffusion]) -> None:
    model, dense = both
    found, wanted = located(model, sides_of_abs), located(dense, sum_of_abs, "forget")
    for name, scores in wanted.items():
        sides = found[name]
        assert sides.shape == scores.shape
        for dim in (0, 1):
            torch.testing.assert_close(sides.sum(dim), scores.sum(dim), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close((sides.sum(), sides.mean()), (scores.sum(), scores.mean()), rtol=1e-4, atol=1e-9)
    kept = gathered(flat(found))
    assert kept.keys() == wanted.keys() and flat(kept).keys() == flat(found).keys()
    for sparsity in (Neuron(0.1), Module(0.3), Random(0.1, 0)):
        ours, theirs = sparsity(kept), sparsity(wanted)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], mask) for name, mask in theirs.items())


def test_one_gradient_is_held_at_a_time() -> None:
    model, _ = packed()
    seen: list[weakref.ref[Tensor]] = []

    def add(name: str, gradient: Tensor) -> None:
        seen.append(weakref.ref(gradient))
        assert [ref() is None for ref in seen] == [True] * (len(seen) - 1) + [False]

    with trainable(model, weights(model)) as leaves:
        assert all(leaf.untyped_storage().nbytes() == 4 for leaf in leaves.values())
        add_gradients(denoising_loss(model, batches(model, 1)[0]["forget"]), leaves, add)
    assert len(seen) == len(leaves)


def test_autocast_rounds_what_the_layers_give_and_not_the_gradient() -> None:
    """Of bfloat16 g and of x as it came: nearer to single precision than autocast's own gradient is."""
    model, dense = packed()
    exact = located(dense, sum_of_abs, "forget")
    dense.network.unload_lora()
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = located(model, sum_of_abs, "forget"), located(dense, sum_of_abs, "forget")
    for name, score in exact.items():
        assert (found[name] - rounded[name]).norm() < 0.05 * score.norm()
        assert len(found[name].unique()) > 0.9 * score.numel()
