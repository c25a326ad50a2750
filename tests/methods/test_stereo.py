"""STEREO's search: each round erases by the model before, then finds a token that fits; the adapter is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from fade.adapters.patch import Patch
from fade.attacks import attack_loss
from fade.attacks.spelling import embedded, spelt
from fade.data.pairs import Pairs
from fade.methods.stereo import Stereo, copied, slots_of
from fade.models import Diffusion


@pytest.fixture
def patch(model: Diffusion) -> Patch:
    return Patch.attach(model, [r"attn2\."])


def made(model: Diffusion, patch: Patch, pairs: Pairs, rounds: int = 2, scale: float = 2.0) -> Stereo:
    method = Stereo(rounds, 15, 3e-3, 40, 0.05, batch=2, scale=scale, sampling_steps=4)
    method.suits(model, patch, pairs)
    method.prepare(model, patch, pairs)
    torch.manual_seed(0)
    return method


def test_the_search_leaves_the_adapter_alone_and_is_kept(model: Diffusion, patch: Patch, pairs: Pairs) -> None:
    before = {name: value.clone() for name, value in patch.state().items()}
    method = made(model, patch, pairs)
    method.erase_steps, method.search_steps = 3, 5
    method.edit(model, patch, pairs)
    assert all(torch.equal(value, before[name]) for name, value in patch.state().items())
    assert len(method.found) == 2 and not any(found.tokens.requires_grad for found in method.found)
    own = method.own.tokens
    assert all(found.tokens.shape == own.shape and not torch.allclose(found.tokens, own) for found in method.found)
    assert not torch.allclose(method.found[0].tokens, method.found[1].tokens)
    other = Stereo()
    other.load_state(method.state())
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(other.found, method.found, strict=True))


def test_a_round_moves_what_it_erases_to_the_guidance_of_the_model_before(
    model: Diffusion, patch: Patch, pairs: Pairs
) -> None:
    """Three steps of AdamW by hand, beside a copy of the U-Net as it stood."""
    method = made(model, patch, pairs, scale=3.0)
    method.erase_steps, start, before = 3, copied(patch), copy.deepcopy(model.unet).requires_grad_(False)
    method._erase(model, patch, method.own)
    found = copied(patch)
    patch.load_state(start)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(patch.parameters(), lr=3e-3)
    for _ in range(3):
        c = method.own[torch.randint(len(method.own), (2,))]
        z, t = model.denoise_until(c, 4, int(torch.randint(1, 3, (1,))), 3.0, method.empty)
        given, empty = (before(z, t, e.tokens).sample for e in (c, method.empty.expand_as(c)))
        optimizer.zero_grad()
        ((model.unet(z, t, c.tokens).sample - (given - 2 * (given - empty))) ** 2).mean().backward()
        optimizer.step()
    for name, value in copied(patch).items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
        assert not name.endswith("weight.value") or not torch.equal(value, start[name])


def test_a_token_is_found_that_fits_the_images(model: Diffusion, patch: Patch, pairs: Pairs) -> None:
    method = made(model, patch, pairs)
    method.search_rate = 0.01  # at 0.05, which the others search with, the vector grows out of what helps
    slots = {caption: slots_of(model, pairs, caption) for caption in method.captions}
    assert all(slot.count(-1) == 1 for slot in slots.values())
    vector = method._search(model, pairs, slots)
    latents = pairs.latents["forget"]
    asked = [method.captions[int(k)] for k in torch.searchsorted(method.rows, pairs.cells["forget"])]
    torch.manual_seed(8)
    t, noise = torch.randint(0, 1000, (len(latents),)), torch.randn_like(latents)

    def loss(found: Tensor) -> float:
        with torch.no_grad(), spelt(model, slots, found):
            return float(attack_loss(model, latents, t, noise, embedded(model, asked)))

    assert loss(vector) < loss(torch.zeros_like(vector))
    for caption, image in zip(asked, pairs.cells["forget"].tolist(), strict=True):
        assert caption == pairs.caption(pairs.dataset.cells()[image])
