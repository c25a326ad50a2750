"""What each strategy adds to a method, by its formula; what it trains, and on which model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import shake
from command import ROOT, SMALL
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from loops import quiet, requests
from torch import Tensor

import run
from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.data.canvas.dataset import Canvas
from fade.data.dataset import Dataset
from fade.data.pairs import Batch, Pairs
from fade.data.prompts import Cell, words
from fade.errors import BadInput
from fade.methods import Method
from fade.methods.ediff import EraseDiff
from fade.methods.fade import Fade
from fade.methods.lacu import Lacu
from fade.methods.uce import Uce
from fade.models import Diffusion
from fade.models.stable_diffusion import StableDiffusion
from fade.pretrain.diffusion import make_pipeline, make_text_encoder, make_tokenizer
from fade.sparsity import Dense, Module, Neuron
from fade.strategies import Strategy
from fade.strategies.duge import Duge
from fade.strategies.independent import Independent
from fade.strategies.plain import Plain
from fade.strategies.projection import Projection, projector
from fade.strategies.restricted import Restricted
from fade.strategies.selft import SelFT
from fade.strategies.simultaneous import Simultaneous
from fade.strategies.stack import Stack
from fade.strategies.stay import Stay
from fade.timesteps import Uniform, with_timesteps
from fade.training.unlearner import Unlearner, fit


def losses_of(method: Method, model: Diffusion, adapter: Adapter, pairs: Pairs) -> tuple[dict[str, Tensor], Batch]:
    """The terms of one batch, after torch was seeded with 1."""
    method.prepare(model, adapter, pairs)
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(0)), Uniform(), torch.zeros(0), model.process)
    torch.manual_seed(1)
    return method.losses(model, adapter, batch), batch


# what a strategy adds is part of the step


@pytest.mark.parametrize("strategy", [Stay(1, 1.0), Stay(2, 1.0), Duge()])
@pytest.mark.parametrize("method", [Fade(), EraseDiff(), EraseDiff(step=0.1)])
def test_the_terms_that_a_strategy_adds_move_the_step(strategy: Strategy, method: Method) -> None:
    around = strategy.method(method)
    gradients = {term: [torch.randn(3)] for term in method.terms}
    (alone,) = method.combine(gradients) if method.combines else [sum(g[0] for g in gradients.values())]
    added = [term for term in around.terms if term not in method.terms]
    assert added == (["attention", "replay"] if isinstance(strategy, Duge) else ["anchor"])
    (found,) = around.combine({**gradients, **{term: [torch.full((3,), 1000.0)] for term in added}})
    torch.testing.assert_close(found, alone + 1000 * len(added))


def test_restricted_gradients_do_not_oppose_each_other() -> None:
    method = Restricted(1.5).method(Fade())
    f, r = [torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])]
    (step,) = method.combine({"forget": f, "retain": r})
    torch.testing.assert_close(step, torch.tensor([0.5, 0.5]) + 1.5 * torch.tensor([0.0, 1.0]))
    (agreed,) = method.combine({"forget": f, "retain": [torch.tensor([1.0, 1.0])]})
    torch.testing.assert_close(agreed, torch.tensor([1.0, 0.0]) + 1.5 * torch.tensor([1.0, 1.0]))


def test_restricted_keeps_a_methods_third_term() -> None:
    method = Restricted(1.5).method(Lacu())
    gradients = {"forget": [torch.tensor([1.0, 0.0])], "retain": [torch.tensor([1.0, 1.0])]}
    (without,) = method.combine({**gradients, "stay": [torch.zeros(2)]})
    (step,) = method.combine({**gradients, "stay": [torch.tensor([0.0, 1000.0])]})
    torch.testing.assert_close(step, without + torch.tensor([0.0, 1000.0]))


def test_strategies_refuse_methods_that_they_cannot_wrap() -> None:
    for strategy in (Stay(1, 50.0), SelFT(), Projection(), Duge(), Restricted()):
        with pytest.raises(BadInput, match="Uce"):
            strategy.check(Uce())
    with pytest.raises(BadInput, match="EraseDiff does so itself"):
        Restricted().check(EraseDiff(step=0.1))
    Restricted().check(EraseDiff())


# L1-SP, L2-SP


@pytest.mark.parametrize("power", [1, 2])
def test_stay_is_the_mean_over_the_weights_that_may_change(
    model: Diffusion, adapter: Lora, pairs: Pairs, power: int
) -> None:
    adapter.set_masks(Neuron(0.1)({name: torch.rand(weight.shape) for name, weight in adapter.weights().items()}))
    shake(adapter)
    strategy = Stay(power, 50.0)
    found, _ = losses_of(strategy.method(Fade()), model, adapter, pairs)
    every = [(adapter.delta(name)[mask].abs() ** power).flatten() for name, mask in adapter.masks().items()]
    torch.testing.assert_close(found["anchor"], torch.cat(every).mean())
    assert strategy.method(Fade()).terms == {"forget": 0.3, "retain": 1.0, "anchor": 50.0}
    assert {"forget", "retain"} < found.keys()


# projection


def test_the_projection_leaves_nothing_along_its_columns() -> None:
    columns = torch.randn(32, 5)
    off = projector(columns, 1e-8)
    assert (off @ columns).abs().max() < 1e-4
    free = torch.linalg.qr(torch.cat([columns, torch.randn(32, 1)], 1)).Q[:, -1]
    torch.testing.assert_close(off @ free, free, rtol=1e-4, atol=1e-5)


def speaking(model: Diffusion, dataset: Dataset, width: int = 32) -> Diffusion:
    """The model with a text encoder of another width."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer([dataset.caption(cell) for cell in dataset.cells()], 16)
    encoder = make_text_encoder(tokenizer, width, 1)
    return StableDiffusion(make_pipeline(model.vae, encoder, tokenizer, model.unet, model.pipe.scheduler), 2, 3.0)


