"""The answer set: cells of the grid times the seeds, as files; batched, resumable, and never scored in part."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fade.console import Stage
from fade.data.dataset import Dataset
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.files import atomic, content_hash, file_hash
from fade.models import Diffusion, Noise, Sampling

log = logging.getLogger(__name__)
# among the images: a line a batch, {"seconds": ..., "sha256": {file: ...}}, written just before its files; with "from"
# where they were taken from another answer set
MADE = ".made.jsonl"
LEVEL = 1  # of PNG: at 512 px a fifth of the time of the usual 6, and a twelfth more bytes
WRITERS = 4  # threads that encode a batch while the next one is drawn
READERS = 4  # threads that decode a chunk while the one before is judged
NOISES = {
    "seed": "one latent per seed for all cells",
    "image": "one per image",
    "grid": "one generator per seed, through the cells in grid order",
    "steps": "the same, drawn from again at every step, as the compvis samplers do whatever comes of it",
}


@dataclass(frozen=True)
class Answer:
    """One image of the answer set: its cell, its prompt, its seed, where its noise comes from, and its kind of file."""

    cell: Cell
    prompt: str
    seed: int
    noise: Noise
    suffix: str = "png"

    @property
    def file(self) -> str:
        """UnlearnCanvas's name, {style}_{object}_seed{seed}."""
        return f"{'_'.join(self.cell.values())}_seed{self.seed}.{self.suffix}"


Asked = TypeVar("Asked", bound=Answer)


def noise_of(kind: str, seed: int, index: int, steps: int = 0) -> Noise:
    """The noise of the cell `index` of the grid; steps: that its image takes. Raises BadInput for an unknown
    kind.
    """
    if kind not in NOISES:
        raise BadInput(f"protocol.noise is {kind!r}; choose {', '.join(f'{k} ({what})' for k, what in NOISES.items())}")
    return {
        "seed": Noise(seed),
        "image": Noise(seed * 1_000_003 + index),
        "grid": Noise(seed, index),
        "steps": Noise(seed, index * (1 + steps)),
    }[kind]


def kept_cells(sizes: list[int], share: float, seed: int = 0) -> list[int]:
    """Indices, in grid order, of a balanced part of a grid with `sizes` concepts in its domains.

    Every concept of the first domain keeps the same number of cells, those of the others as equal a number as can be;
    which ones is drawn from the seed. All cells where share is 1. Raises BadInput for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise BadInput(f"protocol.share is {share}; it must be above 0 and at most 1")
    rows, columns = sizes[0], int(np.prod(sizes[1:]))
    wanted = max(1, round(share * columns))
    generator = np.random.default_rng(seed)
    row_order, column_order = generator.permutation(rows), generator.permutation(columns)
    # Each row goes on where the one before stopped, so columns fill evenly.
    return sorted(
        int(row_order[row]) * columns + int(column_order[(row * wanted + k) % columns])
        for row in range(rows)
        for k in range(wanted)
    )


def answers(
    dataset: Dataset,
    prompts: list[str],
    seeds: list[int],
    noise: str,
    suffix: str = "png",
    share: float = 1.0,
    steps: int = 0,
    whole: Callable[[Cell], bool] = lambda _: False,
) -> list[Answer]:
    """The answer set, seed by seed in grid order; prompts: one for each cell; steps: that an image takes. whole:
    of which cells, that are asked whatever the share; what is asked of the others does not depend on it."""
    cells = dataset.cells()
    balanced = kept_cells([len(labels) for labels in dataset.domains.values()], share)
    kept = sorted({*balanced, *(k for k, cell in enumerate(cells) if whole(cell))})
    return [Answer(cells[k], prompts[k], seed, noise_of(noise, seed, k, steps), suffix) for seed in seeds for k in kept]


def generate(model: Diffusion, wanted: list[Answer], folder: Path, batch: int, sampling: Sampling) -> None:
    """Write the images that are not there yet, or are not what was written. A batch is made whole or not at all, so a
    resumed set equals another; what was taken from another set (shared.py) is in no batch. MADE keeps their hashes,
    and what they cost over all starts."""
    folder.mkdir(parents=True, exist_ok=True)
    refuse_strangers(wanted, folder)
    spoilt = {answer.file for answer in _harmed(wanted, folder)}
    if spoilt:
        log.warning("%s: %s not what was written there (%d in all); made again", folder, min(spoilt), len(spoilt))
    there = {a.file for a in wanted if (folder / a.file).is_file()} - spoilt
    taken = there.intersection(file for line in lines_of(folder) if line["from"] for file in line["sha256"])
    own = [answer for answer in wanted if answer.file not in taken]
    batches = [own[i : i + batch] for i in range(0, len(own), batch)]
    missing = [number for number, part in enumerate(batches) if not {a.file for a in part} <= there]
    if not missing:
        return
    stage = Stage("images", len(own), "while making images")
    made = 0
    with ThreadPoolExecutor(WRITERS) as writers:
        waiting: list[Encoded] = []
        try:
            for number in missing:
                waiting.append(_make(model, batches[number], sampling, writers))
                if len(waiting) > 1:
                    _write(waiting.pop(0), folder)
                made += len(batches[number])
                stage.done(min((number + 1) * batch, len(own)), made=made)
        finally:  # what a stop or an error leaves is whole
            for part in waiting:
                _write(part, folder)


@dataclass(frozen=True)
class Encoded:
    """A batch of images, drawn in so many seconds and being encoded."""

    seconds: float
    files: dict[str, Future[bytes]]


def _make(model: Diffusion, part: list[Answer], sampling: Sampling, writers: Executor) -> Encoded:
    """One batch, drawn; it is encoded while the next one is."""
    start = time.monotonic()
    images = model.generate([a.prompt for a in part], [a.noise for a in part], sampling)
    spent = time.monotonic() - start
    return Encoded(
        spent, {a.file: writers.submit(_encoded, image, a.suffix) for a, image in zip(part, images, strict=True)}
    )


def _write(part: Encoded, folder: Path) -> None:
    """Write one batch; what is said of it in MADE comes first."""
    pictures = {file: encoding.result() for file, encoding in part.files.items()}
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in pictures.items()}
    append(folder / MADE, {"seconds": part.seconds, "sha256": hashes})
    for file, data in pictures.items():
        with atomic(folder / file) as temporary:
            temporary.write_bytes(data)


def _encoded(image: Tensor, suffix: str) -> bytes:
    """PNG, or JPEG of quality 75 as UnlearnCanvas's scripts write."""
    picture, data = _to_picture(image), io.BytesIO()
    if suffix == "png":
        picture.save(data, format="png", compress_level=LEVEL)
    else:
        picture.save(data, format="jpeg", quality=75)
    return data.getvalue()


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON, on a line of its own even where a kill cut the last one short."""
    with path.open("a+b") as file:
        file.seek(0, 2)
        if file.tell():
            file.seek(-1, 2)
        cut = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * cut + json.dumps(line).encode() + b"\n")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of MADE that can be read; none for images of an older version or of another tool."""
    path, lines = folder / MADE, []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        with suppress(ValueError, KeyError, TypeError):  # a kill cut it short, or it was harmed
            line = json.loads(text)
            lines.append({"seconds": float(line["seconds"]), "sha256": dict(line["sha256"]), "from": line.get("from")})
    return lines


