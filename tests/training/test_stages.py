"""Both stages against independent formulas, and the loop against an interruption."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from adapting import shake
from loops import Killed, dying, quiet, unlearner
from torch import Tensor

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Batch, Pairs, Request
from fade.errors import BadInput
from fade.files import shipped
from fade.gradients import add_gradients, trainable
from fade.largest import largest
from fade.methods.fade import Fade
from fade.methods.lacu import Lacu
from fade.models import Diffusion
from fade.models.stable_diffusion import StableDiffusion
from fade.models.stable_diffusion_3 import StableDiffusion3
from fade.saliency import denoising_gradients, denoising_loss, ratio, sum_of_abs
from fade.sparsity import Dense, Module, Neuron, Random, Weight, density
from fade.tensors import read_tensors
from fade.timesteps import Uniform, Window, with_timesteps
from fade.training.unlearner import Unlearner, fit


def batches(pairs: Pairs, n: int = 2) -> list[Batch]:
    return [pairs.draw(torch.Generator().manual_seed(i)) for i in range(n)]


def test_saliency_is_the_sum_of_absolute_gradients(model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
    drawn = batches(pairs)
    torch.manual_seed(1)
    found = sum_of_abs(model, adapter.weights(), drawn, "forget")
    assert not any(w.requires_grad for w in adapter.weights().values())
    name, weight = next(iter(adapter.weights().items()))
    weight.requires_grad_(True)
    torch.manual_seed(1)
    wanted = torch.zeros_like(weight)
    for batch in drawn:
        z = batch["forget"]["latents"]
        t = torch.randint(0, 1000, (len(z),))
        noise = torch.randn_like(z)
        alpha = model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        guess = model.unet(alpha.sqrt() * z + (1 - alpha).sqrt() * noise, t, batch["forget"]["prompt"].tokens).sample
        weight.grad = None
        ((guess - noise) ** 2).mean().backward()
        assert weight.grad is not None
        wanted += weight.grad.abs()
    torch.testing.assert_close(found[name], wanted)


def test_stage_one_holds_one_gradient_at_a_time(model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
    weights, seen = adapter.weights(), []

    def add(name: str, gradient: Tensor) -> None:
        seen.append(weakref.ref(gradient))
        assert [ref() is None for ref in seen] == [True] * (len(seen) - 1) + [False]
        assert all(weight.grad is None for weight in weights.values())

    with trainable(model, weights):
        add_gradients(denoising_loss(model, batches(pairs, 1)[0]["forget"]), weights, add)
    assert len(seen) == len(weights)


@pytest.mark.parametrize("family", [StableDiffusion, StableDiffusion3])
def test_stage_one_finds_to_the_bit_what_all_gradients_at_once_give(family: type[Diffusion]) -> None:
    """On the embedded pipelines: the sums, and so the masks."""
    name = {StableDiffusion: "canvas", StableDiffusion3: "canvas_flow"}[family]
    embedded = family.load(shipped(f"{name}/pipeline"), 15, 4.0)
    weights = Lora.attach(embedded, 1, 1, targets=embedded.attention_layers).weights()
    prompt = embedded.embed(["A house cat image in pencil sketch style."] * 2)
    torch.manual_seed(0)
    drawn: list[Any] = [{"forget": {"latents": torch.randn(2, 16, 8, 8), "prompt": prompt}} for _ in range(2)]
    torch.manual_seed(1)
    found = sum_of_abs(embedded, weights, drawn, "forget")
    torch.manual_seed(1)
    wanted = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with trainable(embedded, weights):
        for batch in drawn:
            gradients = denoising_gradients(embedded, weights, batch["forget"])
            wanted = {name: wanted[name] + g.abs() for name, g in zip(weights, gradients, strict=True)}
    assert len(found) > 20 and all(torch.equal(found[name], score) and score.any() for name, score in wanted.items())
    for sparsity in (Neuron(0.1), Weight(0.1)):
        ours, theirs = sparsity(found), sparsity(wanted)
        assert all(torch.equal(ours[name], mask) for name, mask in theirs.items())


def test_ratio_prefers_what_retention_does_not_use() -> None:
    forget, retain = {"a": torch.tensor([[1.0, 1.0]])}, {"a": torch.tensor([[3.0, 0.0]])}
    torch.testing.assert_close(ratio(forget, retain)["a"], torch.tensor([[1 / 4.5, 1 / 1.5]]))


def test_fades_loss_is_its_formula(model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
    shake(adapter)
    batch = pairs.draw(torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    found = Fade().losses(model, adapter, with_timesteps(batch, Uniform(), torch.zeros(0), model.process))
    torch.manual_seed(2)
    latents = torch.cat([batch["forget"]["latents"], batch["retain"]["latents"]])
    t = torch.randint(0, 1000, (4,))
    noise = torch.randn_like(latents)
    z = model.pipe.scheduler.add_noise(latents, noise, t)
    for side, rows in (("forget", slice(0, 2)), ("retain", slice(2, 4))):
        with torch.no_grad():
            student = model.unet(z[rows], t[rows], batch[side]["prompt"].tokens).sample  # type: ignore[literal-required]
            with adapter.off():
                teacher = model.unet(z[rows], t[rows], batch[side]["surrogate"].tokens).sample  # type: ignore[literal-required]
        torch.testing.assert_close(found[side].detach(), ((student - teacher) ** 2).mean())
    assert torch.equal(batch["retain"]["prompt"].tokens, batch["retain"]["surrogate"].tokens)


def test_the_gradient_agrees_with_finite_differences(model: Diffusion, pairs: Pairs) -> None:
    model.double()
    pairs.latents = {k: v.double() for k, v in pairs.latents.items()}
    pairs.own, pairs.overwritten = (e.to(torch.float64) for e in (pairs.own, pairs.overwritten))
    adapter = Lora.attach(model, rank=2, alpha=2)
    model.double()
    adapter.set_masks(Neuron(0.3)({n: torch.rand(w.shape) for n, w in adapter.weights().items()}))
    shake(adapter)
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(0)), Uniform(), torch.zeros(0), model.process)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        return Fade().losses(model, adapter, batch)["forget"]

    factor = next(layer.lora_B["fade"].weight for layer in adapter.layers.values() if layer.kept["fade"].rows[0])
    loss().backward()
    assert factor.grad is not None
    with torch.no_grad():
        factor[0, 0] += 1e-5
        up = loss()
        factor[0, 0] -= 2e-5
        down = loss()
    torch.testing.assert_close(factor.grad[0, 0], (up - down) / 2e-5, rtol=1e-4, atol=1e-9)


def test_kept_fractions() -> None:
    saliency = {f"l{i}": torch.rand(64, 100) for i in range(10)}
    assert density(Weight(0.1)(saliency)) == 0.1
    assert density(Neuron(0.25)(saliency)) == 0.25
    assert density(Module(0.25)(saliency)) == 0.2  # int(10 · 0.25) layers
    assert density(Module(0.01)(saliency)) == 0.1  # at least one
    top = {"a": torch.tensor([[9.0, 1.0], [1.0, 0.0]])}
    assert Neuron(0.25)(top)["a"].tolist() == [[True, False], [False, False]]
    assert Weight(0.25)(top)["a"].tolist() == [[True, False], [False, False]]
    with pytest.raises(BadInput, match="must lie in"):
        Neuron(0.0)
    with pytest.raises(BadInput, match="must lie in"):
        Weight(1.5)


def test_what_is_kept_is_the_most_salient_over_all_layers() -> None:
    saliency = {
        "low": torch.full((2, 3), 1.0),
        "wide": torch.full((4, 4), 2.0),
        "high": torch.tensor([[9.0, 0.0], [5.0, 3.0]]),
    }
    assert [name for name, mask in Module(0.34)(saliency).items() if mask.any()] == [
        "high"
    ]  # by the mean: its sum is less
    weights = Weight(3 / 26)(saliency)
    assert (
        weights["high"].tolist() == [[True, False], [True, True]]
        and not weights["low"].any()
        and not weights["wide"].any()
    )
    scores = torch.tensor([[1.0, 5.0, 1.0], [0.0, 9.0, 0.0], [1.0, 4.0, 1.0]])  # rows 7, 9, 6; columns 2, 18, 2
    assert Neuron(1 / 9)({"a": scores})["a"].nonzero().tolist() == [[1, 1]]
    assert Neuron(1 / 4)({"a": torch.tensor([[1.0, 9.0], [2.0, 3.0]])})["a"].nonzero().tolist() == [
        [0, 1]
    ]  # row, column
    assert Neuron(4 / 9)({"a": scores})["a"].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_of_equal_scores_the_first_are_kept() -> None:
    """Exactly k of them, against a sort that leaves equal ones in order; scores from far below one to far above."""
    generator = torch.Generator().manual_seed(0)
    for case in range(20):
        scores = torch.rand(500, generator=generator) * 10.0 ** (case - 10)
        scores = scores if case % 2 else (scores / scores.max() * 6).round()  # seven different ones
        for k in (1, 37, 250, 499, 500):
            wanted = torch.zeros(500, dtype=torch.bool)
            wanted[scores.sort(descending=True, stable=True).indices[:k]] = True
            found = largest({"a": scores[:120].view(10, 12), "b": scores[120:], "none": scores[:0]}, k)
            assert found["a"].shape == (10, 12) and torch.equal(
                torch.cat([m.flatten() for m in found.values()]), wanted
            )


def test_random_masks_are_a_control_of_either_shape() -> None:
    saliency = {"a": torch.rand(12, 10), "b": torch.rand(6, 8)}
    for like, shape in (("neuron", Neuron(0.25)), ("weight", Weight(0.25))):
        masks, other = Random(0.25, 0, like)(saliency), Random(0.25, 1, like)(saliency)
        assert density(masks) == density(shape(saliency)) and any(not torch.equal(masks[k], other[k]) for k in masks)
        rectangles = [m.sum() == m.any(1).sum() * m.any(0).sum() for m in masks.values()]
        assert all(rectangles) == (like == "neuron")


def test_the_loop_confines_the_change_and_weighs_the_terms(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    """One step of plain gradient descent, by hand: the masks are the sparsity's, w_f and w_r scale gradients."""
    adapter = Lora.attach(model, rank=2, alpha=2)
    shake(adapter)
    before = [parameter.detach().clone() for parameter in adapter.parameters()]
    weights, rate = {"forget": 2.0, "retain": 0.5}, 0.1
    given = {"terms": weights, "optimizer": partial(torch.optim.SGD, lr=rate), "cosine": False, "seed": 3}
    trainer = partial(quiet(1, 1), gradient_clip_val=None)
    fit(unlearner(model, adapter, pairs, tmp_path, **given), trainer, tmp_path / "checkpoints", 9, [])
    found = [parameter.detach().clone() for parameter in adapter.parameters()]

    saliency, _ = read_tensors(tmp_path / "saliency.safetensors")
    saliency.pop("timesteps")
    wanted = Neuron(0.2)(saliency)
    masks = adapter.masks()
    assert masks.keys() == wanted.keys() and all(torch.equal(masks[name], wanted[name]) for name in wanted)
    assert density(masks) < 0.3
    for name, mask in masks.items():
        assert not adapter.delta(name)[~mask].any()

    for parameter, value in zip(adapter.parameters(), before, strict=True):
        parameter.data.copy_(value)
        parameter.requires_grad_(True)
    torch.manual_seed(3 * 1_000_003 + 1)
    batch = pairs.draw(torch.Generator().manual_seed(3 * 1_000_003 + 1))
    losses = Fade().losses(model, adapter, with_timesteps(batch, Uniform(), torch.zeros(0), model.process))
    gradients = {
        name: torch.autograd.grad(loss, adapter.parameters(), retain_graph=True) for name, loss in losses.items()
    }
    moved = 0.0
    for start, end, forget, retain in zip(before, found, gradients["forget"], gradients["retain"], strict=True):
        torch.testing.assert_close(end - start, -rate * (2.0 * forget + 0.5 * retain), rtol=1e-3, atol=1e-7)
        moved += float((end - start).abs().sum())
    assert moved > 1e-4


