"""Images of one model that several answer sets ask for: made once, and taken from the set that has them.

Two sets that differ in their cells (another share, another target) or in their seeds ask the un-unlearned model for
many of the same images. Each set keeps what its images were made of, and takes what another one has by a hard link, or
a copy where there are none. In the last bit of a pixel an image may depend on how many were made with it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from benchmarks.measure.answers import MADE, Answer, append, written
from fade.files import atomic, content_hash, file_hash, read_json, unharmed, write_json

log = logging.getLogger(__name__)
_ASKED = "asked.json"  # beside images/: {file: what it was made of}


def made_of(answer: Answer) -> str:
    """Changes with what an image is made of, but for the model and its sampler."""
    return content_hash([answer.prompt, vars(answer.noise)])


def take(wanted: list[Answer], folder: Path, others: Iterable[Path]) -> None:
    """Put into folder/images what is missing there and lies in one of the other sets, of the same model and sampler, as
    it was written there."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    asked = {answer.file: made_of(answer) for answer in wanted}
    if unharmed(folder / _ASKED, read_json) != asked:
        write_json(folder / _ASKED, asked)
    for other in others:
        if other != folder:
            _take_from(other, folder / "images", asked)


def _take_from(other: Path, images: Path, asked: dict[str, str]) -> None:
    theirs, known = unharmed(other / _ASKED, read_json) or {}, written(other / "images")
    found = {}
    for file in (file for file, what in asked.items() if theirs.get(file) == what and not (images / file).is_file()):
        source = other / "images" / file
        digest = file_hash(source) if source.is_file() else ""
        if digest in known.get(file, ()):
            found[file] = digest
        elif digest:
            log.warning("%s is not what was written there; it is not taken", source)
    if found:
        log.info("base images: %d of %s", len(found), other.name)
        append(images / MADE, {"seconds": 0.0, "sha256": found, "from": other.name})
        for file in found:
            _link(other / "images" / file, images / file)


def _link(source: Path, to: Path) -> None:
    try:
        os.link(source, to)
    except FileExistsError:
        return
    except OSError:  # no links on this file system
        with atomic(to) as temporary:
            shutil.copyfile(source, temporary)
