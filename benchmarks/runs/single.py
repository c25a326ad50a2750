"""One run from model to results.json: the base measured, the adapter learned, the result measured, a picture made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from benchmarks.measure.answers import refuse_harmed
from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.folder import Record, adapter_bytes, peak_memory_mb, portable, provenance
from benchmarks.report.pictures import comparison
from fade.adapters import Adapter
from fade.adapters.stored import Stored, complete
from fade.console import doing
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import without_folders
from fade.models import Diffusion
from fade.sparsity import Sparsity
from fade.training.ranks import leads
from fade.training.unlearner import Unlearner


class Attach(Protocol):
    def __call__(self, model: Diffusion) -> Adapter:
        """A new adapter on the model."""


class Learn(Protocol):
    def __call__(self, model: Diffusion, adapter: Adapter, folder: Path, steps: int | None = None) -> Unlearner:
        """Train the adapter; checkpoints and logs go to the folder."""


def study(
    record: Record,
    model: Diffusion,
    benchmark: Benchmark,
    request: Request,
    attach: Attach,
    learn: Learn,
    sparsity: Sparsity,
    about: dict[str, Any],
) -> dict[str, Any] | None:
    """Do what is not done yet and write results.json. `about`: what only the caller knows (method, seeds, overrides).

    Where several processes train the run, all but rank zero train only, and get None.
    """
    identity = model.sha256()
    if not leads():
        if not (record.folder / "adapter").is_dir():
            learn(model, attach(model), record.folder)
        return None
    record.keep_splits(benchmark.dataset)
    base = benchmark.measure_base(model, identity)
    adapter, cost = learned(record, model, request, attach, learn, sparsity, about)
    model.to(benchmark.device)  # Lightning hands it back on the CPU
    with adapter.applied():
        measured = benchmark.measure(model, record.folder)
    doing("drawing comparison.png")
    comparison(
        base.folder / "images",
        record.folder / "images",
        benchmark.wanted,
        benchmark.dataset,
        request,
        record.folder / "comparison.png",
    )
    results = {
        **benchmark.results(measured, base, request),
        **portable(about),
        "cost": {
            **cost,
            **measured.cost,
            "peak_memory_mb": peak_memory_mb(),
            "adapter_bytes": adapter_bytes(record.folder / "adapter"),
        },
        "sparsity": {"kind": sparsity.kind, "p": sparsity.p, "density": adapter.density()},
        "prediction": model.prediction,
        "base_sha256": identity,
        "base_answers": base.folder.name,  # in the cache, which run.json names
        "adapter_sha256": adapter.sha256(),
    }
    complete(record.folder / "adapter", results, record.folder / "comparison.png")
    return record.finish(results)


def learned(
    record: Record,
    model: Diffusion,
    request: Request,
    attach: Attach,
    learn: Learn,
    sparsity: Sparsity,
    about: dict[str, Any],
) -> tuple[Adapter, dict[str, float]]:
    """The adapter of this run, read from its folder or trained now; and what the training cost.

    Its card says everything but the results, which are not there yet: the run's whole configuration too.
    """
    folder = record.folder / "adapter"
    if folder.is_dir():
        try:
            stored = Stored.read(folder)
            return stored.attach(model), stored.about["cost"]
        except BadInput as error:
            raise BadInput(f"{error}; delete {folder} and run the same command again: it is trained again") from error
    adapter = attach(model)
    unlearner = learn(model, adapter, record.folder)
    cost = unlearner.cost()
    card = {
        "sparsity": {"kind": sparsity.kind, "p": sparsity.p, "density": adapter.density()},
        "cost": cost,
        "config": without_folders((record.folder / "config.yaml").read_text(encoding="utf-8")),
    }
    Stored.of(adapter, {**vars(request), **portable(about), **card, **provenance()}).write(folder)
    return adapter, cost


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