@pytest.mark.parametrize("kind", [Lora, Patch])
def test_what_is_kept_reads_the_same_keys_and_values_after_three_steps(
    model: Diffusion, dataset: Canvas, tmp_path: Path, encoded: Path, kind: type[Adapter]
) -> None:
    """ΔW c = 0 for the words of the kept concepts, whatever AdamW, its decay and clipping make of the gradient."""
    model, strategy = speaking(model, dataset), Projection()
    pairs = Pairs(dataset, requests(dataset, "neon_glow"), forget=8, retain=64, batch=2, cache=encoded)
    adapter = Lora.attach(model, rank=4, alpha=4) if kind is Lora else Patch.attach(model)
    optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    unlearner = Unlearner(
        model,
        adapter,
        pairs,
        strategy.method(Fade()),
        strategy.sparsity(Neuron(0.1), []),
        optimizer,
        Uniform(),
        tmp_path / "saliency.safetensors",
    )
    fit(unlearner, quiet(3, 1), tmp_path, 3, [])
    first, style = dataset.cells()[0]["object"], dataset.cells()[0]["style"]

    def said(cell: Cell, label: str) -> Tensor:
        text = dataset.caption(cell)
        return model.embed([text]).tokens[0, model.token_positions(text, words(label))].mean(0)

    kept = {label: said({"style": label, "object": first}, label) for label in dataset.domains["style"]}
    neon = kept.pop("neon_glow")
    kept |= {label: said({"style": style, "object": label}, label) for label in dataset.domains["object"]}
    changed = [name for name in adapter.weights() if "attn2.to_k" in name or "attn2.to_v" in name]
    assert len(changed) >= 2
    for change in (adapter.delta(name).detach() for name in changed):
        moved = (change @ neon).norm()
        assert moved > 1e-4 and max((change @ c).norm() for c in kept.values()) < 1e-3 * moved


def test_the_projection_trains_whole_layers_and_says_where_nothing_is_left(model: Diffusion, pairs: Pairs) -> None:
    assert isinstance(Projection().sparsity(Neuron(0.1), []), Dense)
    assert isinstance(Projection().sparsity(Module(0.5), []), Module)
    method = Projection().method(Fade())
    with pytest.raises(BadInput, match="this adapter changes none"):
        method.suits(model, Lora.attach(model, 2, 2, targets=["to_q"]), pairs)
    with pytest.raises(BadInput, match="keys and values could learn nothing"):
        method.suits(speaking(model, pairs.dataset, width=8), Lora.attach(model, 2, 2, name="other"), pairs)


# SelFT


