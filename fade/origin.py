"""Where a file comes from: the versions that made it, and the commit where the package lies in a checkout."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "lightning")


def origin(libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """{"versions": {...}, "git_commit": ...}; the commit is "" without git, or outside of a checkout."""
    commit, here = "", Path(__file__).parent
    if shutil.which("git"):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True).stdout.strip()
    versions = {"python": platform.python_version(), **{name: version(name) for name in libraries}}
    return {"versions": versions, "git_commit": commit}
