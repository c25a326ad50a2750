"""The rooms: no circle of imports; in benchmarks/ each needs only those to its left, and what only reads finished runs
needs no torch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from command import ROOT

from benchmarks.__main__ import COMMANDS, says

BENCHMARKS = ROOT / "benchmarks"
ROOMS = ("measure", "record", "report", "runs", "studies")
LIGHT = (
    "results",
    "format",
    "attacks",
    "finished",
    "sequences",
    "sweep",
    "claim",
    "moved",
)  # record/folder.py asks torch what a run cost


def needed(path: Path) -> set[str]:
    """The rooms that a file imports from, at its top, in a function or for its types."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
        assert not node.level, f"{path}: write the whole name"
        names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {parts[1] for name in names if (parts := name.split("."))[0] == "benchmarks"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_needs_only_those_to_its_left(room: str) -> None:
    left = set(ROOMS[: ROOMS.index(room) + 1])
    for path in (BENCHMARKS / room).rglob("*.py"):
        assert needed(path) <= left, path
    assert {path.parent.name for path in BENCHMARKS.glob("*/__init__.py")} == set(ROOMS)


def test_every_command_is_in_the_list() -> None:
    """Each with what it is for."""
    rooms = [*(BENCHMARKS / room for room in ROOMS), ROOT / "fade"]
    files = [path for room in rooms for path in room.rglob("*.py") if '__name__ == "__main__"' in path.read_text()]
    same = {"fade/__main__.py"}  # as `fade`
    run = {str(path.relative_to(ROOT)) for path in files}
    assert run - same <= set(COMMANDS.values())
    assert all(len(says(file)) > 20 for file in COMMANDS.values())


def test_finished_runs_are_read_and_reported_without_torch() -> None:
    names = [f"benchmarks.report.{path.stem}" for path in (BENCHMARKS / "report").glob("*.py")]
    names += [f"benchmarks.record.{name}" for name in LIGHT]
    code = f"import sys, {', '.join(sorted(names))}; print(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    later = {"pandas", "altair", "rich"}  # imported by who draws or prints, so that --help does not wait
    assert not {"torch", "lightning", "diffusers", "transformers", "hydra", "wandb", *later} & set(loaded)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What a file does when it is imported: everything but the insides of its functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from at_import(child)


def imported(path: Path) -> set[str]:
    """Every name that a file imports at its top, for its types too: `a.b` and, where it takes `c` from it, `a.b.c`."""
    nodes = list(at_import(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        name
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        for name in (node.module or "", f"{node.module}.{alias.name}")
    }


def test_no_file_needs_one_that_needs_it() -> None:
    """No circle in fade/ or benchmarks/: graphlib raises CycleError, which names it."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ("fade", "benchmarks")
        for path in (ROOT / room).rglob("*.py")
    }
    assert len(files) > 100
    TopologicalSorter({name: imported(path) & files.keys() - {name} for name, path in files.items()}).prepare()
