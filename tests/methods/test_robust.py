"""FADE made robust: the worst embedding lies in its ball and is worse, what is kept needs no list, weights switch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapting import shake
from configs import composed
from hydra.utils import instantiate

from fade.adapters.lora import Lora
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Batch, Pairs, tiers_of
from fade.errors import BadInput
from fade.methods import denoising
from fade.methods.fade_robust import FadeRobust, lengths, random_captions
from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.timesteps import Uniform, with_timesteps

EVERY = dict.fromkeys(FadeRobust.terms, 0.25)


def drawn(model: Diffusion, pairs: Pairs) -> Batch:
    torch.manual_seed(1)
    return with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), model.process)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_worst_embedding_lies_in_its_ball_and_knows_the_concept_better(
    model: Diffusion, pairs: Pairs, steps: int
) -> None:
    example, method = drawn(model, pairs)["forget"], FadeRobust(radius=0.3, attack_steps=steps)
    own = example["prompt"]
    torch.manual_seed(3)
    found = method.worst(model, example)
    δ = found.tokens - own.tokens
    assert bool((lengths(δ) <= 0.3 * lengths(own.tokens) * 1.0001).all()) and not found.tokens.requires_grad
    torch.manual_seed(3)
    start = Embedding(own.tokens + method.surface(own.tokens))
    losses = [float(denoising(model, example, at)) for at in (found, start, own)]
    assert losses[0] < min(losses[1:])
    torch.testing.assert_close(lengths(start.tokens - own.tokens), 0.3 * lengths(own.tokens))


def test_a_term_without_a_weight_costs_nothing(model: Diffusion, pairs: Pairs) -> None:
    """Without all that it adds it is FADE, in as many passes."""
    plain = {term: 0.0 for term in FadeRobust.terms if term not in ("forget", "retain")}
    method, fade = FadeRobust(terms=plain), instantiate(composed("method=fade").method)
    adapter = Lora.attach(model, 2, 2)
    shake(adapter)
    method.prepare(model, adapter, pairs)
    batch, counted = drawn(model, pairs), list[int]()
    handle = model.unet.register_forward_pre_hook(lambda *given: counted.append(len(given[1][0])))
    losses, own = (m.losses(model, adapter, batch) for m in (method, fade))
    handle.remove()
    assert counted[:2] == counted[2:] == [4, 4] and losses.keys() == own.keys()
    for term, value in own.items():
        torch.testing.assert_close(losses[term], value)


def test_every_term_has_its_own_target_where_two_are_asked_in_the_same_words(model: Diffusion, pairs: Pairs) -> None:
    """The surrogate's embedding may be the retain captions' own object: the images are others."""
    method, adapter = FadeRobust(terms=EVERY), Lora.attach(model, 2, 2)
    shake(adapter)
    method.prepare(model, adapter, pairs)
    batch, found = drawn(model, pairs), []
    words = batch["retain"]["prompt"]
    for surrogate in (replace(words), words):
        batch["forget"]["surrogate"] = surrogate
        torch.manual_seed(5)
        found.append(method.losses(model, adapter, batch))
    assert found[0].keys() == found[1].keys() == FadeRobust.terms.keys()
    for term, value in found[0].items():
        torch.testing.assert_close(found[1][term], value)


def test_the_solve_finds_what_uces_form_moved(model: Diffusion, pairs: Pairs) -> None:
    """The edited keys and values read it as they read the captions before, and the captions themselves no more."""
    adapter = Lora.attach(model, 32, 32)
    method = FadeRobust(start=0.5)
    adapter.set_masks({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in adapter.weights().items()})
    method.edit(model, adapter, pairs)
    own = drawn(model, pairs)["forget"]["prompt"]
    torch.manual_seed(4)
    found = method.solved(model, adapter, own)
    for name, weight in adapter.weights().items():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            said, edited = own.tokens @ weight.T, weight + adapter.delta(name)
            far, near = ((at.tokens @ edited.T - said).norm() / said.norm() for at in (own, found))
            assert near < 0.5 * far and not found.tokens.requires_grad


def test_the_solve_needs_a_layer_that_reads_the_text(model: Diffusion, pairs: Pairs) -> None:
    with pytest.raises(BadInput, match=r"method\.terms\.closed=0"):
        FadeRobust().suits(model, Lora.attach(model, 1, 1, targets=["to_q"]), pairs)


def test_random_captions_have_no_token_of_the_concepts_own(model: Diffusion, pairs: Pairs) -> None:
    captions = random_captions(model, pairs, torch.Generator().manual_seed(0))
    assert len(set(captions)) > 200 and captions == random_captions(model, pairs, torch.Generator().manual_seed(0))
    ids = [model.token_ids([caption])[0] for caption in captions]
    concept = set(model.token_ids(["neon glow"])[0]) - set(model.token_ids(["A photo image in style."])[0])
    assert concept and not concept & {i for row in ids for i in row}


def test_a_mixture_lies_between_two_captions_and_hears_what_either_hears() -> None:
    one = Embedding(torch.zeros(2, 3, 4), torch.zeros(2, 5), torch.tensor([[True, False, False]] * 2))
    other = Embedding(torch.ones(2, 3, 4), torch.ones(2, 5), torch.tensor([[False, True, False]] * 2))
    found = one.between(other, torch.tensor([0.25, 1.0]))
    assert found.pooled is not None and found.mask is not None
    assert found.tokens[:, 0, 0].tolist() == found.pooled[:, 0].tolist() == [0.25, 1.0]
    assert found.mask.tolist() == [[True, True, False]] * 2


def test_all_tiers_are_those_that_say_a_cell(dataset: Canvas) -> None:
    grid = instantiate(composed("dataset=canvas").dataset)
    assert tiers_of(grid, ["all"]) == ["name", "template", "synonym", "description"]
    assert tiers_of(dataset, ["all"]) == ["name"]
