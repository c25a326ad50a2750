"""What a finished run of one target and a finished sequence have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.record.format import QUICK, WHAT_AND_WHERE


@dataclass(frozen=True, eq=False)
class Finished:
    """What a single run and a sequence have in common: their folder, their results.json, and what follows from them."""

    folder: Path
    results: dict[str, Any]

    @property
    def dataset(self) -> str:
        return str(self.results["dataset"])

    @property
    def protocol(self) -> str:
        return str(self.results["protocol"])

    @property
    def mark(self) -> str:
        """What every table of it says beside its numbers; "" where they may be reported."""
        return f"protocol={self.protocol}: few steps, for development" if self.protocol in QUICK else ""

    @property
    def method_name(self) -> str:
        """The method, whichever of its versions."""
        return str(self.results["method"])

    @property
    def method(self) -> str:
        """The method, and which of its published versions where there are several."""
        variant = self.results.get("variant")
        return f"{self.method_name} ({variant})" if variant else self.method_name

    @property
    def seed(self) -> int | None:
        """The training seed; answers that others made have none."""
        return self.results.get("seeds", {}).get("train")

    @property
    def image_seeds(self) -> tuple[int, ...]:
        return tuple(self.results.get("seeds", {}).get("images", ()))

    @property
    def overrides(self) -> list[str]:
        """The command line, as run.py was given it; nothing where others made the answers."""
        return self.results.get("overrides", [])

    @cached_property
    def given(self) -> dict[str, str]:
        """The command line as key -> value; a key that was added (`+`) by its name."""
        return dict(override.lstrip("+").partition("=")[::2] for override in self.overrides)

    @cached_property
    def chosen(self) -> dict[str, str]:
        """What the command line changed of how the run is done: key -> value, sorted."""
        given = dict(override.split("=", 1) for override in self.overrides)
        others = ("launcher.", "fail_under.")
        return {k: v for k, v in sorted(given.items()) if k not in WHAT_AND_WHERE and not k.startswith(others)}

    @property
    def versions(self) -> dict[str, str]:
        return self.results.get("versions", {})

    @property
    def commit(self) -> str:
        """Of this repository; empty where it was not known."""
        return self.results.get("git_commit") or ""

    @property
    def machine(self) -> str:
        return self.results.get("machine", "not recorded")

    @property
    def base_sha256(self) -> str:
        """Of the pipeline before; empty where others made the answers."""
        return self.results.get("base_sha256", "")

    @property
    def identity(self) -> str:
        """The hash of the configuration; a run without one is alike to none."""
        return self.results.get("identity", str(self.folder))
