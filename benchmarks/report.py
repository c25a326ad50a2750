"""Finished runs -> one HTML page, and the tables as CSV, Markdown and LaTeX.

python -m benchmarks.report FOLDER...             writes report/ and prints the tables
python -m benchmarks.report --status FOLDER...    where the sweeps in these folders stand
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.html import write_page
from benchmarks.ledger import status
from benchmarks.tables import as_csv, as_latex, per_target, summary, table
from fade.errors import BadInput
from fade.files import read_json, write_text

FORMAT = 1  # of results.json
NEEDED = ("dataset", "target", "domain", "surrogate", "method", "protocol", "metrics", "base", "cost", "gates", "landed")


def find(folders: list[Path]) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """All results below the folders, sorted by folder; and one line for each that cannot be used. Raises BadInput where
    a folder is missing or no result is left."""
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"no folder {folder}; name folders that hold finished runs")
    found, problems = [], []
    for path in sorted({path for folder in folders for path in folder.rglob("results.json")}):
        try:
            results = read_json(path)
            if results["format"] != FORMAT:
                raise ValueError(f"format {results['format']}, this version reads {FORMAT}")
            missing = [key for key in NEEDED if key not in results]
            if missing or "ua" not in results["metrics"]:
                raise ValueError(f"no {(missing or ['metrics.ua'])[0]}")
            found.append((path.parent, results))
        except (ValueError, KeyError, TypeError, OSError) as error:
            problems.append(f"{path}: left out, no usable result ({type(error).__name__}: {error})")
    if not found:
        why = f" ({problems[0]})" if problems else ""
        raise BadInput(f"no results.json below {', '.join(map(str, folders))}; run something first{why}")
    return found, problems


def write(folders: list[Path], out: Path) -> str:
    """Write the page and the tables to `out`; return what is printed."""
    found, problems = find(folders)
    results = [r for _, r in found]
    for name, (header, rows) in (("targets", per_target(results)), ("summary", summary(results))):
        write_text(out / f"{name}.csv", as_csv(header, rows))
        write_text(out / f"{name}.md", table(header, rows) + "\n")
        write_text(out / f"{name}.tex", as_latex(header, rows))
    write_page(found, problems, out / "report.html")
    notes = "".join(f"warning: {line}\n" for line in problems)
    return (
        f"{table(*per_target(results))}\n\n{table(*summary(results))}\n\nPercent; intervals are 95 %; in the second table the "
        f"range over targets.\n{notes}{out}/: report.html, and targets and summary as .csv .md .tex"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A page and tables from the results.json files below some folders.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--status", action="store_true", help="only say where the sweeps in these folders stand")
    parser.add_argument("--out", type=Path, default=Path("report"), help="the folder to write (report)")
    given = parser.parse_args()
    try:
        print("\n\n".join(map(status, given.folders)) if given.status else write(given.folders, given.out))
    except BadInput as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
