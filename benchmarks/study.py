"""One run from model to results.json: the base measured, the adapter learned, the unlearned model measured, a picture made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.benchmark import Benchmark
from benchmarks.record import Record, peak_memory_mb
from benchmarks.report import comparison
from fade.adapters import Adapter
from fade.data.pairs import Request
from fade.diffusion import Diffusion
from fade.sparsity import Sparsity
from fade.unlearner import Unlearner

Learn = Callable[[Adapter], Unlearner]  # trains the adapter it is given


def study(
    record: Record,
    model: Diffusion,
    benchmark: Benchmark,
    request: Request,
    attach: Callable[[], Adapter],
    learn: Learn,
    sparsity: Sparsity,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Do what is not done yet and write results.json. `about`: what only the caller knows (method, seeds, overrides)."""
    identity = model.sha256()
    base = benchmark.measure_base(model, identity)
    adapter, cost = learned(record, model, request, attach, learn, identity)
    with adapter.merged():
        measured = benchmark.measure(model, record.folder)
    comparison(
        base.folder, record.folder, benchmark.dataset, request, list(benchmark.protocol.seeds), record.folder / "comparison.png"
    )
    written = sum(file.stat().st_size for file in (record.folder / "adapter").iterdir())
    return record.finish(
        {
            **benchmark.results(measured, base, request, model.size),
            **about,
            "cost": {**cost, **measured.cost, "peak_memory_mb": peak_memory_mb(), "adapter_bytes": written},
            "sparsity": {"kind": sparsity.kind, "p": sparsity.p, "density": adapter.density()},
            "base_sha256": identity,
            "adapter_sha256": adapter.sha256(),
        }
    )


def learned(
    record: Record, model: Diffusion, request: Request, attach: Callable[[], Adapter], learn: Learn, identity: str
) -> tuple[Adapter, dict[str, float]]:
    """The adapter of this run, read from its folder or trained now; and what the training cost."""
    folder = record.folder / "adapter"
    if folder.is_dir():
        return Adapter.load(model.unet, folder), Adapter.card(folder)["cost"]
    adapter = attach()
    unlearner = learn(adapter)
    cost = {
        "locate_s": unlearner.locate_s,
        "distil_s": unlearner.distil_s,
        "teacher_passes": adapter.teacher_passes,
        "steps": unlearner.trainer.global_step,
    }
    adapter.save(folder, {**vars(request), "base_sha256": identity, "cost": cost})
    return adapter, cost
