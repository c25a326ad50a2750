"""pairs.captions: training captions in other tiers than the name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from grids import canvas

from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.pretrain.diffusion import make_tokenizer


@pytest.fixture(scope="module")
def grid() -> Canvas:
    return canvas()


def made(dataset: Canvas | Canvas, cache: Path, target: str, **settings: Any) -> Pairs:
    return Pairs(dataset, Request.of(dataset, target, None), forget=16, retain=None, batch=64, cache=cache, **settings)


def test_a_caption_stands_beside_its_surrogates_in_the_same_tier_and_sentence(grid: Canvas, tmp_path: Path) -> None:
    pairs = made(grid, tmp_path, "house_cat", captions=["name", "template", "synonym"])
    said = dict(pairs.captions("forget"))
    assert said["A house cat image in photo style."] == "A sea fish image in photo style."
    assert said["Photo: a house cat."] == "Photo: a sea fish." and len(said) == 16 * (1 + 7 + 18)
    words = grid.language.said
    for own, other in said.items():
        by = next((k for k, word in enumerate(words["house_cat"]["synonym"]) if word in own), None)
        assert by is None or words["sea_fish"]["synonym"][by] in other
    assert all(own == other for own, other in pairs.captions("retain"))


def test_an_examples_captions_are_drawn_over_the_tiers_alike(
    grid: Canvas, model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = made(grid, tmp_path, "neon_glow", captions=["name", "synonym"])
    texts = [*dict.fromkeys(text for side in ("forget", "retain") for text, _ in pairs.captions(side))]
    place = {text: float(k) for k, text in enumerate(texts)}
    monkeypatch.setattr(model.pipe, "tokenizer", make_tokenizer(texts, 16))
    rows = {text: torch.full((1, 16, 1), k) for text, k in place.items()}
    monkeypatch.setattr(model, "embed", lambda prompts: Embedding(torch.cat([rows[p] for p in prompts])))
    cells = grid.cells()
    pairs._embed(model, cells)
    assert [texts[int(row)] for row in pairs.own.tokens[: len(cells), 0, 0]] == [pairs.caption(cell) for cell in cells]
    forget = torch.tensor([k for k, cell in enumerate(cells) if cell["style"] == "neon_glow"])
    row = pairs._caption_of(forget.repeat(400), torch.Generator().manual_seed(0))
    drawn = [texts[int(k)] for k in pairs.own.tokens[row, 0, 0]]
    assert 0.45 < sum("neon glow" in text for text in drawn) / len(drawn) < 0.55 and len(set(drawn)) == 16 * 19
    example = pairs._told(torch.zeros(len(row)), row)
    ids = dict(zip(texts, model.token_ids(texts), strict=True))
    for text, named, own, other in zip(
        drawn[:300], example["concept"], example["prompt"].tokens, example["surrogate"].tokens, strict=False
    ):
        said = next(w for w in ("neon glow", *grid.language.said["neon_glow"]["synonym"]) if w in text.lower())
        assert [ids[text][k - 1] for k in named.nonzero()[:, 0]] == model.token_ids([said])[0]
        assert pairs.own.tokens[0].shape == own.shape and "neon_glow" not in texts[int(other[0, 0])]


def test_one_tier_of_one_caption_draws_nothing(dataset: Canvas, tmp_path: Path) -> None:
    pairs = made(dataset, tmp_path, "neon_glow")
    pairs.rows, pairs.count = torch.arange(16)[:, None, None], torch.ones(16, 1, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    before, cells = generator.get_state(), torch.arange(5)
    assert torch.equal(pairs._caption_of(cells, generator), cells) and torch.equal(before, generator.get_state())


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        (
            ["slang"],
            r"pairs\.captions is \['slang'\]; each must be a tier of canvas, once: name, template, synonym, desc",
        ),
        (["pair"], r"\['pair'\]; each must be a tier of canvas"),
        (["name", "name"], "once"),
        ([], r"pairs\.captions is \[\]; name the tiers"),
    ],
)
def test_tiers_that_say_no_cell_are_refused(grid: Canvas, tmp_path: Path, tiers: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        made(grid, tmp_path, "neon_glow", captions=tiers)


def test_a_dataset_that_knows_no_other_words_has_the_name_alone(dataset: Canvas, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"each must be a tier of canvas, once: name$"):
        made(dataset, tmp_path, "neon_glow", captions=["name", "synonym"])
