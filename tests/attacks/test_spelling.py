"""What the attacks work with, on the tiny model: spelling, the closed form, the loss, the counter, intervals."""

from __future__ import annotations

import pytest
import torch

from fade.attacks import Counter, attack_loss, drawn
from fade.attacks.closed import solve, text_weights
from fade.attacks.spelling import embedded, mapped, replaced, spelt, text, tokens, usable
from fade.errors import BadInput
from fade.intervals import difference, share_of
from fade.models import Diffusion, Noise, Sampling
from fade.models.noise import _draws

NEON, PHOTO = "A cat image in neon style.", "A cat image in photo style."


def test_a_prompt_spelt_as_another_is_embedded_as_that_one(model: Diffusion) -> None:
    plain = model.embed([PHOTO, NEON, ""]).tokens
    with spelt(model, {PHOTO: tokens(model, NEON)}):
        found = model.embed([PHOTO, NEON, ""]).tokens
    assert torch.equal(found[0], plain[1]) and torch.equal(found[1:], plain[1:])
    assert torch.equal(model.embed([PHOTO]).tokens, plain[:1])


def test_a_vector_stands_where_the_concept_is_named_and_gradients_reach_it(model: Diffusion) -> None:
    slots = replaced(model, NEON, "neon", 2)
    assert text(model, slots).split() == ["a", "cat", "image", "in", "*", "*", "style", "."]
    own = model.text_encoder.get_input_embeddings().weight[tokens(model, "neon")]
    with spelt(model, {NEON: replaced(model, NEON, "neon")}, own):
        assert torch.allclose(model.embed([NEON]).tokens, embedded(model, [NEON]).tokens)
    assert torch.allclose(embedded(model, [NEON]).tokens, model.embed([NEON]).tokens)
    vectors = torch.zeros(2, own.shape[1], requires_grad=True)
    with spelt(model, {NEON: slots}, vectors), torch.enable_grad():
        embedded(model, [NEON]).tokens.square().sum().backward()
    assert (vectors.grad.abs().sum(1) > 0).all()  # type: ignore[union-attr]
    with pytest.raises(BadInput, match="does not say 'glass'"):
        replaced(model, NEON, "glass")
    assert not {*usable(model, "neon")} & {*tokens(model, "neon"), *model.pipe.tokenizer.all_special_ids}


def test_the_closed_form_undoes_one_matrix_for_all_layers(model: Diffusion) -> None:
    """W' = W A is undone by A⁻¹, whatever A is."""
    own = [torch.randn(20, 8, dtype=torch.float64) for _ in range(2)]
    a = torch.randn(8, 8, dtype=torch.float64)
    assert torch.allclose(solve([w @ a for w in own], own, 1e-12), torch.linalg.inv(a), rtol=1e-4, atol=1e-6)
    assert len(text_weights(model)) > 1
    plain = model.embed([NEON, PHOTO]).tokens
    with mapped(model, [NEON], 2 * torch.eye(plain.shape[-1])):
        found = model.embed([NEON, PHOTO]).tokens
    assert torch.equal(found[0], 2 * plain[0]) and torch.equal(found[1], plain[1])


def test_the_loss_is_that_of_training_and_the_counter_counts_images(model: Diffusion) -> None:
    z, t = torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 900])
    noise, e, counter = torch.randn(3, 4, 8, 8), model.embed([NEON] * 3), Counter()
    with counter.on(model, model):
        with torch.no_grad():
            loss = attack_loss(model, z, t, noise, e)
        assert counter.units == 3
        attack_loss(model, z, t, noise, e)
        assert counter.units == 3 + 9
        drawn(model, [NEON] * 2, [Noise(1), Noise(2)], Sampling(steps=2, guidance=3.0))
        assert counter.units == 12 + 2 * 2 * 2
    wanted = (model.predict(model.noised(z, t, noise), t, e) - noise).square().mean()  # ε-prediction
    assert torch.allclose(loss, wanted) and not model.network._forward_pre_hooks
    _draws.cache_clear()


def test_a_difference_has_newcombes_interval() -> None:
    """Newcombe 1998, table II: 56/70 − 48/80 = 0.2, by method 10 from 0.0524 to 0.3339."""
    found = difference(share_of(56, 70), share_of(48, 80))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
