"""Classifiers -> a predictions table: one row an image, its cell, and what each judge reads in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.measure.answers import Answer
from benchmarks.measure.predictions import Row
from fade.data.dataset import Dataset
from fade.errors import BadInput
from fade.judges import Judge, Look


def check_labels(judges: dict[str, Judge], dataset: Dataset) -> None:
    """A gate. Raises BadInput: a domain without a judge, or one with other labels or another order. Of a part of a grid
    the judges know the whole, and what they say outside of the part is wrong."""
    for domain, labels in dataset.domains.items():
        judge = judges.get(domain)
        if judge is None:
            raise BadInput(f"no judge for the domain {domain!r}; name its folder with judges.{domain}=FOLDER")
        if judge.labels not in (labels, dataset.whole[domain]):
            differing = sorted(set(judge.labels) ^ set(labels)) or ["their order"]
            raise BadInput(
                f"the {domain} judge's labels are not the dataset's: {', '.join(differing[:6])} differ; train one for "
                f"it"
            )


def check_accuracy(accuracies: dict[str, float], floor: float) -> None:
    """A gate. Raises BadInput where a judge is right too seldom on real images."""
    for domain, accuracy in accuracies.items():
        if accuracy < floor:
            raise BadInput(
                f"the {domain} judge is right on {accuracy:.1%} of held-out real images; "
                f"the gate is {floor:.1%} (protocol.judge_floor)"
            )


@torch.no_grad()
def look(judges: dict[str, Judge], images: Tensor) -> dict[str, Look]:
    """What each judge makes of images (N, 3, H, W) uint8, in one pass of each."""
    return {domain: judge.look(images.to(judge.device).float() / 255) for domain, judge in judges.items()}


def predict(judges: dict[str, Judge], part: Sequence[Answer], looks: dict[str, Look]) -> list[Row]:
    """Rows with, for each domain, the predicted label and the probability of the true one."""
    rows: list[Row] = [{"file": a.file, "prompt": a.prompt, "seed": str(a.seed), **a.cell} for a in part]
    for domain, judge in judges.items():
        for row, p in zip(rows, looks[domain].probabilities, strict=True):
            own = judge.labels.index(row[domain])
            row[f"{domain}_predicted"] = judge.labels[read_as(p, own, judge.multilabel)]
            row[f"{domain}_probability"] = f"{p[own].item():.6f}"
    return rows


def read_as(p: Tensor, own: int, multilabel: bool) -> int:
    """The class that an image counts as: the likeliest; where labels overlap its own if that is likelier than not, else
    the likeliest other."""
    if not multilabel:
        return int(p.argmax())
    if p[own] >= 0.5:
        return own
    others = p.clone()
    others[own] = -1
    return int(others.argmax())
