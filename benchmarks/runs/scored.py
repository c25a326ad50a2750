"""Images that lie on disk, scored: task=score. No model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measure.answers import refuse_harmed
from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.folder import Record
from benchmarks.record.results import Run
from benchmarks.report.pictures import comparison
from benchmarks.runs.task import Task
from benchmarks.runs.verdict import end
from fade.data.pairs import Request
from fade.errors import BadInput


def scored(task: Task) -> None:
    config = task.config
    dataset = task.dataset()
    request = task.request(dataset)
    benchmark = task.benchmark(dataset, request)
    record = task.record(f"{benchmark.dataset.name}-{request.target}-scored")
    base = Path(config["base_answers"]) if config["base_answers"] else None
    done = record.results
    results = done or score(record, benchmark, request, Path(config["answers"]), base)
    end(Run(record.folder, results), config["fail_under"], done is not None)


def score(record: Record, benchmark: Benchmark, request: Request, answers: Path, base: Path | None) -> dict[str, Any]:
    """Score an answer set that another tool, or another run, left on disk; `base`: the un-unlearned model's, if there
    is one.

    Raises BadInput where either folder is missing, or holds fewer or other images than the protocol asks for.
    """
    for folder in (answers, base):
        if folder is not None and not folder.is_dir():
            raise BadInput(f"no folder {folder}; answers=DIR and base_answers=DIR name folders of images")
        if folder is not None:
            refuse_harmed(benchmark.wanted, folder)
    unlearned = benchmark.judged(answers, record.folder)
    before = benchmark.judged(base, record.folder / "base") if base else None
    if base:
        comparison(base, answers, benchmark.wanted, benchmark.dataset, request, record.folder / "comparison.png")
    found = benchmark.results(unlearned, before, request)
    return record.finish({**found, "method": "scored", "answers": answers.absolute().name, "cost": unlearned.cost})