def seconds(folder: Path) -> float:
    """What the images of a folder took to make, over all starts."""
    return sum(line["seconds"] for line in lines_of(folder))


def written(folder: Path) -> dict[str, set[str]]:
    """The hashes of what was written under each name: two processes that share a cache may both have made one."""
    found: dict[str, set[str]] = {}
    for line in lines_of(folder):
        for name, digest in line["sha256"].items():
            found.setdefault(name, set()).add(digest)
    return found


def _harmed(wanted: list[Answer], folder: Path) -> list[Answer]:
    """The images that are there, and are none that was written under their name."""
    known = written(folder)
    return [
        answer
        for answer in wanted
        if answer.file in known
        and (path := folder / answer.file).is_file()
        and file_hash(path) not in known[answer.file]
    ]


def fingerprint(wanted: list[Answer], folder: Path) -> str:
    """Of all images of an answer set, byte for byte."""
    return content_hash([(answer.file, file_hash(folder / answer.file)) for answer in wanted])


def _to_picture(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to RGB."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def refuse_strangers(wanted: list[Answer], folder: Path) -> None:
    """Raises BadInput, listing them, where the folder holds files that are not of this answer set."""
    known = {answer.file for answer in wanted}
    strange = sorted(f.name for f in folder.iterdir() if f.name not in known and not f.name.startswith("."))
    if strange:
        raise BadInput(
            f"{folder} holds {len(strange)} files that are not of this answer set: {', '.join(strange[:5])}"
            f"{', ...' if len(strange) > 5 else ''}; use another folder, or the protocol that made them"
        )


def refuse_gaps(wanted: list[Answer], folder: Path) -> None:
    """Raises BadInput, listing them, where images are missing."""
    missing = [answer.file for answer in wanted if not (folder / answer.file).is_file()]
    if missing:
        raise BadInput(
            f"{folder}: {len(missing)} of {len(wanted)} images are missing: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}; nothing was scored"
        )


def refuse_harmed(wanted: list[Answer], folder: Path) -> None:
    """Raises BadInput where an image is another than the one that was written there."""
    spoilt = [answer.file for answer in _harmed(wanted, folder)]
    if spoilt:
        raise BadInput(
            f"{folder / spoilt[0]} is not the image that was written there ({len(spoilt)} in all); put it back, or "
            f"delete {folder / MADE} to score what is there"
        )


def read(part: Sequence[Answer], folder: Path) -> Tensor:
    """Images (N, 3, H, W) uint8 of a part of the answer set. Raises BadInput naming the file that cannot be read."""
    return _stacked([_decoded(folder / answer.file) for answer in part], part, folder)


def read_chunks(wanted: Sequence[Asked], folder: Path, size: int) -> Iterator[tuple[Sequence[Asked], Tensor]]:
    """`size` images at a time, as `read`; the next ones are decoded while the caller looks at these."""
    parts = [wanted[start : start + size] for start in range(0, len(wanted), size)]
    with ThreadPoolExecutor(READERS) as readers:
        coming = deque[list[Future[np.ndarray]]]()
        for number in range(len(parts) + 1):
            if number < len(parts):
                coming.append([readers.submit(_decoded, folder / answer.file) for answer in parts[number]])
            if number:
                part = parts[number - 1]
                yield part, _stacked([image.result() for image in coming.popleft()], part, folder)


def _decoded(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise BadInput(f"{path}: not a readable image ({error}); delete it and run again") from error


def _stacked(arrays: list[np.ndarray], part: Sequence[Answer], folder: Path) -> Tensor:
    first = arrays[0].shape
    for answer, array in zip(part, arrays, strict=True):
        if array.shape != first:
            raise BadInput(
                f"{folder / answer.file} is {array.shape[1]}x{array.shape[0]}, others are {first[1]}x{first[0]}; an "
                "answer set has one size"
            )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
