"""A small pipeline and its judges, trained from scratch: task=pretrain."""

from __future__ import annotations

from pathlib import Path

from benchmarks.runs.task import Task


def pretrained(task: Task) -> None:
    dataset, config = task.dataset(), task.config
    out = Path(config["out"] or f"pretrained/{config['dataset']['name']}")
    print(task.make("pretrain", dataset=dataset, out=out).run())
