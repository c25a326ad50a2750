"""Methods that train nothing: UCE's closed form, SEOT's edit of the prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapting import ASKED, ids_of
from torch import Tensor

from fade.adapters.matrix import Matrix
from fade.adapters.patch import Patch
from fade.adapters.text import TextEdit, suppressed
from fade.data.minicanvas import MiniCanvas
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.methods.uce import Uce, aligned, solve
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
    model: Diffusion, dataset: MiniCanvas, encoded: Path, tokens: str, kind: type[Patch]
) -> None:
    request = Request.of(dataset, "neon", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=encoded, template="{object} {style}")
    patch = kind.attach(model, [r"attn2\.to_[kv]\.weight"])
    before = {name: weight.detach().double() for name, weight in patch.weights().items()}

    def count(text: str) -> int:
        return min(14, len(ids_of(model, text)))

    def rows(caption: str, places: list[int]) -> Tensor:
        return model.embed([caption]).tokens[0].double()[[count(caption)] if tokens == "last" else places]

    found, guides = [], []
    n, m = count("neon"), count("photo")
    assert n != m
    for own, other in pairs.captions("forget"):
        a = count(own[: own.index("neon")])  # [BOS] at 0, then a tokens, then the style's
        there = [i if i <= a else min(i, a + m) if i <= a + n else min(i + m - n, 15) for i in range(16)]
        assert own.endswith("neon") and other == own.replace("neon", "photo") and a + m <= 14
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


def test_captions_of_unequal_length_are_aligned() -> None:
    same = aligned([7, 1, 8, 9], [7, 2, 8, 9], 8)
    assert same == list(range(8))
    longer = aligned([7, 1, 8, 9], [7, 2, 3, 8, 9], 8)  # [BOS] 7 1 8 9 [EOT] . . -> [BOS] 7 2 3 8 9 [EOT] .
    assert longer == [0, 1, 2, 4, 5, 6, 7, 7]
    shorter = aligned([7, 1, 2, 8, 9], [7, 3, 8, 9], 8)
    assert shorter == [0, 1, 2, 2, 3, 4, 5, 6]
    assert aligned([7, 7], [7], 5) == [0, 1, 1, 2, 3]
    assert aligned([5, 5], [5, 5], 4) == [0, 1, 2, 3]


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
