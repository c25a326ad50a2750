"""Is it gone however one asks? The target's cells asked in the dataset's other tiers, and scenes of two objects.

ua_template, ua_synonym, ua_description  UA over the target's cells, said in other sentences, by other words, without
any name
rest_of_prompt  an object is forgotten that a prompt names beside another: how often that other one is still read in its
half of the scene. A style that is forgotten leaves no object out, so that this is of object targets alone
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure.answers import Answer, generate, noise_of, read_chunks, seconds
from benchmarks.measure.benchmark import CHUNK, Benchmark
from benchmarks.measure.judging import look, predict
from benchmarks.measure.metrics import Metric, hits, told
from benchmarks.measure.predictions import Row, write_rows
from fade.claims import claimed
from fade.data.canvas.halves import halves
from fade.data.dataset import Dataset
from fade.data.language import PAIR, Language
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import content_hash
from fade.models import Diffusion


@dataclass(frozen=True)
class Told(Answer):
    """An answer to a caption of another tier than `name`. shown: what it names; half: of a scene of two objects the one
    that is judged (0 left, 1 right), and `cell` says what is to stand there; None: the whole image is judged."""

    tier: str = ""
    shown: tuple[str, ...] = ()
    half: int | None = None

    @property
    def file(self) -> str:
        return f"{'_'.join((self.tier, *self.shown))}_seed{self.seed}.{self.suffix}"


def chosen_tiers(dataset: Dataset, asked: Sequence[str] | None) -> list[str]:
    """The tiers beyond `name` that are asked; None: all that the dataset has. Raises BadInput for one that it lacks."""
    for tier in asked or ():
        if tier not in dataset.tiers:
            known = ", ".join(dataset.tiers)
            raise BadInput(f"protocol.tiers names {tier!r}, which {dataset.name} does not have; it has {known}")
    return [tier for tier in dataset.tiers if tier != "name" and (asked is None or tier in asked)]


class Questions:
    """What one target is asked beyond the grid, with seeds of its own (protocol.tier_seeds). Raises BadInput for a tier
    that the dataset does not have."""

    def __init__(self, benchmark: Benchmark, request: Request) -> None:
        self.benchmark, self.request, self.protocol = benchmark, request, benchmark.protocol
        self.tiers = chosen_tiers(benchmark.dataset, self.protocol.tiers)
        self.wanted: list[Told] = []
        language = benchmark.dataset.language
        if language is not None:
            self.wanted = [*self._told(language), *self._scenes(language)]

    def _told(self, language: Language) -> Iterator[Told]:
        """The target's cells in each tier, once a seed, the captions in turn."""
        cells = [(k, cell) for k, cell in enumerate(self.benchmark.dataset.cells()) if self.request.concerns(cell)]
        for tier in (tier for tier in self.tiers if tier != PAIR):
            for i, seed in enumerate(self.protocol.tier_seeds):
                for turn, (k, cell) in enumerate(cells):
                    yield self._answer(language, tier, tuple(cell.values()), turn + i, seed, k, cell)

    def _scenes(self, language: Language) -> Iterator[Told]:
        """A target object beside every other one, left and right of it and in every style by turns, once a seed."""
        if PAIR not in self.tiers or self.request.domain != "object" or self.request.within:
            return
        styles, objects = (self.benchmark.dataset.domains[domain] for domain in ("style", "object"))
        others = [name for name in objects if name != self.request.target]
        for i, seed in enumerate(self.protocol.tier_seeds):
            for k, other in enumerate(others):
                half, cell = (k // 2 + i) % 2, {"style": styles[(k + i) % len(styles)], "object": other}
                two = (other, self.request.target) if half == 0 else (self.request.target, other)
                place = len(styles) * len(objects) + k
                yield self._answer(language, PAIR, (cell["style"], *two), k + i, seed, place, cell, half)

    def _answer(
        self,
        language: Language,
        tier: str,
        shown: tuple[str, ...],
        turn: int,
        seed: int,
        place: int,
        cell: dict[str, str],
        half: int | None = None,
    ) -> Told:
        p, texts = self.protocol, language.captions(shown, tier)
        noise = noise_of(p.noise, seed, place, (p.sampling.steps or 0) - p.sampling.skip)
        return Told(cell, texts[turn % len(texts)], seed, noise, p.suffix, tier, shown, half)

    def check(self, model: Diffusion) -> None:
        """Raises BadInput, before any work, for a caption that the tokenizer would cut."""
        model.check_prompts([answer.prompt for answer in self.wanted])

    def answers(self, model: Diffusion, folder: Path) -> list[Row]:
        """Images and predictions.csv in `folder`: a row an image, its tier, and what is read in it."""
        if not self.wanted:
            return []
        generate(model, list(self.wanted), folder / "images", self.protocol.batch, self.protocol.sampling)
        chunks = read_chunks(self.wanted, folder / "images", CHUNK)
        rows = [row for part, pixels in chunks for row in self._judged(part, pixels)]
        write_rows(folder / "predictions.csv", rows)
        return rows

    def base_answers(self, model: Diffusion, base_sha256: str) -> list[Row]:
        """Those of the un-unlearned model, made once for all runs of the same model, target and protocol."""
        asked = [(a.file, a.prompt, vars(a.noise)) for a in self.wanted]
        sampling = vars(model.settled(self.protocol.sampling))
        identity = [base_sha256, asked, sampling, model.steps, model.guidance, model.size]
        folder = self.benchmark.cache / f"asked-{content_hash(identity)}"
        with claimed(folder, "what the base answers in other words"):
            return self.answers(model, folder)

    def _judged(self, part: Sequence[Told], pixels: Tensor) -> Iterator[Row]:
        """The rows of one chunk: both domains where one cell is shown, the object of its half where two are."""
        judges = self.benchmark.judges
        for scene in (False, True):
            places = [k for k, answer in enumerate(part) if (answer.half is not None) == scene]
            if places:
                asked = [part[k] for k in places]
                seen = _halves_of(asked, pixels[places]) if scene else pixels[places]
                read_by = {"object": judges["object"]} if scene else judges
                for answer, row in zip(asked, predict(read_by, asked, look(read_by, seen)), strict=True):
                    yield {"tier": answer.tier, **row}

    def scores(self, rows: Sequence[Row]) -> dict[str, Metric]:
        """UA of each tier, and what is left of the rest of a prompt; of what was asked."""
        domains, domain, shared = list(self.benchmark.dataset.domains), self.request.domain, self.protocol.shared
        found: dict[str, Metric] = {}
        for tier in dict.fromkeys(row["tier"] for row in rows):
            own = [row for row in rows if row["tier"] == tier]
            if tier == PAIR:
                found |= told("rest_of_prompt", hits(own, ["object"], "object", shared))
            else:
                found |= told(f"ua_{tier}", hits(own, domains, domain, shared, gone=True))
        return found

    def cost(self, folder: Path) -> dict[str, float]:
        """What the images in `folder` took; nothing where nothing was asked."""
        return {"asked_s": seconds(folder / "images")} if self.wanted else {}


def _halves_of(part: Sequence[Told], pixels: Tensor) -> Tensor:
    """The half of each scene (N, 3, H, W) that is judged."""
    both = halves(pixels)
    return torch.stack([both[answer.half or 0][k] for k, answer in enumerate(part)])
