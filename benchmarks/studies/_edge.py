"""Images on which samplers differ: adapters turned down until half of their target's images are forgotten.

What benchmarks/studies/edge.py asks of them, and how each sampler's verdicts are kept: a row an image, and no image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.answers import Answer, answers
from benchmarks.measure.benchmark import Benchmark, Protocol
from benchmarks.measure.judging import look, predict
from benchmarks.measure.predictions import Row, read_rows, write_rows
from benchmarks.measure.tiers import Questions, Told
from benchmarks.record.results import Run
from fade.adapters.stored import Stored
from fade.console import Stage
from fade.data.language import PAIR
from fade.data.pairs import Request
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.files import content_hash
from fade.models import Diffusion, Sampling

SOLVERS = {
    "DDIM": "DDIMScheduler",
    "DEIS": "DEISMultistepScheduler",
    "DPM++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
}
NEAR_HALF = 0.15  # how far from a half the search for a scale may end
TRIES = 7  # of the search
NARROW = "bfloat16"  # in which every image is judged a second time


@dataclass(frozen=True)
class Sampler:
    """One way to make the images. solver: of SOLVERS; precision: of autocast, "" for none."""

    solver: str
    steps: int
    precision: str = ""

    @classmethod
    def of(cls, text: str) -> Sampler:
        """SOLVER:STEPS or SOLVER:STEPS:PRECISION. Raises BadInput for another one."""
        solver, _, rest = text.partition(":")
        steps, _, precision = rest.partition(":")
        if (
            solver not in SOLVERS
            or not steps.isdigit()
            or int(steps) < 1
            or precision not in ("", "bfloat16", "float16")
        ):
            raise BadInput(
                f"{text!r} is no sampler; give SOLVER:STEPS, with :bfloat16 behind it where wanted; a solver is one of "
                f"{', '.join(SOLVERS)}"
            )
        return cls(solver, int(steps), precision)

    @property
    def name(self) -> str:
        return " ".join(filter(None, [self.solver, str(self.steps), self.precision]))

    def sampling(self, own: Sampling) -> Sampling:
        """A protocol's, with this sampler."""
        precision: Any = self.precision or None
        return replace(own, sampler=SOLVERS[self.solver], steps=self.steps, precision=precision, skip=0)


SEARCH = Sampler("DDIM", 15)  # by which a scale is looked for


@dataclass(frozen=True)
class Edge:
    """A run's adapter at a scale at which about half of its target's images are forgotten."""

    run: Run
    scale: float = 1.0

    @property
    def adapter(self) -> str:
        return f"{self.run.method_name}-{self.run.target}-{self.run.results['adapter_sha256'][:6]}"

    @property
    def name(self) -> str:
        return f"{self.adapter}-{self.scale:g}"

    @property
    def near(self) -> list[str]:
        """The target's look-alikes, as the run found them."""
        return list(self.run.metrics.get("ira_near", {}).get("of", ()))

    def kind(self, cell: Cell) -> str:
        """What a cell of the grid is to it."""
        concept = cell[self.run.domain]
        return "name" if concept == self.run.target else "near" if concept in self.near else "other"


def check_run(run: Run) -> None:
    """Raises BadInput for a run that left no adapter, and for one of a pair of concepts."""
    if "adapter_sha256" not in run.results or not (run.folder / "adapter").is_dir():
        raise BadInput(f"{run.folder} has no adapter to turn down; name finished runs of run.py")
    if run.results.get("within"):
        raise BadInput(f"{run.folder} forgets {run.gone}; name runs of one concept each")


@contextmanager
def turned_down(model: Diffusion, edge: Edge) -> Iterator[None]:
    """Inside, the model carries the run's adapter at the scale, merged where it can be."""
    adapter = Stored.read(edge.run.folder / "adapter").attach(model, "edge")
    try:
        adapter.scale = edge.scale
        with adapter.applied():
            yield
    finally:
        adapter.detach()


def half_forgotten(ua: Callable[[float], float]) -> float | None:
    """A scale in (0, 1] at which about half is forgotten, by bisection; None where all of the adapter forgets less, and
    where the search finds none. ua: of a scale, in [0, 1]."""
    low, high = 0.0, 1.0
    if (found := ua(high)) <= 0.5 + NEAR_HALF:
        return high if found >= 0.5 - NEAR_HALF else None
    for _ in range(TRIES):
        middle = (low + high) / 2
        found = ua(middle)
        if abs(found - 0.5) <= NEAR_HALF:
            return middle
        low, high = (middle, high) if found < 0.5 else (low, middle)
    return None


def share_gone(model: Diffusion, benchmark: Benchmark, edge: Edge) -> float:
    """UA at a scale on one image of each of the target's cells, by SEARCH."""
    part = [answer for answer in grid(benchmark, edge, 1.0) if edge.kind(answer.cell) == "name"]
    with turned_down(model, edge):
        rows = made(model, benchmark, part, SEARCH)
    return sum(row[f"{edge.run.domain}_predicted"] != edge.run.target for row in rows) / len(rows)


