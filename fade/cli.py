"""Adapters as files: the `fade` command. Hydra is not asked, and torch only by what needs it (fade/actions.py).

fade info DIR · fade export DIR --to FORM --out OUT --base PIPELINE · fade merge DIR --base PIPELINE --out OUT ·
fade verify DIR --base PIPELINE (an adapter, or the folder of a sequence) · fade fold DIR --base PIPELINE --out OUT (a
sequence)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from fade.adapters.card import card_text
from fade.adapters.folder import CYCLES, DTYPES, HOW, checked_card
from fade.errors import BadInput


def info(given: argparse.Namespace) -> None:
    """The card."""
    print(card_text(checked_card(Path(given.folder))))


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="fade", description="Adapters of unlearning, as files.")
    actions = command.add_subparsers(required=True, metavar="{info,export,merge,verify,fold}")

    def action(name: str, text: str, does: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text)
        added.add_argument("folder", metavar="DIR", help="the adapter's folder")
        added.set_defaults(does=does)
        return added

    def with_base(added: argparse.ArgumentParser, out: bool, required: bool = True) -> None:
        added.add_argument(
            "--base", required=required, metavar="PIPELINE", help="a diffusers folder, a hub name, or a checkpoint"
        )
        added.add_argument("--dtype", choices=DTYPES, default="float32")
        if out:
            added.add_argument("--out", type=Path, required=True)
            added.add_argument("--scale", type=float, default=1.0)
            added.add_argument("--force", action="store_true", help="onto another base than it was made for")

    action("info", "print the card", "fade.cli:info")
    exporting = action("export", "write what stock tools read", "fade.actions:exported")
    exporting.add_argument("--to", choices=list(HOW), required=True)
    exporting.add_argument("--rank", type=int, help="fit a LoRA of this rank instead of the exact form")
    exporting.add_argument("--limit", type=float, default=0.05, help="of the fit's relative error")
    with_base(exporting, out=True, required=False)
    with_base(action("merge", "write a pipeline with the change in it", "fade.actions:merge"), out=True)
    folding = action("fold", "make one adapter of a finished sequence's", "fade.actions:fold")
    folding.add_argument("--without", type=int, nargs="+", default=[], metavar="K", help="leave these requests out")
    folding.add_argument("--out", type=Path, required=True)
    with_base(folding, out=False)
    verifying = action("verify", "measure that the adapter is exact", "fade.actions:verify")
    verifying.add_argument("--cycles", type=int, default=CYCLES)
    with_base(verifying, out=False)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 1 for bad input, 2 (argparse's own) for a bad command line."""
    given: Any = parser().parse_args(arguments)
    try:
        return resolve_name(given.does)(given) or 0
    except (BadInput, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
