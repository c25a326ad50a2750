"""Timesteps are drawn from the distribution that each option names."""

from __future__ import annotations

import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from scipy.stats import chisquare

from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.processes import Flowing, Said
from fade.timesteps import KeySteps, Switched, Targeted, Timesteps, Uniform, Window, with_timesteps

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


@pytest.mark.parametrize(("low", "high"), [(0, 600), (200, 299), (998, 999), (1, 998)])
def test_outside_of_a_window_is_the_rest_of_the_times(low: int, high: int) -> None:
    counts = drawn(Window(low, high, outside=True))
    assert counts[low : high + 1].sum() == 0
    assert chisquare(torch.cat([counts[:low], counts[high + 1 :]])).pvalue > 0.01


@pytest.mark.parametrize("outside", [False, True])
def test_a_window_of_a_flow_holds_or_leaves_out_its_times(outside: bool) -> None:
    torch.manual_seed(0)
    t = Window(300, 600, outside).draw(T * (1 - torch.rand(N)), T, torch.zeros(0))
    counts = torch.histc(t, 10, 0, T)
    inside = torch.zeros(10, dtype=torch.bool)
    inside[3:6] = True
    assert t.dtype == torch.float32 and t.min() > 0 and t.max() <= T and counts[inside == outside].sum() == 0
    assert chisquare(counts[inside != outside]).pvalue > 0.01


def tabled(start: int, steps: int, loops: int, entries: int) -> list[int]:
    """KSCU's schedule, entry by entry, as its code makes it for one concept."""
    schedule: list[int] = []
    first = start
    while True:
        for _ in range(loops):
            for step in range(first, steps):
                if len(schedule) == entries:
                    return schedule
                schedule.append(step)
        if (first + 1) * 10 < 9 * steps:
            first += 1


@pytest.mark.parametrize("of", [(14, 50, 8, 750), (24, 50, 8, 500), (40, 50, 8, 200), (22, 28, 2, 300), (0, 10, 1, 99)])
def test_key_steps_are_as_often_as_in_the_table(of: tuple[int, int, int, int]) -> None:
    wanted = torch.bincount(torch.tensor(tabled(*of)), minlength=of[1])
    assert torch.equal(KeySteps(*of).table(), wanted)


def test_key_steps_are_drawn_each_from_its_part_of_the_times(model: Diffusion) -> None:
    key, times = KeySteps(14, 50, 8, 750), torch.arange(T)
    share = torch.bincount(torch.tensor(tabled(14, 50, 8, 750)), minlength=50).double() / 750
    p = share[49 - times // 20] / 20  # the sampler's step i is asked at t = 981 - 20 i
    counts = drawn(key, key.measure(model, []))
    assert p[720:].sum() == 0 == counts[720:].sum()
    assert chisquare(counts[:720], N * p[:720]).pvalue > 0.01


def test_released_windows_are_the_steps_that_the_code_takes() -> None:
    """ANT turns the guidance round at steps 4 to 49 of 50, t = 999 - 20 k; TRCE has latents of steps 0 to 25, each at
    t of 20 (49 - k) to 20 (50 - k)."""
    ant, trce = (instantiate(composed(f"timesteps={name}").timesteps) for name in ("ant", "trce"))
    turned = {(999 - 20 * k) // 20 for k in range(4, 50)}
    assert (ant.low, ant.high) == (20 * min(turned), 20 * max(turned) + 19)
    early = [t for k in range(26) for t in range(20 * (49 - k), 20 * (50 - k))]
    assert (trce.low, trce.high) == (min(early), max(early))


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


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_stated_parameterisation_is_that_of_the_converted_predictions(
    model: Diffusion, pairs: Pairs, kind: str
) -> None:
    """Of z = a x + b ε with v = a ε − b x: both predictions are turned into ε, v and x_0, and then compared."""
    model.pipe.scheduler = type(model.pipe.scheduler).from_config(model.pipe.scheduler.config, prediction_type=kind)
    batches = pairs.sweep(8, torch.Generator().manual_seed(0))[:1]
    found: dict[Said, torch.Tensor] = {}
    for said in ("own", "eps", "v", "x0"):
        torch.manual_seed(4)
        found[said] = Targeted(points=4, measured_in=said).measure(model, batches)
    torch.manual_seed(4)
    forget = batches[0]["forget"]
    for k, t in enumerate((125, 375, 625, 875)):
        a, b = model.pipe.scheduler.alphas_cumprod[t].sqrt(), (1 - model.pipe.scheduler.alphas_cumprod[t]).sqrt()
        z = a * forget["latents"] + b * torch.randn_like(forget["latents"])
        with torch.no_grad():
            told = [model.unet(z, t, forget[side].tokens).sample for side in ("prompt", "surrogate")]
        ε = told if kind == "epsilon" else [a * v + b * z for v in told]
        x = [(z - b * e) / a for e in ε]
        v = [a * e - b * y for e, y in zip(ε, x, strict=True)]
        for said, (own, other) in {"eps": ε, "v": v, "x0": x, "own": told}.items():
            torch.testing.assert_close(found[said][k], ((own - other) ** 2).mean(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("t", [100.0, 500.0, 900.0])
def test_a_flows_parameterisations(t: float) -> None:
    """z = (1 − σ) x + σ ε and v = ε − x: from one z and two v."""
    process, σ = Flowing({"num_train_timesteps": T}), t / T
    z, v, w = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for said, of in {
        "v": lambda v: v,
        "own": lambda v: v,
        "eps": lambda v: z + (1 - σ) * v,
        "x0": lambda v: z - σ * v,
    }.items():
        ratio = (of(v) - of(w)).square().sum() / (v - w).square().sum()
        assert abs(float(ratio) - process.squared(t, said)) < 1e-6


def test_a_window_is_measured_complemented_and_moved(model: Diffusion, pairs: Pairs) -> None:
    batches, found = pairs.sweep(8, torch.Generator().manual_seed(0)), {}
    for part in ("window", "complement", "random"):
        torch.manual_seed(4)
        found[part] = Switched(part, steps=5, low=0.3, high=0.6).measure(model, batches)
    low, high = found["window"].tolist()
    assert 0 <= low < high <= T and (low, high) != (0, T) and torch.equal(found["window"], found["complement"])
    begin, end = found["random"].tolist()
    assert end - begin == high - low and begin >= 0 and end <= T
    inside, outside = (drawn(Switched(part), found["window"]) for part in ("window", "complement"))
    low, high = int(low), int(high)
    assert chisquare(inside[low:high]).pvalue > 0.01 and inside[low:high].sum() == N
    rest = torch.cat([outside[:low], outside[high:]])
    assert chisquare(rest).pvalue > 0.01 and rest.sum() == N
    begins = set()
    for seed in range(4):
        torch.manual_seed(seed)
        begins.add(Switched("random", steps=2, low=0.3, high=0.6).measure(model, batches).tolist()[0])
    assert len(begins) > 1


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
    with pytest.raises(BadInput, match="leaves nothing"):
        Window(0, 999, outside=True).suits(model)
    with pytest.raises(BadInput, match="begins at 44 at the latest"):
        KeySteps(45)
    with pytest.raises(BadInput, match="the first must be the smaller one"):
        Switched(low=0.5, high=0.5)
    with pytest.raises(BadInput, match="rho"):
        Targeted(rho=1.1)
    with pytest.raises(BadInput, match="points"):
        Targeted(points=1)
