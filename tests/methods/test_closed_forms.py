"""Methods that train nothing: UCE's, RECE's and SPEED's closed forms, SEOT's edit of the prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adapting import ASKED, KEYS_AND_VALUES, ids_of
from scipy.cluster.vq import kmeans2
from torch import Tensor

from fade.adapters.lora import Lora
from fade.adapters.matrix import Matrix
from fade.adapters.patch import Patch
from fade.adapters.text import TextEdit, suppressed
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.methods.fade import Fade
from fade.methods.rece import Rece
from fade.methods.speed import Speed, allowed, centres, invariants, most_moved
from fade.methods.uce import Uce, aligned, demands, solve
from fade.models import Diffusion

# UCE


def random_contexts() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, 12, generator=generator, dtype=torch.float64) for n in (7, 3, 3, 5))  # w, c, g, p


def test_uces_closed_form_is_the_papers_sum() -> None:
    w, c, g, p = random_contexts()
    wanted, gram = 0.5 * w, 0.5 * torch.eye(12, dtype=w.dtype)
    for one, guide in zip(c, g, strict=True):
        wanted = wanted + 2.0 * torch.outer(w @ guide, one)
        gram = gram + 2.0 * torch.outer(one, one)
    for one in p:
        wanted = wanted + 3.0 * torch.outer(w @ one, one)
        gram = gram + 3.0 * torch.outer(one, one)
    torch.testing.assert_close(w + w @ solve(c, g, p, 2.0, 3.0, 0.5), wanted @ torch.inverse(gram))


def test_uce_is_the_minimum_of_its_objective_and_keeps_what_it_preserves() -> None:
    w, c, g, p = random_contexts()
    found = (w + w @ solve(c, g, p, 2.0, 3.0, 0.5)).requires_grad_()
    loss = (
        2 * (found @ c.T - w @ g.T).square().sum()
        + 3 * (found @ p.T - w @ p.T).square().sum()
        + 0.5 * (found - w).square().sum()
    )
    assert torch.autograd.grad(loss, found)[0].abs().max() < 1e-9
    sharp = w + w @ solve(c, g, p, 1.0, 1.0, 1e-9)  # without the ridge, both demands are met
    torch.testing.assert_close(sharp @ p.T, w @ p.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(sharp @ c.T, w @ g.T, atol=1e-6, rtol=0)
    apart = c - c @ torch.linalg.pinv(p) @ p  # contexts orthogonal to what is preserved: the ridge costs nothing there
    torch.testing.assert_close(w @ solve(apart, g, p, 1.0, 1.0, 0.5) @ p.T, torch.zeros(7, 5, dtype=w.dtype))


@pytest.mark.parametrize("kind", [Matrix, Patch])
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_uce_edits_every_key_and_value_by_its_captions(
    model: Diffusion, dataset: Canvas, encoded: Path, tokens: str, kind: type[Patch]
) -> None:
    request = Request.of(dataset, "neon_glow", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=encoded, template="{object} {style}")
    patch = kind.attach(model, [r"attn2\.to_[kv]\.weight"])
    before = {name: weight.detach().double() for name, weight in patch.weights().items()}

    def count(text: str) -> int:
        return min(14, len(ids_of(model, text)))

    def rows(caption: str, places: list[int]) -> Tensor:
        return model.embed([caption]).tokens[0].double()[[count(caption)] if tokens == "last" else places]

    found, guides = [], []
    n, m = count("neon glow"), count("photo")
    assert n != m
    for own, other in pairs.captions("forget"):
        a = count(own[: own.index("neon glow")])  # [BOS] at 0, then a tokens, then the style's
        there = [i if i <= a else min(i, a + m) if i <= a + n else min(i + m - n, 15) for i in range(16)]
        assert own.endswith("neon glow") and other == own.replace("neon glow", "photo") and a + m <= 14
        found.append(rows(own, list(range(16))))
        guides.append(rows(other, there))
    c, g = torch.cat(found), torch.cat(guides)
    p = torch.cat([rows(own, list(range(16))) for own, _ in pairs.captions("retain")])
    gram = 0.3 * torch.eye(32, dtype=torch.float64) + 2 * c.T @ c + 0.5 * p.T @ p
    Uce(tokens, erase=2.0, preserve=0.5, ridge=0.3).edit(model, patch, pairs)
    for name, weight in patch.weights().items():
        assert not torch.equal(weight.double(), before[name])
        w = before[name]
        wanted = (0.3 * w + 2 * (w @ g.T) @ c + 0.5 * (w @ p.T) @ p) @ torch.inverse(gram)
        torch.testing.assert_close(weight.double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("alpha", [2.0, 6.0])
def test_fade_may_start_from_what_its_masks_and_rank_hold_of_uces_form(
    model: Diffusion, dataset: Canvas, encoded: Path, alpha: float
) -> None:
    """Of the U-Net's keys and values; where else the adapter lies it starts from no change."""
    pairs = Pairs(dataset, Request.of(dataset, "neon_glow", "photo"), forget=16, retain=64, batch=2, cache=encoded)
    lora = Lora.attach(model, rank=2, alpha=alpha)
    masks = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in lora.weights().items()}
    for mask in masks.values():
        mask[::3] = True
    lora.set_masks(masks)
    Fade(start=0.5).edit(model, lora, pairs)
    n = solve(*demands(model, pairs, Uce("all").contexts), 1.0, 1.0, 0.5)
    for name, weight in lora.weights().items():
        read = name.endswith(("attn2.to_k", "attn2.to_v"))
        wanted = (weight.double() @ n * masks[name]).numpy() if read else np.zeros(weight.shape)
        u, s, v = np.linalg.svd(wanted, full_matrices=False)
        np.testing.assert_allclose(lora.delta(name).detach().numpy(), u[:, :2] * s[:2] @ v[:2], atol=1e-6)
    lora.fit(name, torch.zeros_like(weight))
    assert not lora.delta(name).any() and lora.layers[name].lora_A[lora.name].weight.any()  # and A can still learn


