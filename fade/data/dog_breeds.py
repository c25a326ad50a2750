"""Dog breeds: AtharvaTaras' `<breed> dog/Image_N.*`, and the layout of Stanford Dogs, Images/<wnid>-<Breed>/*.jpg."""

from __future__ import annotations

import re
from pathlib import Path

from fade.data.dataset import Item
from fade.data.folder import Files
from fade.data.images import Left, image_files, subfolders
from fade.errors import BadInput

_STANFORD = re.compile(r"n\d{8}-(.+)")


def breed(folder: str) -> str:
    """A folder's label: no wnid, no trailing "dog", underscores ("kerry blue terrier dog" -> kerry_blue_terrier)."""
    match = _STANFORD.fullmatch(folder)
    name = (match[1] if match else folder).strip().replace(" ", "_")
    return name[: -len("_dog")] if name.lower().endswith("_dog") else name


class DogBreeds(Files):
    """One domain, `breed`: folders with at least `least` images. Folders without an image (`.idea`, notebooks) are no
    breeds.

    The published AtharvaTaras folder holds files that no decoder opens: on_bad=skip leaves them out and counts them.
    """

    def __init__(
        self,
        root: str,
        template: str,
        least: int,
        shares: dict[str, float] | None = None,
        on_bad: str = "error",
        cache: str = "cache",
        name: str = "dog_breeds",
    ) -> None:
        base, left = Path(root), Left()
        if not base.is_dir():
            raise BadInput(f"no folder {base}; set dataset.root to where the breeds lie")
        base = base / "Images" if (base / "Images").is_dir() else base
        items: dict[tuple[str, ...], list[Item]] = {}
        for folder in subfolders(base):
            files = image_files(folder, left)
            if not files:
                left.setdefault("folder without images", []).append(str(folder))
                continue
            label = (breed(folder.name),)
            if label in items:
                raise BadInput(f"{base}: two folders are the breed {label[0]!r} (one is {folder.name!r}); rename one")
            items[label] = [Item(label, k, path) for k, path in enumerate(files)]
        labels = [name for (name,) in items]
        super().__init__(
            name, base, items, left, {"breed": labels}, template, shares=shares, least=least, on_bad=on_bad, cache=cache
        )
