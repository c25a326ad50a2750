"""Datasets: what they draw, read, split and refuse; and files that are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fade.data.dataset import open_image
from fade.data.folder import Folder
from fade.data.imagenette import WNIDS, Imagenette
from fade.data.minicanvas import MiniCanvas, write
from fade.data.minicanvas_draw import OBJECTS, STYLES, compose, paint
from fade.errors import BadInput
from fade.files import whole, write_json
from fade.prompts import caption

REAL = Path(__file__).parents[2] / "shared" / "data"
TEMPLATE = "A {object} image in {style} style."


def test_a_drawing_is_a_function_of_its_arguments() -> None:
    for style in STYLES:
        first = paint(style, "cat", 3, 0, 64)
        assert first.tobytes() == paint(style, "cat", 3, 0, 64).tobytes()
        assert first.size == (64, 64) and first.mode == "RGB"
        assert first.tobytes() != paint(style, "cat", 4, 0, 64).tobytes()
        assert first.tobytes() != paint(style, "cat", 3, 1, 64).tobytes()


def test_styles_paint_the_same_scene_and_differ_in_colour_statistics() -> None:
    scene = compose("house", np.random.default_rng([0, list(OBJECTS).index("house"), 5]))
    again = compose("house", np.random.default_rng([0, list(OBJECTS).index("house"), 5]))
    assert all(np.array_equal(a.points, b.points) for a, b in zip(scene.parts, again.parts, strict=True))
    means = {}
    for style in STYLES:
        pixels = np.stack([np.asarray(paint(style, o, k, 0, 32), float) for o in OBJECTS for k in range(4)])
        edges = np.abs(np.diff(pixels, axis=2)).mean()
        means[style] = np.array([*pixels.mean((0, 1, 2)), pixels.std(), edges])
    for a in STYLES:
        for b in STYLES:
            assert a == b or np.abs(means[a] - means[b]).max() > 4


def test_splits_share_no_scene(dataset: MiniCanvas) -> None:
    items = {split: dataset.items(split) for split in ("train", "judge", "test")}
    assert all(len(found) == 72 * 3 for found in items.values())
    assert len({(i.concepts, i.index) for found in items.values() for i in found}) == 3 * 72 * 3
    assert dataset.images(items["train"][:2], 48).shape == (2, 3, 48, 48)


def test_written_to_disk_it_is_a_grid_that_the_loader_reads(tmp_path: Path) -> None:
    write(tmp_path / "canvas", per_cell=4, size=32, seed=0)
    grid = Folder("canvas", str(tmp_path / "canvas"), {"style": None, "object": None}, TEMPLATE)
    assert grid.domains == {"style": list(STYLES), "object": list(OBJECTS)}
    found = [item for split in ("train", "judge", "test") for item in grid.items(split)]
    assert len(found) == 72 * 4 == len({item.path for item in found})
    item = next(i for i in grid.items("train") if i.concepts == ("neon", "cat") and i.index == 0)
    drawn = np.asarray(paint("neon", "cat", 0, 0, 32), float)
    assert item.path is not None and item.path.name == "1.jpg"
    assert np.abs(np.asarray(grid.image(item, 32), float) - drawn).mean() < 6  # JPEG
    with pytest.raises(BadInput, match="exists already"):
        write(tmp_path / "canvas", per_cell=1, size=32, seed=0)


def test_captions() -> None:
    assert caption(TEMPLATE, {"style": "Van_Gogh", "object": "Dogs"}) == "A Dogs image in Van Gogh style."
    with pytest.raises(BadInput, match="fields"):
        MiniCanvas(template="A {object} image.", partials={}, train=1, judge=1, test=1)


def make_class(folder: Path, n: int) -> None:
    folder.mkdir(parents=True)
    for k in range(n):
        Image.new("L", (40, 30), 10 * k).save(folder / f"{k}.JPEG")


def test_imagenettes_layout(tmp_path: Path) -> None:
    for part, n in (("train", 4), ("val", 3)):
        for wnid in WNIDS.values():
            make_class(tmp_path / part / wnid, n)
    dataset = Imagenette(str(tmp_path), "A photo of a {object}.")
    assert (len(dataset.items("train")), len(dataset.items("test"))) == (40, 30)
    image = dataset.image(dataset.items("train")[3], 24)
    assert image.mode == "RGB" and image.size == (24, 24)  # greyscale on disk
    assert dataset.caption({"object": "golf_ball"}) == "A photo of a golf ball."
    assert dataset.surrogate("church", "object") == "French_horn"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside the repository")
def test_real_photographs() -> None:
    dataset = Imagenette(str(REAL / "imagenette"), "A photo of a {object}.")
    assert len(dataset.items("train")) + len(dataset.items("test")) == 13_394
    images = dataset.images(dataset.items("train")[::1500], 32)
    assert images.dtype == torch.uint8 and images.float().std() > 30


def test_bad_folders(tmp_path: Path) -> None:
    template = "A photo of a {object}."
    make_class(tmp_path / "a" / "cat", 5)
    make_class(tmp_path / "a" / "dog", 2)
    with pytest.raises(BadInput, match="dog holds 2 images; a class needs at least 3"):
        Folder("a", str(tmp_path / "a"), {"object": None}, template)
    (tmp_path / "a" / "dog" / "9.png").touch()
    with pytest.raises(BadInput, match=r"9\.png is empty"):
        Folder("a", str(tmp_path / "a"), {"object": None}, template)
    with pytest.raises(BadInput, match="no folder"):
        Folder("a", str(tmp_path / "b"), {"object": None}, template)
    with pytest.raises(BadInput, match="is missing: a needs a folder for owl"):
        Folder("a", str(tmp_path / "a"), {"object": ["cat", "owl"]}, template)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    with pytest.raises(BadInput, match=r"broken\.jpg: not a readable image"):
        open_image(broken, 32)
    whole_file = tmp_path / "a" / "cat" / "1.JPEG"
    broken.write_bytes(whole_file.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"broken\.jpg: not a readable image"):
        open_image(broken, 32)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError) as caught, whole(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == '{\n  "a": 1\n}\n' and list(tmp_path.iterdir()) == [path]
