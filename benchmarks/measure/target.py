"""Everything that is measured of one target: the grid, and the harder questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure.benchmark import Benchmark, Measured
from benchmarks.measure.metrics import Metric
from benchmarks.measure.near import kept, look_alikes
from benchmarks.measure.predictions import Row
from benchmarks.measure.tiers import Questions
from fade.data.pairs import Request
from fade.data.seen import seen_concepts
from fade.models import Diffusion


@dataclass(frozen=True)
class Answers:
    """What one model answered. grid: under the protocol; asked: the rows of what the target was asked beyond it."""

    grid: Measured
    asked: list[Row]


class TargetMeter:
    """A benchmark, one request, and the share of concepts that its retain set shows (pairs.seen). Raises BadInput for a
    tier that the dataset does not have."""

    def __init__(self, benchmark: Benchmark, request: Request, seen: float = 1.0) -> None:
        self.benchmark, self.request, self.questions = benchmark, request, Questions(benchmark, request)
        apart = {request.target, request.surrogate}
        self.seen = seen_concepts(benchmark.dataset.domains, seen, apart) if seen < 1 else None

    @property
    def tiers(self) -> list[str]:
        """In which the target is asked."""
        return ["name", *self.questions.tiers]

    def check(self, model: Diffusion) -> None:
        """Raises BadInput, before any work, for what this model cannot be asked."""
        self.benchmark.suits(model)
        self.questions.check(model)

    def base(self, model: Diffusion, base_sha256: str) -> Answers:
        """The un-unlearned model's answers, made once for all runs."""
        return Answers(self.benchmark.measure_base(model, base_sha256), self.questions.base_answers(model, base_sha256))

    def answers(self, model: Diffusion, folder: Path) -> Answers:
        """Those of a model as it stands, in `folder` and in `folder`/asked."""
        return Answers(self.benchmark.measure(model, folder), self.questions.answers(model, folder / "asked"))

    def cost(self, answers: Answers) -> dict[str, float]:
        """Seconds, by the names of benchmarks.record.format.COSTS."""
        return {**answers.grid.cost, **self.questions.cost(answers.grid.folder / "asked")}

    def results(self, unlearned: Answers, base: Answers) -> dict[str, Any]:
        """The measured part of results.json."""
        near = look_alikes(self.benchmark, base.grid, self.request)
        found = self.benchmark.results(unlearned.grid, base.grid, self.request)
        more = {"metrics": self._harder(unlearned, near), "base": self._harder(base, near)}
        return {**found, **{part: {**found[part], **metrics} for part, metrics in more.items()}}

    def _harder(self, answers: Answers, near: list[str]) -> dict[str, Metric]:
        """What is asked beyond the grid, and what is read of the grid apart."""
        grid = kept(answers.grid.rows, self.request, near, self.seen, self.benchmark.protocol.shared)
        return {**self.questions.scores(answers.asked), **grid}
