"""The answer set: every cell of the grid times the seeds, as files; batched and resumable."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fade.data.dataset import Dataset
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.files import whole
from fade.prompts import Cell

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One image of the answer set: its cell, its prompt, its seed, and the seed its starting noise is drawn from."""

    cell: Cell
    prompt: str
    seed: int
    noise: int

    @property
    def file(self) -> str:
        """UnlearnCanvas's name, {style}_{object}_seed{seed}, as a lossless PNG."""
        return f"{'_'.join(self.cell.values())}_seed{self.seed}.png"


def answers(dataset: Dataset, seeds: list[int], noise: str) -> list[Answer]:
    """The answer set in grid order. noise: `seed`, one fixed latent per seed for all cells, or `image`, one per image."""
    if noise not in ("seed", "image"):
        raise BadInput(f"protocol.noise is {noise!r}; choose seed (one latent per seed for all cells) or image (one per image)")
    cells = dataset.cells()
    return [
        Answer(cell, dataset.caption(cell), seed, seed if noise == "seed" else seed * 1_000_003 + k)
        for seed in seeds
        for k, cell in enumerate(cells)
    ]


def generate(model: Diffusion, wanted: list[Answer], folder: Path, batch: int) -> None:
    """Write the images that are not there yet. A batch is made whole or not at all, so a resumed set equals another."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {answer.file for answer in wanted}
    strange = sorted(f.name for f in folder.iterdir() if f.name not in known and not f.name.startswith("."))
    if strange:
        raise BadInput(
            f"{folder} holds {len(strange)} files that are not of this answer set (first: {strange[0]}); use another folder"
        )
    batches = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
    for number, part in enumerate(batches):
        if all((folder / answer.file).is_file() for answer in part):
            continue
        images = model.generate([a.prompt for a in part], [a.noise for a in part])
        for answer, image in zip(part, images, strict=True):
            with whole(folder / answer.file) as temporary:
                to_picture(image).save(temporary, format="png")
        log.info("images: %d/%d", min((number + 1) * batch, len(wanted)), len(wanted))


def to_picture(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to RGB."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def read(wanted: list[Answer], folder: Path) -> Tensor:
    """The whole answer set (N, 3, H, W) uint8. Raises BadInput, naming files, where one is missing or unreadable."""
    missing = [answer.file for answer in wanted if not (folder / answer.file).is_file()]
    if missing:
        raise BadInput(
            f"{folder}: {len(missing)} of {len(wanted)} images are missing (first: {missing[0]}); nothing was scored"
        )
    arrays = []
    for answer in wanted:
        try:
            with Image.open(folder / answer.file) as file:
                arrays.append(np.asarray(file.convert("RGB")))
        except (OSError, SyntaxError) as error:
            raise BadInput(f"{folder / answer.file}: not a readable image ({error}); delete it and run again") from error
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
