"""ResAlign's simulated fine-tuning: what it moves, what it leaves, and what the steps afterwards see of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import shake
from loops import config_of, unlearner_of

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.data.pairs import Batch, Pairs
from fade.methods.resalign import ResAlign
from fade.models import Diffusion
from fade.timesteps import Uniform, with_timesteps


def prepared(model: Diffusion, pairs: Pairs, **settings: Any) -> tuple[ResAlign, Adapter, Batch]:
    adapter = Lora.attach(model, 2, 2)
    shake(adapter)
    given: dict[str, Any] = {"tuning_steps": [2], "rates": [0.1], "optimizers": ["adam"], "images": 2}
    method = ResAlign(**given | settings)
    method.prepare(model, adapter, pairs)
    torch.manual_seed(2)
    batch = pairs.draw(torch.Generator().manual_seed(1))
    return method, adapter, with_timesteps(batch, Uniform(), torch.zeros(0), model.process)


def values(adapter: Adapter) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in adapter.parameters()]


def test_the_parameters_and_their_gradients_are_put_back(model: Diffusion, pairs: Pairs) -> None:
    method, adapter, batch = prepared(model, pairs)
    for k, parameter in enumerate(adapter.parameters()):
        parameter.grad = torch.full_like(parameter, float(k)) if k else None
    before = values(adapter)
    method.losses(model, adapter, batch)
    for k, (parameter, value) in enumerate(zip(adapter.parameters(), before, strict=True)):
        assert torch.equal(parameter, value)
        assert (parameter.grad == k).all() if k else parameter.grad is None  # type: ignore[union-attr]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_more_images_than_a_batch_has_are_of_several(model: Diffusion, pairs: Pairs, more: int) -> None:
    method, _, _ = prepared(model, pairs, images=pairs.batch + more)
    found = method.example(model, "retain")
    assert {len(rows) for rows in found.values()} == {pairs.batch + more}  # type: ignore[arg-type]
    assert len(found["noise"].flatten(1).unique(dim=0)) == pairs.batch + more


@pytest.mark.parametrize(("optimizer", "far"), [("adam", 0.1), ("gd", None)])
def test_fine_tuning_is_by_the_optimizer_that_is_named(
    model: Diffusion, pairs: Pairs, optimizer: str, far: float | None
) -> None:
    """Adam's first step is the rate, wherever there is a gradient, and each fine-tuning begins with a first step."""
    method, adapter, _ = prepared(model, pairs, tuning_steps=[1], optimizers=[optimizer])
    for _ in range(2):
        before = values(adapter)
        method.tune(model, adapter)
        went = torch.cat([(p - value).flatten().abs() for p, value in zip(adapter.parameters(), before, strict=True)])
        assert went.max() > 0
        assert torch.allclose(went.median(), torch.tensor(0.1), rtol=1e-3) == (far is not None)


@pytest.mark.parametrize(("shown", "moves"), [(["forget"], 1), (["retain"], 0)])
def test_fine_tuning_takes_the_images_it_says(model: Diffusion, pairs: Pairs, shown: Sequence[str], moves: int) -> None:
    """Where the concept's images are others, what is learnt from them is another, and from the rest the same."""
    method, adapter, _ = prepared(model, pairs, shown=shown, optimizers=["gd"])
    start, found = values(adapter), []
    for _ in range(2):
        torch.manual_seed(4)
        method.tune(model, adapter)
        found.append(torch.cat([value.flatten() for value in values(adapter)]))
        with torch.no_grad():
            for parameter, value in zip(adapter.parameters(), start, strict=True):
                parameter.copy_(value)
        pairs.latents["forget"] = pairs.latents["forget"] + 1
    assert (found[0] != found[1]).any() == bool(moves)


