"""Attacks: what is tried to bring a forgotten concept back. One file an attack; fade/attacks/meter.py measures them.

An attack searches for something that makes the unlearned model draw the concept: another prompt, a vector among the
prompt's, another sampler, other weights. What it found is a `Find`, which draws by itself and leaves nothing behind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from fade.console import Stage
from fade.data.dataset import Dataset, Item
from fade.data.pairs import Request
from fade.data.prompts import Cell, words
from fade.errors import BadInput
from fade.models import Diffusion, Noise, Sampling

LEVELS = {  # what the attacker has
    "T0": "a text box",
    "T1": "a text box, and images to start from",
    "T2": "the sampler, the weights frozen",
    "T3": "the weights",
    "T4": "the adapter's file",
}
BATCH = 36  # images drawn at once
Draw = Callable[[Sequence[Cell], Sequence[Noise]], Tensor]


@dataclass(frozen=True)
class Find:
    """What an attack found. draw: images (N, 3, H, W) in [0, 1] of cells, each from its noise.

    units: what the search had cost when it was found. says: how it reads, a prompt or its tokens.
    """

    name: str
    draw: Draw
    units: int = 0
    says: str = ""


class Counter:
    """Counts images that go through the networks of models: a forward pass is one unit, with gradient three."""

    def __init__(self) -> None:
        self.units = 0

    @contextmanager
    def on(self, *models: Diffusion) -> Iterator[None]:
        networks = {id(model.network): model.network for model in models}
        hooks = [net.register_forward_pre_hook(self._count, with_kwargs=True) for net in networks.values()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _count(self, _: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        sample = args[0] if args else next(iter(given.values()))
        self.units += len(sample) * (3 if torch.is_grad_enabled() else 1)


@dataclass
class Scene:
    """What an attacker has. model: the one under attack. base: the model before unlearning. cells: of the target.

    prompt: a cell's caption. off: the optimiser takes no step, for the control.
    altered: what is done to the real images, for the control that never saw the concept; None: nothing.
    masked: the model whose change says where an attack goes that knows its mask; None: the one under attack.
    shared: what attacks on all models start from alike, made once, with the units that it cost.
    """

    model: Diffusion
    base: Diffusion
    dataset: Dataset
    request: Request
    cells: list[Cell]
    prompt: Callable[[Cell], str]
    sampling: Sampling
    counter: Counter
    seed: int = 0
    off: bool = False
    altered: Callable[[Tensor], Tensor] | None = None
    masked: Diffusion | None = None
    shared: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """The target as captions name it."""
        return self.dataset.says.get(self.request.target, words(self.request.target))

    @property
    def instead(self) -> str:
        """The surrogate as captions name it."""
        return self.dataset.says.get(self.request.surrogate, words(self.request.surrogate))

    @property
    def surrogates(self) -> list[str]:
        """The captions of the cells with the surrogate in the target's place."""
        return [self.prompt(self.request.overwritten(cell)) for cell in self.cells]

    @cached_property
    def prompts(self) -> list[str]:
        return [self.prompt(cell) for cell in self.cells]

    @cached_property
    def pictures(self) -> str:
        """Changes with the real images that there are."""
        return self.dataset.fingerprint(self.dataset.items("train"), self.model.size)

    def generator(self) -> Generator:
        """The same draws each time: of the scene's seed."""
        return torch.Generator().manual_seed(self.seed)

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made by the first attack that asks and charged to each."""
        before = self.counter.units
        if name not in self.shared:
            self.shared[name] = make(), self.counter.units - before
        made, cost = self.shared[name]
        self.counter.units = before + cost
        return made

    def drawn(self, prompts: Sequence[str], noise: Sequence[Noise], sampling: Sampling | None = None) -> Tensor:
        """Images (N, 3, H, W) by the model under attack."""
        return drawn(self.model, prompts, noise, sampling or self.sampling)

    def plain(self, cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
        """What the cells' own captions draw."""
        return self.drawn([self.prompt(cell) for cell in cells], noise)

    @property
    def real(self) -> list[Cell]:
        """Whose real images are shown for each of the cells: its own, or the surrogate's where they are altered."""
        return self.cells if self.altered is None else [self.request.overwritten(cell) for cell in self.cells]

    def check_starts(self) -> None:
        """Raises BadInput where a cell has no real image that an attack on it could start from."""
        there = {item.concepts for item in self.dataset.items("train")}
        for cell in self.real:
            if tuple(cell.values()) not in there:
                said = self.prompt(cell)
                raise BadInput(f"{self.dataset.name} has no training image for {said!r}, which this attack starts from")

    def examples(self, images: int) -> tuple[Tensor, list[int]]:
        """Latents (N, C, h, w) of real images of the concept, spread over its cells, and the index of each one's cell.

        Fewer where the dataset has no more. Raises BadInput where it has none.
        """
        shown = self.real
        items = spread(self.dataset.items("train"), self.dataset, shown)[:images]
        if not items:
            raise BadInput(
                f"{self.dataset.name} has no training image of {self.request.target}, which attacks start from"
            )
        pixels = self.dataset.images(items, self.model.size).float() / 255
        pixels = pixels if self.altered is None else self.altered(pixels)
        return self.model.encode(pixels), [shown.index(self.dataset.cell(item)) for item in items]


