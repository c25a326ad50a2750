"""Generate, judge, score, in this order and with their gates; the base model is measured the same way, once."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.generate import Answer, answers, generate, read
from benchmarks.judge import Row, check_judges, features, predict, read_rows, write_rows
from benchmarks.metrics import Metric, frechet, landed, scores
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.files import content_hash, read_tensors, write_tensors
from fade.judges import Judge

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """How a model is measured. official: keep the target's cells in CRA, as UnlearnCanvas's code does."""

    name: str
    seeds: list[int]
    noise: str = "seed"
    batch: int = 36
    official: bool = False
    judge_floor: float = 0.9


@dataclass
class Measured:
    """One scored answer set: its predictions, its features (N, D), and what it cost."""

    folder: Path
    rows: list[Row]
    features: Tensor
    cost: dict[str, float] = field(default_factory=dict)


class Benchmark:
    """A dataset, its judges and a protocol. Raises BadInput where a gate fails; nothing is scored then."""

    def __init__(self, dataset: Dataset, judges: dict[str, Judge], protocol: Protocol, cache: Path) -> None:
        check_judges(judges, dataset, protocol.judge_floor)
        self.dataset, self.judges, self.protocol, self.cache = dataset, judges, protocol, cache
        self.wanted: list[Answer] = answers(dataset, list(protocol.seeds), protocol.noise)

    def check_captions(self, request: Request) -> list[tuple[str, str]]:
        """Forget captions beside their surrogates. Raises BadInput for one that the evaluation never asks."""
        asked = {answer.prompt for answer in self.wanted}
        cells = [cell for cell in self.dataset.cells() if request.concerns(cell)]
        pairs = [(self.dataset.caption(cell), self.dataset.caption(request.overwritten(cell))) for cell in cells]
        for forget, _ in pairs:
            if forget not in asked:
                raise BadInput(f"the forget caption {forget!r} is never asked in the evaluation; use one template for both")
        return pairs

    def measure(self, model: Diffusion, folder: Path) -> Measured:
        """Images, predictions.csv and features.safetensors in `folder`; what is there already is not made again."""
        began = time.monotonic()
        generate(model, self.wanted, folder / "images", self.protocol.batch)
        made = time.monotonic()
        table, deep = folder / "predictions.csv", folder / "features.safetensors"
        if not (table.is_file() and deep.is_file()):
            images = read(self.wanted, folder / "images")
            write_rows(table, predict(self.judges, self.wanted, images))
            write_tensors(deep, {"features": features(self.judges, images)})
        rows = read_rows(table)
        if [row["file"] for row in rows] != [answer.file for answer in self.wanted]:
            raise BadInput(
                f"{table} is not of this answer set ({len(rows)} rows for {len(self.wanted)} images); delete it and run again"
            )
        cost = {"generate_s": made - began, "judge_s": time.monotonic() - made}
        return Measured(folder, rows, read_tensors(deep)[0]["features"], cost)

    def measure_base(self, model: Diffusion, base_sha256: str) -> Measured:
        """The un-unlearned model, measured once for all runs of the same model, dataset and protocol."""
        identity = [base_sha256, vars(self.protocol), self.dataset.template, self.dataset.domains, model.steps, model.guidance,
                    model.size, {d: j.settings for d, j in self.judges.items()}]  # fmt: skip
        return self.measure(model, self.cache / f"base-{content_hash(identity)}")

    def real(self, size: int) -> tuple[Tensor, list[tuple[str, ...]]]:
        """Features of the dataset's held-out images and their cells: the reference of `fid_judge`, computed once."""
        items = self.dataset.items("test")
        identity = content_hash([self.dataset.fingerprint(items, size), {d: j.settings for d, j in self.judges.items()}])
        path = self.cache / f"real-{identity}.safetensors"
        if not path.is_file():
            parts = [features(self.judges, self.dataset.images(items[i : i + 256], size)) for i in range(0, len(items), 256)]
            write_tensors(path, {"features": torch.cat(parts)})
        return read_tensors(path)[0]["features"], [item.concepts for item in items]

    def score(self, measured: Measured, request: Request, size: int) -> dict[str, Metric]:
        """Every metric of one answer set, the target's cells left out of the FID on both sides."""
        domains = list(self.dataset.domains)
        found = scores(measured.rows, request.target, request.domain, domains, self.protocol.official)
        real, cells = self.real(size)
        place = domains.index(request.domain)
        keep_real = [cell[place] != request.target for cell in cells]
        keep_made = [row[request.domain] != request.target for row in measured.rows]
        try:
            found["fid_judge"] = {"value": frechet(real[keep_real], measured.features[keep_made]), "n": sum(keep_made)}
        except ValueError as error:
            found["fid_judge"] = {"value": None, "why": str(error), "n": sum(keep_made)}
        return found

    def results(self, unlearned: Measured, base: Measured, request: Request, size: int) -> dict[str, Any]:
        """The measured part of results.json."""
        return {
            "format": 1,
            "dataset": self.dataset.name,
            "target": request.target,
            "domain": request.domain,
            "surrogate": request.surrogate,
            "protocol": self.protocol.name,
            "metrics": self.score(unlearned, request, size),
            "base": self.score(base, request, size),
            "landed": landed(unlearned.rows, request.target, request.domain),
            "gates": {
                "judge_accuracy": {domain: judge.accuracy for domain, judge in self.judges.items()},
                "images": len(self.wanted),
            },
        }
