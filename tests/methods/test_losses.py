"""Every method's loss against its paper: formula, gradient, passes, on a model of ε and on one of v."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from adapting import shake
from command import ROOT
from configs import METHODS, composed
from diffusers import DDIMScheduler
from formulas import Formula, Losses
from hydra.utils import instantiate
from loops import STEPS
from torch import nn

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.data.pairs import Batch, Pairs
from fade.models import Diffusion
from fade.timesteps import Uniform, with_timesteps

SAMPLED = f"method.sampling_steps={STEPS}"
EVERY = "method.terms={adversarial:0.3,around:0.25,empty:0.25}"  # those that are off unasked
TUNING = ("method.tuning_steps=[2]", "method.rates=[0.1]", "method.optimizers=[gd]", "method.images=2")
# overrides -> the formula, the teacher's passes (None: STEPS of the sampler among them) and all passes but the
# sampler's
CASES: dict[tuple[str, ...], tuple[Callable[[Formula], Callable[[], Losses]], int | None, int]] = {
    ("fade",): (Formula.fade, 1, 2),
    ("spare",): (Formula.fade, 1, 2),
    ("fade_uce",): (Formula.fade, 1, 2),
    ("fade_robust", EVERY): (Formula.fade_robust, 1, 3),
    ("fade_robust", EVERY, "method.attack_steps=3"): (Formula.fade_robust, 1, 5),
    ("ca",): (lambda f: f.ca(f.base), 1, 3),
    ("ca", "method.prior=false"): (lambda f: f.ca(f.base, False), 1, 2),
    ("ca", "method.variant=as_released"): (lambda f: f.ca(f.unet), 0, 3),
    ("salun",): (Formula.pseudo, 0, 3),
    ("ediff",): (Formula.pseudo, 0, 3),
    ("esd", SAMPLED): (lambda f: f.esd(f.unet, True, 1.0), 2, 3),
    ("esd", SAMPLED, "method.variant=as_released"): (lambda f: f.esd(f.base, False, 2.0), None, 3),
    ("advunlearn", SAMPLED): (Formula.advunlearn, 0, 3),
    ("stereo", SAMPLED): (Formula.stereo, 5, 6),
    ("spm", SAMPLED): (Formula.spm, 3, 5),
    ("spm", SAMPLED, "method.variant=as_released"): (lambda f: f.spm(True), 3, 5),
    ("resalign", *TUNING): (Formula.resalign, 1, 5),
    ("resalign", *TUNING, "method.shown=[forget]"): (Formula.resalign, 1, 5),
    ("resalign", *TUNING, "method.loss=esd"): (lambda f: f.resalign(True), 1, 5),
    ("resalign", *TUNING, "method.loss=esd", "method.eta=0"): (lambda f: f.resalign(True), 1, 5),
    ("lacu", "method.pool=8", "method.sampling_steps=2", "method.mapping_samples=2", "method.related_samples=2"): (
        Formula.lacu,
        1,
        2,
    ),
    ("shs",): (Formula.pseudo, 0, 3),
    ("shs", "method.variant=as_released"): (Formula.shs, 0, 2),
    ("fmn",): (lambda f: f.fmn(True), 0, 1),
    ("task_vector",): (lambda f: f.learning(True), 0, 1),
    ("task_vector", "method.captions=own"): (lambda f: f.learning(False), 0, 1),
    ("fmn", "method.end=false"): (lambda f: f.fmn(False), 0, 1),
}
TRAINED = {key[0] for key in CASES}


def test_every_trained_method_has_a_formula() -> None:
    untrained = {name for name in METHODS if not instantiate(composed(f"method={name}").method).terms}
    assert set(METHODS) - untrained == TRAINED
    assert untrained == {"uce", "rece", "speed", "diff_quickfix", "seot", "safree"}


def exact(batch: Batch) -> Batch:
    return {
        side: {
            key: value.to(torch.float64) if value.dtype.is_floating_point else value for key, value in example.items()
        }  # type: ignore
        for side, example in batch.items()
    }  # type: ignore[attr-defined]


def exactly(pairs: Pairs) -> None:
    """What a method draws of them itself is in double precision too."""
    pairs.latents = {side: latents.double() for side, latents in pairs.latents.items()}
    pairs.own, pairs.overwritten = pairs.own.to(torch.float64), pairs.overwritten.to(torch.float64)


def shipped_schedule() -> DDIMScheduler:
    """v-prediction, zero terminal SNR."""
    return DDIMScheduler.from_pretrained(ROOT / "fade" / "shipped" / "canvas" / "pipeline", subfolder="scheduler")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_loss_gradient_and_passes(model: Diffusion, pairs: Pairs, case: tuple[str, ...], kind: str) -> None:
    """The loss is its formula; its gradient is the formula's finite difference, with what is detached held fixed; and a
    step takes the passes that methods.md gives. On a model of ε, and on one of v with the schedule of the shipped
    weights."""
    formula_of, teacher, passes = CASES[case]
    model.double()
    if kind == "v_prediction":
        model.pipe.scheduler = shipped_schedule()
        assert model.pipe.scheduler.alphas_cumprod[-1] < 1e-6
    assert model.pipe.scheduler.config.prediction_type == kind
    base, empty = copy.deepcopy(model.unet).requires_grad_(False), model.embed([""]).tokens
    config = composed(f"method={case[0]}", *case[1:])
    method, adapter = instantiate(config.method), instantiate(config.adapter, _convert_="all")(model)
    adapter_moved(adapter, 0.2 if case[0] == "advunlearn" else 0.02)  # a text encoder's moves the U-Net's answer less
    method.prepare(model, adapter, pairs)
    adapter.teacher_passes = 0  # LACU's pools and distances are the teacher's too
    torch.manual_seed(2)
    batch = exact(
        with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), model.process)
    )
    exactly(pairs)
    formula = formula_of(Formula(model, base, batch, method, empty))
    counted = []
    handle = model.unet.register_forward_pre_hook(lambda *_: counted.append(1))
    torch.manual_seed(7)
    losses = method.losses(model, adapter, batch)
    handle.remove()
    wanted = formula()
    assert losses.keys() == wanted.keys() == set(method.terms)
    for name in losses:
        assert abs(wanted[name]) > 1e-6
        torch.testing.assert_close(losses[name], wanted[name], rtol=1e-6, atol=1e-12)
    torch.manual_seed(7)
    least = int(case[0] == "spm" and len(case) == 3)
    span = (1, STEPS - 1) if case[0] == "stereo" else (least, STEPS)
    stop = int(torch.randint(*span, (1,))) if SAMPLED in case else 0
    assert SAMPLED not in case or stop >= 1  # the sampler is at work in this test
    assert adapter.teacher_passes == (2 + stop if teacher is None else teacher)
    assert len(counted) == passes + stop
    # a slope of one image may be so small that the third derivative shows in a difference over 1e-5
    check_gradients(adapter.parameters(), losses, formula, 1e-6 if case[0] in FINE else 1e-5)


def adapter_moved(adapter: Adapter, by: float) -> None:
    """Away from zero change, where a LoRA's gradient is special and student and teacher agree."""
    if isinstance(adapter, Lora):
        return shake(adapter)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=generator))


FINE = ("fade", "spare", "fade_uce", "fade_robust")


def check_gradients(parameters: list[nn.Parameter], losses: Losses, formula: Callable[[], Losses], h: float) -> None:
    """⟨∇L, v⟩ is (L(θ + hv) − L(θ − hv)) / 2h of the formula, v random over all parameters, for every term."""
    generator = torch.Generator().manual_seed(9)
    v = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slopes = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        slopes[name] = sum((g * d).sum() for g, d in zip(gradients, v, strict=True) if g is not None)
    ends = []
    with torch.no_grad():
        for move in (h, -2 * h):
            for p, d in zip(parameters, v, strict=True):
                p.add_(move * d)
            ends.append(formula())
    steepest = max(abs(float(slope)) for slope in slopes.values())  # a term may be flat along v by chance
    for name, slope in slopes.items():
        difference = (ends[0][name] - ends[1][name]) / (2 * h)
        assert abs(difference) > 1e-8
        torch.testing.assert_close(slope, difference, rtol=1e-4, atol=max(1e-8, 1e-6 * steepest))
