"""Classifiers -> a predictions table: one row an image, its cell, and what each judge reads in it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.generate import Answer
from fade.data.dataset import Dataset
from fade.errors import BadInput
from fade.files import write_text
from fade.judges import Judge

Row = dict[str, str]


def check_judges(judges: dict[str, Judge], dataset: Dataset, floor: float) -> None:
    """The gates on the judges. Raises BadInput: a domain without a judge, other labels or order, too low an accuracy."""
    for domain, labels in dataset.domains.items():
        judge = judges.get(domain)
        if judge is None:
            raise BadInput(f"no judge for the domain {domain!r}; name its folder with judges.{domain}=FOLDER")
        if judge.labels != labels:
            differing = sorted(set(judge.labels) ^ set(labels)) or ["their order"]
            raise BadInput(
                f"the {domain} judge's labels are not the dataset's: {', '.join(differing[:6])} differ; train one for it"
            )
        if judge.accuracy is not None and judge.accuracy < floor:
            raise BadInput(
                f"the {domain} judge is right on {judge.accuracy:.1%} of held-out real images; "
                f"the gate is {floor:.1%} (protocol.judge_floor)"
            )


@torch.no_grad()
def predict(judges: dict[str, Judge], wanted: list[Answer], images: Tensor, batch: int = 128) -> list[Row]:
    """Rows with, for each domain, the predicted label and the softmax probability of the true one."""
    rows: list[Row] = [{"file": a.file, "prompt": a.prompt, "seed": str(a.seed), **a.cell} for a in wanted]
    for domain, judge in judges.items():
        logits = torch.cat([judge(x.float() / 255) for x in images.split(batch)])
        for row, p in zip(rows, logits.softmax(-1), strict=True):
            row[f"{domain}_predicted"] = judge.labels[int(p.argmax())]
            row[f"{domain}_probability"] = f"{p[judge.labels.index(row[domain])].item():.6f}"
    return rows


@torch.no_grad()
def features(judges: dict[str, Judge], images: Tensor, batch: int = 128) -> Tensor:
    """Pooled features of all judges side by side (N, D)."""
    return torch.cat(
        [torch.cat([judge.features(x.float() / 255) for judge in judges.values()], 1) for x in images.split(batch)]
    )


def write_rows(path: Path, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
