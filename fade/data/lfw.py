"""Labeled Faces in the Wild: <root>/<Name>/<Name>_NNNN.jpg; original, funneled or deep-funneled."""

from __future__ import annotations

from pathlib import Path

from fade.data.dataset import Item
from fade.data.folder import Files
from fade.data.images import Left, image_files, subfolders
from fade.errors import BadInput

VARIANTS = {"original": "lfw", "funneled": "lfw_funneled", "deepfunneled": "lfw-deepfunneled"}


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
    ) -> None:
        if variant not in VARIANTS:
            raise BadInput(f"dataset.variant is {variant!r}; choose one of {', '.join(VARIANTS)}")
        base, left = Path(root), Left()
        if not base.is_dir():
            raise BadInput(f"no folder {base}; set dataset.root to where LFW lies")
        nested = [name for name in VARIANTS.values() if (base / name).is_dir()]
        if nested and VARIANTS[variant] not in nested:
            raise BadInput(f"{base} holds {', '.join(nested)} and no {VARIANTS[variant]}; set dataset.variant")
        images = base / VARIANTS[variant] if nested else base
        items: dict[tuple[str, ...], list[Item]] = {}
        for folder in subfolders(images):
            own = image_files(folder, left)
            strange = [path for path in own if not path.name.startswith(f"{folder.name}_")]
            if strange:
                left.setdefault("named after nobody", []).extend(map(str, strange))
            items[(folder.name,)] = [Item((folder.name,), k, path) for k, path in enumerate(p for p in own if p not in strange)]
        items = {concepts: group for concepts, group in items.items() if group}
        for name, check in (("people.txt", _check_people), ("pairs.txt", _check_pairs)):
            found = [place / name for place in (base, images.parent) if (place / name).is_file()]
            if found:
                check(found[0], items, left, on_bad)
        labels = [name for (name,) in items]
        super().__init__("lfw", images, items, left, {"person": labels}, template, shares=shares, least=least, on_bad=on_bad,
                         cache=cache)  # fmt: skip


def _check_pairs(file: Path, items: dict[tuple[str, ...], list[Item]], left: Left, on_bad: str) -> None:
    """Compare the images on disk with the folds' pairs: `name n m` or `name n other m`, between tabs."""
    here = {item.path.stem for group in items.values() for item in group if item.path}
    asked: set[tuple[str, str]] = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        match line.split("\t"):
            case [name, n, m] if n.isdigit() and m.isdigit():
                asked |= {(name, n), (name, m)}
            case [name, n, other, m] if n.isdigit() and m.isdigit():
                asked |= {(name, n), (other, m)}
    gone = sorted(f"{name}_{int(n):04}" for name, n in asked if (name,) in items and f"{name}_{int(n):04}" not in here)
    if gone and on_bad == "error":
        raise BadInput(
            f"{file}: {gone[0]}.jpg is not on disk ({len(gone)} such images); restore them, or set dataset.on_bad=skip"
        )
    if gone:
        left["image that pairs.txt compares, not on disk"] = gone


def _check_people(file: Path, items: dict[tuple[str, ...], list[Item]], left: Left, on_bad: str) -> None:
    """Compare the people on disk with the list: `name <tab> images` lines between counts."""
    listed: dict[str, int] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, count = line.partition("\t")
        if count.strip().isdigit():
            listed[name] = int(count)
    short = [name for (name,), group in items.items() if len(group) < listed.get(name, 0)]
    if short and on_bad == "error":
        raise BadInput(
            f"{file}: {short[0]} has {listed[short[0]]} images, {len(items[(short[0],)])} are on disk "
            f"({len(short)} such people); restore them, or set dataset.on_bad=skip"
        )
    if short:
        left["person with fewer images than people.txt lists"] = short
