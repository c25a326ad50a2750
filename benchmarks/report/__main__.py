"""Finished runs -> one HTML page, the tables as CSV, Markdown and LaTeX, the figures as SVG, PDF and PNG.

python -m benchmarks.report FOLDER...             writes report/ and prints the tables
python -m benchmarks.report --status FOLDER...    where the sweeps in these folders stand
python -m benchmarks.report --wandb ENTITY/PROJECT FOLDER...    a draft of a W&B report on the runs that were synced
there
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.record.results import read
from benchmarks.record.sequences import read_sequences
from benchmarks.record.sweep import STATES, ledger
from benchmarks.report import sequences
from benchmarks.report.attacks import brought_back
from benchmarks.report.page import write_page
from benchmarks.report.tables import per_target, summary, table
from benchmarks.report.wandb import publish
from fade.console import command, one_line


def write(folders: list[Path], out: Path) -> str:
    """Write the page, the tables and the figures to `out`; return what is printed."""
    requests, quick = read_sequences(folders)
    runs, problems = read(folders, alone=not requests)
    problems += quick
    parts = {"targets": per_target(runs), "summary": summary(runs)} if runs else {}
    if (attacked := brought_back(runs)) is not None:
        parts["attacks"] = attacked
    if requests:
        parts["sequences"] = sequences.summary(requests)
    for name, part in parts.items():
        part.write(out, name)
    figures = write_page(runs, problems, out / "report.html", requests)
    for figure in figures:
        figure.save(out / "figures")
    notes = "".join(f"warning: {line}\n" for line in problems)
    shown = "\n\n".join(part.markdown() for part in parts.values())
    drawn = f"; {len(figures)} figures as .svg .pdf .png" if figures else ""
    return (
        f"{shown}\n\nPercent; intervals are 95 %, over images of the one adapter; in the summary the range over runs.\n"
        f"{notes}{out}/: report.html, and {', '.join(parts)} as .csv .md .tex{drawn}"
    )


def status(folder: Path) -> str:
    """A count of each state, then one line for each run that is not finished."""
    entries = ledger(folder)
    counts = [f"{sum(e.state == s for e in entries)} {s}" for s in STATES]
    open_ones = sorted((e for e in entries if e.state != "finished"), key=lambda e: STATES.index(e.state))
    lines = table(["state", "run", "note"], [[e.state, e.name, e.note] for e in open_ones]) if open_ones else ""
    return f"{folder}: {', '.join(counts)}\n{lines}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description="A page and tables from the results.json files below some folders.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--status", action="store_true", help="only say where the sweeps in these folders stand")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="make a W&B report there instead of a page")
    parser.add_argument("--out", type=Path, default=Path("report"), help="the folder to write (report)")
    given = parser.parse_args()
    try:
        with one_line(given.out):
            if given.status:
                print("\n\n".join(map(status, given.folders)))
            elif given.wandb:
                print(publish(read(given.folders)[0], given.wandb))
            else:
                print(write(given.folders, given.out))
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: a report needs {error.name}; pip install -e '.[bench]' brings it") from None


if __name__ == "__main__":
    command(main)
