"""Files as the record: whole or not at all, and never pickled. Imports no torch: tensors are fade/tensors.py's."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from fade.errors import BadInput

log = logging.getLogger(__name__)
Read = TypeVar("Read")


class Harmed(BadInput):
    """A file is there, and is not what was written: cut short, or changed since."""


def shipped(name: str) -> str:
    """Where an embedded pipeline or judge lies, which conf/ calls ${shipped:NAME}."""
    return str(Path(__file__).parent / "shipped" / name)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` (file or folder); rename it to `path` if all went well, else remove it.

    A folder that is there already steps aside first and is deleted last, so that no moment has neither. Files get the
    mode that the umask gives, whatever wrote them (safetensors writes 0600).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    old = path.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        for file in (temporary, *temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o666 & ~umask())
        if temporary.is_dir() and path.is_dir():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """A file or a folder, or nothing where neither is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, names: Collection[str], made: Callable[[Path], bool], what: str) -> Iterator[Path]:
    """`atomic`, for a folder that may be there already; it is replaced only where all that it holds was written for it.

    names: the files that may be in it. made: whether this package wrote what is there. Raises BadInput, nothing being
    written or deleted, where something else is in it or in its place, and where it cannot be written.
    """
    place = folder.resolve()
    try:
        found = sorted(place.iterdir()) if place.exists() else []
        strangers = [path.name for path in found if path.name not in names or not path.is_file()]
        if not strangers and found and not made(place):
            strangers = [path.name for path in found]
        if strangers:
            more = ", ..." if len(strangers) > 3 else ""
            raise BadInput(
                f"{folder} holds files that are no {what}'s ({', '.join(strangers[:3])}{more}); name a new folder"
            )
        if place == Path.cwd():
            raise BadInput(f"{folder} is the folder that you are in, and cannot be replaced; name a new folder")
        with atomic(place) as temporary:
            yield temporary
    except OSError as error:
        if error.errno == errno.ENOSPC:  # has a line of its own
            raise
        raise BadInput(f"cannot write {folder}: {error.strerror or error}; name another folder") from error


def umask() -> int:
    """The process's; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def leftovers(folder: Path) -> None:
    """Remove what a kill left half written below a folder; a folder that had stepped aside goes back to its empty
    place.

    Only where no other process writes there.
    """
    for path in sorted(folder.rglob(".*.part*"), reverse=True):  # the .old of a name before the name
        place = path.with_name(path.name[1:].rpartition(".part")[0].rpartition(".")[0])
        if path.suffix == ".old" and not place.exists():
            os.replace(path, place)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Raises Harmed for a file that is cut short or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Harmed(f"{path} is cut short or is no JSON ({error})") from error


def unharmed(path: Path, read: Callable[[Path], Read]) -> Read | None:
    """What `read` makes of a file that can be remade; None where it is not there, or harmed, which one line says."""
    try:
        return read(path) if path.is_file() else None
    except Harmed as error:
        log.warning("%s; it is made again", error)
        return None


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


ABSOLUTE = re.compile(r"""(?<![\w./~\\-])/(?=[^\s/])(?:[^/\n'",\[\]{}]+/)*([^/\n'",\[\]{}]*)""")


def without_folders(text: str) -> str:
    """The text with the name alone of every absolute path: what is handed on says nothing of its machine."""
    return ABSOLUTE.sub(r"\1", text)


def json_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def content_hash(value: Any) -> str:
    """Its first 12 hex digits: a name for what depends on a value."""
    return json_hash(value)[:12]
