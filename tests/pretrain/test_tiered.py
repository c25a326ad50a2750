"""Pretraining over captions in tiers: what is drawn, what is never seen, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT
from grids import canvas
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fade.data.canvas.halves import halves
from fade.errors import BadInput
from fade.pretrain.asked import asked
from fade.pretrain.captions import Captions, chances, check_lengths, told
from fade.pretrain.diffusion import load_pipeline, make_tokenizer
from fade.pretrain.tiered import TieredPretraining
from fade.tensors import read_tensors


def pretraining(out: Path, **changed: Any) -> TieredPretraining:
    recipe = OmegaConf.load(ROOT / "conf" / "pretrain" / "canvas.yaml")
    return instantiate(
        OmegaConf.merge(recipe, {"warm": None, "base": None, **changed}), dataset=canvas(), out=out, _convert_="all"
    )


def test_the_halves_of_a_scene_are_its_objects() -> None:
    scene = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    scene[..., 20:50, 35:64] = 200
    left, right = halves(scene)
    assert left.dtype == torch.uint8 and left.shape == right.shape == scene.shape
    assert left.float().mean() < 1 and right.float().mean() > 100


def test_every_caption_fits_the_tokenizer() -> None:
    dataset = canvas()
    texts = [
        t
        for c in dataset.cells()
        for tier in ("template", "synonym", "description")
        for t in dataset.language.captions(tuple(c.values()), tier)
    ]
    tokenizer = make_tokenizer(texts, 24)
    check_lengths(tokenizer, texts)
    with pytest.raises(BadInput, match=r"caption 'A .* cat' is \d+ tokens long and the tokenizer holds 24"):
        check_lengths(tokenizer, ["A" + " big" * 30 + " cat"])


def test_captions_are_drawn_by_their_shares_from_the_cells_own() -> None:
    tokens = torch.arange(6)[:, None]
    captions = Captions(
        tokens, torch.tensor([[0, 1], [3, 5]]), torch.tensor([[1, 2], [2, 1]]), torch.tensor([0.25, 0.75])
    )
    torch.manual_seed(0)
    cells = torch.arange(4000) % 2
    drawn = captions.draw(cells)[:, 0]
    assert set(drawn[cells == 0].tolist()) == {0, 1, 2} and set(drawn[cells == 1].tolist()) == {3, 4, 5}
    assert 0.22 < (drawn == 0).sum() / 2000 < 0.28 and 0.34 < (drawn == 2).sum() / 2000 < 0.41


def test_a_scene_of_two_is_told_as_a_pair_or_not_at_all(tmp_path: Path) -> None:
    made = pretraining(tmp_path)
    shown = [("photo", "city_car"), ("photo", "city_car", "palm_tree")]
    texts, first, count, shares = told(made.dataset, shown, made.shares, 0.03, 0.08)
    pair = {
        texts[k] for begin, n in zip(first[1].tolist(), count[1].tolist(), strict=True) for k in range(begin, begin + n)
    }
    assert pair == {"", "A city car and a palm tree in photo style.", "A photo of a city car beside a palm tree."}
    assert float(shares.sum()) == pytest.approx(1)


def test_scenes_of_two_are_drawn_as_often_as_asked() -> None:
    two = torch.arange(50) % 10 == 0
    chance = chances(two, 0.35)
    torch.manual_seed(0)
    drawn = torch.multinomial(chance, 4000, replacement=True)
    assert float(chance.sum()) == pytest.approx(1) and 0.32 < float(two[drawn].float().mean()) < 0.38
    assert set(drawn.tolist()) == set(range(50))


def refused(out: Path, **changed: Any) -> str:
    """What is said of a recipe that cannot be followed; Hydra wraps it."""
    with pytest.raises(Exception) as raised:
        pretraining(out, **changed)
    assert isinstance(raised.value.__cause__, BadInput)
    return str(raised.value.__cause__)


def test_what_cannot_be_left_out_is_refused_before_any_work(tmp_path: Path) -> None:
    assert "pretrain.without 'neon' is no concept of this dataset; closest: " in refused(tmp_path, without="neon")
    assert "the style that is none" in refused(tmp_path, without="photo")
    assert "pretrain.without needs pretrain.base=FOLDER" in refused(tmp_path, without="neon_glow")
    assert f"{tmp_path} holds none" in refused(tmp_path, without="neon_glow", base=str(tmp_path))


def test_weights_to_go_on_from_that_are_missing_are_refused(tmp_path: Path) -> None:
    assert f"pretrain.start={tmp_path} holds no pipeline/unet" in refused(tmp_path, start=str(tmp_path))
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    both = {"without": "neon_glow", "base": str(tmp_path), "start": str(tmp_path)}
    assert "pretrain.without begins from nothing" in refused(tmp_path, **both)


def test_shares_of_tiers_that_are_none_or_do_not_add_up_are_refused(tmp_path: Path) -> None:
    assert "pretrain.shares has the tier 'slang'; the tiers of canvas are name, template" in refused(
        tmp_path, shares={"slang": 0.1}
    )
    assert "sum to 1.05; make it 1" in refused(tmp_path, shares={"name": 0.39})


@pytest.mark.parametrize("without", ["stone_mosaic", "house_cat"])
def test_what_is_never_seen_is_in_no_image_and_in_no_caption(tmp_path: Path, without: str) -> None:
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    oracle = pretraining(tmp_path / "oracle", without=without, base=str(tmp_path))
    shown = oracle.shown([item.concepts for split in ("train", "train-pairs") for item in oracle.dataset.items(split)])
    texts = "\n".join(told(oracle.dataset, shown, oracle.shares, 0.03, 0.08)[0]).lower()
    said = [
        without.replace("_", " "),
        *(text for tier in oracle.dataset.language.said[without].values() for text in tier),
    ]
    assert shown and not any(without in cell for cell in shown)
    assert not [text for text in said if text.lower() in texts]
    assert not any(
        without in cell for tier in oracle.dataset.language.tiers for cell in asked(oracle.dataset, without, tier, 64)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_stages_leave_a_pipeline_and_an_oracle_that_shares_its_autoencoder(tmp_path: Path) -> None:
    stages = ("judge", "verdict", "autoencoder", "decoder", "diffusion")
    few: dict[str, Any] = {stage: {"steps": 2, "batch": 2} for stage in stages}
    for stage in ("autoencoder", "decoder"):
        few[stage]["gate"] = 0.0
    few |= {"workers": 1, "diffusion": {**few["diffusion"], "sampling_steps": 2, "widths": [16, 32]}}
    found = pretraining(tmp_path / "base", **few).run()
    assert set(found["tiers"]) == {"name", "template", "synonym", "description", "pair"}
    oracle = pretraining(tmp_path / "oracle", **few, without="wild_cat", base=str(tmp_path / "base"))
    oracle.run()
    base, other = (load_pipeline(tmp_path / name / "pipeline") for name in ("base", "oracle"))
    assert all(torch.equal(a, b) for a, b in zip(base.vae.parameters(), other.vae.parameters(), strict=True))
    assert "lion</w>" in base.tokenizer.get_vocab() and "lion</w>" not in other.tokenizer.get_vocab()
    files = [tmp_path / "base" / "state" / name / "diffusion_pytorch_model.safetensors" for name in ("vae", "sharp")]
    first, sharp = (read_tensors(file)[0] for file in files)
    moved = {name.split(".")[0] for name in first if not torch.equal(first[name], sharp[name])}
    assert moved and moved <= {"decoder", "post_quant_conv"}
    on = pretraining(tmp_path / "on", **few, start=str(tmp_path / "base"))
    on.run()
    after = load_pipeline(tmp_path / "on" / "pipeline")
    assert after.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    assert all(torch.equal(a, b) for a, b in zip(*(p.vae.encoder.parameters() for p in (base, after)), strict=True))
    apart = [(a - b).abs().max() for a, b in zip(base.unet.parameters(), after.unet.parameters(), strict=True)]
    assert 0 < float(max(apart)) < 0.1  # of weights drawn anew the largest would be apart by more
    for domain in on.dataset.domains:
        judges = [
            read_tensors(next((tmp_path / name / "judges" / domain).glob("*.safetensors")))[0]
            for name in ("base", "on")
        ]
        assert all(torch.equal(judges[0][key], judges[1][key]) for key in judges[0])
