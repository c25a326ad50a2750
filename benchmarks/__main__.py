"""python -m benchmarks lists every command: what runs, what reads finished runs, what asks a question of them."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "python run.py": "run.py",
    "python -m benchmarks.report": "benchmarks/report/__main__.py",
    **{
        f"python -m benchmarks.studies.{path.stem}": f"benchmarks/studies/{path.name}"
        for path in sorted((ROOT / "benchmarks" / "studies").glob("[!_]*.py"))
        if path.stem != "compose"  # python run.py task=compose
    },
    "fade": "fade/cli.py",
    "python -m fade.demo": "fade/demo/__main__.py",
}


def says(file: str) -> str:
    """The first line of the file's docstring."""
    return (ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or "").partition("\n")[0]


def main() -> None:
    argparse.ArgumentParser("python -m benchmarks", description="Lists every command of the suite.").parse_args()
    width = max(map(len, COMMANDS))
    print("\n".join(f"{command:<{width}}  {says(file)}" for command, file in COMMANDS.items()))
    print("\nEach answers --help.")


if __name__ == "__main__":
    main()
