"""A headless Chromium, for the tests of pages: what a script of a page finds in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def browsed(page: Path, profile: Path, size: str) -> tuple[dict[str, Any], str]:
    """What the page's script has written into the body's data-checked, and what the browser says on stderr. size:
    of the window, "1280,900"."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=4000"]
    where = [f"--window-size={size}", f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run([str(CHROMIUM), *flags, *where], capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'data-checked="([^"]*)"', done.stdout)
    assert match, done.stderr[-500:]
    found: dict[str, Any] = json.loads(match[1].replace("&quot;", '"'))
    return found, done.stderr
