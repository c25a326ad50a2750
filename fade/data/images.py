"""Image files: found with a reason for each one left out, decoded to RGB whatever their kind, checked once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fade.errors import BadInput
from fade.files import content_hash, read_json, write_json

log = logging.getLogger(__name__)
_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)
Left = dict[str, list[str]]  # why -> the files and folders that a loader left out


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, hidden names left out, 2.jpg before 10.jpg. Raises BadInput where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            visible = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise BadInput(
            f"cannot read the folder {folder} ({error.strerror}); check its path and its permissions"
        ) from error
    return sorted(visible, key=lambda entry: (len(entry.name), entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is, or links to, a folder; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name."""
    return sorted(Path(entry.path) for entry in _entries(folder) if _is_folder(entry))


def image_files(folder: Path, left: Left) -> list[Path]:
    """A folder's images in natural order. What is left out goes to `left`: other files, dead links, empty files."""
    found = []
    for entry in _entries(folder):
        try:
            if entry.is_dir():
                left.setdefault("folder among the images", []).append(entry.path)
            elif Path(entry.name).suffix.lower() not in _SUFFIXES:
                left.setdefault("no image by its name", []).append(entry.path)
            elif entry.stat().st_size == 0:
                left.setdefault("empty", []).append(entry.path)
            else:
                found.append(Path(entry.path))
        except OSError as error:
            left.setdefault(f"unreadable ({error.strerror})", []).append(entry.path)
    return found


def rgb(image: Image.Image) -> Image.Image:
    """First frame, turned upright by its EXIF tag; 16-bit scaled to 8, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max()))
        image = Image.fromarray((np.clip(values / top, 0, 1) * 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def open_image(path: Path, size: int) -> Image.Image:
    """Read a file as RGB, the shorter side resized to `size`, the centre kept. Raises BadInput naming the file."""
    try:
        with Image.open(path) as file:
            return square(rgb(file), size)
    except FileNotFoundError as error:
        raise BadInput(f"{path} is gone; put it back and run the same command again") from error
    except UNREADABLE as error:
        raise BadInput(
            f"{path}: not a readable image ({error}); repair it, remove it, or set dataset.on_bad=skip"
        ) from error


def square(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size`, the centre kept."""
    short = min(image.size)
    width, height = round(image.width * size / short), round(image.height * size / short)
    image = image.resize((max(size, width), max(size, height)), Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _trouble(path: Path) -> str | None:
    try:
        with Image.open(path) as file:
            rgb(file)
    except UNREADABLE as error:
        return str(error)
    return None


def undecodable(paths: Iterable[Path], cache: Path) -> dict[str, str]:
    """Decode every file and return what fails, with the reason; the answer is kept in `cache` until a file changes."""
    paths = sorted(paths)
    stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    answer = cache / "checked" / f"{content_hash(stamps)}.json"
    if not answer.is_file():
        log.info("checking %d images, once", len(paths))
        bad, said = {}, time.monotonic()
        with ThreadPoolExecutor() as pool:
            for k, (path, why) in enumerate(zip(paths, pool.map(_trouble, paths), strict=True)):
                if why:
                    bad[str(path)] = why
                if time.monotonic() - said > 10:
                    log.info("checked %d/%d images, %d bad", k + 1, len(paths), len(bad))
                    said = time.monotonic()
        write_json(answer, bad)
    return read_json(answer)