def test_a_step_without_effect_or_without_numbers_ends_the_training(
    model: Diffusion, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No steps at all, steps of nothing, nan in the last step, and a run that goes on from a checkpoint of nan."""

    def train(name: str, trainer: partial, lr: float, every: int = 9) -> None:
        adapter = Lora.attach(model, rank=2, alpha=2)
        try:
            given = {"optimizer": partial(torch.optim.AdamW, lr=lr), "cosine": False}
            fit(unlearner(model, adapter, pairs, tmp_path, **given), trainer, tmp_path / name, every, [])
        finally:
            adapter.detach()

    with pytest.raises(BadInput, match=r"trainer\.accumulate_grad_batches is 0; it must be 1 or more"):
        train("zero", quiet(3, 0), 1e-2)
    with pytest.raises(BadInput, match="none of the 3 steps was trained"):
        train("none", partial(quiet(3, 1), limit_train_batches=0), 1e-2)
    with pytest.raises(BadInput, match="the adapter changes nothing after step 2 of 2"):
        train("still", quiet(2, 1), 0.0)
    line = r"lower optimizer\.build\.lr \(it is inf\)"
    with pytest.raises(BadInput, match=f"is not finite after step 1 of 1; {line}"):
        train("last", quiet(1, 1), float("inf"), every=1)
    assert (tmp_path / "last" / "last.ckpt").is_file()
    with pytest.raises(BadInput, match=f"is not finite after step 1 of 1; {line}"):
        train("last", quiet(1, 1), float("inf"))
    with pytest.raises(BadInput, match=f"the loss is nan at step 2 of 3; {line}"):
        train("last", quiet(3, 1), float("inf"))
    with monkeypatch.context() as patch, pytest.raises(BadInput, match="the loss is inf at step 2 of 3; lower"):
        losses, calls = Fade.losses, []

        def infinite(*given: Any) -> dict[str, torch.Tensor]:
            calls.append(0)
            return {name: value * (float("inf") if len(calls) == 3 else 1) for name, value in losses(*given).items()}

        patch.setattr(Fade, "losses", infinite)
        train("twice", quiet(3, 2), 1e-2)  # the third batch is of the second step


def test_the_rate_warms_up_and_falls_along_a_cosine(
    model: Diffusion, adapter: Adapter, pairs: Pairs, tmp_path: Path
) -> None:
    """Warm-up of four steps; then (1 + cos(pi k / 8)) / 2 of eight, or flat."""
    own = unlearner(model, adapter, pairs, tmp_path, warmup=4)
    own.trainer = L.Trainer(max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert [own._rate(k) for k in (4, 6, 8)] == pytest.approx([0.5, 0.14644661, 0.0])
    own.cosine = False
    assert [own._rate(k) for k in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_every_step_draws_its_own_batch(model: Diffusion, adapter: Adapter, pairs: Pairs, tmp_path: Path) -> None:
    own = unlearner(model, adapter, pairs, tmp_path)
    noises = [own._drawn(step, further)["forget"]["noise"] for step in (0, 1, 2) for further in (0, 1)]
    assert len({float(noise.sum()) for noise in noises}) == 6
    torch.manual_seed(99)
    assert torch.equal(own._drawn(1)["forget"]["noise"], noises[2])


def test_a_killed_run_ends_as_an_undisturbed_one(
    model: Diffusion, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches a step, and dropout; without them test_loop.py kills every method that remembers something."""

    def train(folder: Path, seed: int) -> tuple[str, int]:
        L.seed_everything(seed, verbose=False)
        adapter = Lora.attach(model, rank=2, alpha=2, dropout=0.2)
        try:
            trainer = fit(unlearner(model, adapter, pairs, folder), quiet(4, 2), folder, 2, [])
            return adapter.sha256(), trainer.global_step
        finally:
            adapter.detach()

    undisturbed = train(tmp_path / "whole", seed=4)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Unlearner, "training_step", dying(4 * 2))
        train(tmp_path / "killed", seed=4)
    assert (tmp_path / "killed" / "last.ckpt").is_file()
    assert train(tmp_path / "killed", seed=99) == undisturbed  # whatever state the second process starts in
    assert undisturbed[1] == 4


