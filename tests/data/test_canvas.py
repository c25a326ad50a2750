"""The grid of 16 x 16: the same bytes every time, two objects in one scene, look-alikes by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grids import canvas

from benchmarks.studies.families import distances
from fade.data.canvas import paint, scene_key
from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.scene import compose
from fade.data.canvas.styles import STYLES, silhouette
from fade.data.language import related


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
