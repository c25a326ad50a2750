"""What the page's boxes hold at the start: of an embedded pipeline what conf/ says of it, of another one examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fade.api import RETAIN, TEMPLATES
from fade.data.dataset import Dataset
from fade.data.prompts import find_domain
from fade.published import made, published

FORGOTTEN, STAYING = 4, 8  # sentences of each kind: few, since the pipeline draws sixteen images for each


@dataclass(frozen=True)
class Training:
    """What is asked of one training. options: of `fade.unlearn`, beside these."""

    concept: str
    surrogate: str
    templates: Sequence[str]
    retain: Sequence[str]
    steps: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Filled:
    """dataset: whose captions the pipeline knows, None where nothing is known of it. sampling_steps, guidance: of every
    picture."""

    prompt: str
    training: Training
    sampling_steps: int
    guidance: float
    dataset: Dataset | None = None

    @property
    def concepts(self) -> list[str]:
        """All that can be named."""
        return [label for labels in self.dataset.domains.values() for label in labels] if self.dataset else []

    def sampled(self, **said: float | None) -> Filled:
        """The same, with pictures and a training's images sampled as is said: sampling_steps, guidance; None: as they
        are."""
        own: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
        return replace(self, training=replace(self.training, options={**self.training.options, **own}), **own)

    def asking(self, concept: str) -> Filled:
        """The same for another concept: a sentence that shows it, what is drawn in its place, what is to stay."""
        if self.dataset is None or concept not in self.concepts:
            return self
        templates, retain = sentences(self.dataset, concept)
        instead = self.dataset.surrogate(concept, find_domain(concept, self.dataset.domains))
        asked = replace(self.training, concept=concept, surrogate=instead, templates=templates, retain=retain)
        prompt = self.dataset.caption(next(cell for cell in self.dataset.cells() if concept in cell.values()))
        return replace(self, prompt=prompt, training=asked)


def sentences(dataset: Dataset, concept: str) -> tuple[list[str], list[str]]:
    """Captions with {} for the concept, and those of the labels beside it, the nearest first: its look-alikes."""
    domain = find_domain(concept, dataset.domains)
    cells, labels = dataset.cells(), dataset.domains[domain]
    place = labels.index(concept)
    near = sorted((label for label in labels if label != concept), key=lambda label: abs(labels.index(label) - place))
    own = [{**cell, domain: "{}"} for cell in cells if cell[domain] == concept]
    beside = [{**own[i % len(own)], domain: label} for i, label in enumerate(near)]
    return [dataset.caption(cell) for cell in own[:FORGOTTEN]], [dataset.caption(cell) for cell in beside[:STAYING]]


def of_embedded(found: dict[str, Any]) -> Filled:
    """Of what `fade.published.embedded` found: its dataset's captions, FADE's settings on it, and its target or, where
    it has none, its last label."""
    dataset, known = made(found["dataset"]), published("fade", preset=found["name"])
    steps, guidance = found["model"]["steps"], found["model"]["guidance"]
    options = {
        "rank": known["adapter"]["rank"],
        "lr": known["optimizer"]["build"]["lr"],
        "sampling_steps": steps,
        "guidance": guidance,
    }
    empty = Training("", "", (), (), known["trainer"]["max_steps"], options)
    target = found["target"] or next(iter(dataset.domains.values()))[-1]
    return Filled("", empty, steps, guidance, dataset).asking(target)


def of_another() -> Filled:
    """Of a pipeline that nothing is known of: the sentences of `fade.unlearn`, and Stable Diffusion's sampler."""
    return Filled("a painting of a cat", Training("", "", TEMPLATES, RETAIN, 100), 30, 7.5)
