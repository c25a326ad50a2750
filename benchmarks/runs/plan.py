"""What a run will cost, said before the work: images, seconds at the speed measured here and now, bytes, memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from benchmarks.measure.answers import generate, read
from benchmarks.measure.benchmark import Benchmark
from benchmarks.measure.judging import look
from benchmarks.measure.shared import made_of
from benchmarks.measure.tiers import Questions
from benchmarks.runs.architectures import ARCHITECTURES, without_weights
from benchmarks.runs.size import precision, said, sized
from benchmarks.runs.task import Task
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.models import Diffusion
from fade.strategies import Step
from fade.training.recipe import Recipe

PROBE_STEPS = 3


@dataclass(frozen=True)
class Planned:
    """The questions of each target that is planned, and how many runs each of them has."""

    targets: list[Questions]
    each: int

    @property
    def runs(self) -> int:
        return len(self.targets) * self.each

    @property
    def images(self) -> list[int]:
        """Of a run of each target."""
        return [len(one.benchmark.wanted) + len(one.wanted) for one in self.targets]

    @property
    def base(self) -> int:
        """The base model's: of the grid what all targets together ask for, and what is asked of each one beyond it."""
        grid = {made_of(answer) for one in self.targets for answer in one.benchmark.wanted}
        return len(grid) + sum(len(one.wanted) for one in self.targets)

    @property
    def all(self) -> int:
        return self.each * sum(self.images) + self.base


def planned_of(task: Task, benchmark: Benchmark, request: Request) -> Planned:
    """What a command line, or its sweep, asks for. Raises BadInput for a target that the dataset does not have."""
    swept, data = dict(task.swept), benchmark.dataset
    targets = values_of(swept.pop("target", request.target))
    surrogate, within = (task.config[key] for key in ("surrogate", "within"))
    requests = [request if name == request.target else Request.of(data, name, surrogate, within) for name in targets]
    each = prod(len(values_of(values)) for values in swept.values())
    return Planned([Questions(benchmark.of(one), one) for one in requests], each)


def values_of(values: object) -> list[str]:
    """What a sweep varies, as it was written, one by one."""
    return [value.strip() for value in str(values).split(",")]


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
    asked = planned_of(task, benchmark, request)
    step, path = recipe.step(request), str(task.config["model"]["path"])
    if path in ARCHITECTURES:
        model = without_weights(task.values("model"))
        recipe.check(model, [step])
        print(f"{model.title} without its weights:", said(sized(model, recipe), precision(model)), sep="\n")
        if not here(path):
            print(f"no seconds: the weights of {path} are not on this machine")
            return
    model = task.model()
    benchmark.suits(model)
    for questions in asked.targets:
        questions.check(model)
    recipe.check(model, [step])
    print(plan(model, benchmark, asked, recipe, step, task.saliency(model)))


def plan(model: Diffusion, benchmark: Benchmark, asked: Planned, recipe: Recipe, step: Step, saliency: Path) -> str:
    """Make and judge one batch (after one to warm up), train up to three steps, and multiply."""
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
    train_s, images = fixed_s + step_s * recipe.steps, max(asked.images)
    total = asked.runs * train_s + asked.all * (image_s + judge_s)
    return "\n".join(
        (
            f"protocol {p.name}: {span(asked.images)} images a run, {asked.runs} run{'s' if asked.runs > 1 else ''}, "
            f"and {asked.base:,} of the base model: {asked.all:,} images",
            f"measured here: {image_s:.3f} s to make an image, {judge_s:.4f} s to judge it, {step_s:.3f} s a training "
            f"step",
            f"one run{', at most' * (min(asked.images) < images)}: train {clock(train_s)}, generate "
            f"{clock(images * image_s)}, judge {clock(images * judge_s)}",
            f"in all: {clock(total)}, {asked.all * size / 1e9:.2f} GB of images",
        )
    )


def span(counts: Sequence[int]) -> str:
    """ "380", "380 to 410"."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))
