"""The form of the code: short functions, files that one reads at a sitting, and a formatter that decides."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from pathlib import Path

from command import ROOT

CODE = [*(ROOT / "fade").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), ROOT / "run.py"]
DRAWINGS = ROOT / "fade" / "data"
QUIET = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(text: str) -> set[int]:
    """The numbers of the lines that are neither blank nor comments nor docstrings."""
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in QUIET)
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def lengths(path: Path) -> list[tuple[int, str]]:
    """Every function's lines of code, its signature among them, and where it stands."""
    text = path.read_text(encoding="utf-8")
    lines = code_lines(text)
    return [
        (len(lines & set(range(node.lineno, (node.end_lineno or 0) + 1))), f"{path.relative_to(ROOT)}:{node.lineno}")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    ]


def test_functions_are_short() -> None:
    """Half of them take five lines or fewer, nine of ten fifteen or fewer; drawings are as long as what they draw."""
    found = sorted(length for path in CODE if DRAWINGS not in path.parents for length in lengths(path))
    assert statistics.median(length for length, _ in found) <= 5, found[len(found) // 2 :]
    long = [f"{where} ({length} lines)" for length, where in reversed(found) if length > 15]
    assert len(long) <= 0.1 * len(found), f"more than a tenth of {len(found)} functions: shorten one of {long}"


def test_files_are_short() -> None:
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    long = [f"{path.relative_to(ROOT)} ({n} lines)" for path, n in counts.items() if n > 400]
    assert not long, long


def test_the_formatter_decides() -> None:
    skips = [path for path in [*CODE, *(ROOT / "tests").rglob("*.py")] if "# fmt: " + "skip" in path.read_text()]
    assert len(skips) <= 10, skips
