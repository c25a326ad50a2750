"""Images in folders: what all loaders of files share, and root/class/* or root/style/object/* for anybody's own."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fade.data.dataset import SPLITS, Dataset, Item
from fade.data.images import Left, image_files, open_image, subfolders, undecodable
from fade.errors import BadInput

SHARES = {"train": 0.7, "judge": 0.15, "test": 0.15}
FEW = 20  # a cell with fewer images than this is shared out evenly enough that judges see some of it
FEW_SHARES = {"train": 0.5, "judge": 0.25, "test": 0.25}


def split_sizes(n: int, shares: dict[str, float] | None) -> dict[str, int]:
    """How many of a cell's n images go to each split: one or more, the first takes what rounding leaves.

    shares: None for SHARES, or FEW_SHARES where n is below FEW.
    """
    wanted = shares or (SHARES if n >= FEW else FEW_SHARES)
    sizes = {split: max(1, round(share * n)) for split, share in wanted.items()}
    first = next(iter(sizes))
    return {**sizes, first: n - sum(sizes.values()) + sizes[first]}


def _names(given: int, files: list[str]) -> str:
    """ "3 files (a, b, ...)", as much as fits in one line."""
    return f"{given} ({', '.join(Path(f).name for f in files[:3])}{', ...' if given > 3 else ''})"


class Files(Dataset):
    """Cells with image files, which a loader has found.

    items: the images of every cell, in order. left: what the loader left out, and why. shares: fractions of a cell for
    the splits, in the order of its images; None means SHARES, and FEW_SHARES in a cell with fewer than FEW images.
    least: images that a cell needs; None means one for each split, and a cell with fewer is an error; a number means
    that one-domain classes with fewer are left out and counted.
    on_bad: `error`, empty or undecodable files end the run; `skip`, every file is decoded once and bad ones are left
    out and counted. Raises BadInput naming the first file, folder or class at fault.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        items: dict[tuple[str, ...], list[Item]],
        left: Left,
        domains: dict[str, list[str]],
        template: str,
        surrogates: dict[str, str] | None = None,
        partials: dict[str, str] | None = None,
        shares: dict[str, float] | None = None,
        least: int | None = None,
        on_bad: str = "error",
        cache: str = "cache",
    ) -> None:
        self.name, self.root, self.left, self.shares = name, root, left, shares
        if on_bad not in ("error", "skip"):
            raise BadInput(f"dataset.on_bad is {on_bad!r}; choose error (stop there) or skip (leave out and count)")
        if on_bad == "error":
            for why, files in left.items():
                if why == "empty" or why.startswith("unreadable"):
                    raise BadInput(
                        f"{files[0]} is {why} ({len(files)} such files); restore or remove it, or set "
                        f"dataset.on_bad=skip"
                    )
        else:
            items = self._without_bad(items, Path(cache))
        if least is not None and len(domains) == 1:
            (domain,) = domains
            small = [label for label in domains[domain] if len(items[(label,)]) < max(least, len(SPLITS))]
            if small:
                left[f"{domain} with fewer than {max(least, len(SPLITS))} images"] = small
            domains = {domain: [label for label in domains[domain] if label not in small]}
            if not domains[domain]:
                raise BadInput(f"{root}: no {domain} has {max(least, len(SPLITS))} images; lower dataset.least")
        super().__init__(domains, template, surrogates or {}, partials)
        self.files = {tuple(cell.values()): items.get(tuple(cell.values()), []) for cell in self.cells()}
        self._check_sizes()

    def _without_bad(self, items: dict[tuple[str, ...], list[Item]], cache: Path) -> dict[tuple[str, ...], list[Item]]:
        bad = undecodable({item.path for group in items.values() for item in group if item.path}, cache)
        if bad:
            self.left["undecodable"] = list(bad)
        return {cell: [item for item in group if str(item.path) not in bad] for cell, group in items.items()}

    def _check_sizes(self) -> None:
        for concepts, group in self.files.items():
            if len(group) < len(SPLITS):
                raise BadInput(
                    f"{self.root}: {'/'.join(concepts)} holds {len(group)} images; a class needs at least "
                    f"{len(SPLITS)}, one for each split"
                )

    def items(self, split: str) -> list[Item]:
        chosen = []
        for group in self.files.values():
            sizes = split_sizes(len(group), self.shares)
            begin = sum(sizes[name] for name in SPLITS[: SPLITS.index(split)])
            chosen += group[begin : begin + sizes[split]]
        return chosen

    def image(self, item: Item, size: int) -> Image.Image:
        assert item.path is not None
        return open_image(item.path, size)

    def summary(self) -> str:
        left = [f"{why}: {_names(len(files), files)}" for why, files in self.left.items()]
        return f"{super().summary()}{self._few()}; left out: {', '.join(left) or 'nothing'}"

    def _few(self) -> str:
        """What small cells change in the splits, to be said."""
        few = [group for group in self.files.values() if len(group) < FEW]
        if self.shares or not few or type(self).items is not Files.items:
            return ""
        sizes = split_sizes(len(min(few, key=len)), None)
        parts = ", ".join(f"{split} {n}" for split, n in sizes.items())
        return f"; {len(few)} of {len(self.files)} cells have fewer than {FEW} images (the smallest: {parts})"


class Folder(Files):
    """Cells as nested folders, one level for each domain.

    domains: labels in the judges' order; a domain given as None takes the folder names, sorted. folders: label ->
    folder name where they differ. The other options are those of Files.
    """

    def __init__(
        self,
        name: str,
        root: str,
        domains: dict[str, list[str] | None],
        template: str,
        surrogates: dict[str, str] | None = None,
        partials: dict[str, str] | None = None,
        folders: dict[str, str] | None = None,
        shares: dict[str, float] | None = None,
        least: int | None = None,
        on_bad: str = "error",
        cache: str = "cache",
    ) -> None:
        base, left = Path(root), Left()
        if not base.is_dir():
            raise BadInput(f"no folder {base}; set dataset.root to where {name} lies")
        found = {domain: labels or _level(base, depth) for depth, (domain, labels) in enumerate(domains.items())}
        items: dict[tuple[str, ...], list[Item]] = {(): []}
        for labels in found.values():
            items = {(*concepts, label): [] for concepts in items for label in labels}
        for concepts in items:
            folder = base.joinpath(*((folders or {}).get(c, c) for c in concepts))
            if not folder.is_dir():
                raise BadInput(f"{folder} is missing: {name} needs a folder for {'/'.join(concepts)}")
            items[concepts] = [Item(concepts, k, path) for k, path in enumerate(image_files(folder, left))]
        super().__init__(name, base, items, left, found, template, surrogates, partials, shares, least, on_bad, cache)


def _level(root: Path, depth: int) -> list[str]:
    """Names of the folders `depth` levels below the first, sorted. Raises BadInput where there are none."""
    folders = subfolders(root)
    for _ in range(depth):
        folders = [child for folder in folders for child in subfolders(folder)]
    found = sorted({folder.name for folder in folders})
    if not found:
        raise BadInput(f"{root} holds no class folders")
    return found
