"""One run from model to results.json: the adapter learned, the base and the result measured, a picture made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.target import Answers, TargetMeter
from benchmarks.record.folder import Record, adapter_bytes, peak_memory_mb, portable
from benchmarks.record.results import Run
from benchmarks.report.pictures import comparison
from benchmarks.runs.again import advice, between, measured_again
from benchmarks.runs.task import Task
from benchmarks.runs.trained import trained
from benchmarks.runs.verdict import end
from fade.adapters import Adapter
from fade.adapters.folder import complete
from fade.adapters.stored import Stored
from fade.console import doing
from fade.errors import BadInput
from fade.models import Diffusion
from fade.training.logs import Mirror
from fade.training.ranks import leads
from fade.training.recipe import Recipe


def unlearn(task: Task) -> None:
    """task=unlearn, of one target. Its folder is the record: a step whose file is there is not done again."""
    dataset = task.dataset()
    recipe, config = task.recipe(dataset), task.config
    request = task.request(dataset)
    benchmark = task.benchmark(dataset, request)
    benchmark.check_captions(request)
    meter = TargetMeter(benchmark, request, recipe.pairs["seen"], config["oracle"])
    target = "-with-".join([request.target, *(request.within or ())[1:]])
    name = f"{dataset.name}-{target}-{task.chosen['method']}-{recipe.sparsity.kind}"
    record = task.record(name)
    done = record.results
    results = done or fresh(task, recipe, meter, record)
    if results is None:
        return  # this process helped rank zero, which says what came of it
    run = Run(record.folder, results)
    more = config["again"] is not None and between(run, config) and not run.again
    if more:
        run = measured_again(task, run)
    end(run, config["fail_under"], done is not None and not more, advice(run, config))


def fresh(task: Task, recipe: Recipe, meter: TargetMeter, record: Record) -> dict[str, Any] | None:
    """A run that is not finished, trained and measured; None in a process that only helped to train."""
    captions, loggers = meter.benchmark.check_captions(meter.request), task.loggers(record.folder)
    print("\n".join(f"  {forget}  ->  {surrogate}" for forget, surrogate in captions))
    print(f"  trained on by {', '.join(recipe.pairs['captions'])}; asked by {', '.join(meter.tiers)}")
    with record.kept():
        model = task.model()
        meter.check(model)
        recipe.check(model, [recipe.step(meter.request)])
        about, saliency = task.about(recipe, meter.benchmark), task.saliency(model)
        results = study(record, model, meter, recipe, about, saliency, loggers)
    if results is None:
        return None
    for mirror in (logger for logger in loggers if isinstance(logger, Mirror)):
        mirror.log_hyperparams(task.config)
        mirror.finish(results, record.folder)
    return results


def study(
    record: Record,
    model: Diffusion,
    meter: TargetMeter,
    recipe: Recipe,
    about: dict[str, Any],
    saliency: Path | None = None,
    loggers: Sequence[Any] = (),
) -> dict[str, Any] | None:
    """Do what is not done yet and write results.json. `about`: what only the caller knows (method, seeds, overrides).
    saliency: the file of stage one, which runs may share.

    Where several processes train the run, all but rank zero train only, and get None.
    """
    benchmark, request = meter.benchmark, meter.request
    identity, step, folder = model.sha256(), recipe.step(request), record.folder / "adapter"
    if not leads():
        if not folder.is_dir():
            recipe.train(model, recipe.attach(model), step, record.folder, saliency, loggers)
        return None
    record.keep_splits(benchmark.dataset)
    benchmark.check_judges()
    adapter, cost = (
        kept_adapter(model, folder)
        if folder.is_dir()
        else trained(recipe, model, step, record.folder, record, about, "fade", saliency, loggers)
    )
    model.to(benchmark.device)  # Lightning hands it back on the CPU
    # After the training, whose first loss would wait for it; where another process makes it now, last.
    base = None if benchmark.base_busy(model, identity) else base_below(adapter, meter, identity)
    with adapter.applied():
        answers = meter.answers(model, record.folder)
    base, never_saw = base or base_below(adapter, meter, identity), meter.never_saw()
    results = {
        **meter.results(answers, base, never_saw),
        **portable(about),
        "cost": {
            **cost,
            **meter.cost(answers),
            "peak_memory_mb": peak_memory_mb(),
            "adapter_bytes": adapter_bytes(folder),
        },
        "sparsity": {"kind": recipe.sparsity.kind, "p": recipe.sparsity.p, "density": adapter.density()},
        "prediction": model.prediction,
        "protocol_version": benchmark.version(model),
        "sampling": benchmark.sampling(model),
        "base_sha256": identity,
        "base_answers": base.grid.folder.name,  # in the cache, which run.json names
        "adapter_sha256": adapter.sha256(),
    }
    doing("drawing comparison.png")
    comparison(
        base.grid.folder / "images",
        record.folder / "images",
        benchmark.wanted,
        benchmark.dataset,
        request,
        record.folder / "comparison.png",
        results["metrics"].get("ira_near", {}).get("of", ()),
    )
    complete(folder, results, record.folder / "comparison.png")
    return record.finish(results)


def base_below(adapter: Adapter, meter: TargetMeter, identity: str) -> Answers:
    """Of the model as it is without the adapter."""
    with adapter.off():
        return meter.base(adapter.model, identity)


def kept_adapter(model: Diffusion, folder: Path) -> tuple[Adapter, dict[str, float]]:
    """The adapter of this run, read from its folder, and what its training cost."""
    try:
        stored = Stored.read(folder)
        return stored.attach(model), stored.about["cost"]
    except BadInput as error:
        raise BadInput(f"{error}; delete {folder} and run the same command again: it is trained again") from error
