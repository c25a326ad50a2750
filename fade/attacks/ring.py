"""Ring-A-Bell: a prompt whose embedding is the caption's, moved along the concept's direction: a genetic search
over the text encoder alone (arXiv 2310.10012). The unlearned model is never looked at.

d = mean over pairs of TE(with the concept) − TE(without), e* = TE(caption) + η d; min over K tokens of ‖TE(p) − e*‖².
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from fade.attacks import Attack, Find, Scene
from fade.attacks.prompts import draw_texts
from fade.attacks.spelling import check_words, room, states, text, usable
from fade.checked import Count, Numbers, Portion
from fade.console import Shown
from fade.models import Diffusion


class Ring(Attack):
    """eta: η, tried one after another (released: 3 for nudity, 5 for violence). length: K. own_word: whether the
    concept's own tokens may be used, which tests the plain prompt once more.

    Differs: the best of a generation is kept as it is (the released mutation hits the survivors too), and each prompt
    is searched for once.
    """

    level = "T0"

    def __init__(
        self,
        eta: Numbers = (3.0,),
        length: Count = 8,
        population: Count = 64,
        generations: Count = 100,
        crossover: Portion = 0.5,
        mutation: Portion = 0.25,
        own_word: bool = False,
    ) -> None:
        self.eta, self.length, self.population, self.generations = list(eta), length, population, generations
        self.crossover, self.mutation, self.own_word = crossover, mutation, own_word

    def suits(self, model: Diffusion) -> None:
        check_words(model)

    def finds(self, scene: Scene) -> list[Find]:
        return [self._find(scene, eta) for eta in self.eta]

    def _find(self, scene: Scene, eta: float) -> Find:
        base, g = scene.base, scene.generator()
        given = states(base, scene.prompts)
        direction = (given - states(base, scene.surrogates)).mean(0, keepdim=True)
        allowed = torch.tensor(usable(base, "" if self.own_word else scene.said))
        length = min(self.length, room(base))
        aims = Shown([*(given + eta * direction)], "searching", "while searching, for caption")
        found = [self._search(base, wanted, allowed, length, g) for wanted in aims]
        texts = [text(base, ids.tolist()) for ids in found]
        return Find(
            f"η = {eta:g}", partial(draw_texts, scene, dict(zip(scene.prompts, texts, strict=True))), says=texts[0]
        )

    def _search(self, base: Diffusion, wanted: Tensor, allowed: Tensor, length: int, g: Generator) -> Tensor:
        """The ids (K,) whose embedding is the nearest to `wanted` (L, D)."""
        people = allowed[torch.randint(0, len(allowed), (self.population, length), generator=g)]
        for _ in range(self.generations):
            order = self._distances(base, people, wanted).argsort()
            parents = people[order[: max(2, self.population // 2)]]
            people = torch.cat([parents[:1], self._children(parents, allowed, g)])
        return people[self._distances(base, people, wanted).argmin()]

    def _distances(self, base: Diffusion, people: Tensor, wanted: Tensor) -> Tensor:
        found = states(base, [text(base, ids.tolist()) for ids in people])
        return (found - wanted).square().flatten(1).sum(1).cpu()

    def _children(self, parents: Tensor, allowed: Tensor, g: Generator) -> Tensor:
        """population − 1 of them: one cut where two are crossed, one token where one is mutated."""
        n, length = self.population - 1, parents.shape[1]
        one, other = (parents[torch.randint(0, len(parents), (n,), generator=g)] for _ in range(2))
        cut = torch.randint(1, max(2, length), (n, 1), generator=g)
        crossed = (torch.rand(n, 1, generator=g) < self.crossover) & (torch.arange(length) >= cut)
        children = torch.where(crossed, other, one)
        place = torch.randint(0, length, (n, 1), generator=g)
        mutated = (torch.rand(n, 1, generator=g) < self.mutation) & (torch.arange(length) == place)
        return torch.where(mutated, allowed[torch.randint(0, len(allowed), (n, 1), generator=g)], children)
