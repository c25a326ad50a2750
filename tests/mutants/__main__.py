"""Plant known errors one by one and see whether the tests that should catch them do: `make mutants`.

Each *.yaml beside this file lists errors: `name`, the `file`, its `old` text (which must stand there exactly once), the
`new` one, and the `tests` that must fail. One process imports the libraries and forks for every error; the child sees
the repository through links, with the one file changed. Exit code 1 where fewer than 95 % are killed, or where a list
is out of date: a text that is not there, a test that does not exist or fails without the error.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LIBRARIES = (  # what the tests import of others, once for all; some load their parts late
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.schedulers.scheduling_ddim",
    "hydra",
    "lightning.pytorch.plugins.environments",
    "peft",
    "pydantic",
    "scipy.stats",
    "timm",
    "torch",
    "torchmetrics.image.kid",
    "torchvision.models",
    "transformers.models.clip.modeling_clip",
)
ENOUGH = 0.95
KILLED, SURVIVED = int(pytest.ExitCode.TESTS_FAILED), int(pytest.ExitCode.OK)


@dataclass(frozen=True)
class Mutant:
    """One planted error; `area` is the list that it stands in."""

    area: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def text(self) -> str:
        """The file with the error in it. Raises ValueError where `old` does not stand there exactly once."""
        text = (ROOT / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.area}: {self.name}: the old text stands {text.count(self.old)} times in {self.file}"
            )
        return text.replace(self.old, self.new)


def listed(only: str) -> list[Mutant]:
    """All that are listed, or those whose area or name holds `only`."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    found = [
        Mutant(file.stem, **{**entry, "tests": tuple(entry["tests"])})
        for file in files
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))
    ]
    return [mutant for mutant in found if only in mutant.area or only in mutant.name]


def stale(mutants: Sequence[Mutant]) -> list[str]:
    """A line for each whose text is not there any more, or more than once."""
    lines = []
    for mutant in mutants:
        try:
            mutant.text()
        except (ValueError, OSError) as error:
            lines.append(str(error))
    return lines


def planted(folder: Path, file: str, text: str) -> None:
    """`folder` becomes the repository, by links; only `file`, and the folders that lead to it, are its own."""
    here, source = folder, ROOT
    for part in Path(file).parts:
        for entry in source.iterdir():
            if entry.name != part and entry.name not in (".git", "outputs", "cache"):
                (here / entry.name).symlink_to(entry)
        here, source = here / part, source / part
        if source.is_dir():
            here.mkdir()
    here.write_text(text, encoding="utf-8")


def tested(folder: Path, tests: Sequence[str], said: str = os.devnull) -> int:
    """pytest's exit code in `folder`, whose tests run in this process; `said`: the file that its words go to."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    with open(said, "w") as words:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        all_of_them = said != os.devnull
        return int(
            pytest.main([*([] if all_of_them else ["-x"]), "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        )


def forked(mutant: Mutant | None, tests: Sequence[str], said: str = os.devnull) -> int:
    """The process number of a child that ends with pytest's exit code; without a mutant the tests run as they are."""
    text = mutant.text() if mutant else None  # raises here, not in the child
    child = os.fork()
    if child:
        return child
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if mutant and text is not None:
                planted(Path(folder), mutant.file, text)
            code = tested(Path(folder) if mutant else ROOT, tests, said)
    finally:
        os._exit(code)


def outcomes(mutants: Sequence[Mutant], workers: int) -> Iterator[tuple[Mutant, int]]:
    """Each mutant with the exit code of its tests, as they end."""
    waiting, running = list(mutants), dict[int, Mutant]()
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop(0)
            running[forked(mutant, mutant.tests)] = mutant
        child, status = os.wait()
        yield running.pop(child), os.waitstatus_to_exitcode(status)


def failing_alone(mutants: Sequence[Mutant]) -> str:
    """pytest's words on listed tests that are missing, or fail without any error planted; nothing for none."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.NamedTemporaryFile("r") as said:
        _, status = os.waitpid(forked(None, tests, said.name), 0)
        lines = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    return "".join(lines) or ("" if os.waitstatus_to_exitcode(status) == SURVIVED else "pytest itself failed")


def report(found: dict[Mutant, int]) -> tuple[str, bool]:
    """The table, and whether enough were killed."""
    lines = [f"{'area':<12} {'planted':>8} {'killed':>7}"]
    for area in sorted({mutant.area for mutant in found}):
        codes = [code for mutant, code in found.items() if mutant.area == area]
        lines.append(f"{area:<12} {len(codes):>8} {codes.count(KILLED):>7}")
    killed = list(found.values()).count(KILLED)
    lines.append(f"{'all':<12} {len(found):>8} {killed:>7}   {100 * killed / len(found):.1f} %")
    for mutant, code in found.items():
        if code != KILLED:
            lines.append(
                f"{'survived' if code == SURVIVED else f'broken (pytest ended with {code})'}: {mutant.area}: "
                f"{mutant.name}"
            )
    return "\n".join(lines), killed >= ENOUGH * len(found) and all(
        code in (KILLED, SURVIVED) for code in found.values()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", default="", help="part of an area's or an error's name")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    mutants = listed(given.only)
    if not mutants:
        print(f"no planted error's area or name holds {given.only!r}", file=sys.stderr)
        return 2
    if lines := stale(mutants):
        print("\n".join(lines), file=sys.stderr)
        return 1
    for library in LIBRARIES:
        importlib.import_module(library)
    print(f"{len(mutants)} errors to plant; first their tests without one", flush=True)
    if failing := failing_alone(mutants):
        print(f"listed tests are missing, or fail without any error; mend these first:\n{failing}", file=sys.stderr)
        return 1
    found, began = dict[Mutant, int](), time.monotonic()
    for mutant, code in outcomes(mutants, given.workers):
        found[mutant] = code
        left = (time.monotonic() - began) / len(found) * (len(mutants) - len(found))
        word = {KILLED: "killed", SURVIVED: "SURVIVED"}.get(code, f"broken, {code}")
        print(f"{len(found)}/{len(mutants)} {word}: {mutant.area}: {mutant.name} ({left:.0f} s left)", flush=True)
    table, enough = report(found)
    print(table)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
