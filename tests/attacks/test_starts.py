"""Attacks that start elsewhere, by hand: RECALL's latents, and MemoRa's way there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.attacks import Attack, Scene
from fade.attacks.inpaint import Inpaint, filled, hidden, middle
from fade.attacks.memora import great_circle, inverted
from fade.attacks.meter import hurried
from fade.attacks.recall import Recall, gradient
from fade.attacks.trajectory import Completion, Image, denoised
from fade.models import Diffusion, Noise, Sampling

SAMPLERS = ("DDIM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete")
SAMPLERS += ("DPMSolverMultistep", "UniPCMultistep")


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_steps_are_ddims_whatever_the_pipelines_sampler_is(scene: Scene, name: str) -> None:
    """Others have more timesteps than steps (PNDM), scale what the network sees (Euler, LMS), or remember earlier steps
    (DPM++). What the base begins and goes on with itself is what DDIM draws."""
    noise, pipe = [Noise(1), Noise(2)], scene.model.pipe
    scene = replace(scene, sampling=Sampling(steps=8))
    tried: list[Attack] = [Image([0.5]), Inpaint(), Recall(times=1, steps=1, marks=1), Completion([3])]
    wanted = [attack.finds(scene)[0].draw(scene.cells, noise) for attack in tried]
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    found = [attack.finds(scene)[0].draw(scene.cells, noise) for attack in tried]
    drawn = scene.drawn(scene.prompts, noise, Sampling(steps=8, sampler="DDIMScheduler"))
    for images, others in zip([*found, found[-1]], [*wanted, drawn], strict=True):
        torch.testing.assert_close(images, others, atol=1e-5, rtol=0)


def test_completion_leaves_the_model_its_share_of_the_steps_in_haste_too(scene: Scene) -> None:
    noise, scene = [Noise(1), Noise(2)], replace(scene, off=True, sampling=Sampling(steps=8))
    (find,) = Completion([4, 8]).finds(scene)  # eight of eight would be the base's own image
    with hurried(scene, 0.5):
        hasty = find.draw(scene.cells, noise)
        assert torch.equal(hasty, Completion([2]).finds(scene)[0].draw(scene.cells, noise))
        assert not torch.equal(hasty, Completion([3]).finds(scene)[0].draw(scene.cells, noise))


def test_inpainting_keeps_the_rim_and_fills_the_middle_as_written_out(model: Diffusion) -> None:
    """DDIM by its formula: z' = √ᾱ' (z − √(1−ᾱ) ε)/√ᾱ + √(1−ᾱ') ε, the rim √ᾱ' z_0 + √(1−ᾱ') noise."""
    real, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts, free = ["cat neon", "cat photo"], hidden(real, 0.5)
    assert free.sum() == 16 and free[0, 0, 2:6, 2:6].all()
    given, without = model.embed(prompts), model.embed([""])
    alphas = model.process.alphas  # type: ignore[attr-defined]
    times, z = [751, 501, 251, 1], noise
    for t, level in zip(times, [alphas[501], alphas[251], alphas[1], torch.ones(())], strict=True):
        said = model.guided(z, torch.tensor(t), given, 3.0, without)
        clean = (z - (1 - alphas[t]).sqrt() * said) / alphas[t].sqrt()
        z = level.sqrt() * clean + (1 - level).sqrt() * said
        rim = level.sqrt() * real + (1 - level).sqrt() * noise
        z = torch.where(free, z, rim)
    found = filled(model, real, noise, free, prompts, 3.0, 4)
    torch.testing.assert_close(found, z, atol=1e-4, rtol=1e-4)
    assert torch.equal(found[:, :, :2], real[:, :, :2]) and not torch.allclose(found, real, atol=0.1)
    shown = middle(torch.nn.functional.pad(torch.ones(1, 3, 16, 16), (8, 8, 8, 8)), 0.5)
    assert torch.equal(shown, torch.ones(1, 3, 32, 32))  # nothing of the rim, as large as the image


def starts(attack: Recall, scene: Scene) -> list[Tensor]:
    """The latents (N, C, h, w) that each find draws from."""
    finds: list[Any] = attack.finds(scene)
    return [torch.stack(list(find.draw.args[1].values())) for find in finds]


def test_recall_moves_by_its_rate_and_a_gradient_that_is_off_leaves_the_mixture(scene: Scene) -> None:
    one: dict[str, Any] = {"times": 1, "steps": 1, "rate": 0.5, "pull": 0.0, "every": 1, "marks": 1}
    (up,), (down,) = (starts(Recall(sign, **one), scene) for sign in (1, -1))
    scene.off = True
    (mixture,) = starts(Recall(1, **one), scene)
    (pulled,) = starts(Recall(1, **{**one, "pull": 0.1}), scene)
    real, _ = scene.examples(2)
    noise = torch.randn(real.shape, generator=scene.generator())
    assert torch.allclose(mixture, 0.25 * real + 0.75 * noise)
    assert torch.allclose(pulled, mixture + 0.1 * real, atol=1e-6)
    assert torch.allclose((up - mixture).abs(), torch.full_like(up, 0.5)) and torch.allclose(
        up - mixture, mixture - down
    )


def test_against_the_gradient_of_recall_the_distance_to_the_real_image_falls(scene: Scene) -> None:
    model, (real, _) = scene.model, scene.examples(2)
    asked = model.embed(["", "", *scene.prompts])
    z, noise = torch.randn(2, 2, *real.shape[1:], generator=scene.generator())
    at = torch.full((4,), 300)

    def distance(z: Tensor) -> float:
        given, wanted = (
            model.predict(model.noised(torch.cat([x] * 2), at, torch.cat([noise] * 2)), at, asked) for x in (z, real)
        )
        return float(mse_loss(given, wanted))

    step = 0.01 * gradient(model, asked, real, z, 300, noise).sign()
    assert distance(z - step) < distance(z) < distance(z + step)


def test_the_marks_of_recall_are_of_equal_length(scene: Scene) -> None:
    names = [find.name for find in Recall(times=7, steps=1, marks=3, every=1).finds(scene)]
    assert names == ["3 timesteps", "5 timesteps", "7 timesteps"]


def test_ddim_is_inverted_exactly_where_the_prediction_is_the_same(
    model: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inverse takes each step's prediction at its end; of a network that says the same everywhere that is exact."""
    said = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(type(model), "predict", lambda self, z, t, embedding: said.repeat(len(z) // 2, 1, 1, 1))
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    there = inverted(model, z, ["a", "b"], 3.0, 2, 5)
    assert not torch.allclose(there, z, atol=0.1)
    back = denoised(model, there, ["a", "b"], 3.0, range(2, 5), 5)
    level = model.process.alphas[0]  # type: ignore[attr-defined]
    found = back if model.pipe.scheduler.config.set_alpha_to_one else None
    wanted = (z - (1 - level).sqrt() * said) / level.sqrt()  # the last step of the sampler goes to no noise at all
    assert found is not None and torch.allclose(found, wanted, atol=1e-4)


def test_a_great_circle_goes_from_one_to_the_other_at_their_length() -> None:
    one, other = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(great_circle(one, other, 0), one, atol=1e-5)
    assert torch.allclose(great_circle(one, other, 1), other, atol=1e-5)
    assert torch.allclose(great_circle(one, one, 0.3), one, atol=1e-3)
    lengths = [each.flatten(1).norm(dim=1) for each in (one, other, great_circle(one, other, 0.5))]
    assert (lengths[2] > 0.95 * torch.minimum(lengths[0], lengths[1])).all()  # a straight line would lose a third
