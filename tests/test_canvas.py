"""The grid of 16 x 16: the same bytes every time, two objects in one scene, a language in tiers, and what it
refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fade.data.canvas import paint, scene_key
from fade.data.canvas.dataset import Canvas
from fade.data.canvas.families import distances
from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.scene import compose
from fade.data.canvas.styles import STYLES, silhouette
from fade.data.language import related
from fade.errors import BadInput
from fade.pretrain.diffusion import make_tokenizer
from fade.pretrain.tiered import Captions, TieredPretraining, check_lengths, halves

CONF = Path(__file__).parents[1] / "conf"


def source(**changed: Any) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.load(CONF / "dataset" / "canvas.yaml"))["source"]  # type: ignore[index, call-overload]
    return {**found, "train": 1, "judge": 1, "test": 1, "pairs": 1, **changed}


def canvas(**changed: Any) -> Canvas:
    return Canvas(**{key: value for key, value in source(**changed).items() if key != "_target_"})


def pretraining(dataset: Canvas, out: Path, **changed: Any) -> TieredPretraining:
    OmegaConf.register_new_resolver("shipped", lambda name: name, replace=True)
    asked = OmegaConf.merge(OmegaConf.load(CONF / "pretrain" / "canvas.yaml"), {"warm": None, **changed})
    return instantiate(asked, dataset=dataset, out=out, _convert_="all")


# the drawings


@pytest.mark.parametrize("style", STYLES)
def test_the_same_arguments_give_the_same_bytes(style: str) -> None:
    one, again, other = (paint(style, ["wild_cat"], index, 3, 32).tobytes() for index in (5, 5, 6))
    assert one == again != other


def test_every_choice_of_objects_has_scenes_of_its_own() -> None:
    keys = [scene_key([a]) for a in OBJECTS] + [scene_key([a, b]) for a in OBJECTS for b in OBJECTS]
    assert len(set(keys)) == 16 + 256


def test_two_objects_stand_side_by_side() -> None:
    for k, (one, other) in enumerate(zip(OBJECTS, reversed(OBJECTS), strict=True)):
        shape = np.asarray(silhouette(compose([OBJECTS[one], OBJECTS[other]], np.random.default_rng(k)), 64)) > 0
        assert shape[:, :29].mean() > 0.05 < shape[:, 35:].mean()


def test_the_splits_share_no_scene() -> None:
    dataset = canvas(train=3, judge=2, test=2, pairs=2)
    splits = [dataset.items(split + kind) for kind in ("", "-pairs") for split in ("train", "judge", "test")]
    assert [len(items) for items in splits] == [768, 512, 512, 7680, 7680, 7680]
    assert len({(item.concepts, item.index) for items in splits for item in items}) == sum(map(len, splits))


def test_the_halves_of_a_scene_are_its_objects() -> None:
    scene = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    scene[..., 20:50, 35:64] = 200
    left, right = halves(scene)
    assert left.dtype == torch.uint8 and left.shape == right.shape == scene.shape
    assert left.float().mean() < 1 and right.float().mean() > 100


# the language


def test_each_tier_says_the_same_in_other_words() -> None:
    language = canvas().language
    said = {tier: language.captions(("ink_sketch", "wild_cat"), tier) for tier in language.tiers if tier != "pair"}
    assert said["name"] == ["A wild cat image in ink sketch style."]
    assert len(said["template"]) >= 6 and "An ink sketch of a wild cat." in said["template"]
    assert "A lion image in pen drawing style." in said["synonym"]
    assert not any({"wild", "cat", "ink", "sketch"} & set(text.lower().split()) for text in said["description"])
    assert (
        language.captions(("photo", "city_car", "palm_tree"), "pair")[0] == "A city car and a palm tree in photo style."
    )


def test_no_description_holds_a_word_of_the_name_and_no_synonym_stands_for_two() -> None:
    said = canvas().language.said
    for concept, tiers in said.items():
        assert len(tiers["synonym"]) >= 2
        for text in tiers["description"]:
            assert not set(concept.split("_")) & set(text.split()), (concept, text)
    synonyms = [text for tiers in said.values() for text in tiers["synonym"]]
    assert len(set(synonyms)) == len(synonyms)


def test_every_caption_fits_the_tokenizer() -> None:
    dataset = canvas()
    texts = [t for c in dataset.cells() for tier in ("template", "synonym", "description")
             for t in dataset.language.captions(tuple(c.values()), tier)]  # fmt: skip
    tokenizer = make_tokenizer(texts, 24)
    check_lengths(tokenizer, texts)
    with pytest.raises(BadInput, match=r"caption 'A .* cat' is \d+ tokens long and the tokenizer holds 24"):
        check_lengths(tokenizer, ["A" + " big" * 30 + " cat"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sentences": {"template": ["A {object}."]}}, "name each one once"),
        ({"said": {"dog": {"synonym": ["hound"]}}}, "'dog', which is no concept"),
        ({"said": {"photo": {"synonym": ["snapshot"]}}}, "no synonym for ink_sketch"),
    ],
)
def test_a_language_that_cannot_be_spoken_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        canvas(**changed)


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(BadInput, match="tier 'slang' is none of this dataset's; it has name, template"):
        canvas().language.captions(("photo", "city_car"), "slang")


# families


def test_families_share_a_word() -> None:
    assert related("ink_sketch", "pencil_sketch") and related("stone_house", "stone_mosaic")
    assert not related("photo", "oil_paint")


def test_distances_between_classes_are_scaled_by_their_spread() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    features = torch.tensor([[0.0, -50], [0, 50], [1, -50], [1, 50], [3, -50], [3, 50]]) + 0.1 * torch.eye(6)[:, :2]
    assert distances(features, labels, 3).argmin(1).tolist() == [1, 0, 1]


def test_the_surrogate_of_an_object_is_of_another_family() -> None:
    dataset = canvas()
    for name in OBJECTS:
        assert not related(name, dataset.surrogate(name, "object"))
    assert dataset.surrogate("ink_sketch", "style") == "photo" != dataset.surrogate("photo", "style")


# what is drawn in training


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
    made = pretraining(canvas(), tmp_path)
    texts, first, count, shares = made.told([("photo", "city_car"), ("photo", "city_car", "palm_tree")])
    pair = {
        texts[k] for begin, n in zip(first[1].tolist(), count[1].tolist(), strict=True) for k in range(begin, begin + n)
    }
    assert pair == {"", "A city car and a palm tree in photo style.", "A photo of a city car beside a palm tree."}
    assert float(shares.sum()) == pytest.approx(1)
