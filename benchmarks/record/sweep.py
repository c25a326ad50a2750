"""Where a sweep stands: which of its runs are finished, running, failed, stopped, or not begun.

The driver of a sweep writes what it asks for (sweep.json in the output folder); every run says of itself the rest.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record.claim import alive
from fade.errors import BadInput
from fade.files import content_hash, read_json, write_json

STATES = ("finished", "running", "failed", "stopped", "missing")


@dataclass(frozen=True)
class Entry:
    state: str
    name: str  # the run's folder, or its overrides where it has none
    note: str = ""


def expect(folder: Path, jobs: list[list[str]]) -> None:
    """Write what a sweep asks for, added to what earlier sweeps into this folder asked for."""
    path = folder / "sweep.json"
    known: list[list[str]] = []
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # none yet, or a broken one
        known = read_json(path)["jobs"]
    write_json(path, {"jobs": known + [job for job in jobs if job not in known]})


def fail(folder: Path, overrides: list[str], line: str) -> None:
    """Write what a run of a sweep died of; a run that has no folder yet has nowhere else to say it."""
    with suppress(OSError):  # a full disk: the line is on the screen at least
        write_json(folder / f"failed-{content_hash(sorted(overrides))}.json", {"overrides": overrides, "error": line})


def failures(folder: Path) -> dict[frozenset[str], str]:
    """What `fail` wrote in a sweep's folder: overrides -> the line."""
    found = {}
    for path in folder.glob("failed-*.json"):
        with suppress(ValueError, KeyError, TypeError, OSError):  # foreign or cut short: the run is missing then
            failure = read_json(path)
            found[frozenset(failure["overrides"])] = failure["error"]
    return found


def state(folder: Path) -> tuple[Entry, list[str]]:
    """One run's entry, and its overrides."""
    try:
        claim = read_json(folder / "run.json")
        if (folder / "results.json").is_file():
            read_json(folder / "results.json")
            return Entry("finished", folder.name), claim.get("overrides", [])
        if (folder / "failed.json").is_file():
            return Entry("failed", folder.name, read_json(folder / "failed.json")["error"]), claim.get("overrides", [])
    except (ValueError, KeyError, OSError) as error:
        return Entry("failed", folder.name, f"a broken record ({error})"), []
    if alive(claim, folder):
        return Entry("running", folder.name, f"on {claim.get('host')}, process {claim.get('pid')}"), claim.get(
            "overrides", []
        )
    return Entry("stopped", folder.name, "the same command goes on where it was"), claim.get("overrides", [])


def ledger(folder: Path) -> list[Entry]:
    """Every run below a folder, and those that sweep.json asks for and that are not there. Raises BadInput for none."""
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}; give a sweep's output_dir")
    entries, seen = [], set()
    for claim in sorted(folder.rglob("run.json")):
        entry, overrides = state(claim.parent)
        entries.append(entry)
        seen.add(frozenset(overrides))
    for plan in sorted(folder.rglob("sweep.json")):
        entries += asked(plan, seen)
    return entries


def asked(plan: Path, seen: set[frozenset[str]]) -> list[Entry]:
    """The runs of one sweep.json that have no folder: failed before they had one, or not begun."""
    try:
        jobs = [list(map(str, job)) for job in read_json(plan)["jobs"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        return [Entry("failed", str(plan), f"a broken list of runs ({error}); the sweep's command writes it again")]
    died = failures(plan.parent)
    return [
        Entry("failed" if frozenset(job) in died else "missing", " ".join(job), died.get(frozenset(job), ""))
        for job in jobs
        if frozenset(job) not in seen
    ]
