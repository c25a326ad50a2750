"""A page in the browser to play with adapters: before and after, unlearn, attack (needs the extra `demo`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fade.console import without_bars
from fade.demo import gradio
from fade.errors import BadInput


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser("python -m fade.demo", description=__doc__)
    command.add_argument("adapters", nargs="*", metavar="DIR", help="adapters' folders, or finished runs'")
    command.add_argument("--model", metavar="DIR", help="a diffusers pipeline's folder; default: run.py's")
    command.add_argument("--judge", action="append", metavar="DIR", help="a judge's folder, for attacks; several")
    command.add_argument(
        "--sampling-steps",
        type=int,
        help="of a picture, and of the images that a training draws; default: what conf/model says of an embedded "
        "pipeline, else 30",
    )
    command.add_argument("--guidance", type=float, help="likewise, else 7.5")
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
    gradio()
    from fade.demo.filled import of_another, of_embedded  # here: --help answers without torch
    from fade.demo.page import show
    from fade.demo.studio import Studio
    from fade.judges import Judge
    from fade.models.families import family_at
    from fade.published import embedded

    without_bars()
    found = embedded(given.model)
    path = found["model"]["path"] if found else given.model
    filled = (of_embedded(found) if found else of_another()).sampled(
        sampling_steps=given.sampling_steps, guidance=given.guidance
    )
    judges = given.judge or (list(found["judges"].values()) if found else [])
    studio = Studio(
        family_at(path).read(path, "float32", None, False),
        filled.sampling_steps,
        filled.guidance,
        [Judge.load(folder) for folder in judges],
        filled.dataset,
    )
    for folder in given.adapters:
        studio.add(folder)
    show(studio, filled, given.port, not given.no_browser)


if __name__ == "__main__":
    sys.exit(main())
