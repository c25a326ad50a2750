"""The grid of 16 x 16: the same bytes every time, two objects in one scene, look-alikes by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from grids import OBJECTS as OBJECTS_OF_PART
from grids import STYLES as STYLES_OF_PART
from grids import canvas
from judging import judge

from benchmarks.measure.benchmark import Benchmark, Protocol
from benchmarks.measure.judging import check_labels
from benchmarks.measure.near import look_alikes
from benchmarks.studies.families import distances
from fade.data.canvas import paint, scene_key
from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.scene import compose
from fade.data.canvas.styles import STYLES, silhouette
from fade.data.language import related
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.models import Diffusion


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


def test_families_share_a_word() -> None:
    assert related("ink_sketch", "pencil_sketch") and related("stone_house", "stone_mosaic")
    assert not related("photo", "oil_paint")


def test_the_nearest_class_is_the_one_of_the_nearest_mean() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    features = torch.tensor([[0.0, -5], [0, 5], [1, -5], [1, 5], [3, 0], [3, 0]])
    assert distances(features, labels, 3).argmin(1).tolist() == [1, 0, 1]


def test_the_surrogate_of_an_object_is_of_another_family() -> None:
    dataset = canvas()
    for name in OBJECTS:
        assert not related(name, dataset.surrogate(name, "object"))
    assert dataset.surrogate("ink_sketch", "style") == "photo" != dataset.surrogate("photo", "style")


def test_a_part_of_the_grid_has_the_same_images_in_the_grids_order() -> None:
    part = canvas(styles=["neon_glow", "photo"], objects=["wild_cat", "sea_fish", "house_cat"])
    assert part.domains == {"style": ["photo", "neon_glow"], "object": ["house_cat", "wild_cat", "sea_fish"]}
    assert part.whole == canvas().domains and len(part.items("train")) == 6
    assert len(part.items("test-pairs")) == 2 * 3 * 2
    same = next(i for i in canvas().items("test") if i.concepts == ("neon_glow", "sea_fish"))
    assert part.items("test")[-1] == same
    assert [part.surrogate(name, "object") for name in part.domains["object"]] == ["sea_fish", "sea_fish", "house_cat"]
    assert canvas(objects=["house_cat", "wild_cat"]).surrogate("wild_cat", "object") == "house_cat"  # no other family


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"styles": ["pencil_sketch", "neon_glow"]}, r"dataset\.styles leaves out photo"),
        ({"styles": ["photo", "neon"]}, r"dataset\.styles: 'neon' is no .*closest: line_print, neon_lines, neon_glow"),
        ({"styles": ["photo", "house_cat"]}, r"dataset\.styles: 'house_cat' is no concept"),
        ({"styles": ["photo"]}, r"dataset\.styles leaves photo; one is forgotten and one is kept"),
        ({"objects": []}, r"dataset\.objects leaves nothing; one is forgotten"),
    ],
)
def test_a_part_that_cannot_be_forgotten_in_is_refused(chosen: dict[str, list[str]], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        canvas(**chosen)


def test_judges_of_the_whole_grid_read_a_part_of_it(model: Diffusion, tmp_path: Path) -> None:
    """What they say outside of it is wrong; others than the whole's are refused."""
    part, whole = canvas(styles=STYLES_OF_PART, objects=OBJECTS_OF_PART), canvas().domains
    judges = {domain: judge(domain, labels) for domain, labels in whole.items()}
    judges["style"].network.get_classifier().bias.data[whole["style"].index("oil_paint")] += 100
    benchmark = Benchmark(part, judges, Protocol("p", [1], fid=[], judge_floor=0.0, tiers=[]), tmp_path)
    items = part.items("test")
    for domain, own in judges.items():
        read = own.probabilities(part.images(items, 32).float() / 255).argmax(1)
        truth = torch.tensor([whole[domain].index(item.concepts[domain == "object"]) for item in items])
        assert benchmark.accuracies[domain] == pytest.approx((read == truth).float().mean().item())
    request = Request.of(part, "neon_glow", None)
    base = benchmark.measure_base(model, "0" * 64)
    assert {row["style_predicted"] for row in base.rows} == {"oil_paint"}
    found = benchmark.score(base, request)
    assert benchmark.accuracies["style"] == found["ira"]["value"] == 0 and found["ua"]["value"] == 1
    near = look_alikes(benchmark, base, request)
    assert len(near) == 2 and {*near} < {*STYLES_OF_PART} - {"neon_glow"}
    with pytest.raises(BadInput, match="style judge's labels are not the dataset's"):
        check_labels({**judges, "style": judge("style", whole["style"][1:])}, part)