def test_selfts_score_is_its_formula(model: Diffusion, adapter: Lora, pairs: Pairs) -> None:
    """|θ ⊙ Σ_k g_k|, the gradients summed with their signs."""
    method, batches = SelFT(states=4).method(Fade()), pairs.sweep(8, torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    found = method.locate(model, adapter, batches)
    torch.manual_seed(1)
    name, weight = next((n, w) for n, w in adapter.weights().items() if "attn2.to_v" in n)
    weight.requires_grad_(True)
    for k in range(4):
        asked, other = batches[0]["forget"]["prompt"][k : k + 1], batches[0]["forget"]["surrogate"][k : k + 1]
        z, t = model.denoise_until(asked, 4, k, 3.0, model.embed([""]))
        (
            (model.unet(z, t, asked.tokens).sample - model.unet(z, t, other.tokens).sample.detach()) ** 2
        ).mean().backward()
    assert weight.grad is not None
    torch.testing.assert_close(found[name], (weight * weight.grad).abs().detach(), rtol=1e-3, atol=1e-10)


# DUGE


def maps_of(model: Diffusion, z_t: Tensor, t: Tensor, prompt: Tensor) -> list[Tensor]:
    """softmax(QKᵀ/√d) of every cross-attention layer, from what goes into it."""
    layers = [m for n, m in model.unet.named_modules() if n.endswith("attn2")]
    seen: list[tuple[Any, Tensor]] = []
    hooks = [layer.register_forward_pre_hook(lambda own, args: seen.append((own, args[0]))) for layer in layers]
    model.unet(z_t, t, prompt)
    for hook in hooks:
        hook.remove()
    found = []
    for layer, x in seen:
        q, k = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (layer.to_q(x), layer.to_k(prompt)))
        found.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
    return found


@torch.no_grad()
def test_duges_terms_are_their_formulas(model: Diffusion, adapter: Lora, pairs: Pairs) -> None:
    """Attention now against the surrogate's before the request; denoising on a bank by its own captions."""
    shake(adapter)
    found, batch = losses_of(Duge(bank=4).method(Fade()), model, adapter, pairs)
    assert found.keys() == {"forget", "retain", "attention", "replay"}
    forget, retain = batch["forget"], batch["retain"]
    z_t = model.pipe.scheduler.add_noise(forget["latents"], forget["noise"], forget["t"])
    now = maps_of(model, z_t, forget["t"], forget["prompt"].tokens)
    with adapter.off():
        before = maps_of(model, z_t, forget["t"], forget["surrogate"].tokens)
    wanted = torch.stack([((a - b) ** 2).mean() for a, b in zip(now, before, strict=True)]).mean()
    torch.testing.assert_close(found["attention"], wanted)
    torch.manual_seed(1)
    bank = torch.tensor([0, 23, 47, 71])[torch.randint(0, 4, (2,))]  # of 72 retain images
    captions = [pairs.caption(pairs.dataset.cells()[int(pairs.cells["retain"][i])]) for i in bank]
    z_t = model.pipe.scheduler.add_noise(pairs.latents["retain"][bank], retain["noise"], retain["t"])
    given = model.unet(z_t, retain["t"], model.embed(captions).tokens).sample
    torch.testing.assert_close(found["replay"], ((given - retain["noise"]) ** 2).mean())


# what is trained for a request


def test_what_a_step_trains(dataset: Canvas) -> None:
    asked = requests(dataset, "neon_glow", "house_cat", "pencil_sketch")
    for strategy, guard in ((Plain(), False), (Stack(), True), (Stack(avoid=True), True), (Duge(), False)):
        step = strategy.step(asked, 2, Fade(), Neuron(0.1), [])
        assert [r.target for r in step.requests] == ["pencil_sketch"] and [r.target for r in step.gone] == [
            "neon_glow",
            "house_cat",
        ]
        assert step.guard == guard and step.times == 1
    step = Simultaneous().step(asked, 2, Fade(), Neuron(0.1), [])
    assert step.times == 3  # three budgets for three requests
    assert [r.target for r in step.requests] == ["neon_glow", "house_cat", "pencil_sketch"] and step.gone == []
    step = Independent().step(asked, 2, Fade(), Neuron(0.1), [])
    assert [r.target for r in step.requests] == ["pencil_sketch"] and step.gone == []


def test_three_requests_at_once_are_trained_for_three_budgets(dataset: Canvas, tmp_path: Path) -> None:
    """What run.py makes of a step: two steps a request are six."""
    asked = [
        *SMALL,
        "target=neon_glow",
        "dataset.train=6",
        "dataset.test=1",
        "pairs.forget=4",
        "pairs.retain=12",
        "pairs.batch=1",
        "trainer.max_steps=2",
        "sparsity=dense",
        "protocol.judge_floor=0",
        f"cache_dir={tmp_path}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", asked, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    task = run.task_of(cfg)
    recipe, model = task.recipe(task.dataset()), task.model()
    step = Simultaneous().step(
        requests(dataset, "neon_glow", "house_cat", "pencil_sketch"), 2, recipe.method, recipe.sparsity, []
    )
    unlearner = recipe.train(model, recipe.attach(model), step, tmp_path)
    assert unlearner.trainer.global_step == 6 and {r.target for r in unlearner.pairs.requests} == {
        "neon_glow",
        "house_cat",
        "pencil_sketch",
    }
