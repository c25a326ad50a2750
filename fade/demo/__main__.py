"""A page in the browser to play with adapters: before and after, unlearn, attack (needs the extra `demo`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fade.errors import BadInput

SHIPPED = Path(__file__).parents[1] / "shipped" / "minicanvas"


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser("python -m fade.demo", description=__doc__)
    command.add_argument("adapters", nargs="*", metavar="DIR", help="adapters' folders, or finished runs'")
    command.add_argument("--model", metavar="DIR", help="a diffusers pipeline's folder; default: the embedded one")
    command.add_argument("--judge", action="append", metavar="DIR", help="a judge's folder, for attacks; several")
    command.add_argument("--sampling-steps", type=int, help="of a picture; default: 15 embedded, 30 else")
    command.add_argument("--guidance", type=float, help="default: 4 embedded, 7.5 else")
    command.add_argument("--port", type=int, default=7860)
    command.add_argument("--no-browser", action="store_true", help="open no tab; the address is printed")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 1 for bad input, 2 (argparse's own) for a bad command line. Serves until Ctrl-C."""
    given = parser().parse_args(arguments)
    try:
        serve(given)
    except (BadInput, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def serve(given: argparse.Namespace) -> None:
    from fade.demo.page import Filled, gradio, show  # here: --help answers without torch

    gradio()
    from fade.demo.studio import QUICK, SENTENCES, Studio
    from fade.judges import Judge
    from fade.models.families import family_at

    embedded = given.model is None
    path = given.model or str(SHIPPED / "pipeline")
    judges = given.judge or ([str(SHIPPED / "judges" / name) for name in ("style", "object")] if embedded else [])
    studio = Studio(
        family_at(path).read(path, "float32", None, False),
        given.sampling_steps or (15 if embedded else 30),
        given.guidance if given.guidance is not None else (4.0 if embedded else 7.5),
        [Judge.load(folder) for folder in judges],
    )
    for folder in given.adapters:
        studio.add(folder)
    kept = ("A car image in sketch style.", "A tree image in glass style.")
    own = Filled("A cat image in neon style.", "neon", "photo", SENTENCES["style"], kept, 100, QUICK)
    show(studio, own if embedded else Filled(), given.port, not given.no_browser)


if __name__ == "__main__":
    sys.exit(main())