def test_a_weight_for_a_term_that_there_is_not_and_one_below_zero_are_errors() -> None:
    with pytest.raises(BadInput, match=r"method\.terms has 'prior'; Fade has the terms forget, retain"):
        Fade(terms={"prior": 1.0})
    with pytest.raises(BadInput, match=r"method\.terms\.retain is -1; it must be 0 or more"):
        Fade(terms={"retain": -1})
    assert Fade(terms={"retain": 2.0}).terms == {"forget": 0.3, "retain": 2.0} and Fade.terms["retain"] == 1.0


def test_requests(dataset: Canvas) -> None:
    assert Request.of(dataset, "neon_glow", None) == Request("neon_glow", "photo", "style")
    assert Request.of(dataset, "photo", None).surrogate == "pencil_sketch"
    assert Request.of(dataset, "house_cat", None) == Request("house_cat", "sea_fish", "object")
    for target, surrogate, message in (
        ("neom", None, "closest: neon_glow"),
        ("neon_glow", "neon_glow", "another concept"),
        ("neon_glow", "house_cat", "name a style"),
        ("house_cat", "dgo", "surrogate 'dgo'"),
    ):
        with pytest.raises(BadInput, match=message):
            Request.of(dataset, target, surrogate)


def test_too_few_images_are_refused(dataset: Canvas, tmp_path: Path) -> None:
    request = Request.of(dataset, "neon_glow", "photo")
    with pytest.raises(BadInput, match=r"neon_glow/house_cat has 6 training images, pairs\.forget=160 needs 40"):
        Pairs(dataset, request, forget=160, retain=64, batch=2, cache=tmp_path).choose()


