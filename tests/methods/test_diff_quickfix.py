"""Diff-QuickFix: the paper's sums over what the first attention reads, computed here from its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapting import ids_of
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from fade.adapters.patch import Patch
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.methods.diff_quickfix import DiffQuickFix, subject_ends
from fade.methods.esd import Esd
from fade.models import Diffusion

LAYER = r"text_encoder\.encoder\.layers\.0\.self_attn\.out_proj\.weight"
TEMPLATES = ("{object} {style}", "{style} {object}")  # a caption ends with its subject, or goes on


@torch.no_grad()
def attended(model: Diffusion, text: str) -> Tensor:
    """(L, D): the heads of the first self-attention, side by side, in double precision."""
    encoder = model.text_encoder.double()  # type: ignore[operator]
    ids = model.pipe.tokenizer([text], padding="max_length", truncation=True, return_tensors="pt").input_ids
    first, config = encoder.encoder.layers[0], encoder.config
    x = encoder.embeddings(input_ids=ids)[0]
    x = layer_norm(x, x.shape[-1:], first.layer_norm1.weight, first.layer_norm1.bias, config.layer_norm_eps)
    parts = (first.self_attn.q_proj, first.self_attn.k_proj, first.self_attn.v_proj)
    q, k, v = (linear(x, part.weight, part.bias).view(len(x), config.num_attention_heads, -1) for part in parts)
    scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones(len(x), len(x), dtype=torch.bool).triu(1), float("-inf"))
    heads = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)
    encoder.float()
    return heads


def pairs_of(dataset: Canvas, template: str, cache: Path) -> Pairs:
    request = Request.of(dataset, "neon_glow", "photo")
    return Pairs(dataset, request, forget=16, retain=64, batch=2, cache=cache, template=template)


def until(model: Diffusion, caption: str, word: str) -> int:
    """The row of the word's last token."""
    return len(ids_of(model, caption[: caption.index(word) + len(word)]))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("ends", "preserve"), [(True, 0.0), (False, 0.0), (True, 0.5)])
def test_the_edited_projection_is_the_papers_sum(
    model: Diffusion, dataset: Canvas, tmp_path: Path, template: str, ends: bool, preserve: float
) -> None:
    pairs = pairs_of(dataset, template, tmp_path)
    patch = Patch.attach(model, [LAYER])
    ((name, weight),) = patch.weights().items()
    w = weight.detach().double()
    values, gram = 0.3 * w, 0.3 * torch.eye(len(w), dtype=w.dtype)
    for own, other in pairs.captions("forget"):
        keys, guides = attended(model, own), attended(model, other)
        subject, surrogate = until(model, own, "neon glow"), until(model, other, "photo")
        assert subject != surrogate
        for i in range(16 - subject if ends else 1):
            k, v = keys[subject + i], w @ guides[min(surrogate + i, 15)]
            values, gram = values + torch.outer(v, k), gram + torch.outer(k, k)
    for own, _ in pairs.captions("retain") if preserve else []:
        for k in attended(model, own):
            values, gram = values + preserve * torch.outer(w @ k, k), gram + preserve * torch.outer(k, k)
    method = DiffQuickFix(0.3, ends, preserve)
    method.suits(model, patch, pairs)
    method.edit(model, patch, pairs)
    assert name == LAYER.replace("\\", "") and not torch.equal(weight.double(), w)
    torch.testing.assert_close(weight.double(), values @ torch.inverse(gram), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_layer_then_says_of_the_subject_what_it_said_of_the_surrogate(
    model: Diffusion, dataset: Canvas, tmp_path: Path
) -> None:
    """Its bias is added once."""
    pairs = pairs_of(dataset, TEMPLATES[0], tmp_path)
    layer = model.text_encoder.encoder.layers[0].self_attn.out_proj  # type: ignore[union-attr]
    layer.bias.normal_()
    said: list[Tensor] = []
    layer.register_forward_hook(lambda _, __, out: said.append(out[0]))
    own, other = pairs.captions("forget")[0]
    patch = Patch.attach(model, [LAYER])
    model.embed([other])
    DiffQuickFix(1e-7, ends=False).edit(model, patch, pairs)
    del said[1:]
    model.embed([own])
    wanted, found = said[0][until(model, other, "photo")], said[1][until(model, own, "neon glow")]
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_a_subject_ends_where_two_captions_differ_last() -> None:
    assert subject_ends([7, 1, 8, 9], [7, 2, 3, 8, 9]) == (2, 3)
    assert subject_ends([7, 1], [7, 2, 3]) == (2, 3)
    assert subject_ends([5, 7, 1], [7, 1]) == (1, 0)


def test_what_it_cannot_edit_is_refused(model: Diffusion, pairs: Pairs) -> None:
    for targets in ([r"text_encoder\..*mlp\.fc1\.weight"], [LAYER, r"text_encoder\..*out_proj\.bias"]):
        patch = Patch.attach(model, targets)
        with pytest.raises(BadInput, match="one output projection"):
            DiffQuickFix().suits(model, patch, pairs)
        patch.detach()
    with pytest.raises(BadInput, match="sparsity=weight has nothing to go by"):
        DiffQuickFix().check("patch", "weight", 0)
    with pytest.raises(BadInput, match=r"method\.ridge is 0"):
        DiffQuickFix(ridge=0)


def test_a_method_is_refused_the_other_part_of_the_pipeline(model: Diffusion) -> None:
    patch = Patch.attach(model, [LAYER])
    with pytest.raises(BadInput, match=r"Esd changes what denoises, and text_encoder\.encoder"):
        Esd().check_part(model, patch)
    DiffQuickFix().check_part(model, patch)
    patch.detach()
    patch = Patch.attach(model)
    with pytest.raises(BadInput, match="DiffQuickFix changes a text encoder, and down_blocks"):
        DiffQuickFix().check_part(model, patch)
