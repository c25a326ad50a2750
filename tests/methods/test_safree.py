"""SAFREE against its released code's formulas, written again: which tokens move, where to, and in which steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import ASKED, ids_of
from torch import Tensor, nn

from fade.adapters.projection import Projection
from fade.adapters.stored import Stored
from fade.adapters.text import TextEdit
from fade.attacks.trajectory import guided
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.methods.safree import Safree
from fade.models import Diffusion, Noise, Sampling

PROMPTS = [*ASKED, "cat", "A fish, a fish, neon neon", "A house made as neon, beside a dog", "A neon image in a house"]
CONCEPTS = ("neon", "neon style")


@torch.no_grad()
def pooled(model: Diffusion, ids: list[int]) -> Tensor:
    """(D,) in double precision, by transformers' own pooling."""
    tokenizer = model.pipe.tokenizer
    given = torch.tensor([[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]])
    return model.pipe.text_encoder(given).pooler_output[0].double()


def projector(columns: list[Tensor]) -> Tensor:
    """E (EᵀE)⁺ Eᵀ of columns in E."""
    e = torch.stack(columns, 1)
    return e @ torch.linalg.pinv(e.T @ e, rcond=1e-12) @ e.T


def by_hand(model: Diffusion, prompt: str, alpha: float) -> tuple[Tensor, list[bool]]:
    """What every row (L, D) would become, and which token is suspect."""
    ids = ids_of(model, prompt)[:14]  # what the text encoder has room for
    masked = [pooled(model, [0 if j == i else own for j, own in enumerate(ids)]) for i in range(len(ids))]
    out = torch.eye(32, dtype=torch.float64) - projector([pooled(model, ids_of(model, text)) for text in CONCEPTS])
    far = [float((out @ p).norm()) for p in masked]
    suspect = []
    for i, own in enumerate(far):
        others = far[:i] + far[i + 1 :]
        suspect.append(not others or own >= (1 + alpha) * sum(others) / len(others))
    rows = model.encoded([prompt]).tokens[0].detach().double()
    return (out @ projector(masked) @ rows.T).T, suspect


def attached(model: Diffusion, **settings: Any) -> TextEdit:
    edit = TextEdit.attach(model)
    edit.projection = Projection(CONCEPTS, **settings)
    return edit


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_suspect_tokens_move_and_no_others(model: Diffusion, alpha: float) -> None:
    plain, empty = model.embed(PROMPTS).tokens, model.embed([""]).tokens
    edit = attached(model, alpha=alpha)
    edited, seen = model.embed(PROMPTS).tokens, []
    for row, prompt in enumerate(PROMPTS):
        moved, suspect = by_hand(model, prompt, alpha)
        wanted = plain[row].double().clone()
        for i, found in enumerate(suspect):
            if found:
                wanted[1 + i] = moved[1 + i]
        torch.testing.assert_close(edited[row].double(), wanted, atol=1e-4, rtol=1e-4)
        seen += suspect
    assert 0.1 * len(seen) < sum(seen) < 0.9 * len(seen)
    assert torch.equal(model.embed([""]).tokens, empty)
    edit.scale = 0.5
    torch.testing.assert_close(model.embed(PROMPTS).tokens, (plain + edited) / 2)
    with edit.off():
        assert torch.equal(model.embed(PROMPTS).tokens, plain)
    edit.detach()
    assert torch.equal(model.embed(PROMPTS).tokens, plain)


def test_the_concept_is_encoded_once_for_all_prompts(model: Diffusion) -> None:
    """To make images four times: for the prompts, for guidance's own, and where it is asked how long the edit holds."""
    edit, concept, seen = attached(model), ids_of(model, CONCEPTS[1]), []
    handle = model.pipe.text_encoder.register_forward_pre_hook(
        lambda _, args, given: seen.append(concept in [row[1 : 1 + len(concept)] for row in args[0].tolist()]),
        with_kwargs=True,
    )
    model.embed(PROMPTS)
    assert sum(seen) == 1
    model.generate(PROMPTS, [Noise(k) for k in range(len(PROMPTS))], Sampling(steps=2))
    assert sum(seen) == 1 + 4
    handle.remove()
    edit.detach()


def beta(model: Diffusion, prompt: str) -> float:
    """1 − the mean cosine over the rows that a tokenizer's mask shows: [BOS], the tokens, [EOT]."""
    moved, n = by_hand(model, prompt, 0.01)[0], min(14, len(ids_of(model, prompt))) + 2
    rows = model.encoded([prompt]).tokens[0].detach().double()
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(moved[:n], rows[:n], strict=True)]
    return 1 - sum(cosines) / n


