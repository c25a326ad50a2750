"""Timesteps are drawn from the distribution that each option names."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.models import Diffusion
from fade.timesteps import Targeted, Timesteps, Uniform, Window, with_timesteps

T, N = 1000, 200_000
MEASURED = torch.tensor([0.0, 0.1, 5.0, 2.0, 0.4, 0.0, 1.0, 0.02])  # two stretches of nothing, two high ones


def drawn(timesteps: Timesteps, measured: torch.Tensor = MEASURED) -> torch.Tensor:
    """How often each of the T timesteps comes in N draws."""
    torch.manual_seed(0)
    t = timesteps.draw(torch.randint(0, T, (N,)), T, measured)
    assert t.dtype == torch.int64 and t.min() >= 0 and t.max() < T
    return torch.bincount(t, minlength=T).double()


def wanted(rho: float) -> torch.Tensor:
    """p(t) ∝ (1 − ρ) d(t)/Σd + ρ · uniform for each of the T timesteps, d constant on eighths of 0..T−1."""
    d = MEASURED.double().repeat_interleave(T // len(MEASURED))
    return (1 - rho) * d / d.sum() + rho / T


@pytest.mark.parametrize("rho", [0.1, 0.3, 1.0])
def test_targeted_draws_follow_their_formula_at_every_timestep(rho: float) -> None:
    assert chisquare(drawn(Targeted(rho, points=8)), N * wanted(rho)).pvalue > 0.01


def test_without_a_uniform_part_nothing_is_drawn_where_nothing_was_measured() -> None:
    counts, p = drawn(Targeted(0.0, points=8)), wanted(0.0)
    assert counts[p == 0].sum() == 0
    assert chisquare(counts[p > 0], N * p[p > 0]).pvalue > 0.01


def test_a_concept_that_measures_nothing_is_drawn_uniformly() -> None:
    assert chisquare(drawn(Targeted(0.3, points=8), torch.zeros(8))).pvalue > 0.01


@pytest.mark.parametrize(("low", "high"), [(0, 600), (200, 299), (0, 999), (998, 999)])
def test_a_window_is_uniform_within_its_bounds(low: int, high: int) -> None:
    counts = drawn(Window(low, high))
    assert counts[low : high + 1].sum() == N
    assert chisquare(counts[low : high + 1]).pvalue > 0.01


def test_measured_is_the_mean_distance_of_the_two_captions(model: Diffusion, pairs: Pairs) -> None:
    batches = pairs.sweep(8, torch.Generator().manual_seed(0))
    torch.manual_seed(4)
    found = Targeted(points=4).measure(model, batches)
    torch.manual_seed(4)
    sums = torch.zeros(4)
    for batch in batches[:2]:
        for k, t in enumerate((125, 375, 625, 875)):
            forget, alpha = batch["forget"], model.pipe.scheduler.alphas_cumprod[t]
            z = alpha.sqrt() * forget["latents"] + (1 - alpha).sqrt() * torch.randn_like(forget["latents"])
            with torch.no_grad():
                own, other = (model.unet(z, t, forget[side].tokens).sample for side in ("prompt", "surrogate"))
            sums[k] += ((own - other) ** 2).mean()
    assert found.min() > 0
    torch.testing.assert_close(found, sums)


def test_timed_leaves_the_retain_terms_draws_alone(model: Diffusion, pairs: Pairs) -> None:
    batch, measured = pairs.draw(torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.0, 0.0, 1.0])
    found = {}
    for timesteps in (Uniform(), Window(0, 99), Targeted(0.0, points=4)):
        torch.manual_seed(3)
        found[timesteps.kind] = with_timesteps(batch, timesteps, measured, model.process)
    torch.manual_seed(3)  # FADE's draws, in the order in which they always were
    t, noise = torch.randint(0, T, (4,)), torch.randn(4, *batch["forget"]["latents"].shape[1:])
    assert torch.equal(found["uniform"]["forget"]["t"], t[:2])
    for one in found.values():
        assert torch.equal(one["retain"]["t"], t[2:])
        assert torch.equal(one["forget"]["noise"], noise[:2]) and torch.equal(one["retain"]["noise"], noise[2:])
        assert torch.equal(one["anchor"]["noise"], found["uniform"]["anchor"]["noise"])
    for side in ("forget", "anchor"):  # Concept Ablation forgets on the anchor's images
        assert found["window"][side]["t"].max() < 100  # type: ignore[literal-required]
        assert found["targeted"][side]["t"].min() >= 750  # type: ignore[literal-required]


def test_impossible_distributions_are_refused(model: Diffusion) -> None:
    for low, high in ((-1, 5), (5, 5), (600, 0)):
        with pytest.raises(BadInput, match="is empty"):
            Window(low, high)
    with pytest.raises(BadInput, match="end at 999"):
        Window(0, 1000).suits(model)
    with pytest.raises(BadInput, match="rho"):
        Targeted(rho=1.1)
    with pytest.raises(BadInput, match="points"):
        Targeted(points=1)
