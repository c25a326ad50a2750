"""Who makes a file that several processes share: one, while the others wait. No locks of the file system are asked for.

`.NAME.claim0` beside a file NAME is created exclusively (O_EXCL, atomic on a network file system too) by the process
that makes it; the claim says whose it is, and is touched while the work goes on. Whoever finds the owner dead creates
`.NAME.claim1` exclusively, and so on: of all that wait exactly one takes over, and the highest number holds.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from fade.console import EVERY_S, at
from fade.files import Harmed, unharmed

log = logging.getLogger(__name__)
Made = TypeVar("Made")
BEAT_S = 10.0  # between two touches of a claim
DEAD_S = 60.0  # a claim that was not touched for so long, as one who waits has seen, is a dead process's
LOOK_S = 0.5  # between two looks of one who waits


def once(
    path: Path, read: Callable[[Path], Made], make: Callable[[], Any], what: str, under: Path | None = None
) -> Made:
    """What `read` finds in the file `path`; `make` writes it where it is not there, or harmed: in one process alone.

    The others wait, and say for what. under: the name of the claim, where several files are made at once.
    """
    found = unharmed(path, read)
    if found is not None:
        return found
    with claimed(under or path, what):
        with suppress(Harmed, FileNotFoundError):  # said already; while this process waited another may have made it
            return read(path)
        make()
    return read(path)


@contextmanager
def claimed(path: Path, what: str) -> Iterator[None]:
    """Inside, no other process makes `path`, which need not be there; waits until it is so, and says for what."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, ended = _taken(path, what), threading.Event()
    beat = threading.Thread(target=_beat, args=(_claim(path, number), ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        for lower in range(number + 1):
            _claim(path, lower).unlink(missing_ok=True)


def free(path: Path) -> bool:
    """Whether `claimed` would not wait now."""
    number = _last(path)
    return number < 0 or works(_owner(path, number)) is False


def _claim(path: Path, number: int) -> Path:
    return path.with_name(f".{path.name}.claim{number}")


def _last(path: Path) -> int:
    """The number of the claim that holds; -1 where there is none."""
    number = -1
    while _claim(path, number + 1).exists():
        number += 1
    return number


def _owner(path: Path, number: int) -> dict[str, Any]:
    """What a claim says; nothing where it is gone, or is just being written."""
    with suppress(OSError, ValueError):
        said = json.loads(_claim(path, number).read_text(encoding="utf-8"))
        return said if isinstance(said, dict) else {}
    return {}


def _taken(path: Path, what: str) -> int:
    """Wait for the claim; its number."""
    watch, said = _Watch(), -EVERY_S
    while True:
        number = _last(path)
        owner = _owner(path, number)
        dead = number >= 0 and (works(owner) is False or watch.still(_claim(path, number)))
        if (number < 0 or dead) and _created(_claim(path, number + 1)):
            if dead:
                log.info("%s: %s is gone; this process goes on", what, _named(owner))
            return number + 1
        if number >= 0 and not dead and time.monotonic() - said >= EVERY_S:
            log.info("waiting for %s: %s is at it", what, _named(owner))
            said = time.monotonic()
        at(f"while waiting for {what}")
        time.sleep(LOOK_S)


class _Watch:
    """Of a claim that is not touched. Clocks of two machines differ, so that what counts is how long one has looked."""

    def __init__(self) -> None:
        self.seen: tuple[Path, int] | None = None
        self.since = 0.0

    def still(self, claim: Path) -> bool:
        """Whether the claim has been the same, and untouched, for DEAD_S."""
        with suppress(OSError):
            seen = claim, claim.stat().st_mtime_ns
            if seen != self.seen:
                self.seen, self.since = seen, time.monotonic()
            return time.monotonic() - self.since > DEAD_S
        return False


def _created(claim: Path) -> bool:
    """Whether this process, and no other, has made the claim."""
    try:
        file = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(file, "w", encoding="utf-8") as text:
        json.dump(signature(), text)
    return True


def _beat(claim: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(OSError):
            os.utime(claim)


def _named(owner: dict[str, Any]) -> str:
    return f"pid {owner['pid']} on {owner['host']}" if {"pid", "host"} <= owner.keys() else "another process"


def born(pid: int) -> int | None:
    """When a process of this host began, in ticks since the system did; unlike its number never given again."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])  # dead, and its parent has not asked yet
    return None


def signature() -> dict[str, Any]:
    """What a claim says of this process; a job that Slurm queues again keeps its number."""
    return {
        "host": platform.node(),
        "space": _space(),
        "pid": os.getpid(),
        "born": born(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "started": time.time(),
    }


def _space() -> str | None:
    """Two containers of one name count their processes apart."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def works(owner: dict[str, Any]) -> bool | None:
    """Whether the process of a signature is alive; None where this host cannot say."""
    if owner.get("host") != platform.node() or owner.get("space", _space()) != _space():
        return None
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return owner.get("born") in (None, born(owner["pid"]))