def of_edge(benchmark: Benchmark, edge: Edge, seeds: int, tier_seeds: int) -> Benchmark:
    """The benchmark with noise of each image's own, and seeds of each edge's own: no two images share any."""
    first = int(content_hash(edge.name), 16) % 10**6 * 100
    dataset, own = benchmark.dataset, benchmark.protocol
    protocol: Protocol = replace(
        own,
        noise="image",
        seeds=[first + k for k in range(seeds)],
        tier_seeds=[first + seeds + k for k in range(max(1, tier_seeds))],
        tiers=[tier for tier in dataset.tiers if tier not in ("name", PAIR)] if tier_seeds else [],
    )
    return Benchmark(dataset, benchmark.judges, protocol, benchmark.cache, str(benchmark.device))


def grid(benchmark: Benchmark, edge: Edge, share: float) -> list[Answer]:
    """The target's cells with every seed; with the first `share` of all others, and four times as much of its
    look-alikes."""
    p, dataset = benchmark.protocol, benchmark.dataset
    prompts = [benchmark.prompt(cell) for cell in dataset.cells()]

    def of_kind(kind: str, seeds: list[int], part: float) -> list[Answer]:
        found = answers(dataset, prompts, seeds, p.noise, p.suffix, part)
        return [answer for answer in found if edge.kind(answer.cell) == kind]

    seeds = list(p.seeds)
    near, other = of_kind("near", seeds[:1], min(1.0, 4 * share)), of_kind("other", seeds[:1], share)
    return [*of_kind("name", seeds, 1.0), *near, *other]


def asked(benchmark: Benchmark, edge: Edge, share: float) -> list[Answer]:
    """All that a sampler is asked: the grid's, and the target's cells in every other tier."""
    request = Request(edge.run.target, edge.run.surrogate, edge.run.domain)
    return [*grid(benchmark, edge, share), *Questions(benchmark, request).wanted]


def kind_of(answer: Answer, edge: Edge) -> str:
    """A tier; of the tier `name` also whether the image shows the target, a look-alike or something else."""
    return answer.tier if isinstance(answer, Told) else edge.kind(answer.cell)


def made(model: Diffusion, benchmark: Benchmark, part: Sequence[Answer], sampler: Sampler) -> list[Row]:
    """What the judges read in images of one batch, in float32 and in NARROW; passes of the network and CPU seconds an
    image. The images are not kept."""
    passes: list[int] = []
    counter = model.network.register_forward_pre_hook(
        lambda _, args, given: passes.append(_samples(args, given)), with_kwargs=True
    )
    began = time.process_time()
    try:
        images = model.generate(
            [answer.prompt for answer in part],
            [answer.noise for answer in part],
            sampler.sampling(benchmark.protocol.sampling),
        )
    finally:
        counter.remove()
    spent = {"seconds": (time.process_time() - began) / len(part), "passes": sum(passes) / len(part)}
    pixels = (images.clamp(0, 1) * 255).round().byte()  # as a file would hold them
    rows = predict(benchmark.judges, list(part), look(benchmark.judges, pixels))
    for row, narrow in zip(rows, narrowly(benchmark, part, pixels), strict=True):
        row |= narrow | {key: f"{value:.6g}" for key, value in spent.items()}
    return rows


def _samples(args: tuple[Any, ...], given: dict[str, Any]) -> int:
    """How many samples a call of the network holds."""
    return len(args[0] if args else given["sample"])


def narrowly(benchmark: Benchmark, part: Sequence[Answer], pixels: Tensor) -> list[Row]:
    """What the judges read in the same images in NARROW."""
    with torch.autocast(benchmark.device.type, getattr(torch, NARROW)):
        rows = predict(benchmark.judges, list(part), look(benchmark.judges, pixels))
    return [{f"{domain}_{NARROW}": row[f"{domain}_predicted"] for domain in benchmark.judges} for row in rows]


def verdicts(
    model: Diffusion,
    benchmark: Benchmark,
    edge: Edge,
    wanted: Sequence[Answer],
    sampler: Sampler,
    path: Path,
    stage: Stage,
) -> None:
    """Ask what the file lacks, a batch at a time; the file is whole after each."""
    rows = read_rows(path) if path.is_file() else []
    for part in evenly(lacking(wanted, rows), benchmark.protocol.batch):
        found = made(model, benchmark, part, sampler)
        rows += [{"kind": kind_of(answer, edge), **row} for answer, row in zip(part, found, strict=True)]
        write_rows(path, rows)
        stage.done(stage.number + sampler.steps * len(part))


def evenly(wanted: Sequence[Answer], most: int) -> list[Sequence[Answer]]:
    """In batches of at most so many, none much smaller than another: one of few images costs more for each."""
    batches = -(-len(wanted) // most)
    return [wanted[len(wanted) * k // batches : len(wanted) * (k + 1) // batches] for k in range(batches)]


def lacking(wanted: Sequence[Answer], rows: Sequence[Row]) -> list[Answer]:
    """What was asked and has no row."""
    there = {row["file"] for row in rows}
    return [answer for answer in wanted if answer.file not in there]
