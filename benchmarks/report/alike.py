"""Concepts in an order in which those that look alike stand beside each other, for the heat maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage

from benchmarks.measure.predictions import read_rows
from benchmarks.record.results import Run
from fade.errors import BadInput
from fade.raw import read_raw
from fade.training.beside import base_images


def means(run: Run, domain: str, concepts: Sequence[str]) -> np.ndarray | None:
    """(concepts, D): the judges' mean features of what the base model draws of each; None where they are gone, or one
    was never drawn."""
    images = base_images(run.base_answers, run.folder)
    if images is None:
        return None
    try:
        rows = read_rows(images.parent / "predictions.csv")
        found = read_raw(images.parent / "features-judge.safetensors")[0]["features"]
        features = found.values().reshape(found.shape).astype(float)
        labels = np.array([row[domain] for row in rows])
    except (OSError, KeyError, ValueError, BadInput):
        return None
    if len(labels) != len(features) or not set(concepts) <= set(labels):
        return None
    return np.stack([features[labels == concept].mean(0) for concept in concepts])


def ordered(found: np.ndarray | None, concepts: Sequence[str]) -> list[str]:
    """The leaves of average linkage over the Euclidean distances of mean features, in the order that makes the sum of
    the distances of neighbours least (Bar-Joseph et al. 2001); as they came where nothing is known of three or more."""
    if found is None or len(concepts) < 3:
        return list(concepts)
    leaves = [concepts[k] for k in leaves_list(linkage(found, "average", optimal_ordering=True))]
    return leaves if leaves[0] < leaves[-1] else leaves[::-1]


def by_likeness(runs: Sequence[Run], domain: str, concepts: Sequence[str]) -> list[str]:
    """The concepts of a domain in that order, by the first run whose base is still there."""
    known = (found for run in runs if (found := means(run, domain, concepts)) is not None)
    return ordered(next(known, None), concepts)
