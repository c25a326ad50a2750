"""The documentation as a site: README, docs/ and the docstrings of fade and benchmarks, read from files alone.

python docs/site/build.py [FOLDER]    writes FOLDER (outputs/docs); a link that leads nowhere ends it with code 1

Pages lie in the site as in the repository, so that links between them stand as they are; what they show or link to lies
beside them. No code is imported and nothing is fetched: docstrings are read from the source, fonts are the reader's.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[2]
PACKAGES = ("fade", "benchmarks")


def linked(page: Path) -> Iterator[Path]:
    """The files of the repository that a page links to."""
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        path = (page.parent / link).resolve()
        if "://" not in link and path.is_file() and path.is_relative_to(ROOT):
            yield path


def reached() -> set[Path]:
    """README, every page of docs/, and what can be reached from them."""
    found: set[Path] = set()
    waiting = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += linked(path) if path.suffix == ".md" else ()
    return found


def modules(room: Path) -> list[str]:
    """The names of a room and of its modules; one that begins with _ is its room's own affair."""
    files = sorted(path for path in room.glob("*.py") if not path.stem.startswith("_"))
    package = ".".join(room.relative_to(ROOT).parts)
    return [package, *(f"{package}.{path.stem}" for path in files)]


def reference(folder: Path) -> None:
    """A page a room, each module below a heading of its own; what the room's own file imports is said where it is."""
    folder.mkdir()
    for room in sorted(path.parent for name in PACKAGES for path in (ROOT / name).rglob("__init__.py")):
        names = modules(room)
        text = "\n\n".join([f"# {names[0]}", *(f"::: {name}" for name in names)])
        (folder / f"{names[0]}.md").write_text(text + "\n", encoding="utf-8")


def stage(folder: Path) -> None:
    """The pages of the site, and what they show, in a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in sorted(reached()):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    reference(folder / "api")


def main(out: Path) -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    pages = out.with_name(f"{out.name}-pages")
    stage(pages)
    config = load_config(
        str(Path(__file__).with_name("mkdocs.yml")),
        docs_dir=str(pages.resolve()),
        site_dir=str(out.resolve()),
        strict=True,
    )
    try:
        build(config)
    except Abort as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(pages)
    print(f"{out}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "outputs" / "docs")))
