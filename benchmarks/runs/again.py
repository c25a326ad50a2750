"""A UA that lies between depends on the sampler's steps: said beside it, and with again=careful measured anew.

Where everything is gone or there, few steps give many steps' verdicts; where half is forgotten they read less
forgetting (docs/performance.md). The cells, seeds and noise stay the run's own, and so does its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.measure.target import TargetMeter
from benchmarks.record.format import AGAIN
from benchmarks.record.results import Run
from benchmarks.runs.task import Task
from fade.adapters.stored import Stored
from fade.claims import once
from fade.files import read_json, write_json
from fade.published import protocol_sampling

BETWEEN = (0.1, 0.9)
CAREFUL = "careful"  # of conf/protocol


def between(run: Run, config: Mapping[str, Any]) -> bool:
    """Whether a run's UA lies where the number of steps decides, and it was asked with fewer than CAREFUL's."""
    steps = config["protocol"]["sampling"]["steps"] or config["model"]["steps"]
    low, high = BETWEEN
    return low <= run.metrics["ua"]["value"] <= high and steps < protocol_sampling(CAREFUL)["steps"]


def advice(run: Run, config: Mapping[str, Any]) -> str:
    """The line that asks for it; "" where nothing is to be asked for, and where it was done."""
    if not between(run, config) or run.again:
        return ""
    low, high = (f"{100 * end:g}" for end in BETWEEN)
    return (
        f"UA lies between {low} and {high}, where few steps read less forgetting: measure again with "
        f"protocol={CAREFUL}, or give this command again={CAREFUL}, which trains nothing"
    )


def measured_again(task: Task, run: Run) -> Run:
    """The run, with what its adapter and its base answer by CAREFUL's sampler in AGAIN and in the folder `again`."""
    once(run.folder / AGAIN, read_json, partial(_measure, task, run), "the adapter's images with more steps")
    return Run(run.folder, run.results)


def _measure(task: Task, run: Run) -> None:
    config = task.config
    sampling = {**config["protocol"]["sampling"], **protocol_sampling(CAREFUL)}
    own = task.of({**config, "protocol": {**config["protocol"], "name": CAREFUL, "sampling": sampling}})
    dataset, model = own.make("dataset"), own.model()
    request = own.request(dataset)
    meter = TargetMeter(own.benchmark(dataset, request), request, config["pairs"]["seen"])
    base = meter.base(model, model.sha256())
    with Stored.read(run.folder / "adapter").attach(model).applied():
        answers = meter.answers(model, run.folder / "again")
    found = meter.results(answers, base)
    kept = {key: found[key] for key in ("protocol", "metrics", "base", "landed")}
    write_json(run.folder / AGAIN, {**kept, "steps": sampling["steps"]})
