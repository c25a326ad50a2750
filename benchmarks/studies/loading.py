"""How long a big folder takes to start, and whether memory stays flat while it streams.

python -m benchmarks.studies.loading --files 100000      a generated tree of that many JPEGs, removed afterwards
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from pathlib import Path

from PIL import Image

from fade.console import command
from fade.data.folder import Folder


def _tree(root: Path, files: int, classes: int) -> None:
    """`files` small JPEGs in `classes` folders."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(buffer, format="jpeg")
    for c in range(classes):
        folder = root / f"class{c:03}"
        folder.mkdir(parents=True)
        for k in range(files // classes):
            (folder / f"{k}.jpg").write_bytes(buffer.getvalue())


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Start-up time and memory of a folder of many images.")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _tree(Path(folder), given.files, given.classes)
        before, began = _memory_mb(), time.monotonic()
        dataset = Folder("big", folder, {"object": None}, "A photo of a {object}.")
        items = dataset.items("train")
        print(
            f"{dataset.summary()}\nstarted in {time.monotonic() - began:.1f} s, {_memory_mb() - before:.0f} MB for the "
            f"list"
        )
        for done in range(0, min(len(items), 20_480), 256):
            dataset.images(items[done : done + 256], 64)
            if done % 5120 == 0:
                print(f"{done + 256:6d} images read, peak memory {_memory_mb():.0f} MB")


if __name__ == "__main__":
    command(main)
