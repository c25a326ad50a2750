"""The board: submitted results files on one static page, and what is missing or wrong in a file before it is sent.

python -m benchmarks.studies.board --out FOLDER    builds FOLDER/index.html from benchmarks/board
python -m benchmarks.studies.board --check FILE    says in one line each what keeps a file from the board
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.record.submission import Board, checked, read_board
from benchmarks.report.board import write_board
from benchmarks.studies.compare import DEVELOPMENT
from fade.console import command, one_line
from fade.errors import BadInput

HERE = Path(__file__).parents[1] / "board"


def build(folder: Path, out: Path) -> str:
    """Write the page; return what is printed. Raises BadInput where the board holds no run."""
    board = read_board(folder)
    notes = "".join(f"warning: left out: {line}\n" for line in board.left_out)
    if not board.runs:
        raise BadInput(f"no run in {folder} that the board can show{': ' if notes else ''}{'; '.join(board.left_out)}")
    write_board(board, DEVELOPMENT, out)
    targets = len({run.gone for run in board.runs.values()})
    return f"{notes}{out}/index.html: {len(board.runs)} runs of {targets} targets"


def check(folder: Path, path: Path) -> tuple[str, bool]:
    """A line for each thing that keeps a file from the board, or one that nothing does; and whether nothing does."""
    found = read_board(folder)
    others = {name: run for name, run in found.runs.items() if (folder / name).resolve() != path.resolve()}
    results, lines = checked(path, Board(others, found.tracks, []))
    if lines:
        return "\n".join(f"{path}: {line}" for line in lines), False
    said = (results[key] for key in ("method", "target", "protocol", "protocol_version"))
    return "{}: the board takes it: {}, {}, protocol {} version {}".format(path, *said), True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    doing = parser.add_mutually_exclusive_group(required=True)
    doing.add_argument("--out", type=Path, metavar="FOLDER", help="the folder to write the page to")
    doing.add_argument("--check", type=Path, metavar="FILE", help="a results.json that is to be sent")
    parser.add_argument("--board", type=Path, default=HERE, help="the folder of submitted files (benchmarks/board)")
    given = parser.parse_args()
    with one_line(given.out):
        if given.out:
            print(build(given.board, given.out))
            return 0
        said, good = check(given.board, given.check)
        print(said)
    return 0 if good else 1


if __name__ == "__main__":
    command(main)
