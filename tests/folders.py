"""Folders of images as the datasets publish them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(path: Path, shade: int = 90, mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(
        mode, (40, 30), shade if mode in ("L", "I;16") else (shade,) * len(Image.new(mode, (1, 1)).getbands())
    ).save(path, **options)
    return path


def make_class(folder: Path, n: int, suffix: str = ".JPEG") -> None:
    for k in range(n):
        picture(folder / f"{k}{suffix}", 10 * k, "L")


# --- UnlearnCanvas ----------------------------------------------------------------------------------------------------


def canvas(root: Path, styles: list[str], objects: list[str], n: int = 20) -> Path:
    for style in styles:
        for name in objects:
            make_class(root / style / name, 0)
            for k in range(1, n + 1):
                picture(root / style / name / f"{k}.jpg", 10 * k)
    return root


def sun(root: Path, drop: str | None = None, votes_key: str = "labels_cv", n: int = 6) -> Path:
    """Two categories of `n` images, one of them two levels deep; three attributes."""
    paths = [f"a/abbey/sun_{k}.jpg" for k in range(n)] + [f"c/church/outdoor/sun_{k}x.jpg" for k in range(n)]
    for path in paths:
        if path != drop:
            picture(root / "images" / path)
    votes = np.zeros((2 * n, 3))
    votes[:, 0], votes[n:, 1], votes[::2, 2] = 1.0, 2 / 3, 1 / 3  # one vote of three is not enough
    cells = [np.array([[p] for p in names], dtype=object) for names in (paths, ["open area", "man-made", "ice/snow"])]
    (root / "SUNAttributeDB").mkdir(parents=True)
    savemat(root / "SUNAttributeDB" / "images.mat", {"images": cells[0]})
    savemat(root / "SUNAttributeDB" / "attributes.mat", {"attributes": cells[1]})
    savemat(root / "SUNAttributeDB" / "attributeLabels_continuous.mat", {votes_key: votes})
    return root