def test_what_is_fine_tuned_differs_from_step_to_step(
    model: Diffusion, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each list, all of them in time, and each of its steps on images of its own."""
    method, adapter, _ = prepared(model, pairs, shown=["retain", "forget"], tuning_steps=[1, 3], rates=[1e-4, 1e-3])
    met, seen = set(), []
    draw = pairs.draw

    def drawn(generator: torch.Generator) -> Batch:
        seen.append(generator.initial_seed())
        return draw(generator)

    monkeypatch.setattr(pairs, "draw", drawn)
    for seed in range(12):
        torch.manual_seed(seed)
        before, calls = values(adapter), len(seen)
        method.tune(model, adapter)
        far = max(
            float((p - value).detach().abs().max()) for p, value in zip(adapter.parameters(), before, strict=True)
        )
        met.add((len(seen) - calls, round(far / (len(seen) - calls) * 1e4)))
    assert {steps for steps, _ in met} == {1, 3} and {1, 10} <= {rate for _, rate in met}
    assert len(set(seen)) == len(seen)


def test_half_precision_sees_the_weights_as_they_are(model: Diffusion, pairs: Pairs) -> None:
    """Autocast remembers its copies of them, and what it remembers is not what was fine-tuned, nor what is put back."""
    method, adapter, batch = prepared(model, pairs)

    def found() -> torch.Tensor:
        torch.manual_seed(4)
        losses = method.losses(model, adapter, batch)
        return torch.stack([losses["forget"], losses["resilience"]]).detach()

    exact = found()
    with torch.autocast("cpu", torch.bfloat16):
        half = [found(), found()]
    assert exact[1].abs() > 0.02
    for each in half:
        torch.testing.assert_close(each, exact, rtol=0.1, atol=0.005)


def test_fine_tuning_keeps_to_the_masks(model: Diffusion, pairs: Pairs) -> None:
    adapter = Patch.attach(model, [r"attn2\."])
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(w.shape, generator=generator) < 0.5 for name, w in adapter.weights().items()}
    adapter.set_masks(masks)
    before = {name: weight.detach().clone() for name, weight in adapter.weights().items()}
    method = ResAlign(tuning_steps=[2], rates=[0.1], optimizers=["adam"], images=2)
    method.prepare(model, adapter, pairs)
    method.tune(model, adapter)
    for name, weight in adapter.weights().items():
        assert torch.equal(weight[~masks[name]], before[name][~masks[name]])
    assert any((weight != before[name]).any() for name, weight in adapter.weights().items())


def test_the_step_is_the_papers(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    """∇L_u(θ) + λ (∇L_u at θ* − ∇L_u(θ)) + w_r ∇L_r(θ), θ* put in by hand."""
    config = config_of("resalign", 1, "method.tuning_steps=[2]", "method.rates=[0.1]", "method.images=2")
    _, adapter, batch = prepared(model, pairs)
    unlearner = unlearner_of(config, model, adapter, pairs, tmp_path / "none")
    method: Any = unlearner.method
    method.prepare(model, adapter, pairs)
    parameters, start = adapter.parameters(), values(adapter)

    def slope(term: str) -> list[torch.Tensor]:
        losses = ResAlign.losses(still, model, adapter, batch)
        return list(torch.autograd.grad(losses[term], parameters))

    still = ResAlign(terms=dict(method.terms))  # whose own fine-tuning does nothing
    still.tune = lambda *_: None  # type: ignore[method-assign]
    still.prepare(model, adapter, pairs)
    here, kept = slope("forget"), slope("retain")
    torch.manual_seed(6)
    method.tune(model, adapter)
    there = slope("forget")
    with torch.no_grad():
        for parameter, value in zip(parameters, start, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    torch.manual_seed(6)
    unlearner._objective(method.losses(model, adapter, batch), method.terms).backward()
    for parameter, at, after, held in zip(parameters, here, there, kept, strict=True):
        torch.testing.assert_close(parameter.grad, at + 0.8 * (after - at) + 1.6 * held, rtol=1e-3, atol=1e-6)