@pytest.mark.parametrize(("k", "t"), [(3.5, 5.5), (2.5, 5.333)], ids=["artists", "nudity"])
def test_the_last_filtered_step_is_the_released_one(model: Diffusion, k: float, t: float) -> None:
    """round(10 σ(2 k (10 β − t))) of 50 steps, i ≤ it. t is moved to where β lies here."""
    betas = [beta(model, prompt) for prompt in PROMPTS]
    t, found = t + 10 * (sum(betas) / len(betas)) - 5.5, []
    projection = Projection(CONCEPTS, slope=20 * k, midpoint=t / 10)
    for prompt, own in zip(PROMPTS, betas, strict=True):
        rows = model.encoded([prompt]).tokens[0]
        wanted = round(10 / (1 + math.exp(-2 * k * (10 * own - t))))
        asked = model, prompt, rows, projection.ends(model)
        assert projection.last_step(*asked, 50) == wanted
        assert projection.last_step(*asked, 100) in (2 * wanted - 1, 2 * wanted, 2 * wanted + 1)
        assert Projection(CONCEPTS, share=None).last_step(*asked, 50) == 49
        found.append(wanted)
    assert len(set(found)) > 2


def test_a_prompt_is_read_as_edited_in_its_steps_alone(model: Diffusion, tmp_path: Path) -> None:
    """In `generate` and in the pipeline's own call; the guidance's empty prompt stays what it is; a saved edit does the
    same; turned off, or taken off, it leaves no trace."""
    sampling, noise = Sampling(steps=8), [Noise(k) for k in range(len(PROMPTS))]
    plain, images = model.embed(PROMPTS).tokens, model.generate(PROMPTS, noise, sampling)
    empty = model.embed([""]).tokens.expand_as(plain)
    middle = sum(map(lambda prompt: beta(model, prompt), PROMPTS)) / len(PROMPTS)
    edit = attached(model, share=0.8, midpoint=middle, slope=30.0)
    edited = model.embed(PROMPTS).tokens
    assert edit.projection is not None

    def wanted(step: int, steps: int) -> Tensor:
        spans = projection.ends(model)
        last = [projection.last_step(model, p, plain[row], spans, steps) for row, p in enumerate(PROMPTS)]
        assert len(set(last)) > 2 and max(last) < steps - 1
        return torch.stack([edited[row] if step <= end else plain[row] for row, end in enumerate(last)])

    projection, read = edit.projection, list[Tensor]()

    def look(_: nn.Module, args: Any, given: dict[str, Any]) -> None:
        read.append(
            (given["encoder_hidden_states"] if given.get("encoder_hidden_states") is not None else args[2]).clone()
        )

    handle = model.unet.register_forward_pre_hook(look, with_kwargs=True)
    model.generate(PROMPTS, noise, Sampling(steps=16))
    found = model.generate(PROMPTS, noise, sampling)  # of the same list of prompts
    said = guided(model, PROMPTS, 3.0)  # what attacks sample by, times by times of their own
    t = model.pipe.scheduler.timesteps
    for k in range(7):
        said(torch.zeros(len(PROMPTS), 4, 8, 8), (t[k] + t[k + 1]) // 2)
    handle.remove()
    assert len(read) == 16 + 8 + 7 and not torch.equal(found, images)
    places = [(k, 16) for k in range(16)] + [(k, 8) for k in range(8)] + [(k + 1, 8) for k in range(7)]
    for seen, place in zip(read, places, strict=True):
        torch.testing.assert_close(seen, torch.cat([empty, wanted(*place)]), atol=1e-5, rtol=1e-4)
    own = model.pipe(
        PROMPTS,
        latents=torch.cat([model.latent(n) for n in noise]),
        num_inference_steps=8,
        guidance_scale=3.0,
        output_type="pt",
    )
    torch.testing.assert_close(own.images, found)
    with edit.off():
        assert torch.equal(model.generate(PROMPTS, noise, sampling), images)
    Stored.of(edit, {}).write(tmp_path / "adapter")
    identity = edit.sha256()
    edit.detach()
    assert torch.equal(model.generate(PROMPTS, noise, sampling), images)
    loaded = Stored.read(tmp_path / "adapter").attach(model)
    assert loaded.sha256() == identity and torch.equal(model.generate(PROMPTS, noise, sampling), found)
    loaded.detach()
    assert not model.unet._forward_pre_hooks


def test_the_phrases_of_every_request_span_the_concept(model: Diffusion, dataset: Canvas, tmp_path: Path) -> None:
    requests = [Request.of(dataset, "neon_glow", "photo"), Request.of(dataset, "house_cat", "sea_fish")]
    pairs, edit = Pairs(dataset, requests, 16, 64, 2, tmp_path), TextEdit.attach(model)
    method = Safree({"style": ["{concept}", "{concept} style"]}, alpha=0.1, share=None, slope=5.0, midpoint=0.1)
    method.suits(model, edit, pairs)
    method.prepare(model, edit, pairs)
    assert edit.projection == Projection(("neon glow", "neon glow style", "house cat"), 0.1, None, 5.0, 0.1)
