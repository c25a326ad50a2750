"""A table of predictions as a file: one row an image, its cell, and what each judge reads in it. Imports no torch."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fade.files import Harmed, write_text

Row = dict[str, str]


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_rows(path: Path, rows: list[Row]) -> None:
    write_text(path, as_csv(rows))


def read_rows(path: Path) -> list[Row]:
    """Raises Harmed for a file that is no table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise Harmed(f"{path} is no table ({error})") from error
