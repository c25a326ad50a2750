"""Everything that is measured of one target: the grid, the harder questions, and the model that never saw it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.measure.benchmark import Benchmark, Measured
from benchmarks.measure.metrics import Metric, landed
from benchmarks.measure.near import kept, look_alikes
from benchmarks.measure.oracle import Oracle
from benchmarks.measure.predictions import Row
from benchmarks.measure.tiers import Questions
from fade.data.pairs import Request
from fade.data.seen import seen_concepts
from fade.errors import BadInput
from fade.models import Diffusion
from fade.pretrain.oracle import oracle_folder


@dataclass(frozen=True)
class Answers:
    """What one model answered. grid: under the protocol; asked: the rows of what the target was asked beyond it;
    guesses: its predictions beside the oracle's, where there is one."""

    grid: Measured
    asked: list[Row]
    guesses: dict[str, Tensor] = field(default_factory=dict)


class TargetMeter:
    """A benchmark, one request, the share of concepts that its retain set shows (pairs.seen), and the folder of a model
    that never saw the target, or of several such. Raises BadInput for a tier that the dataset does not have, and for a
    share of the grid that leaves the target out."""

    def __init__(self, benchmark: Benchmark, request: Request, seen: float = 1.0, oracle: str | None = None) -> None:
        self.benchmark, self.request, self.questions = benchmark, request, Questions(benchmark, request)
        if not any(request.concerns(answer.cell) for answer in benchmark.wanted):
            share, missed = benchmark.protocol.share, " with ".join(request.named[::2])
            raise BadInput(
                f"protocol.share={share:g} asks for no image of {missed}; use protocol.whole_target=true or "
                "protocol.share=1"
            )
        self.seen = seen_concepts(benchmark.dataset.domains, seen, request.named) if seen < 1 else None
        self.folder = None if request.within else oracle_folder(oracle, request.target)
        self.oracle: Oracle | None = None

    @property
    def tiers(self) -> list[str]:
        """In which the target is asked."""
        return ["name", *dict.fromkeys(answer.tier for answer in self.questions.wanted)]

    def check(self, model: Diffusion) -> None:
        """Raises BadInput, before any work, for what this model cannot be asked, and for an oracle that is not its."""
        self.benchmark.suits(model)
        self.questions.check(model)
        self._find_oracle(model)

    def base(self, model: Diffusion, base_sha256: str) -> Answers:
        """The un-unlearned model's answers, made once for all runs."""
        oracle = self._find_oracle(model)
        guesses = oracle.guesses(model) if oracle else {}
        return Answers(
            self.benchmark.measure_base(model, base_sha256), self.questions.base_answers(model, base_sha256), guesses
        )

    def never_saw(self) -> Answers | None:
        """The oracle's answers, made once as the base's are; None where there is none."""
        if self.oracle is None:
            return None
        model = self.oracle.model
        self.oracle.warn([answer.prompt for answer in (*self.benchmark.wanted, *self.questions.wanted)])
        grid = self.benchmark.measure_base(model, model.sha256())
        return Answers(grid, self.questions.base_answers(model, model.sha256()))

    def answers(self, model: Diffusion, folder: Path) -> Answers:
        """Those of a model as it stands, in `folder` and in `folder`/asked."""
        grid, asked = self.benchmark.measure(model, folder), self.questions.answers(model, folder / "asked")
        return Answers(grid, asked, self.oracle.guesses(model) if self.oracle else {})

    def cost(self, answers: Answers) -> dict[str, float]:
        """Seconds, by the names of benchmarks.record.format.COSTS."""
        return {**answers.grid.cost, **self.questions.cost(answers.grid.folder / "asked")}

    def results(self, unlearned: Answers, base: Answers, oracle: Answers | None = None) -> dict[str, Any]:
        """The measured part of results.json. oracle: of `never_saw`."""
        near = look_alikes(self.benchmark, base.grid, self.request)
        found = self.benchmark.results(unlearned.grid, base.grid, self.request)
        more = {"metrics": self._harder(unlearned, near), "base": self._harder(base, near)}
        if self.oracle and oracle:
            more["metrics"] |= self.oracle.distances(unlearned.guesses, base.guesses)
            more["oracle"] = {**self.benchmark.score(oracle.grid, self.request), **self._harder(oracle, near)}
            found["oracle_landed"] = landed(oracle.grid.rows, self.request)
        return {**found, **{part: {**found.get(part, {}), **metrics} for part, metrics in more.items()}}

    def _find_oracle(self, model: Diffusion) -> Oracle | None:
        if self.folder is not None and self.oracle is None:
            self.oracle = Oracle(self.folder, model, self.benchmark, self.request)
        return self.oracle

    def _harder(self, answers: Answers, near: list[str]) -> dict[str, Metric]:
        """What is asked beyond the grid, and what is read of the grid apart."""
        grid = kept(answers.grid.rows, self.request, near, self.seen, self.benchmark.protocol.shared)
        return {**self.questions.scores(answers.asked), **grid}
