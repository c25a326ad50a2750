"""The loaders: every layout that users have on disk, everything a folder can hold, and 100,000 files at once."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import grids
import numpy as np
import pytest
import torch
from command import ROOT
from folders import canvas, make_class, picture, sun
from judging import judge
from PIL import Image

from benchmarks.measure.judging import check_labels
from fade.data.dataset import SPLITS, Dataset
from fade.data.dog_breeds import DogBreeds, breed
from fade.data.folder import Folder, split_sizes
from fade.data.imagenette import WNIDS, Imagenette
from fade.data.images import open_image
from fade.data.lfw import LFW
from fade.data.pairs import Pairs, Request
from fade.data.sun_attributes import SUNAttributes
from fade.data.unlearncanvas import OBJECTS, OTHER_STYLES, STYLES, UnlearnCanvas, parse_text
from fade.errors import BadInput

REAL = ROOT.parent / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside the repository")
PHOTO = "A photo of a {object}."
CANVAS = "A {object} image in {style} style."
SHARES = {"train": 0.6, "judge": 0.4}


def splits(dataset: Dataset) -> dict[str, set[str]]:
    return {split: {f"{item.path}{item.row or ''}" for item in dataset.items(split)} for split in SPLITS}


def disjoint(dataset: Dataset) -> bool:
    found = splits(dataset)
    return sum(map(len, found.values())) == len(set().union(*found.values()))


def test_unlearncanvas_names() -> None:
    assert (len(STYLES), len(OBJECTS), len({*STYLES, *OTHER_STYLES})) == (51, 20, 61)
    assert sorted(STYLES) == STYLES and sorted(OBJECTS) == OBJECTS and STYLES.index("Seed_Images") == 38
    assert parse_text("A Dogs image in Van Gogh style") == ("Van_Gogh", "Dogs")
    assert parse_text("An Architectures image in photo style.") == ("Seed_Images", "Architectures")
    with pytest.raises(BadInput, match="not of the form"):
        parse_text("a dog")


def test_unlearncanvas_folders(tmp_path: Path) -> None:
    styles, objects = ["Van_Gogh", "Seed_Images"], ["Cats", "Dogs"]
    root = canvas(tmp_path / "data", styles, objects)
    (root / "Van_Gogh" / "Cats" / "notes.txt").write_text("x")
    dataset = UnlearnCanvas(str(root), CANVAS, styles=styles, objects=objects)
    assert {split: len(items) for split, items in splits(dataset).items()} == {"train": 48, "judge": 12, "test": 20}
    assert disjoint(dataset)
    assert {int(Path(i.path).stem) for i in dataset.items("test") if i.path} == {1, 2, 3, 4, 5}
    assert dataset.surrogate("Van_Gogh", "style") == "Seed_Images"
    three = canvas(tmp_path / "three", ["Crayon", "Monet", "Seed_Images"], ["Cats"])
    several = UnlearnCanvas(str(three), CANVAS, styles=["Crayon", "Monet", "Seed_Images"], objects=["Cats"])
    assert several.surrogate("Monet", "style") == "Seed_Images"
    assert dataset.caption({"style": "Van_Gogh", "object": "Dogs"}) == "A Dogs image in Van Gogh style."
    assert "2 styles × 2 objects, 80 images (train 48, judge 12, test 20)" in dataset.summary()
    assert "no image by its name: 1 (notes.txt)" in dataset.summary()
    (root / "Seed_Images").rename(root / "Seed_Image")  # as the README spells it
    assert splits(UnlearnCanvas(str(root), CANVAS, styles=styles, objects=objects))["train"]
    with pytest.raises(BadInput, match="Abstractionism/Architectures"):
        UnlearnCanvas(str(root), CANVAS)
    (root / "Van_Gogh" / "Cats" / "1.jpg").rename(root / "Van_Gogh" / "Cats" / "first.jpg")
    with pytest.raises(BadInput, match=r"first\.jpg is not named by its index"):
        UnlearnCanvas(str(root), CANVAS, styles=styles, objects=objects)


def test_unlearncanvas_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    root = canvas(tmp_path / "folders", ["Van_Gogh", "Seed_Images"], ["Cats", "Dogs"], 20)
    for shard, (style, said) in enumerate({"Van_Gogh": "Van Gogh", "Seed_Images": "photo"}.items()):
        rows = [(name, k) for name in ("Cats", "Dogs") for k in range(1, 21)]
        images = [{"bytes": (root / style / name / f"{k}.jpg").read_bytes(), "path": None} for name, k in rows]
        table = pa.table({"image": images, "text": [f"A {name} image in {said} style" for name, _ in rows]})
        (tmp_path / "hub" / "data").mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, tmp_path / "hub" / "data" / f"train-{shard:05}.parquet", row_group_size=7)
    options = {"styles": ["Van_Gogh", "Seed_Images"], "objects": ["Cats", "Dogs"]}
    here, hub = (UnlearnCanvas(str(tmp_path / name), CANVAS, **options) for name in ("folders", "hub"))
    for split in SPLITS:
        assert torch.equal(here.images(here.items(split), 24), hub.images(hub.items(split), 24))
    assert hub.fingerprint(hub.items("test"), 24) != hub.fingerprint(hub.items("judge"), 24)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match=r"a\.parquet: cannot read the column text"):
        UnlearnCanvas(str(tmp_path / "bad"), CANVAS)


@real
def test_unlearncanvas_tiles() -> None:
    root = REAL / "unlearncanvas" / "UnlearnCanvas"
    styles = ["Crayon", "Fauvism", "Seed_Images", "Sketch", "Ukiyoe", "Van_Gogh"]
    dataset = UnlearnCanvas(str(root), CANVAS, styles=styles, objects=["Architectures", "Dogs", "Human"])
    assert dataset.images(dataset.items("test"), 64).shape == (18, 3, 64, 64)


# --- the other four ---------------------------------------------------------------------------------------------------


def test_imagenettes_layout(tmp_path: Path) -> None:
    root = tmp_path / "imagenette2-160"
    for part, n in (("train", 5), ("val", 3)):
        for wnid in WNIDS.values():
            make_class(root / part / wnid, n)
    rows = [f"train/{w}/{k}.JPEG,{'n01440764' if k == 0 else w}" for w in WNIDS.values() for k in range(5)]
    (root / "noisy_imagenette.csv").write_text("path,noisy_labels_50\n" + "\n".join(rows) + "\n")
    dataset = Imagenette(str(tmp_path), PHOTO, SHARES)  # the parent is enough
    assert {split: len(items) for split, items in splits(dataset).items()} == {"train": 30, "judge": 20, "test": 30}
    assert disjoint(dataset)
    image = dataset.image(dataset.items("train")[3], 24)
    assert image.mode == "RGB" and image.size == (24, 24)  # greyscale on disk
    assert dataset.caption({"object": "golf_ball"}) == "A photo of a golf ball."
    assert dataset.surrogate("church", "object") == "French_horn"
    mislabelled = Imagenette(str(root), PHOTO, SHARES, noisy_labels=50)
    own = [i for split in ("train", "judge") for i in mislabelled.items(split) if i.concepts == ("tench",)]
    assert len(own) == 5 + 9 and len(mislabelled.items("test")) == 30
    with pytest.raises(BadInput, match="noisy_labels is 7"):
        Imagenette(str(root), PHOTO, SHARES, noisy_labels=7)
    (root / "train" / "n03888257").rename(root / "train" / "x")
    with pytest.raises(BadInput, match="parachute's images of the train folder"):
        Imagenette(str(root), PHOTO, SHARES)


@real
def test_real_photographs() -> None:
    dataset = Imagenette(str(REAL / "imagenette"), PHOTO, SHARES)
    assert sum(len(dataset.items(split)) for split in SPLITS) == 13_394 and disjoint(dataset)
    images = dataset.images(dataset.items("train")[::1500], 32)
    assert images.dtype == torch.uint8 and images.float().std() > 30
    noisy = Imagenette(str(REAL / "imagenette"), PHOTO, SHARES, noisy_labels=50)
    changed = {i.path: i.concepts for s in ("train", "judge") for i in dataset.items(s)}
    wrong = [i for s in ("train", "judge") for i in noisy.items(s) if changed[i.path] != i.concepts]
    assert 0.4 < len(wrong) / len(changed) < 0.6


@pytest.mark.parametrize("n", [3, 4, 5, 7, 8, 19, 20, 33])
def test_every_split_of_a_cell_has_images_and_small_cells_are_shared_out_evenly(n: int) -> None:
    sizes = split_sizes(n, None)
    for given in (sizes, split_sizes(n, {"train": 0.9, "judge": 0.05, "test": 0.05})):
        assert sum(given.values()) == n and min(given.values()) >= 1
    if n == 8:
        assert sizes == {"train": 4, "judge": 2, "test": 2}
    if n == 20:
        assert sizes == {"train": 14, "judge": 3, "test": 3}


def test_a_small_grid_runs_with_the_defaults_and_says_what_they_became(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for style in ("ink", "oil"):
        for thing in ("cat", "dog"):
            make_class(tmp_path / style / thing, 8)
    dataset = Folder("grid", str(tmp_path), {"style": None, "object": None}, CANVAS)
    assert "4 of 4 cells have fewer than 20 images (the smallest: train 4, judge 2, test 2)" in dataset.summary()
    pairs = Pairs(dataset, Request.of(dataset, "ink", None), None, None, batch=2, cache=tmp_path / "cache")
    with caplog.at_level("INFO"):
        chosen = pairs.choose()
    assert {side: len(items) for side, items in chosen.items()} == {"forget": 8, "retain": 8}
    assert "8 images of the forget side, 4 a cell: the smallest has no more (pairs.forget=NUMBER)" in caplog.text
    with pytest.raises(BadInput, match=r"pairs.forget=160 needs 80 of it"):
        Pairs(dataset, Request.of(dataset, "ink", None), 160, None, batch=2, cache=tmp_path / "cache").choose()


def test_lfws_lists(tmp_path: Path) -> None:
    for k in (1, 2, 4):
        picture(tmp_path / "lfw" / "Ann_Lee" / f"Ann_Lee_{k:04}.jpg")
    options = {"template": "A photo of {person}.", "variant": "original", "least": 3}
    (tmp_path / "pairs.txt").write_text("10\t300\nAnn_Lee\t1\t2\nAnn_Lee\t4\tBob_Roe\t7\n")
    with pytest.raises(BadInput, match=r"pairs\.txt: Bob_Roe has no image on disk \(1 such people\)"):
        LFW(str(tmp_path), **options)
    assert "pairs.txt compares, not on disk: 1 (Bob_Roe)" in LFW(str(tmp_path), **options, on_bad="skip").summary()
    (tmp_path / "pairs.txt").write_text("10\t300\nAnn_Lee\t1\t2\n")
    assert LFW(str(tmp_path), **options).domains == {"person": ["Ann_Lee"]}
    (tmp_path / "pairs.txt").write_text("10\t300\nAnn_Lee\t1\t3\n")
    with pytest.raises(BadInput, match=r"pairs\.txt: Ann_Lee_0003\.jpg is not on disk \(1 such images\)"):
        LFW(str(tmp_path), **options)
    assert "pairs.txt compares, not on disk: 1" in LFW(str(tmp_path), **options, on_bad="skip").summary()
    (tmp_path / "people.txt").write_text("1\nAnn_Lee\t5\n")
    with pytest.raises(BadInput, match=r"people\.txt: Ann_Lee has 5 images, 3 are on disk"):
        LFW(str(tmp_path), **options)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_lfws_lists_name_people_that_are_not_there_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    for k in (1, 2, 3):
        picture(tmp_path / "lfw" / "Ren\u00e9_Roe" / f"Ren\u00e9_Roe_{k:04}.jpg")
    options = {"template": "A photo of {person}.", "variant": "original", "least": 3}
    (tmp_path / "people.txt").write_text("1\nRen\u00e9_Roe\t3\n", encoding=encoding)
    assert LFW(str(tmp_path), **options).domains == {"person": ["Ren\u00e9_Roe"]}
    (tmp_path / "people.txt").write_text("2\nRen\u00e9_Roe\t3\nB\u00f8_Lund\t1\n", encoding=encoding)
    with pytest.raises(BadInput, match=r"people\.txt: B\u00f8_Lund has no image on disk"):
        LFW(str(tmp_path), **options)
    assert "people.txt lists, not on disk: 1 (B\u00f8_Lund)" in LFW(str(tmp_path), **options, on_bad="skip").summary()


@real
def test_lfw() -> None:
    with pytest.raises(BadInput, match=r"people\.txt: .* has \d+ images, \d+ are on disk \(\d+ such people\)"):
        LFW(str(REAL / "lfw"), "A photo of {person}.", "deepfunneled", least=10)
    dataset = LFW(str(REAL / "lfw"), "A photo of {person}.", "deepfunneled", least=10, on_bad="skip")
    assert "Gonzalo_Sanchez_de_Lozada" in dataset.domains["person"] and "Aaron_Peirsol" not in dataset.domains["person"]
    assert dataset.caption({"person": "Gonzalo_Sanchez_de_Lozada"}) == "A photo of Gonzalo Sanchez de Lozada."
    assert disjoint(dataset) and dataset.images(dataset.items("test")[:2], 48).shape == (2, 3, 48, 48)
    assert "person with fewer than 10 images" in dataset.summary()
    with pytest.raises(BadInput, match=r"no lfw_funneled; set dataset.variant"):
        LFW(str(REAL / "lfw"), "A photo of {person}.", "funneled", least=1)


def test_dog_breeds(tmp_path: Path) -> None:
    make_class(tmp_path / "kerry blue terrier dog", 3, ".png")
    for name in ("Image_1.jpg", "Image_3.JPG", "Image_12.png"):
        picture(tmp_path / "eskimo dog" / name)
    for stray in (".idea", ".ipynb_checkpoints", "notebooks"):
        (tmp_path / stray).mkdir()
    (tmp_path / "notebooks" / "a.ipynb").write_text("{}")
    (tmp_path / "FCI Breeds.csv").write_text("x")
    (tmp_path / "kerry blue terrier dog" / "Image_7.jpg").write_bytes(b"<html>not found</html>")
    template = "A photo of a {breed} dog."
    dataset = DogBreeds(str(tmp_path), template, least=3)
    assert dataset.domains["breed"] == ["eskimo", "kerry_blue_terrier"]
    assert dataset.caption({"breed": "kerry_blue_terrier"}) == "A photo of a kerry blue terrier dog."
    with pytest.raises(BadInput, match=r"Image_7\.jpg: not a readable image .*on_bad=skip"):
        dataset.images([i for s in SPLITS for i in dataset.items(s)], 16)
    cleaned = DogBreeds(str(tmp_path), template, least=3, on_bad="skip", cache=str(tmp_path / "cache"))
    assert sum(len(cleaned.items(s)) for s in SPLITS) == 6 and "undecodable: 1 (Image_7.jpg)" in cleaned.summary()
    assert (
        breed("n02085936-Maltese_dog") == "Maltese"
        and breed("n02089078-black-and-tan_coonhound") == "black-and-tan_coonhound"
    )
    with pytest.raises(BadInput, match=r"no breed has 50 images; lower dataset.least"):
        DogBreeds(str(tmp_path), template, least=50)


@real
def test_dog_breeds_as_published() -> None:
    for root, name in (("taras_layout_fixture", "affenpinscher"), ("stanford_layout", "Mexican_hairless")):
        dataset = DogBreeds(str(REAL / "dog_breeds" / root), "A photo of a {breed} dog.", least=3)
        assert name in [*dataset.domains["breed"], *map(breed, map(str, small(dataset)))], dataset.summary()
        assert disjoint(dataset) and dataset.images(dataset.items("test"), 48).float().std() > 20


def small(dataset: DogBreeds) -> list[str]:
    return next((files for why, files in dataset.left.items() if why.startswith("breed with fewer")), [])


def test_sun_attributes(tmp_path: Path) -> None:
    root = sun(tmp_path / "sun")
    dataset = SUNAttributes(str(root), "A photo of a scene with {attribute}.", "attribute", least=3)
    assert dataset.multilabel and dataset.domains == {"attribute": ["open_area", "man-made"]}
    assert sum(len(dataset.items(s)) for s in SPLITS) == 12 + 6
    both = [i for s in SPLITS for i in dataset.items(s) if i.concepts == ("open_area",) and i.also == ("man-made",)]
    assert len(both) == 6 and disjoint(dataset)
    scenes = SUNAttributes(str(root), "A photo of a {scene}.", "scene", least=3)
    assert scenes.domains == {"scene": ["abbey", "church_outdoor"]} and not scenes.multilabel
    assert scenes.caption({"scene": "church_outdoor"}) == "A photo of a church outdoor."
    with pytest.raises(BadInput, match=r"1 of the 12 listed images are missing \(first: a/abbey/sun_3.jpg\)"):
        SUNAttributes(str(sun(tmp_path / "b", "a/abbey/sun_3.jpg")), "A {scene}.", "scene", least=3)
    with pytest.raises(BadInput, match=r"attributeLabels_continuous\.mat has no variable 'labels_cv', only votes"):
        SUNAttributes(str(sun(tmp_path / "c", votes_key="votes")), "A {scene}.", "scene", least=3)
    (root / "SUNAttributeDB" / "images.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(BadInput, match=r"images\.mat is in MATLAB's v7.3 format"):
        SUNAttributes(str(root), "A {scene}.", "scene", least=3)
    (root / "SUNAttributeDB" / "images.mat").write_text("nonsense")
    with pytest.raises(BadInput, match=r"images\.mat is not a \.mat file"):
        SUNAttributes(str(root), "A {scene}.", "scene", least=3)


@real
def test_sun_attributes_as_published() -> None:
    with pytest.raises(BadInput, match=r"of the 14317 listed images are missing"):
        SUNAttributes(str(REAL / "sun_attributes"), "A {scene}.", "scene", least=3)
    dataset = SUNAttributes(str(REAL / "sun_attributes"), "A {scene}.", "scene", least=5, on_bad="skip")
    assert "bedroom" in dataset.domains["scene"] or "mountain" in dataset.domains["scene"]
    assert dataset.images(dataset.items("train")[:2], 32).float().std() > 10
    attributes = SUNAttributes(str(REAL / "sun_attributes"), "A {attribute}.", "attribute", least=20, on_bad="skip")
    assert "natural_light" in attributes.domains["attribute"] and disjoint_images(attributes)


def disjoint_images(dataset: Dataset) -> bool:
    return all(not (splits(dataset)[a] & splits(dataset)[b]) for a in SPLITS for b in SPLITS if a < b)


# --- your own, and everything a folder can hold -----------------------------------------------------------------------


def test_a_drawn_grid_on_the_disk_is_read_by_unlearncanvas_loader(tmp_path: Path) -> None:
    grids.write(tmp_path, per_cell=20, size=16)
    dataset = UnlearnCanvas(str(tmp_path), CANVAS, styles=grids.STYLES, objects=grids.OBJECTS)
    assert len(dataset.items("test")) == 16 * 5 and dataset.whole == dataset.domains


def test_a_part_of_the_published_styles_is_read_by_the_classifiers_of_all(tmp_path: Path) -> None:
    canvas(tmp_path, ["Van_Gogh", "Seed_Images"], ["Dogs", "Cats"])
    dataset = UnlearnCanvas(str(tmp_path), CANVAS, styles=["Van_Gogh", "Seed_Images"], objects=["Dogs", "Cats"])
    assert dataset.domains["object"] == ["Dogs", "Cats"] and len(dataset.whole["style"]) == 51
    check_labels({domain: judge(domain, labels) for domain, labels in dataset.whole.items()}, dataset)


def test_bad_folders(tmp_path: Path) -> None:
    make_class(tmp_path / "a" / "cat", 5)
    make_class(tmp_path / "a" / "dog", 2)
    with pytest.raises(BadInput, match="dog holds 2 images; a class needs at least 3"):
        Folder("a", str(tmp_path / "a"), {"object": None}, PHOTO)
    assert Folder("a", str(tmp_path / "a"), {"object": None}, PHOTO, least=3).domains == {"object": ["cat"]}
    (tmp_path / "a" / "dog" / "9.png").touch()
    with pytest.raises(BadInput, match=r"9\.png is empty"):
        Folder("a", str(tmp_path / "a"), {"object": None}, PHOTO)
    with pytest.raises(BadInput, match="no folder"):
        Folder("a", str(tmp_path / "b"), {"object": None}, PHOTO)
    with pytest.raises(BadInput, match="is missing: a needs a folder for owl"):
        Folder("a", str(tmp_path / "a"), {"object": ["cat", "owl"]}, PHOTO)
    with pytest.raises(BadInput, match="on_bad is 'maybe'"):
        Folder("a", str(tmp_path / "a"), {"object": ["cat"]}, PHOTO, on_bad="maybe")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no class folders"):
        Folder("a", str(tmp_path / "empty"), {"object": None}, PHOTO)


def test_every_kind_of_image(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 40 * 30).reshape(30, 40)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "sixteen.png")
    values = np.asarray(open_image(tmp_path / "sixteen.png", 30), float)
    assert values.min() < 20 and values.max() > 235 and 110 < values.mean() < 145
    for name, mode in (("a.jpg", "CMYK"), ("b.png", "P"), ("c.png", "1"), ("d.jpg", "L"), ("e.tif", "LAB")):
        picture(tmp_path / name, 1 if mode in ("1", "P") else 90, mode)
        assert open_image(tmp_path / name, 16).mode == "RGB"
    picture(tmp_path / "clear.png", 0, "RGBA")
    assert np.asarray(open_image(tmp_path / "clear.png", 8)).min() == 255  # transparent: white
    frames = [Image.new("RGB", (20, 20), shade) for shade in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(tmp_path / "moving.gif", 8))[..., 2].max() < 10  # the first frame
    half = Image.new("RGB", (40, 20), "white")
    half.paste("black", (0, 0, 20, 20))
    tag = Image.Exif()
    tag[0x0112] = 3  # upside down
    half.save(tmp_path / "turned.jpg", exif=tag)
    assert np.asarray(open_image(tmp_path / "turned.jpg", 20)).reshape(20, 20, 3)[:, 18].mean() < 60
    wide = Image.new("RGB", (3000, 2))
    wide.save(tmp_path / "thin.png")
    assert open_image(tmp_path / "thin.png", 16).size == (16, 16)


def test_everything_a_folder_can_hold(tmp_path: Path) -> None:
    root = tmp_path / "my données v1.2"
    for name in ("größe", "with space", "a.b"):
        make_class(root / name, 4)
    good = (root / "a.b" / "1.JPEG").read_bytes()
    (root / "a.b" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (root / "a.b" / "text.jpg").write_text("not a picture")
    (root / "a.b" / "zero.png").touch()
    (root / "a.b" / "loop.jpg").symlink_to("loop.jpg")
    (root / "circle").symlink_to("circle")
    (root / "a.b" / "inner").symlink_to(root, target_is_directory=True)
    (root / "a.b" / ".hidden.jpg").write_text("x")
    options = {"template": PHOTO, "domains": {"object": None}, "cache": str(tmp_path / "cache")}
    with pytest.raises(BadInput, match=r"loop\.jpg is unreadable|zero\.png is empty"):
        Folder("own", str(root), **options)
    dataset = Folder("own", str(root), on_bad="skip", **options)
    assert dataset.domains == {"object": ["a.b", "größe", "with space"]}
    assert sum(len(dataset.items(s)) for s in SPLITS) == 12
    for said in ("empty: 1 (zero.png)", "undecodable: 2 (cut.jpg, text.jpg)", "(loop.jpg)"):
        assert said in dataset.summary(), dataset.summary()
    assert dataset.summary() == Folder("own", str(root), on_bad="skip", **options).summary()
    for name, why in (("cut.jpg", "[Tt]runcated|broken"), ("text.jpg", "cannot identify")):
        with pytest.raises(BadInput, match=rf"{re.escape(name)}: not a readable image .*({why})"):
            open_image(root / "a.b" / name, 16)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    make_class(tmp_path / "a" / "cat", 3)
    (tmp_path / "a" / "cat").chmod(0)
    with pytest.raises(BadInput, match=r"cannot read the folder .*cat .*permissions"):
        Folder("a", str(tmp_path / "a"), {"object": None}, PHOTO)
    (tmp_path / "a" / "cat").chmod(0o700)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_class(tmp_path / "a" / "cat", 3)

    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("fade.data.images.os.scandir", refuse)
    with pytest.raises(BadInput, match=r"cannot read the folder .*Permission denied"):
        Folder("a", str(tmp_path / "a"), {"object": None}, PHOTO)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Reading a thousand images takes as much as a hundred (python -m benchmarks.studies.loading measures 100,000)."""
    make_class(tmp_path / "a" / "cat", 25, ".png")
    dataset = Folder("a", str(tmp_path / "a"), {"object": None}, PHOTO)
    items = [item for split in SPLITS for item in dataset.items(split)]
    dataset.images(items * 4, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10):
        dataset.images(items * 4, 64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB


def test_what_shows_the_target_too_is_no_example_of_what_is_to_stay(tmp_path: Path) -> None:
    root = sun(tmp_path / "sun", n=30)
    dataset = SUNAttributes(str(root), "A photo of a scene with {attribute}.", "attribute", least=3)
    request = Request.of(dataset, "man-made", None)
    chosen = Pairs(dataset, request, forget=4, retain=None, batch=1, cache=tmp_path).choose()  # of the retain side all
    assert all("church" in str(item.path) for item in chosen["forget"])
    assert all("abbey" in str(item.path) and "man-made" not in item.also for item in chosen["retain"])
