"""The `fade` command: it listens for Ctrl-C before the imports that take seconds."""

from __future__ import annotations

from fade.console import command


def act() -> int:
    from fade.cli import main

    return main()


def main() -> None:
    command(act)


if __name__ == "__main__":
    main()
