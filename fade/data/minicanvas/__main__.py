"""python -m fade.data.minicanvas FOLDER"""

from __future__ import annotations

import argparse
from pathlib import Path

from fade.console import command, one_line
from fade.data.minicanvas import OBJECTS, STYLES, write


def main() -> None:
    parser = argparse.ArgumentParser(description="Write MiniCanvas to disk in UnlearnCanvas's layout.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-cell", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with one_line():
        write(given.folder, given.per_cell, given.size, given.seed)
    print(f"wrote {len(STYLES) * len(OBJECTS) * given.per_cell} images to {given.folder}")


if __name__ == "__main__":
    command(main)
