"""The weights of the grid of 16 x 16, as they are shipped: stock diffusers loads them, and they draw what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from grids import canvas

import fade
from fade.data.canvas.dataset import Canvas
from fade.files import read_json
from fade.judges import Judge, accuracy
from fade.pretrain.diffusion import load_pipeline

SHIPPED = Path(fade.__file__).parent / "shipped" / "canvas"


@pytest.fixture(scope="module")
def dataset() -> Canvas:
    return canvas()


def asked(dataset: Canvas, tier: str) -> tuple[list[dict[str, str]], list[str]]:
    """Every style once, with an object each, and a caption of each in a tier."""
    cells = [dict(zip(dataset.domains, pair, strict=True)) for pair in zip(*dataset.domains.values(), strict=True)]
    said = [dataset.language.captions(tuple(cell.values()), tier) for cell in cells]
    return cells, [captions[k % len(captions)] for k, captions in enumerate(said)]


@pytest.mark.parametrize("tier", ["name", "description"])
def test_the_shipped_grid_draws_what_it_is_asked(dataset: Canvas, tier: str) -> None:
    pipe, (cells, captions) = load_pipeline(SHIPPED / "pipeline"), asked(dataset, tier)
    drawn = pipe(
        captions,
        num_inference_steps=8,
        guidance_scale=4.0,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images
    for domain in dataset.domains:
        judge = Judge.load(SHIPPED / "judges" / domain)
        truth = torch.tensor([judge.labels.index(cell[domain]) for cell in cells])
        assert accuracy(judge, drawn, truth) >= 0.85, domain  # 16 images in half the steps: two may fail
        assert judge.labels == dataset.domains[domain] and (judge.accuracy or 0) > 0.99


def test_every_caption_of_the_shipped_grid_is_made_of_whole_words(dataset: Canvas) -> None:
    tokenizer = load_pipeline(SHIPPED / "pipeline").tokenizer
    texts = [t for tier in ("name", "template", "synonym", "description") for t in asked(dataset, tier)[1]]
    lengths = [len(tokenizer(text).input_ids) for text in texts]
    assert max(lengths) <= tokenizer.model_max_length
    words = [len(tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)) + 2 for text in texts]
    assert lengths == words


def test_the_shipped_numbers_are_of_every_tier(dataset: Canvas) -> None:
    said = read_json(SHIPPED / "numbers.json")
    assert set(said["tiers"]) == set(dataset.language.tiers)