def test_captions_of_unequal_length_are_aligned() -> None:
    same = aligned([7, 1, 8, 9], [7, 2, 8, 9], 8)
    assert same == list(range(8))
    longer = aligned([7, 1, 8, 9], [7, 2, 3, 8, 9], 8)  # [BOS] 7 1 8 9 [EOT] . . -> [BOS] 7 2 3 8 9 [EOT] .
    assert longer == [0, 1, 2, 4, 5, 6, 7, 7]
    shorter = aligned([7, 1, 2, 8, 9], [7, 3, 8, 9], 8)
    assert shorter == [0, 1, 2, 2, 3, 4, 5, 6]
    assert aligned([7, 7], [7], 5) == [0, 1, 1, 2, 3]
    assert aligned([5, 5], [5, 5], 4) == [0, 1, 2, 3]


# RECE


def erased(w: Tensor, found: Tensor, guides: Tensor, kept: Tensor, s: tuple[float, float, float]) -> Tensor:
    """Eq. 3 of the paper, a weight and a row at a time, as the released code sums it."""
    values, gram = s[2] * w, s[2] * torch.eye(w.shape[1], dtype=w.dtype)
    for one, other in [*zip(found, guides, strict=True)]:
        values, gram = values + s[0] * torch.outer(w @ other, one), gram + s[0] * torch.outer(one, one)
    for one in kept:
        values, gram = values + s[1] * torch.outer(w @ one, one), gram + s[1] * torch.outer(one, one)
    return values @ torch.inverse(gram)


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_rece_is_uces_form_again_on_what_brings_the_concept_back(epochs: int) -> None:
    w, c, g, p = random_contexts()
    own, s = [w[:3], w[3:], 2 * w.flip(0)], (2.0, 3.0, 0.5)
    edited = [erased(one, c, g, p, s) for one in own]
    for _ in range(epochs):
        found = []
        for row in c:  # argmin_e of the sum of |W' e - W c|^2 and 0.1 |e|^2, by least squares
            left = torch.cat([*edited, 0.1**0.5 * torch.eye(12, dtype=w.dtype)])
            right = torch.cat([*(one @ row for one in own), torch.zeros(12, dtype=w.dtype)])
            found.append(torch.linalg.lstsq(left, right[:, None]).solution[:, 0])
        edited = [erased(one, torch.stack(found), g, p, s) for one in edited]
    n = Rece("last", *s, epochs=epochs, regulariser=0.1).solved(own, c, g, p)
    for one, wanted in zip(own, edited, strict=True):
        torch.testing.assert_close(one + one @ n, wanted)


