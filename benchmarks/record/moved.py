"""Where things are that finished runs name by where they were: a run's config.yaml keeps its `_target_` for ever."""

from __future__ import annotations

# a module of format 1 -> the module that holds the same names today
MOVED = {
    "fade.lora": "fade.adapters.lora",
    "fade.patch": "fade.adapters.patch",
    "fade.matrix": "fade.adapters.matrix",
    "fade.textedit": "fade.adapters.text",
    "fade.diffusion": "fade.models",
    "fade.logs": "fade.training.logs",
    "benchmarks.benchmark": "benchmarks.measure.benchmark",
    "benchmarks.fidelity": "benchmarks.measure.features",
}
# what a command line chose by an older word -> by today's
OPTIONS = {"adapter=weights": "adapter=patch"}


def target(path: str) -> str:
    """A `_target_`, by its name of today."""
    for old, new in MOVED.items():
        if path == old or path.startswith(f"{old}."):
            return new + path[len(old) :]
    return path
