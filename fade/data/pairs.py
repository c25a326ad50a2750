"""Forget and retain examples of one request, with latents and text embeddings computed once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import Generator, Tensor

from fade.checked import Count, Share
from fade.data.dataset import Dataset, Item
from fade.data.language import PAIR
from fade.data.latents import Latents
from fade.data.prompts import Cell, caption, check_template, swapped, words
from fade.data.seen import seen_concepts
from fade.errors import BadInput, at_least
from fade.models import Diffusion
from fade.models.embedding import Embedding

log = logging.getLogger(__name__)
AT_ONCE = 2048  # captions through the text encoder
WANTED = {"forget": 160, "retain": 512}  # images of either side where nothing is asked for


class Example(TypedDict):
    """latents (B, C, h, w); embeddings of the example's own caption and of its surrogate caption; concept
    (B, L) bool, where the caption names the target; end (B,), where its [EOT] stands; row (B,), of the caption in
    Pairs.texts, for who reads it anew; t (B,) and noise, like latents, as the loop draws them."""

    latents: Tensor
    prompt: Embedding
    surrogate: Embedding
    concept: Tensor
    end: Tensor
    row: Tensor
    t: NotRequired[Tensor]
    noise: NotRequired[Tensor]


class Batch(TypedDict):
    """forget: images of the target; retain: of everything else; anchor: images of the surrogate under the target's
    caption (`prompt`), with their own as `surrogate`."""

    forget: Example
    retain: Example
    anchor: Example


@dataclass(frozen=True)
class Request:
    """What is to be forgotten: `target` of `domain`, overwritten by `surrogate`. within: the other domain and its
    concept, where the target is to be forgotten with that one alone (UnlearnCanvas's finer scale)."""

    target: str
    surrogate: str
    domain: str
    within: tuple[str, str] | None = None

    @classmethod
    def of(cls, dataset: Dataset, target: str, surrogate: str | None, within: str | None = None) -> Request:
        """Names resolved, or refused, as `Dataset.resolved` does."""
        domain, instead, alone = dataset.resolved(target, surrogate, within)
        return cls(target, instead, domain, alone)

    def concerns(self, cell: Cell) -> bool:
        inside = self.within is None or cell[self.within[0]] == self.within[1]
        return cell[self.domain] == self.target and inside

    @property
    def named(self) -> list[str]:
        """The concepts that it speaks of."""
        return [self.target, self.surrogate, *([self.within[1]] if self.within else [])]

    def overwritten(self, cell: Cell) -> Cell:
        """The cell with the surrogate in place of the target; cells that do not show the target stay as they are."""
        return swapped(cell, self.domain, self.surrogate) if self.concerns(cell) else cell


@dataclass(frozen=True)
class Said:
    """A caption, its surrogate's, and the words that it says the concept of each domain by."""

    text: str
    surrogate: str
    said: tuple[str, ...]


def tiers_of(dataset: Dataset, asked: Sequence[str]) -> list[str]:
    """The tiers that are asked for (pairs.captions); of [all] every one that says a cell of the dataset. Raises
    BadInput for another one, and for none."""
    usable = [tier for tier in dataset.tiers if tier != PAIR]
    if list(asked) == ["all"]:
        return usable
    for tier in asked:
        if tier not in usable or list(asked).count(tier) > 1:
            known = ", ".join(usable)
            raise BadInput(f"pairs.captions is {list(asked)}; each must be a tier of {dataset.name}, once: {known}")
    if not asked:
        raise BadInput("pairs.captions is []; name the tiers to train on, for example [name], or [all]")
    return list(asked)


def _embedded(model: Diffusion, prompts: list[str]) -> Embedding:
    """Of N captions, a part at a time where they are many."""
    return Embedding.cat([model.embed(prompts[i : i + AT_ONCE]) for i in range(0, len(prompts), AT_ONCE)])


class Pairs:
    """Draws batches of one request, or of several at once. `forget`, `retain`: images of either side, spread evenly
    over their cells; None means WANTED, or as many as the smallest cell of that side allows.

    gone: requests that were met before; their images are on neither side. guard: whether the captions that are gone are
    trained on all the same, on images of their surrogates: what was removed is held where it is. cache: folder for
    latents (fade/data/latents.py). template: of the training captions, to study what
    happens where they differ from the evaluation's; None: the dataset's own, the same for both. seen: the share of each
    domain's concepts that the retain side may show (fade/data/seen.py). captions: the tiers that say what is shown; an
    example's is drawn from all of them alike, and its caption from its tier's.
    """

    def __init__(
        self,
        dataset: Dataset,
        requests: Request | Sequence[Request],
        forget: Count | None,
        retain: Count | None,
        batch: Count,
        cache: Path,
        gone: Sequence[Request] = (),
        guard: bool = False,
        template: str | None = None,
        seen: Share = 1.0,
        captions: Sequence[str] = ("name",),
    ) -> None:
        self.dataset, self.batch, self.cache, self.gone, self.guard = dataset, batch, cache, gone, guard
        self.template, self.tiers = template, tiers_of(dataset, captions)
        if template is not None:
            check_template(template, list(dataset.domains))
        at_least(
            1,
            **{
                f"pairs__{side}": n
                for side, n in (("forget", forget), ("retain", retain), ("batch", batch))
                if n is not None
            },
        )
        self.requests = [requests] if isinstance(requests, Request) else list(requests)
        self.wanted = {"forget": forget, "retain": retain}
        apart = {concept for request in (*self.requests, *gone) for concept in request.named}
        self.seen = seen_concepts(dataset.domains, seen, apart)
        self.latents: dict[str, Tensor] = {}
        self.cells: dict[str, Tensor] = {}  # the cell of each image, which is also the row of its first caption
        self.rows = self.count = torch.empty(
            0
        )  # (cells, tiers, most), (cells, tiers): rows in the tables of embeddings
        self.own = self.overwritten = Embedding(torch.empty(0))
        self.concept = self.end = torch.empty(0)
        self.texts: list[str] = []

    def side(self, cell: Cell) -> str | None:
        """ "forget", "retain", or None for what earlier requests removed and for what is not to be seen."""
        if any(request.concerns(cell) for request in self.gone):
            return None
        if any(request.concerns(cell) for request in self.requests):
            return "forget"
        return "retain" if self.seen.issuperset(cell.values()) else None

    def surrogate(self, cell: Cell) -> Cell:
        """The cell with every target in it overwritten."""
        for request in self.requests:
            cell = request.overwritten(cell)
        return cell

    def said(self, request: Request) -> str:
        """The target as captions name it."""
        return self.dataset.says.get(request.target, words(request.target))

    def caption(self, cell: Cell) -> str:
        return self.dataset.caption(cell) if self.template is None else caption(self.template, cell, self.dataset.says)

    def told(self, cell: Cell, tier: str) -> list[Said]:
        """The captions of one tier, each with its surrogate's, in the same sentence."""
        if tier == "name":
            return [Said(self.caption(cell), self.caption(self.surrogate(cell)), tuple(self._named(cell)))]
        language = self.dataset.language
        assert language is not None  # tiers_of
        own, other = (language.told(tuple(c.values()), tier) for c in (cell, self.surrogate(cell)))
        return [Said(text, other[k % len(other)][0], said) for k, (text, said) in enumerate(own)]

    def _named(self, cell: Cell) -> list[str]:
        return [self.dataset.says.get(concept, words(concept)) for concept in cell.values()]

    def captions(self, side: str) -> list[tuple[str, str]]:
        """Each caption of a side with its surrogate's; on the retain side they are the same."""
        cells = [cell for cell in self.dataset.cells() if self.side(cell) == side]
        return [(told.text, told.surrogate) for cell in cells for tier in self.tiers for told in self.told(cell, tier)]

    def check(self, model: Diffusion) -> None:
        """Raises BadInput, before any work, for more images than there are and for captions that would be cut."""
        self.choose(aloud=False)
        cells = self.dataset.cells()  # the surrogates' captions are among them
        model.check_prompts([told.text for cell in cells for tier in self.tiers for told in self.told(cell, tier)])

    def choose(self, aloud: bool = True) -> dict[str, list[Item]]:
        """The images of either side; aloud: and the log says where they are fewer than usual. Raises BadInput where a
        cell has none, or fewer than `forget` needs."""
        by_cell: dict[tuple[str, ...], list[Item]] = {tuple(cell.values()): [] for cell in self.dataset.cells()}
        for item in self.dataset.items("train"):
            # what shows the target too is no example of what is to be kept
            if not any(r.target in item.also for r in (*self.requests, *self.gone)):
                by_cell[item.concepts].append(item)
        empty = [key for key, items in by_cell.items() if not items]
        if empty:
            raise BadInput(
                f"{self.dataset.name}: no training image of {'/'.join(empty[0])} ({len(empty)} empty cells in all)"
            )
        sides: dict[str, list[list[Item]]] = {"forget": [], "retain": []}
        for cell in self.dataset.cells():
            side = self.side(cell)
            if side is not None:
                sides[side].append(by_cell[tuple(cell.values())])
        chosen = {}
        for side, groups in sides.items():
            asked = self.wanted[side]
            share = -(-(asked or WANTED[side]) // len(groups))
            short = min(groups, key=len)
            if asked is None and len(short) < share:
                share = len(short)
                log.log(
                    logging.INFO if aloud else logging.DEBUG,
                    "pairs: %d images of the %s side, %d a cell: the smallest has no more (pairs.%s=NUMBER)",
                    share * len(groups),
                    side,
                    share,
                    side,
                )
            if asked is not None and side == "forget" and len(short) < share:
                raise BadInput(
                    f"{self.dataset.name}: {'/'.join(short[0].concepts)} has {len(short)} training images, "
                    f"pairs.forget={asked} needs {share} of it; lower pairs.forget or add images"
                )
            chosen[side] = [item for group in groups for item in group[:share]]
        return chosen

    def prepare(self, model: Diffusion) -> None:
        """Encode images and captions."""
        cells = self.dataset.cells()
        index = {tuple(cell.values()): i for i, cell in enumerate(cells)}
        chosen = self.choose()
        together = Latents(model, self.dataset, self.cache).of([item for items in chosen.values() for item in items])
        parts = together.split([len(items) for items in chosen.values()])
        for (side, items), latents in zip(chosen.items(), parts, strict=True):
            self.latents[side] = latents
            self.cells[side] = torch.tensor([index[item.concepts] for item in items])
        self._embed(model, cells)
        self._find_anchors(cells, index)
        if self.guard:
            for side in self.latents:
                self._guard(side, cells, index)

    def _embed(self, model: Diffusion, cells: list[Cell]) -> None:
        """The tables of captions: a row for each cell's first, in the cells' order, then one for each of the others."""
        told = [[self.told(cell, tier) for tier in self.tiers] for cell in cells]
        flat = [(c, t, k) for c, groups in enumerate(told) for t, group in enumerate(groups) for k in range(len(group))]
        flat.sort(key=lambda place: (place[1:] != (0, 0), place))
        self.count = torch.tensor([[len(group) for group in groups] for groups in told])
        self.rows = torch.zeros(*self.count.shape, int(self.count.max()), dtype=torch.long)
        for row, place in enumerate(flat):
            self.rows[place] = row
        captions = [told[c][t][k] for c, t, k in flat]
        self.texts = [caption.text for caption in captions]
        self.own = _embedded(model, self.texts)
        self.overwritten = _embedded(model, [caption.surrogate for caption in captions])
        self.concept = torch.zeros(self.own.tokens.shape[:2], dtype=torch.bool, device=self.own.device)
        domains = list(self.dataset.domains)
        for row, (c, t, k) in enumerate(flat):
            for request in (r for r in self.requests if r.concerns(cells[c])):
                said = told[c][t][k].said[domains.index(request.domain)]
                self.concept[row, model.token_positions(captions[row].text, said)] = True
        ends = [model.texts[0].last(caption.text) + 1 for caption in captions]
        self.end = torch.tensor(ends, device=self.own.device)

    def _caption_of(self, cell: Tensor, generator: Generator) -> Tensor:
        """A row (B,) for each cell (B,): a tier, then one of its captions; nothing is drawn where there is but one."""
        if int(self.count.max()) == len(self.tiers) == 1:
            return cell
        tier = torch.randint(0, len(self.tiers), cell.shape, generator=generator)
        place = (torch.rand(cell.shape, generator=generator) * self.count[cell, tier]).long()
        return self.rows[cell, tier, place]

    def _guard(self, side: str, cells: list[Cell], index: dict[tuple[str, ...], int]) -> None:
        """Add the images that show a gone request's surrogate, under the caption that asks for what is gone."""
        pairs = list(enumerate(self.cells[side].tolist()))
        for request in self.gone:
            pairs += [
                (image, index[tuple(swapped(cells[row], request.domain, request.target).values())])
                for image, row in pairs
                if cells[row][request.domain] == request.surrogate
            ]
        images, rows = (torch.tensor(part) for part in zip(*pairs, strict=True))
        self.latents[side], self.cells[side] = self.latents[side][images], rows

    def _find_anchors(self, cells: list[Cell], index: dict[tuple[str, ...], int]) -> None:
        """Retain images that show a request's surrogate, with the cell that shows its target instead."""
        retained = self.cells["retain"].tolist()
        found = [
            (i, index[tuple(swapped(cells[row], request.domain, request.target).values())])
            for request in self.requests
            for i, row in enumerate(retained)
            if cells[row][request.domain] == request.surrogate
            and request.concerns(swapped(cells[row], request.domain, request.target))
        ]
        if not found:
            raise BadInput(
                f"{self.dataset.name}: no image of a surrogate is left for {[r.target for r in self.requests]}"
            )
        self.anchors = torch.tensor(found)

    def draw(self, generator: Generator) -> Batch:
        """A random batch: `batch` examples of each kind."""
        forget, retain = self._draw("forget", generator), self._draw("retain", generator)
        return Batch(forget=forget, retain=retain, anchor=self._anchor(self.batch, generator))

    def _draw(self, side: str, generator: Generator) -> Example:
        index = torch.randint(0, len(self.latents[side]), (self.batch,), generator=generator)
        return self._example(side, index, generator)

    def _example(self, side: str, index: Tensor, generator: Generator) -> Example:
        row = self._caption_of(self.cells[side][index], generator)
        return self._told(self.latents[side][self._there(index)], row)

    def _told(self, latents: Tensor, row: Tensor) -> Example:
        """Latents under the captions of these rows."""
        there = self._there(row)
        return Example(
            latents=latents,
            prompt=self.own[there],
            surrogate=self.overwritten[there],
            concept=self.concept[there],
            end=self.end[there],
            row=row,
        )

    def _anchor(self, n: int, generator: Generator) -> Example:
        image, target = self.anchors[torch.randint(0, len(self.anchors), (n,), generator=generator)].T
        return self._told(self.latents["retain"][self._there(image)], self._caption_of(target, generator))

    def _there(self, index: Tensor) -> Tensor:
        """Drawn on the CPU, so that it is the same everywhere, and sent to the tables: a lookup by an index that lies
        elsewhere would make a GPU wait."""
        return index.to(self.own.device, non_blocking=True)

    def sweep(self, batch: int, generator: Generator) -> list[Batch]:
        """One pass over the forget images in random order, each batch beside as many random retain images."""
        order = torch.randperm(len(self.latents["forget"]), generator=generator)
        batches = []
        for index in order.split(batch):
            other = torch.randint(0, len(self.latents["retain"]), (len(index),), generator=generator)
            retain, forget = self._example("retain", other, generator), self._example("forget", index, generator)
            batches.append(Batch(forget=forget, retain=retain, anchor=self._anchor(len(index), generator)))
        return batches