def test_what_training_cannot_use_is_refused_before_it_is_begun(
    dataset: Canvas, model: Diffusion, adapter: Adapter, tmp_path: Path
) -> None:
    """Too few images, captions that would be cut, timesteps that the model lacks, too small a pool."""
    model.pipe.tokenizer.model_max_length = 32  # it knows few words, and spells the others
    request = Request.of(dataset, "neon_glow", "photo")
    drawn = partial(Pairs, dataset, request, retain=64, batch=2, cache=tmp_path)
    with pytest.raises(BadInput, match=r"pairs\.forget=160 needs 40"):
        drawn(forget=160).check(model)
    drawn(forget=16).check(model)
    long = "A {object} image in {style} style" + ", bird" * 20
    with pytest.raises(
        BadInput,
        match=r"the caption 'A house cat image in photo style, bird.*' has \d+ tokens and .* takes 30; shorten it",
    ):
        drawn(forget=16, template=long).check(model)
    model.check_prompts(["neon " * 30])
    with pytest.raises(BadInput, match="shorten it"):
        model.check_prompts(["", "neon " * 31])
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    for method, timesteps, message in (
        (Fade(), Window(0, 1000), r"timesteps\.high is 1000; this model's timesteps end at 999"),
        (
            Lacu(pool=31, latents="target"),
            Uniform(),
            r"method\.pool is 31, and the distances are measured on 32 of its latents",
        ),
        (
            Lacu(pool=3, mapping_samples=1, related_samples=1, latents="target"),
            Uniform(),
            "measured on 4 of its latents",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            Unlearner(model, adapter, drawn(forget=16), method, Dense(), optimizer, timesteps, tmp_path / "s")
