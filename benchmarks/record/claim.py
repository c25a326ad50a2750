"""Who works in a run's folder: one process at a time, told by a lock that the system releases with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fade.claims import signature, works
from fade.errors import BadInput
from fade.files import read_json

LOCK = ".lock"  # hidden, and gone when the run is finished
QUIET_S = 600.0  # a run on another host that has written nothing for so long is taken for dead


def alive(claim: dict[str, Any], folder: Path) -> bool:
    """Whether the process that claimed the folder still works there."""
    known = works(claim)
    if known is not None:
        return known
    latest = max((f.stat().st_mtime for f in (folder, *folder.iterdir(), *folder.glob("*/"))), default=0.0)
    return abs(time.time() - latest) < QUIET_S  # a clock that jumped makes no dead run live


class Lock:
    """A folder's lock, held until `release`, or for as long as this object lives.

    Raises BadInput where another process works there. Where the file system has no locks, the claim in run.json tells.
    """

    def __init__(self, folder: Path) -> None:
        claim, own = claimed(folder), signature()
        ours = all(
            claim.get(key) == own[key] for key in ("host", "pid", "born")
        )  # a run of the same sweep, after another
        queued_again = own["job"] is not None and claim.get("job") == own["job"]
        there = bool(claim) and not ours and not queued_again and alive(claim, folder)  # before the folder is touched
        self.path: Path = folder / LOCK
        self._file: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not ours if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else there:
                self.release()
                raise BadInput(busy(folder, claim)) from error

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    __del__ = release


def claimed(folder: Path) -> dict[str, Any]:
    """run.json; nothing where there is none, or a broken one."""
    with suppress(OSError, ValueError):
        claim = read_json(folder / "run.json")
        return claim if isinstance(claim, dict) else {}
    return {}


def busy(folder: Path, claim: dict[str, Any]) -> str:
    since = time.strftime(" since %H:%M", time.localtime(claim["started"])) if "started" in claim else ""
    who = f" (pid {claim['pid']} on {claim['host']})" if "pid" in claim and "host" in claim else ""
    return f"another process{who} works in {folder}{since}; wait for it, or stop it"
