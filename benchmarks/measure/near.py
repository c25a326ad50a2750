"""What stands close to a target: its look-alikes, and the concepts that the retain set never showed.

ira_near  IRA over the two concepts of the target's domain that stand nearest to it
ira_seen, ira_unseen, cra_seen, cra_unseen  IRA and CRA apart for the concepts that pairs.seen let the retain set show,
and for those that it left out (fade/data/seen.py)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure.answers import fingerprint, read_chunks
from benchmarks.measure.benchmark import CHUNK, Benchmark, Measured
from benchmarks.measure.judging import look
from benchmarks.measure.metrics import Metric, hits, told
from benchmarks.measure.predictions import Row
from fade.claims import once
from fade.data.pairs import Request
from fade.files import content_hash
from fade.judges import Judge
from fade.tensors import read_tensors, write_tensors

NEAREST = 2


def opinions(benchmark: Benchmark, judge: Judge, measured: Measured) -> tuple[Tensor, Tensor]:
    """Probabilities (N, labels) and features (N, D) of a judge on an answer set; kept beside it, for every run that
    asks."""
    asked = content_hash([judge.identity, fingerprint(benchmark.wanted, measured.folder / "images")])
    file = measured.folder / f"opinions-{asked}.safetensors"
    make = partial(_write_opinions, file, benchmark, judge, measured)
    found, _ = once(file, read_tensors, make, "what a judge says of the base's images")
    return found["probabilities"], found["features"]


@torch.no_grad()
def _write_opinions(file: Path, benchmark: Benchmark, judge: Judge, measured: Measured) -> None:
    chunks = read_chunks(benchmark.wanted, measured.folder / "images", CHUNK)
    looks = [look({judge.domain: judge}, pixels)[judge.domain] for _, pixels in chunks]
    found = {"probabilities": torch.cat([one.probabilities for one in looks])}
    write_tensors(file, {**found, "features": torch.cat([one.features for one in looks])})


def distances(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(classes, classes): Euclidean distance of the classes' mean features; infinite on the diagonal. features (N, D),
    labels (N,)."""
    means = torch.stack([features[labels == k].mean(0) for k in range(classes)])
    return torch.cdist(means, means).fill_diagonal_(torch.inf)


def confusion(probabilities: Tensor, labels: Tensor) -> Tensor:
    """(classes, classes): the mean probability of one class (column) on the images of another (row). probabilities (N,
    classes), labels (N,)."""
    return torch.stack([probabilities[labels == k].mean(0) for k in range(probabilities.shape[1])])


def nearest(opinions: tuple[Tensor, Tensor], labels: Tensor, target: int) -> list[int]:
    """The NEAREST classes to one, by probabilities (N, classes) and features (N, D) of images of classes `labels` (N,):
    least the sum of two ranks, by how much it is taken for the other or the other for it, and by the distance of the
    mean features; of equal ones the nearer in features."""
    probabilities, features = opinions
    mistaken, far = confusion(probabilities, labels), distances(features, labels, probabilities.shape[1])[target]
    taken = mistaken[target] + mistaken[:, target]
    taken[target] = -torch.inf
    ranks = (-taken).argsort().argsort() + far.argsort().argsort()
    order = sorted(range(len(far)), key=lambda k: (int(ranks[k]), float(far[k])))
    return [k for k in order if k != target][:NEAREST]


def look_alikes(benchmark: Benchmark, base: Measured, request: Request) -> list[str]:
    """The concepts of the target's domain that stand nearest to it in what the untouched model draws."""
    judge, labels = benchmark.judges[request.domain], benchmark.dataset.domains[request.domain]
    probabilities, features = opinions(benchmark, judge, base)
    own = probabilities[:, [judge.labels.index(label) for label in labels]]  # of a part of a grid, which has no others
    shown = torch.tensor([labels.index(row[request.domain]) for row in base.rows])
    return [labels[k] for k in nearest((own, features), shown, labels.index(request.target))]


def kept(
    rows: Sequence[Row], request: Request, near: Sequence[str], seen: Collection[str] | None, shared: bool
) -> dict[str, Metric]:
    """IRA of the look-alikes; IRA and CRA of what the retain set showed and of what it did not. seen: the concepts that
    it may show; None: all of them, and nothing is told apart. shared: whether images of one seed began with one latent.
    """
    domains = [key.removesuffix("_predicted") for key in rows[0] if key.endswith("_predicted")]
    others = [row for row in rows if not request.concerns(row)]
    found = told("ira_near", hits([r for r in others if r[request.domain] in near], domains, request.domain, shared))
    found["ira_near"]["of"] = list(near)
    for domain in domains if seen is not None else ():
        name = "ira" if domain == request.domain else "cra"
        for part, inside in (("seen", True), ("unseen", False)):
            own = [row for row in others if (row[domain] in seen) == inside]  # type: ignore[operator]
            if own:
                found |= told(f"{name}_{part}", hits(own, domains, domain, shared))
    return found