def test_what_brought_the_concept_back_after_uce_says_the_surrogate_after_rece() -> None:
    """Without ridges: e = A⁻¹ c for UCE's A, W A e is W c, and W A_1 e is W A g."""
    w, c, g, p = random_contexts()
    wide, sharp = torch.cat([w, w.flip(1), w.roll(1, 1)]), {"ridge": 1e-9, "regulariser": 1e-9}
    uce, rece = (
        torch.eye(12, dtype=w.dtype) + Rece("last", 1.0, 1.0, epochs=k, **sharp).solved([wide], c, g, p) for k in (0, 1)
    )
    back = torch.linalg.solve(uce, c.T)
    assert (wide @ uce @ c.T - wide @ g.T).abs().max() < 1e-5 < (wide @ c.T - wide @ g.T).abs().max()
    torch.testing.assert_close(wide @ uce @ back, wide @ c.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(wide @ rece @ back, wide @ uce @ g.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(wide @ rece @ p.T, wide @ p.T, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [Matrix, Patch])
def test_rece_edits_every_key_and_value(model: Diffusion, pairs: Pairs, kind: type[Patch]) -> None:
    method, patch = Rece(), kind.attach(model, KEYS_AND_VALUES)
    before = {name: weight.detach().double() for name, weight in patch.weights().items()}
    n = method.solved(list(before.values()), *demands(model, pairs, method.contexts))
    method.edit(model, patch, pairs)
    for name, weight in patch.weights().items():
        assert not torch.equal(weight.double(), before[name])
        torch.testing.assert_close(weight.double(), before[name] + before[name] @ n, atol=1e-5, rtol=1e-4)


# SPEED


def test_speeds_closed_form_is_the_least_squares_solution_in_the_room_that_is_left() -> None:
    """Δ = D Bᵀ, B a basis of what is orthogonal to all that is kept: a plain ridge regression for D."""
    w, c, g, p = random_contexts()
    never = torch.randn(2, 12, generator=torch.Generator().manual_seed(1), dtype=w.dtype)
    basis = torch.linalg.svd(torch.cat([p, never])).Vh[7:].T  # (12, 5)
    left = torch.cat([c @ basis / 3**0.5, 0.7**0.5 * torch.eye(5, dtype=w.dtype)])
    right = torch.cat([(g - c) @ w.T / 3**0.5, torch.zeros(5, 7, dtype=w.dtype)])
    wanted = torch.linalg.lstsq(left, right).solution.T @ basis.T
    room = Speed(threshold=1e-6).room(p)
    found = w @ ((g - c).T @ c / 3) @ allowed(c.T @ c / 3, room, never, 0.7, 0.0)
    torch.testing.assert_close(found, wanted)
    assert (found @ torch.cat([p, never]).T).abs().max() < 1e-9 < 0.1 < (found @ c.T).abs().max()
    softly = w @ ((g - c).T @ c / 3) @ allowed(c.T @ c / 3, room, never, 0.7, 10.0)
    assert (softly @ p.T).abs().max() < 1e-9 and (softly @ never.T).abs().max() > 1e-2
    twice = torch.cat([never, never[:1]])  # no inverse: the pseudo-inverse is the same demand
    torch.testing.assert_close(w @ ((g - c).T @ c / 3) @ allowed(c.T @ c / 3, room, twice, 0.7, 0.0), wanted)


def test_speed_keeps_what_an_edit_moves_most_and_copies_of_it_along_the_direction_that_is_read_least() -> None:
    w, c, g, p = random_contexts()
    target, shift = c.T @ c / 3, (g - c).T @ c / 3
    edit = w @ shift @ torch.inverse(torch.eye(12, dtype=w.dtype) + target)
    moved = [float((edit @ row).norm()) for row in p]
    wanted = torch.stack([row for row, far in zip(p, moved, strict=True) if far > sum(moved) / 5])
    assert 0 < len(wanted) < 5 and torch.equal(most_moved(p, edit), wanted)
    generator = torch.Generator().manual_seed(0)
    found = Speed(augment=40).refined(w, p, shift, target, generator)
    assert torch.equal(found[: len(wanted)], wanted) and 0.2 < (len(found) / len(wanted) - 1) / 40 < 0.8
    least = torch.linalg.eigh(w @ w.T).eigenvectors[:, 0] @ w  # what w reads least of all that it reads
    least = least / least.norm()
    nearest = torch.cdist(
        found[:, None] - (found @ least)[:, None, None] * least, (wanted - (wanted @ least)[:, None] * least)[None]
    )
    assert nearest.amin(2).max() < 1e-9  # beside `least` each copy is its row
    steps = torch.stack([(found[len(wanted) :] - row) @ least for row in wanted])
    assert steps.abs().amin(0).std() > 0.1
    everything = Speed(augment=40, filter=False).refined(w, p, shift, target, generator)
    assert torch.equal(everything[:5], p)
    assert Speed(augment=0).refined(w, p, shift, target, generator) is p


def test_speed_never_changes_how_the_empty_caption_is_read(model: Diffusion) -> None:
    kept, empty = invariants(model), model.embed([""]).tokens[0].double()
    assert kept.shape == (4, 32) and torch.equal(kept[0], empty[0])
    torch.testing.assert_close(kept[1:], centres(empty[1:]))
    apart = torch.randn(15, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart += 20 * torch.eye(4, dtype=torch.float64)[torch.arange(15) // 5]
    wanted, _ = kmeans2(apart.numpy(), 3, minit="++", rng=0)
    torch.testing.assert_close(centres(apart).sort(0).values, torch.from_numpy(wanted).sort(0).values)


@pytest.mark.parametrize("kind", [Matrix, Patch])
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_speed_edits_values_in_the_null_space_of_its_captions(
    model: Diffusion, dataset: Canvas, encoded: Path, tokens: str, kind: type[Patch]
) -> None:
    """Without refinement one matrix serves all; the rows are the last tokens, or all but the one that begins."""
    request = Request.of(dataset, "neon_glow", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=encoded, template="{object} {style}")
    patch = kind.attach(model, [r"attn2\.to_v\.weight"])
    before = {name: weight.detach().double() for name, weight in patch.weights().items()}

    def rows(captions: list[str]) -> Tensor:
        found = model.embed(captions).tokens.double()
        last = [found[i, min(14, len(ids_of(model, caption)))] for i, caption in enumerate(captions)]
        return torch.stack(last) if tokens == "last" else found[:, 1:].flatten(0, 1)

    c, g = (rows(list(side)) for side in zip(*pairs.captions("forget"), strict=True))
    if tokens == "all":
        _, g, _ = demands(model, pairs, Speed(tokens).contexts)  # aligned, as UCE's
    p, n = rows([own for own, _ in pairs.captions("retain")]), len(pairs.captions("forget"))
    values, vectors = torch.linalg.eigh(p.T @ p / len(p))
    free = vectors[:, values < 0.05]
    basis = free @ torch.linalg.svd(invariants(model) @ free).Vh[4:].T  # of the room what the invariants do not see
    left = torch.cat([c @ basis / n**0.5, 0.5**0.5 * torch.eye(basis.shape[1], dtype=c.dtype)])
    Speed(tokens, 0.05, ridge=0.5, augment=0).edit(model, patch, pairs)
    for name, weight in patch.weights().items():
        w = before[name]
        right = torch.cat([(g - c) @ w.T / n**0.5, torch.zeros(basis.shape[1], len(w), dtype=c.dtype)])
        wanted = torch.linalg.lstsq(left, right).solution.T @ basis.T
        assert wanted.norm() > 1e-3
        torch.testing.assert_close(weight.double() - w, wanted, atol=1e-6, rtol=1e-4)


def test_speed_refines_each_value_by_itself_and_says_where_there_is_no_room(model: Diffusion, pairs: Pairs) -> None:
    patch = Patch.attach(model, [r"attn2\.to_v\.weight"])
    before = {name: weight.detach().double() for name, weight in patch.weights().items()}
    Speed("all", threshold=0.02).edit(model, patch, pairs)
    stacked = torch.cat(list(before.values()))
    moved = torch.cat([patch.weights()[name].double() - w for name, w in before.items()])
    one = torch.linalg.lstsq(stacked, moved).solution  # the one matrix that comes nearest to what was done
    assert len(stacked) > 32 and (moved - stacked @ one).norm() > 1e-3 * moved.norm() > 1e-5
    empty = invariants(model)
    for name, w in before.items():
        torch.testing.assert_close(patch.weights()[name].double() @ empty.T, w @ empty.T, atol=1e-4, rtol=0)
    patch.detach()
    patch = Matrix.attach(model, [r"attn2\.to_v\.weight"])  # one for all: refined as one
    Speed("all", threshold=0.02).edit(model, patch, pairs)
    assert patch.matrix is not None and patch.matrix.norm() > 1e-3
    assert (patch.matrix.double() @ empty.T).abs().max() < 1e-5
    with pytest.raises(BadInput, match=r"no room.*method\.threshold is 1e-30"):
        Speed("all", threshold=1e-30).edit(model, patch, pairs)


# SEOT


def test_seot_touches_only_prompts_that_name_the_concept(model: Diffusion) -> None:
    plain, empty = model.embed(ASKED).tokens, model.embed([""]).tokens
    edit = TextEdit.attach(model)
    edit.concept = "neon"
    edited = model.embed(ASKED).tokens
    assert torch.equal(edited[1], plain[1]) and torch.equal(model.embed([""]).tokens, empty)
    for row in (0, 2):
        end = len(model.token_ids([ASKED[row]])[0]) + 1
        touched = sorted({*model.token_positions(ASKED[row], "neon"), *range(end, 16)})
        others = [i for i in range(16) if i not in touched]
        assert torch.equal(edited[row, others], plain[row, others]) and len(others) > 2
        σ = torch.linalg.svdvals(plain[row, touched])
        shrunk = (σ * torch.exp(-σ)).sort(descending=True).values
        torch.testing.assert_close(torch.linalg.svdvals(edited[row, touched]), shrunk, atol=1e-4, rtol=1e-3)
    with edit.off():
        assert torch.equal(model.embed(ASKED).tokens, plain)
    with pytest.raises(BadInput, match="cannot be merged"):
        edit.merge()
    with edit.applied():
        assert torch.equal(model.embed(ASKED).tokens, edited)
    edit.detach()
    assert torch.equal(model.embed(ASKED).tokens, plain)


def test_suppression_keeps_the_singular_vectors() -> None:
    """σ̂ = σ e^{−βσ}: on rows that are orthogonal, of lengths σ, each row shrinks by itself."""
    v = torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))[0].T
    σ = torch.tensor([3.0, 1.0, 0.2])
    torch.testing.assert_close(
        suppressed(σ[:, None] * v, 0.5), torch.tensor([0.66939, 0.60653, 0.18097])[:, None] * v, atol=1e-4, rtol=1e-4
    )
