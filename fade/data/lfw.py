"""Labeled Faces in the Wild: <root>/<Name>/<Name>_NNNN.jpg; original, funneled or deep-funneled."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from fade.data.dataset import Item
from fade.data.folder import Files
from fade.data.images import Left, image_files, subfolders
from fade.errors import BadInput

_VARIANTS = {"original": "lfw", "funneled": "lfw_funneled", "deepfunneled": "lfw-deepfunneled"}


class LFW(Files):
    """One domain, `person`: identities with at least `least` images.

    root: the folder of the names, or the one that holds lfw/, lfw_funneled/ or lfw-deepfunneled/, of which `variant`
    chooses. people.txt, where it lies beside them, says how many images each person has, and pairs.txt which ones the
    verification folds compare: what is on disk must hold them, else it is an error, or is counted where on_bad=skip.
    """

    def __init__(
        self,
        root: str,
        template: str,
        variant: str,
        least: int,
        shares: dict[str, float] | None = None,
        on_bad: str = "error",
        cache: str = "cache",
        name: str = "lfw",
    ) -> None:
        if variant not in _VARIANTS:
            raise BadInput(f"dataset.variant is {variant!r}; choose one of {', '.join(_VARIANTS)}")
        base, left = Path(root), Left()
        if not base.is_dir():
            raise BadInput(f"no folder {base}; set dataset.root to where LFW lies")
        nested = [name for name in _VARIANTS.values() if (base / name).is_dir()]
        if nested and _VARIANTS[variant] not in nested:
            raise BadInput(f"{base} holds {', '.join(nested)} and no {_VARIANTS[variant]}; set dataset.variant")
        images = base / _VARIANTS[variant] if nested else base
        items: dict[tuple[str, ...], list[Item]] = {}
        for folder in subfolders(images):
            own = image_files(folder, left)
            strange = [path for path in own if not path.name.startswith(f"{folder.name}_")]
            if strange:
                left.setdefault("named after nobody", []).extend(map(str, strange))
            items[(folder.name,)] = [
                Item((folder.name,), k, path) for k, path in enumerate(p for p in own if p not in strange)
            ]
        items = {concepts: group for concepts, group in items.items() if group}
        for listing, check in (("people.txt", _check_people), ("pairs.txt", _check_pairs)):
            found = [place / listing for place in (base, images.parent) if (place / listing).is_file()]
            if found:
                check(found[0], items, left, on_bad)
        labels = [name for (name,) in items]
        super().__init__(
            name,
            images,
            items,
            left,
            {"person": labels},
            template,
            shares=shares,
            least=least,
            on_bad=on_bad,
            cache=cache,
        )


def _lines(file: Path) -> list[str]:
    """The lines of a list in whatever encoding it was saved: UTF-8, UTF-16 with its mark, else Latin-1."""
    data = file.read_bytes()
    marked = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(marked)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return unicodedata.normalize("NFC", text).splitlines()


def _names(items: dict[tuple[str, ...], list[Item]]) -> dict[str, list[Item]]:
    """The images of each person; some file systems spell an accented letter as two."""
    return {unicodedata.normalize("NFC", name): group for (name,), group in items.items()}


def _missing(file: Path, why: str, gone: list[str], what: str, kind: str, left: Left, on_bad: str) -> None:
    """Raises BadInput for what a list names and the disk lacks, or counts it where on_bad=skip."""
    if gone and on_bad == "error":
        raise BadInput(f"{file}: {what} ({len(gone)} such {kind}); restore them, or set dataset.on_bad=skip")
    if gone:
        left[why] = gone


def _check_pairs(file: Path, items: dict[tuple[str, ...], list[Item]], left: Left, on_bad: str) -> None:
    """Compare the images on disk with the folds' pairs: `name n m` or `name n other m`, between tabs."""
    here = {f"{name}_{_number(item.path)}" for name, group in _names(items).items() for item in group if item.path}
    asked: set[tuple[str, str]] = set()
    for line in _lines(file):
        match line.split("\t"):
            case [name, n, m] if n.isdigit() and m.strip().isdigit():
                asked |= {(name, n), (name, m.strip())}
            case [name, n, other, m] if n.isdigit() and m.strip().isdigit():
                asked |= {(name, n), (other, m.strip())}
    people = _names(items)
    gone = sorted(f"{name}_{int(n):04}" for name, n in asked if name in people and f"{name}_{int(n)}" not in here)
    absent = sorted({name for name, _ in asked} - set(people))
    what = f"{gone[0]}.jpg is not on disk" if gone else ""
    _missing(file, "image that pairs.txt compares, not on disk", gone, what, "images", left, on_bad)
    what = f"{absent[0]} has no image on disk" if absent else ""
    _missing(file, "person that pairs.txt compares, not on disk", absent, what, "people", left, on_bad)


def _number(path: Path) -> int:
    """The N of Name_000N.jpg; 0 where there is none."""
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0


def _check_people(file: Path, items: dict[tuple[str, ...], list[Item]], left: Left, on_bad: str) -> None:
    """Compare the people on disk with the list: `name <tab> images` lines between counts."""
    here = _names(items)
    listed: dict[str, int] = {}
    for line in _lines(file):
        name, _, count = line.partition("\t")
        if count.strip().isdigit():
            listed[name] = int(count)
    absent = [name for name in listed if name not in here]
    short = [name for name in listed if name in here and len(here[name]) < listed[name]]
    what = f"{short[0]} has {listed[short[0]]} images, {len(here[short[0]])} are on disk" if short else ""
    _missing(file, "person with fewer images than people.txt lists", short, what, "people", left, on_bad)
    what = f"{absent[0]} has no image on disk" if absent else ""
    _missing(file, "person that people.txt lists, not on disk", absent, what, "people", left, on_bad)
