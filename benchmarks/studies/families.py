"""Which concepts are look-alikes: those whose names share a word, and whether a judge's features agree.

python -m benchmarks.studies.families FOLDER      each concept's nearest neighbours; FOLDER: what task=pretrain left
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure.near import distances
from fade.console import command, one_line
from fade.data.canvas import paint
from fade.data.canvas.dataset import SEEDS
from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.styles import STYLES
from fade.data.language import related
from fade.judges import Judge


@torch.no_grad()
def neighbours(judge: Judge, images: Tensor, labels: Tensor) -> list[tuple[str, str, str]]:
    """Each label with its two nearest, by a judge's features of images (N, 3, H, W) in [0, 1]; labels (N,)."""
    features = torch.cat([judge.features(part) for part in images.split(256)])
    nearest = distances(features, labels, len(judge.labels)).argsort(1)
    return [(judge.labels[k], judge.labels[a], judge.labels[b]) for k, (a, b) in enumerate(nearest[:, :2].tolist())]


def main() -> None:
    parser = argparse.ArgumentParser(description="Print each concept's nearest neighbours in the features of a judge.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-cell", type=int, default=3)
    given = parser.parse_args()
    with one_line():
        judges = [Judge.load(given.folder / "judges" / domain) for domain in ("style", "object")]
    cells = list(product(STYLES, OBJECTS))
    pictures = [np.array(paint(s, [o], k, SEEDS["test"], 64)) for s, o in cells for k in range(given.per_cell)]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    rows = []
    for place, judge in enumerate(judges):
        labels = torch.tensor([judge.labels.index(cell[place]) for cell in cells]).repeat_interleave(given.per_cell)
        rows += neighbours(judge, images, labels)
    for concept, first, second in rows:
        print(f"{concept:<18} {first:<18} {second:<18} {'same family' if related(concept, first) else ''}")
    named = [row for row in rows if row[0] != "photo"]
    nearest, either = (sum(any(related(row[0], other) for other in row[1:k]) for row in named) for k in (2, 3))
    print(f"{nearest} of {len(named)} share a word with their nearest, {either} with one of the two (photo aside)")


if __name__ == "__main__":
    command(main)
