"""SUN Attributes (Patterson and Hays, CVPR 2012): images/<letter>/<category>/*.jpg and three .mat files.

Concepts are attributes, of which an image shows several, or scene categories.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from fade.data.dataset import Item
from fade.data.folder import SHARES, Files
from fade.data.images import Left
from fade.errors import BadInput
from fade.files import content_hash

PRESENT = 2 / 3 - 1e-6  # of three votes, two


def _read_mat(folder: Path, key: str, file: str) -> np.ndarray:
    """One variable of one .mat file. Raises BadInput for a missing file or key, and for MATLAB's HDF5 format."""
    path = folder / file
    if not path.is_file():
        raise BadInput(f"no {path}; dataset.root must hold images/ and SUNAttributeDB/ with its three .mat files")
    try:
        found = loadmat(path)
    except NotImplementedError:
        raise BadInput(f"{path} is in MATLAB's v7.3 format; save it again with -v7") from None
    except (MatReadError, ValueError, OSError, TypeError) as error:
        raise BadInput(f"{path} is not a .mat file ({error})") from error
    if key not in found:
        keys = ", ".join(name for name in found if not name.startswith("__"))
        raise BadInput(f"{path} has no variable {key!r}, only {keys}")
    return found[key]


def _texts(cells: np.ndarray) -> list[str]:
    """MATLAB's cell array of strings."""
    return [str(np.ravel(cell)[0]) for cell in np.ravel(cells)]


class SUNAttributes(Files):
    """One domain: `attribute` (present where two of three annotators said so) or `scene` (the category's folders).

    With attributes an image is in the cell of each of its own, `also` names the others, and its split is a function of
    its name, so that no image is in two splits. With scenes a cell is split in order. root: the folder that holds
    images/ and a folder SUNAttributeDB*/. Listed images that are not on disk are an error, or are counted where
    on_bad=skip.
    """

    def __init__(
        self,
        root: str,
        template: str,
        concepts: str,
        least: int,
        shares: dict[str, float] | None = None,
        on_bad: str = "error",
        cache: str = "cache",
        name: str | None = None,
    ) -> None:
        if concepts not in ("attribute", "scene"):
            raise BadInput(f"dataset.concepts is {concepts!r}; choose attribute or scene")
        base, left = Path(root), Left()
        tables = [f for f in sorted(base.glob("SUNAttributeDB*")) if f.is_dir()] or [base / "SUNAttributeDB"]
        labels = [
            name.replace(" ", "_").replace("/", "-")
            for name in _texts(_read_mat(tables[0], "attributes", "attributes.mat"))
        ]
        paths = _texts(_read_mat(tables[0], "images", "images.mat"))
        votes = _read_mat(tables[0], "labels_cv", "attributeLabels_continuous.mat")
        if votes.shape != (len(paths), len(labels)):
            raise BadInput(
                f"{tables[0]}: labels_cv is {votes.shape}, for {len(paths)} images and {len(labels)} attributes"
            )
        here = [(base / "images" / path).is_file() for path in paths]
        if not all(here):
            missing = [path for path, found in zip(paths, here, strict=True) if not found]
            if on_bad == "error":
                raise BadInput(
                    f"{base / 'images'}: {len(missing)} of the {len(paths)} listed images are missing (first: "
                    f"{missing[0]}); restore them, or set dataset.on_bad=skip"
                )
            left["listed, not on disk"] = missing
        self.multilabel = concepts == "attribute"
        items: dict[tuple[str, ...], list[Item]] = {}
        for row, (path, found) in enumerate(zip(paths, here, strict=True)):
            if not found:
                continue
            file = base / "images" / path
            if file.stat().st_size == 0:
                left.setdefault("empty", []).append(str(file))
                continue
            shown = [labels[k] for k in np.flatnonzero(votes[row] >= PRESENT)]
            own = shown if self.multilabel else [scene(path)]
            for label in own:
                group = items.setdefault((label,), [])
                group.append(Item((label,), len(group), file, row, tuple(x for x in own if x != label)))
        order = (
            [label for label in labels if (label,) in items] if self.multilabel else sorted(label for (label,) in items)
        )
        super().__init__(
            name or f"sun_{concepts}s",
            base,
            items,
            left,
            {concepts: order},
            template,
            shares=shares,
            least=least,
            on_bad=on_bad,
            cache=cache,
        )

    def items(self, split: str) -> list[Item]:
        if not self.multilabel:
            return super().items(split)
        return [item for group in self.files.values() for item in group if self._split(item) == split]

    def _split(self, item: Item) -> str:
        """A function of the file's name alone."""
        assert item.path is not None
        place, edge = int(content_hash(item.path.name), 16) / 16**12, 0.0
        for split, share in (self.shares or SHARES).items():
            edge += share
            if place < edge:
                return split
        return split


def scene(path: str) -> str:
    """a/abbey/sun_x.jpg -> abbey; c/church/outdoor/sun_x.jpg -> church_outdoor."""
    return "_".join(Path(path).parts[1:-1])
