"""Where the time goes, as ratios of ways that run in turn, with exact counts; and what got slower since a stored run.

python -m benchmarks.studies.speed --out outputs/speed
python -m benchmarks.studies.speed --check docs/performance.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.report.tables import table
from benchmarks.studies import _speed as speed
from benchmarks.studies import _whole as whole
from benchmarks.studies._clock import Row
from benchmarks.studies._locating import locating_rows
from fade.console import command, one_line, without_bars
from fade.errors import BadInput, at_least
from fade.files import read_json, write_json, write_text
from fade.origin import origin

WORSE = (
    1.05  # a ratio that grew by less is noise, whatever its quartiles say: CPU clocks move with a machine's neighbours
)
PARTS: dict[str, Callable[[int], list[Row]]] = {
    "starting": lambda n: speed.start_rows(min(n, 3)),
    "step": speed.step_rows,
    "images": lambda n: speed.answer_rows(min(n, 5)),
    "forward": speed.forward_rows,
    "training": lambda n: speed.training_rows(min(n, 5)),
    "locating": lambda n: locating_rows(min(n, 5)),
    "official": lambda n: whole.official_rows(min(n, 3)),
    "dataset": lambda n: whole.dataset_rows(min(n, 5)),
    "sequence": lambda n: whole.sequence_rows(min(n, 5)),
    "sweep": lambda n: whole.sweep_rows(min(n, 2)),
    "adapter": lambda n: speed.adapter_rows(speed.embedded(), "embedded", speed.RANK, n),
    "adapter-sd15": lambda n: speed.adapter_rows(speed.large(), "Stable Diffusion 1.5's size", 4, min(n, 3)),
}
HEADER = ["", "ms CPU", "ratio", "quartiles", "n", "counts"]


def measured(parts: Sequence[str], repeats: int) -> list[Row]:
    """Part by part, each as soon as it is known."""
    rows = []
    for name in parts:
        found = PARTS[name](repeats)
        for section in sections(found):
            print(f"\n{heading(section)}\n\n{text(section)}", flush=True)
        rows += found
    return rows


def sections(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows by what they are compared in."""
    return [[row for row in rows if row.part == part] for part in dict.fromkeys(row.part for row in rows)]


def heading(rows: Sequence[Row]) -> str:
    return f"**{rows[0].part}**, against *{rows[0].of}*"


def text(rows: Sequence[Row]) -> str:
    """The rows of one part as a table."""
    lines = []
    for row in rows:
        counts = ", ".join(f"{value:g} {what}" for what, value in row.counts.items())
        quartiles = f"{row.low:.3f}-{row.high:.3f}" if row.n > 1 else ""
        lines.append([row.what, f"{row.ms:.1f}", f"{row.ratio:.3f}", quartiles, str(row.n), counts])
    return table(HEADER, lines)


def read(path: Path) -> dict[tuple[str, str], Row]:
    """A stored run. Raises BadInput for a file that is none."""
    stored = read_json(path)
    try:
        rows = [Row(**row) for row in stored["rows"]]
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path} is no run of benchmarks.studies.speed ({type(error).__name__}: {error})") from error
    return {(row.part, row.what): row for row in rows}


def slower(before: dict[tuple[str, str], Row], rows: Sequence[Row]) -> list[str]:
    """A line for each ratio whose quartiles lie above the stored ones', and for each count that grew."""
    found = []
    for row in rows:
        old = before.get((row.part, row.what))
        if old is None:
            continue
        if row.low > old.high and row.ratio > WORSE * old.ratio:
            found.append(f"{row.part}: {row.what} takes {row.ratio:.3f} of {row.of}, {old.ratio:.3f} before")
        found += [
            f"{row.part}: {row.what} takes {value:g} {what}, {old.counts[what]:g} before"
            for what, value in row.counts.items()
            if value > old.counts.get(what, value)
        ]
    return found


def page(stored: dict[str, Any]) -> str:
    """docs/performance.md of a stored run."""
    rows = [Row(**row) for row in stored["rows"]]
    versions = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
    tables = "\n\n".join(f"## {heading(one)[2:].replace('**', '')}\n\n{text(one)}" for one in sections(rows))
    return f"""# Performance

Made by `python -m benchmarks.studies.speed --out outputs/speed --docs` ({versions}). One thread of a CPU that others
used at the same time: read the ratios, not the milliseconds. Ways of one part ran in turn (A B C A B C ...) on the
CPU's clock; a ratio is the median, with quartiles, of n rounds, each to the first way of its part. Ratios under 1.02
mean nothing. Counts are exact. No GPU was lent: what a GPU would wait for is counted (tests/training/test_waiting.py),
not timed.

`python -m benchmarks.studies.speed --check docs/performance.json` measures again and names what got slower by more than
its noise, with code 1.

{tables}
"""


EDGE = "\n## Fewer steps"  # where what benchmarks.studies.edge found begins in the page


def beside(text: str) -> str:
    """What of the page is not this study's."""
    return "".join(text.partition(EDGE)[1:])


def keep(folder: Path, rows: Sequence[Row], docs: bool) -> None:
    """Write speed.json, with what it held of parts that were not measured now; docs: and the page of it."""
    path = folder / "speed.json"
    old = read(path) if path.is_file() else {}
    new = {(row.part, row.what): row for row in rows}
    fresh = {part for part, _ in new}
    whole = {key: row for key, row in old.items() if key[0] not in fresh} | new
    stored = {"rows": [row.plain() for row in whole.values()], **origin()}
    write_json(path, stored)
    if docs:
        write_json(speed.ROOT / "docs" / "performance.json", stored)
        path = speed.ROOT / "docs" / "performance.md"
        write_text(path, page(stored) + beside(path.read_text(encoding="utf-8")))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="all take some minutes")
    parser.add_argument("--repeats", type=int, default=12, help="rounds of the short parts; the long ones take fewer")
    parser.add_argument("--out", type=Path, help="folder for speed.json; what it holds of other parts stays")
    parser.add_argument("--docs", action="store_true", help="of all that --out holds, docs/performance.md and .json")
    parser.add_argument("--check", type=Path, metavar="FILE", help="a stored run: what got slower since, code 1")
    given = parser.parse_args()
    with one_line(given.out):
        at_least(2, repeats=given.repeats)
        before = read(given.check) if given.check else {}
        torch.set_num_threads(1)
        without_bars()
        rows = measured(given.parts, given.repeats)
        if given.out:
            keep(given.out, rows, given.docs)
    worse = slower(before, rows)
    print("\n".join(["", *worse]) if worse else "\nnothing got slower" if before else "")
    return int(bool(worse))


if __name__ == "__main__":
    command(main)
