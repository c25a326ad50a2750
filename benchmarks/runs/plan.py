"""What a run will cost, said before the work: images, seconds at the speed measured here and now, bytes, memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from benchmarks.measure.answers import generate, read
from benchmarks.measure.judging import look
from benchmarks.measure.tiers import Questions
from benchmarks.runs.architectures import ARCHITECTURES, without_weights
from benchmarks.runs.size import said, sized
from benchmarks.runs.task import Task
from fade.errors import BadInput
from fade.models import Diffusion
from fade.strategies import Step
from fade.training.recipe import Recipe

PROBE_STEPS = 3


def jobs(swept: dict[str, Any]) -> int:
    """How many runs a sweep's parameters ask for."""
    return prod(len(str(values).split(",")) for values in swept.values())


def stopwatch(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def clock(seconds: float) -> str:
    """ "3 h 20 min", "2 min 5 s"."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours:,} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def here(path: str) -> bool:
    """Whether a pipeline of the hub lies in its cache, or is a folder: nothing is downloaded for a plan."""
    return Path(path).exists() or isinstance(try_to_load_from_cache(path, "model_index.json"), str)


def planned(task: Task) -> None:
    """task=plan: what the run of this command line, or each of its sweep's, will cost. Of a published model whose
    weights are not on this machine: what it takes, without seconds."""
    dataset, config = task.dataset(), task.config
    if config.get("sequence"):
        raise BadInput("task=plan says what a run of one target costs; leave sequence away")
    request = task.request(dataset)
    recipe, benchmark = task.recipe(dataset), task.benchmark(dataset, request)
    benchmark.check_captions(request)
    questions = Questions(benchmark, request)
    step, path = recipe.step(request), str(task.config["model"]["path"])
    if path in ARCHITECTURES:
        model = without_weights(task.values("model"))
        recipe.check(model, [step])
        print(f"{model.title} without its weights:", said(sized(model, recipe), model.network.dtype), sep="\n")
        if not here(path):
            print(f"no seconds: the weights of {path} are not on this machine")
            return
    model = task.model()
    benchmark.suits(model)
    questions.check(model)
    recipe.check(model, [step])
    print(plan(model, questions, recipe, step, task.saliency(model), jobs(task.swept)))


def plan(model: Diffusion, questions: Questions, recipe: Recipe, step: Step, saliency: Path, runs: int) -> str:
    """Make and judge one batch (after one to warm up), train up to three steps, and multiply."""
    benchmark = questions.benchmark
    p, probe = benchmark.protocol, min(PROBE_STEPS, recipe.steps)  # a closed form trains none
    part = benchmark.wanted[: p.batch]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(model.to(benchmark.device), part, folder / "warm", p.batch, p.sampling)
        image_s = stopwatch(lambda: generate(model, part, folder / "images", p.batch, p.sampling)) / len(part)
        pixels = read(part, folder / "images")
        judge_s = stopwatch(lambda: look(benchmark.judges, pixels)) / len(part)
        size = sum(file.stat().st_size for file in (folder / "images").iterdir()) / len(part)
        adapter = recipe.attach(model)
        began = time.monotonic()
        unlearner = recipe.train(model, adapter, step, folder, saliency, steps=probe)
        fixed_s = time.monotonic() - began - unlearner.distil_s
        step_s = unlearner.distil_s / max(probe, 1)
        adapter.detach()
    images = len(benchmark.wanted) + len(questions.wanted)
    train_s = fixed_s + step_s * recipe.steps
    run_s = train_s + images * (image_s + judge_s)
    total = runs * run_s + images * (image_s + judge_s)
    return "\n".join(
        (
            f"protocol {p.name}: {images:,} images a run, {runs} run{'s' if runs > 1 else ''}, and the base model's "
            f"once: {images * (runs + 1):,} images",
            f"measured here: {image_s:.3f} s to make an image, {judge_s:.4f} s to judge it, {step_s:.3f} s a training "
            f"step",
            f"one run: train {clock(train_s)}, generate {clock(images * image_s)}, judge {clock(images * judge_s)}",
            f"in all: {clock(total)}, {images * (runs + 1) * size / 1e9:.2f} GB of images",
        )
    )
