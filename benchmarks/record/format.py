"""results.json as a file: its format, what every reader needs of it, what its costs are called."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fade.files import json_hash, read_json
from fade.metrics import about

Metric = dict[str, Any]  # value, low, high, n; proportions in [0, 1]
FORMAT = 1  # of results.json; every older one is read
NEEDED = (
    "dataset",
    "target",
    "domain",
    "surrogate",
    "method",
    "protocol",
    "metrics",
    "base",
    "cost",
    "gates",
    "landed",
)
COSTS = {
    "locate_s": "locate s",
    "distil_s": "distil s",
    "generate_s": "generate s",
    "asked_s": "asked s",
    "judge_s": "judge s",
    "peak_memory_mb": "peak MB",
    "adapter_bytes": "adapter bytes",
    "teacher_passes": "teacher passes",
    "steps": "steps",
}
# overrides that say what was run and where, not how; the sparsity has a name of its own in `setting`
WHAT_AND_WHERE = {
    "target",
    "surrogate",
    "seed",
    "method",
    "sparsity",
    "sparsity.p",
    "dataset",
    "dataset.root",
    "dataset.classifiers",  # as it was
    "classifiers",
    "model.path",
    "oracle",
    "again",
    "protocol",
    "+sweeps",
    "out",
    "output_dir",
    "cache_dir",
    "logger",
    "device",
    "launcher",
}


AGAIN = "again.json"  # beside results.json: the same adapter measured with more steps (benchmarks/runs/again.py)
QUICK = ("fast",)  # protocols for development: so few steps that their numbers are not reported


def read_results(path: Path) -> dict[str, Any]:
    """One results.json. Raises ValueError for a format that this version does not read."""
    results = read_json(path)
    if not 1 <= results["format"] <= FORMAT:
        known = "1" if FORMAT == 1 else f"1 to {FORMAT}"
        raise ValueError(f"format {results['format']}, this version reads {known}")
    return results


def digest(results: dict[str, Any]) -> str:
    """SHA-256 of all that results.json says but `sha256` itself, as canonical JSON: whether a number was changed by
    hand. It is no signature: whoever changes a number can form it anew."""
    return json_hash({key: value for key, value in results.items() if key != "sha256"})


def check_run(results: dict[str, Any]) -> None:
    """Raises ValueError where something that every reader needs is missing, or is no finite number."""
    missing = [key for key in NEEDED if key not in results]
    if missing or "ua" not in results["metrics"]:
        raise ValueError(f"no {(missing or ['metrics.ua'])[0]}")
    for name, value in numbers_of(results):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}, no finite number")


def numbers_of(results: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What tables average and print, by name; a distance may have no value, and says why."""
    for side in ("metrics", "base"):
        for key, metric in results[side].items():
            for part in ("value", "low", "high"):
                if part in metric and (about(key).share or metric[part] is not None):
                    yield f"{side}.{key}.{part}", metric[part]
    yield from ((f"cost.{key}", results["cost"][key]) for key in COSTS if key in results["cost"])
