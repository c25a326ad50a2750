"""Files that a disk or a hand has harmed."""

from __future__ import annotations

from pathlib import Path


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def relabelled(path: Path) -> None:
    """One prediction, changed to another label: a well-formed table."""
    header, first, *rest = path.read_text().splitlines(keepends=True)
    values = first.split(",")
    place = header.split(",").index("style_predicted")
    values[place] = "neon_glow" if values[place] != "neon_glow" else "photo"
    path.write_text("".join([header, ",".join(values), *rest]))


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
