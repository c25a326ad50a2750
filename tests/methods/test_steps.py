"""EraseDiff's and ScissorHands' steps: how two gradients become one, further passes, weights drawn again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from formulas import Formula
from hydra.utils import instantiate
from loops import config_of, trained, unlearner_of
from torch import Tensor

from fade.adapters.patch import Patch
from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.methods.ediff import EraseDiff
from fade.methods.shs import ScissorHands
from fade.models import Diffusion
from fade.timesteps import Uniform, with_timesteps


def random_gradients(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    one, other = ([torch.randn(shape, generator=generator).double() for shape in ((3, 4), (5,))] for _ in range(2))
    return one, other


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("seed", range(4))
def test_erasediffs_rate_is_the_papers(seed: int) -> None:
    forget, retain = random_gradients(seed)
    found = flat(EraseDiff(step=0.1).combine({"forget": forget, "retain": retain}))
    f, r = flat(forget), flat(retain)
    cosine = torch.nn.functional.cosine_similarity(f, r, dim=0)
    torch.testing.assert_close(found, r + max(0.0, 0.1 - float(cosine)) * f)


def stepped(combine: Callable[[dict[str, list[Tensor]]], list[Tensor]], seed: int) -> tuple[Tensor, Tensor]:
    """What a method makes of random gradients, and their sum."""
    forget, retain = random_gradients(seed)
    return flat(combine({"forget": forget, "retain": retain})), flat(forget) + flat(retain)


@pytest.mark.parametrize("seed", range(6))
def test_scissorhands_cone_is_gems_quadratic_program(seed: int) -> None:
    """min ½ v² (‖g_o‖² + 0.001) + v ⟨g, g_o⟩ over v ≥ 0.5, g + v g_o the step, where ⟨g, g_o⟩ < 0; every tenth step."""
    method = ScissorHands(cone=True)
    method.places, memory = [1], torch.randn(5, generator=torch.Generator().manual_seed(seed + 50)).double()
    method.load_state({"0": memory})  # of the second weight alone
    method.before_step(20, Any, Any)  # type: ignore[arg-type]
    step, total = stepped(method.combine, seed)
    g_o = torch.cat([torch.zeros(12), memory])
    if total @ g_o >= 0:
        return torch.testing.assert_close(step, total)
    tried = torch.linspace(0.5, 20, 40_001, dtype=torch.float64)
    v = tried[(0.5 * tried**2 * (g_o @ g_o + 1e-3) + tried * (total @ g_o)).argmin()]
    torch.testing.assert_close(step, total + v * g_o, atol=2e-3, rtol=0)
    method.before_step(21, Any, Any)  # type: ignore[arg-type]
    torch.testing.assert_close(stepped(method.combine, seed)[0], total)


def test_scissorhands_cone_bound_and_unbound_were_drawn() -> None:
    along = []
    for seed in range(6):
        memory = torch.randn(5, generator=torch.Generator().manual_seed(seed + 50)).double()
        along.append(
            float((flat(random_gradients(seed)[0]) + flat(random_gradients(seed)[1]))[12:] @ memory / (memory @ memory))
        )
    assert any(a > 0 for a in along) and any(-0.5 < a < 0 for a in along) and any(a < -0.5 for a in along)


@pytest.mark.parametrize("overrides", [[], ["method.variant=as_released"]], ids=["unlearncanvas", "as_released"])
def test_scissorhands_step_is_driven_by_both_terms_and_their_weights(
    model: Diffusion, pairs: Pairs, tmp_path: Path, overrides: list[str]
) -> None:
    """The step goes along ∇L_r + 0.1 ∇L_f, and as released, L_f is what is climbed."""
    config = config_of("shs", 1, "adapter.targets=['attn2','attn1']", *overrides)
    adapter = instantiate(config.adapter, _convert_="all")(model)
    unlearner = unlearner_of(config, model, adapter, pairs, tmp_path / "none")
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), model.process)
    wanted = Formula(model, model.unet, batch).shs() if overrides else Formula(model, model.unet, batch).pseudo()
    losses = wanted()
    total = losses["retain"] + 0.1 * losses["forget"]
    slopes = torch.autograd.grad(total, adapter.parameters(), allow_unused=True)
    unlearner._objective(unlearner.method.losses(model, adapter, batch), unlearner.method.terms).backward()
    for parameter, slope in zip(adapter.parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.grad, slope)
    assert all(g.norm() > 0 for g in torch.autograd.grad(wanted()["forget"], adapter.parameters()[:1]))


@pytest.mark.parametrize(
    ("variant", "cut", "batches", "w", "where"),
    [
        ("unlearncanvas", 0.2, 1, 0.0, r"attn2\."),
        ("as_released", 0.8, 10, 7.5, r"up_blocks\.1\.attentions\.1\..*attn1\."),
    ],
)
def test_scissorhands_redraws_the_most_sensitive_weights(
    model: Diffusion, pairs: Pairs, variant: str, cut: float, batches: int, w: float, where: str
) -> None:
    """|θ ⊙ Σ |∂L_f/∂θ|| over the whole U-Net, the gradient by hand; then biases are 0, and weights uniform within
    1/√fan_in (as released) or normal with a deviation of 0.02 (UnlearnCanvas)."""
    adapter = Patch.attach(model, ["."])
    method = ScissorHands(variant, cut=cut)
    method.prepare(model, adapter, pairs)
    before = {name: weight.detach().clone() for name, weight in adapter.weights().items()}
    torch.manual_seed(0)
    drawn = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
    found = {name: torch.zeros_like(weight) for name, weight in before.items()}
    for _ in range(batches):
        example = pairs.draw(drawn)["forget"]
        z, t = example["latents"], torch.randint(0, 1000, (2,))
        noise, alpha = torch.randn_like(z), model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        z_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
        given = model.unet(z_t, t, example["prompt"].tokens).sample
        guided = (1 + w) * given - w * model.unet(z_t, t, model.embed(["", ""]).tokens).sample
        gradients = torch.autograd.grad(((noise - guided) ** 2).mean(), adapter.parameters())
        for name, gradient in zip(found, gradients, strict=True):
            found[name] += gradient.abs()
    score = {name: (found[name] * before[name]).abs() for name in found}
    ranked = torch.cat([s.flatten() for s in score.values()]).sort(descending=True).values
    least = ranked[round(cut * len(ranked)) - 1]
    torch.manual_seed(0)
    method.edit(model, adapter, pairs)
    fresh = []
    for name, weight in adapter.weights().items():
        changed = weight.detach() != before[name]
        if not re.search(where, name):
            assert not changed.any(), name
            continue
        assert (score[name][changed] >= least * 0.9999).all() and (score[name][~changed] <= least * 1.0001).all()
        if name.endswith("bias"):
            assert (weight[changed] == 0).all()
        else:
            fresh.append(weight.detach()[changed] * (math.sqrt(weight.shape[1]) if variant == "as_released" else 50))
    values = torch.cat(fresh)
    assert len(values) > 50 and abs(values.mean()) < 0.2
    if variant == "as_released":  # uniform within ±1, which has the deviation 0.577
        assert values.abs().max() <= 1 and 0.5 < values.std() < 0.65
    else:
        assert 0.9 < values.std() < 1.1 and values.abs().max() > 2


def test_scissorhands_remembers_the_cut_networks_ascent(model: Diffusion, pairs: Pairs) -> None:
    """g_o is −∇L_denoise(forget) after the cut, over cross-attention alone; with another seed the redraw is another."""
    adapter = Patch.attach(model, ["attn"])
    method = ScissorHands(cone=True, cut=0.2)
    method.prepare(model, adapter, pairs)
    method.edit(model, adapter, pairs)
    memory = torch.cat([m.flatten() for m in method.memory])
    crossed = [weight for name, weight in adapter.weights().items() if ".attn2." in name]
    assert len(memory) == sum(weight.numel() for weight in crossed)
    example = pairs._example("forget", torch.arange(16), torch.Generator())
    torch.manual_seed(3)
    slopes = [torch.zeros(())]
    for _ in range(8):  # of t and noise that the method did not draw: the mean of many points the same way
        t, noise = torch.randint(0, 1000, (16,)), torch.randn_like(example["latents"])
        alpha = model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        z_t = alpha.sqrt() * example["latents"] + (1 - alpha).sqrt() * noise
        loss = ((model.unet(z_t, t, example["prompt"].tokens).sample - noise) ** 2).mean()
        slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, crossed)]))
    mean = torch.stack(slopes[1:]).mean(0)
    assert torch.nn.functional.cosine_similarity(memory, mean, dim=0) < -0.15
    once = [weight.detach().clone() for weight in crossed]
    method.edit(model, adapter, pairs)
    assert any((weight != other).any() for weight, other in zip(crossed, once, strict=True))


def test_scissorhands_needs_weights_to_redraw(model: Diffusion, pairs: Pairs) -> None:
    adapter = Patch.attach(model, [r"attn2\."])
    with pytest.raises(BadInput, match=r"method\.redraw"):
        ScissorHands("as_released").suits(model, adapter, pairs)
    ScissorHands("as_released", redraw=["attn2"]).suits(model, adapter, pairs)


def test_erasediffs_inner_passes_share_the_optimizer(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    """By hand, with one AdamW: K = 2 passes of two steps on L_f alone, θ put back after each, an outer pass between
    them that is thrown away; then the two steps that stay. Twice."""
    config = config_of("ediff", 4, "method.passes=2", "method.epoch=2")
    config.optimizer.schedule.cosine, config.optimizer.schedule.warmup = False, 0
    adapter = instantiate(config.adapter, _convert_="all")(model)
    unlearner = unlearner_of(config, model, adapter, pairs, tmp_path / "none")
    start = [p.detach().clone() for p in adapter.parameters()]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0.0)

    def step(number: int, further: int, retain: float, forget: float) -> None:
        losses = Formula(model, model.unet, unlearner._drawn(number, further)).pseudo()()
        optimizer.zero_grad()
        (retain * losses["retain"] + forget * losses["forget"]).backward()
        optimizer.step()

    def put_back(values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(adapter.parameters(), values, strict=True):
                parameter.copy_(value)

    for first in (0, 2):
        before = [p.detach().clone() for p in adapter.parameters()]
        for further in (1, 2):
            step(first, further, 0.0, 1.0)
        put_back(before)
        for further in (3, 4):
            step(first, further, 1.0, 0.1)
        for further in (5, 6):
            step(first, further, 0.0, 1.0)
        put_back(before)
        for number in (first, first + 1):
            step(number, 0, 1.0, 0.1)
    wanted = [p.detach().clone() for p in adapter.parameters()]
    put_back(start)
    adapter.detach()
    ends = []
    for passes in (2, 0):
        config.method.passes = passes
        adapter = instantiate(config.adapter, _convert_="all")(model)
        assert trained(config, model, adapter, pairs, tmp_path / str(passes)).trainer.global_step == 4
        ends.append([p.detach().clone() for p in adapter.parameters()])
        adapter.detach()
    for end, value in zip(ends[0], wanted, strict=True):
        torch.testing.assert_close(end, value, rtol=1e-4, atol=1e-5)
    apart = max(float((a - b).abs().max()) for a, b in zip(*ends, strict=True))
    assert apart > 5e-3  # half of one step: the moments are not those of one level


@pytest.mark.parametrize(
    ("variant", "wanted"),
    [
        # UnlearnCanvas, mu_scissorhands_shs/train-erase.py: sparsity 0.99, prune_num 1, shared_step, + alpha
        ("unlearncanvas", {"cut": 0.01, "batches": 1, "guidance": 0.0, "ascends": False, "combines": False}),
        # Scissorhands_ex, SD/shs_cls.py: sparsity 0.9, prune_num 10, (1 + 7.5) of the prompt - 7.5 of "", - lam
        ("as_released", {"cut": 0.1, "batches": 10, "guidance": 7.5, "ascends": True, "combines": False}),
    ],
)
def test_scissorhands_variants_are_what_was_released(variant: str, wanted: dict[str, Any]) -> None:
    method = ScissorHands(variant)
    assert {key: getattr(method, key) for key in wanted} == wanted
