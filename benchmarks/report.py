"""Finished runs -> one HTML page, and the tables as CSV, Markdown and LaTeX.

python -m benchmarks.report FOLDER...             writes report/ and prints the tables
python -m benchmarks.report --status FOLDER...    where the sweeps in these folders stand
python -m benchmarks.report --wandb ENTITY/PROJECT FOLDER...    a draft of a W&B report on the runs that were synced there
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.html import COSTS, has_picture, rows_of, write_page
from benchmarks.ledger import status
from benchmarks.sequences import HEADER, section, summary_rows
from benchmarks.tables import as_csv, as_latex, per_target, summary, table
from benchmarks.workspace import publish
from fade.console import command
from fade.errors import BadInput
from fade.files import read_json, write_text

FORMAT = 1  # of results.json
NEEDED = ("dataset", "target", "domain", "surrogate", "method", "protocol", "metrics", "base", "cost", "gates", "landed")


def find(folders: list[Path], alone: bool = True) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """All results below the folders, sorted by folder; and one line for each that cannot be used. Raises BadInput where
    a folder is missing, or no result is left and nothing else was found (`alone`)."""
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"no folder {folder}; name folders that hold finished runs")
    found, problems = [], []
    for path in result_files(folders):
        try:
            results = read_json(path)
            if results["format"] != FORMAT:
                raise ValueError(f"format {results['format']}, this version reads {FORMAT}")
            if results.get("kind") == "sequence":
                continue
            missing = [key for key in NEEDED if key not in results]
            if missing or "ua" not in results["metrics"]:
                raise ValueError(f"no {(missing or ['metrics.ua'])[0]}")
            check_numbers(results)
            found.append((path.parent, results))
            problems += flaws(path.parent, results)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            problems.append(f"{path}: left out, no usable result ({type(error).__name__}: {error})")
    found, repeated = unique(found)
    problems += repeated
    if not found and alone:
        why = f" ({problems[0]})" if problems else ""
        raise BadInput(f"no results.json below {', '.join(map(str, folders))}; run something first{why}")
    return found, problems


def numbers_of(results: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What tables average and print, by name; a distance may have no value, and says why."""
    for side in ("metrics", "base"):
        for key, metric in results[side].items():
            distance = key.startswith(("fid_", "kid_"))
            for part in ("value", "low", "high"):
                if part in metric and not (distance and metric[part] is None):
                    yield f"{side}.{key}.{part}", metric[part]
    yield from ((f"cost.{key}", results["cost"][key]) for key in COSTS if key in results["cost"])


def check_numbers(results: dict[str, Any]) -> None:
    """Raises ValueError for the first that is no finite number."""
    for name, value in numbers_of(results):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}, no finite number")


def result_files(folders: list[Path]) -> list[Path]:
    return sorted({path for folder in folders for path in folder.rglob("results.json")})


def find_sequences(folders: list[Path]) -> list[dict[str, Any]]:
    """The results of finished sequences of requests below the folders."""
    found = []
    for path in result_files(folders):
        with suppress(ValueError, OSError):  # `find` says what is broken
            results = read_json(path)
            if isinstance(results, dict) and results.get("kind") == "sequence" and results.get("format") == FORMAT:
                found.append(results)
    return found


def flaws(folder: Path, results: dict[str, Any]) -> list[str]:
    """A line for each file beside results.json that is there and cannot be read, which the page does without, and one where
    predictions and results are not of one run."""
    rows = rows_of(folder, results)
    usable = {"predictions.csv": bool(rows), "comparison.png": has_picture(folder)}
    broken = [f"{folder / name}: left out, broken" for name, good in usable.items() if (folder / name).exists() and not good]
    if rows and results["target"] not in {row[results["domain"]] for row in rows}:
        broken.append(f"{folder / 'predictions.csv'}: no image of the target {results['target']!r} of results.json")
    return broken


def unique(found: list[tuple[Path, dict[str, Any]]]) -> tuple[list[tuple[Path, dict[str, Any]]], list[str]]:
    """Each configuration once, its first folder; and a line for each of the others (copies, sweeps of one name)."""
    first: dict[str, Path] = {}
    for folder, results in found:
        first.setdefault(results.get("identity", str(folder)), folder)
    kept = [(folder, r) for folder, r in found if first[r.get("identity", str(folder))] == folder]
    return kept, [f"{folder}: left out, the same configuration as {first[r['identity']]}" for folder, r in found
                  if (folder, r) not in kept]  # fmt: skip


def write(folders: list[Path], out: Path) -> str:
    """Write the page and the tables to `out`; return what is printed."""
    sequences = find_sequences(folders)
    found, problems = find(folders, alone=not sequences)
    results = [r for _, r in found]
    parts = {"targets": per_target(results), "summary": summary(results)} if found else {}
    if sequences:
        parts["sequences"] = (HEADER, summary_rows(sequences))
    for name, (header, rows) in parts.items():
        write_text(out / f"{name}.csv", as_csv(header, rows))
        write_text(out / f"{name}.md", table(header, rows) + "\n")
        write_text(out / f"{name}.tex", as_latex(header, rows))
    write_page(found, problems, out / "report.html", [("Sequences of requests", section(sequences))])
    notes = "".join(f"warning: {line}\n" for line in problems)
    shown = "\n\n".join(table(*part) for part in parts.values())
    return (
        f"{shown}\n\nPercent; intervals are 95 %, over images of the one adapter; in the summary the range over runs.\n"
        f"{notes}{out}/: report.html, and {', '.join(parts)} as .csv .md .tex"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A page and tables from the results.json files below some folders.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--status", action="store_true", help="only say where the sweeps in these folders stand")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="make a W&B report there instead of a page")
    parser.add_argument("--out", type=Path, default=Path("report"), help="the folder to write (report)")
    given = parser.parse_args()
    try:
        if given.status:
            print("\n\n".join(map(status, given.folders)))
        elif given.wandb:
            print(publish(find(given.folders)[0], given.wandb))
        else:
            print(write(given.folders, given.out))
    except BadInput as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:  # a full disk, a folder that may not be written
        raise SystemExit(f"error: cannot write {error.filename or given.out}: {error.strerror}") from None


if __name__ == "__main__":
    command(main)
