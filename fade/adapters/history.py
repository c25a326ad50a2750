"""The log of a sequence: who asked for what, when, with which result; lines of JSON that are only ever added.

Each line holds a hash of the state before and after it: after = SHA-256(before, event, number, adapter), the first
`before` is the base model's. A line that was changed, lost or moved breaks the chain.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fade.adapters.stored import Stored
from fade.errors import BadInput
from fade.files import write_text

NAME = "history.jsonl"


def state_after(before: str, line: dict[str, Any]) -> str:
    parts = [before, line["event"], str(line["number"]), line["target"], line.get("adapter_sha256", "")]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def read(folder: Path, base_sha256: str | None = None) -> list[dict[str, Any]]:
    """The lines of a log, none where there is no log. Raises BadInput where the chain is broken or of another base."""
    path = folder / NAME
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            before = lines[-1]["after"] if lines else (base_sha256 or line["before"])
            whole = line["before"] == before and line["after"] == state_after(before, line)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise BadInput(
                f"{path}, line {number}: it does not follow from what stands before it; the log was changed, or "
                "belongs to another model"
            )
        lines.append(line)
    return lines


def append(folder: Path, event: dict[str, Any], base_sha256: str) -> None:
    """Add one event, whole or not at all; one that is there already (same kind, same number) is not added again."""
    lines = read(folder)
    if any((line["event"], line["number"]) == (event["event"], event["number"]) for line in lines):
        return
    before = lines[-1]["after"] if lines else base_sha256
    line = {**event, "when": datetime.now(UTC).isoformat(timespec="seconds"), "before": before}
    added = [*lines, {**line, "after": state_after(before, line)}]
    write_text(folder / NAME, "".join(json.dumps(each) + "\n" for each in added))


def verify(folder: Path, base_sha256: str | None = None) -> list[str]:
    """Check the log against the files: one line for each event. Raises BadInput for a broken log, a missing adapter or
    one whose tensors are not those that the log names."""
    said = []
    for line in read(folder, base_sha256):
        where = folder / line["folder"] / "adapter"
        if line["event"] == "forgotten" and Stored.read(where).about["sha256"] != line["adapter_sha256"]:
            raise BadInput(
                f"{where} is not the adapter that {NAME} names for request {line['number']} ({line['target']})"
            )
        what = f"{line['event']:<9}  {line['target']} -> {line['surrogate']}"
        said.append(f"{line['number']:>3}  {what}  {line['when']}  UA {100 * line['ua']:.1f}")
    return said