class Attack(ABC):
    """level: of LEVELS. optimises: whether there is an optimiser to switch off. fixed: whether it tries the same list
    on every model, so that what fails on the base is left out. shown: whether it learns from real images. starts:
    whether it needs one of every cell. seeded: whether anything that it finds is drawn from the attacker's seed.
    placed: whether it goes by the places of the change.

    The constructor takes its settings, which become attributes: they are what a result is remembered by.
    """

    level: ClassVar[str]
    optimises: ClassVar[bool] = False
    fixed: ClassVar[bool] = False
    shown: ClassVar[bool] = False
    starts: ClassVar[bool] = False
    seeded: ClassVar[bool] = True
    placed: ClassVar[bool] = False

    def suits(self, model: Diffusion) -> None:  # noqa: B027 - most attacks can be made on any
        """Raises BadInput, before any work, for a model that the attack cannot be made on."""

    @abstractmethod
    def finds(self, scene: Scene) -> list[Find]:
        """What the attack found, in the order in which it was found."""


def spread(items: Sequence[Item], dataset: Dataset, cells: Sequence[Cell]) -> list[Item]:
    """The items of the cells, by turns: the first of each cell, the second of each, ..."""
    groups: dict[tuple[str, ...], list[Item]] = {tuple(cell.values()): [] for cell in cells}
    for item in items:
        if item.concepts in groups:
            groups[item.concepts].append(item)
    return [item for turn in zip_longest(*groups.values()) for item in turn if item is not None]


def drawn(model: Diffusion, prompts: Sequence[str], noise: Sequence[Noise], sampling: Sampling) -> Tensor:
    """Images (N, 3, H, W), a batch at a time."""
    parts = range(0, len(prompts), BATCH)
    return torch.cat([model.generate([*prompts[i : i + BATCH]], [*noise[i : i + BATCH]], sampling) for i in parts])


def attack_loss(model: Diffusion, latents: Tensor, t: Tensor, noise: Tensor, embedding: Any) -> Tensor:
    """The plain training loss at images of the concept: what inversion, prefixes, UnlearnDiffAtk and relearning
    minimise, each over something else. latents, noise (B, C, h, w); t (B,). No guidance in it."""
    z_t = model.noised(latents, t, noise)
    return mse_loss(model.predict(z_t, t, embedding), model.target(latents, t, noise))


@dataclass(frozen=True)
class Mark:
    """Where a search stood: after how many steps, what it had cost, and copies of what it searches over."""

    step: int
    units: int
    values: list[Tensor]


def descend(
    scene: Scene,
    parameters: Sequence[Tensor],
    loss: Callable[[int], Tensor],
    optimizer: torch.optim.Optimizer,
    marks: Sequence[int],
    after: Callable[[], None] | None = None,
    cosine: bool = True,
) -> list[Mark]:
    """Minimise loss(step) up to the last of `marks`, and say where it stood at each; nothing but the start where the
    scene's optimiser is off. cosine: the rate falls along one. after: called after each step."""
    if scene.off:
        return [Mark(0, scene.counter.units, copies(parameters))]
    steps, found = max(marks), []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps if cosine else 10**9)
    stage = Stage("searching", steps, "while searching, at step")
    for step in range(steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(step).backward()
        optimizer.step()
        schedule.step()
        if after is not None:
            after()
        if step + 1 in marks:
            found.append(Mark(step + 1, scene.counter.units, copies(parameters)))
        stage.one()
    return found


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [value.detach().clone() for value in tensors]
