"""Textual inversion: a vector in the concept's place in the captions, trained on images of the concept.

min_v E MSE(f'(z_t, t, TE(caption with v)), y): CCE, "Circumventing Concept Erasure Methods" (arXiv 2308.01508).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fade.attacks import Attack, Find, Scene, attack_loss, descend
from fade.attacks.spelling import Hears, Slots, check_words, embedded, norm, replaced, spelt, table, typed
from fade.checked import Count, Counts, Positive
from fade.data.prompts import Cell
from fade.models import Diffusion, Noise


class Inversion(Attack):
    """images: real ones. vectors: in the concept's place. marks: steps after which the search may stop. pool: how many
    (image, t, noise) there are. rate: of Adam, in lengths of a token's vector; along a cosine. hears: what a gate or a
    text edit hears, which cannot read a vector: the caption (text) or the surrogate's (bypass).

    Differs: the vector starts at zero and not at a word, the pool is fixed, and the rate follows the length of the
    token vectors: the published recipe (a word, fresh noise, a constant rate) fails on this suite's own base.
    """

    level = "T2"
    optimises = True
    shown = True

    def __init__(
        self,
        images: Count = 24,
        vectors: Count = 1,
        marks: Counts = (25, 50, 100),
        batch: Count = 12,
        pool: Count = 48,
        rate: Positive = 0.025,
        hears: Hears = "text",
    ) -> None:
        self.images, self.vectors, self.marks, self.batch, self.pool = images, vectors, list(marks), batch, pool
        self.rate, self.hears = rate, hears

    def suits(self, model: Diffusion) -> None:
        check_words(model)

    def finds(self, scene: Scene) -> list[Find]:
        model, heard = scene.model, heard_of(scene, self.hears)
        word = scene.said if self.hears == "text" else scene.instead
        slots = {prompt: replaced(model, prompt, word, self.vectors) for prompt in heard.values()}
        latents, rows = scene.examples(self.images)
        g = scene.generator()
        which = torch.arange(self.pool) % len(latents)
        t = model.process.draw(self.pool, generator=g).to(model.device)
        noise = torch.randn(self.pool, *latents.shape[1:], generator=g).to(latents)
        vector = torch.zeros(self.vectors, table(model).weight.shape[1], device=model.device, requires_grad=True)
        asked = [heard[scene.prompts[rows[int(i)]]] for i in which]

        def loss(step: int) -> Tensor:
            chosen = torch.randperm(self.pool, generator=g)[: self.batch]
            with spelt(model, slots, vector):
                found = embedded(model, [asked[int(i)] for i in chosen])
            return attack_loss(model, latents[which[chosen]], t[chosen], noise[chosen], found)

        optimizer = torch.optim.Adam([vector], lr=self.rate * norm(model))
        marks = descend(scene, [vector], loss, optimizer, self.marks)
        return [
            Find(f"{mark.step} steps", partial(draw_spelt, scene, heard, slots, mark.values[0]), mark.units)
            for mark in marks
        ]


def heard_of(scene: Scene, hears: Hears) -> dict[str, str]:
    """The prompt that is asked for each caption: itself, or the surrogate's."""
    return dict(zip(scene.prompts, scene.prompts if hears == "text" else scene.surrogates, strict=True))


def found_tokens(
    scene: Scene, heard: dict[str, str], slots: dict[str, Slots], ids: Tensor, hears: Hears, name: str, units: int
) -> Find:
    """What draws the heard prompts with tokens in place of the free vectors. A defence that hears text hears them."""
    chosen = {prompt: hard(slots[prompt], ids) for prompt in heard.values()}
    texts = {prompt: typed(scene.model, own) for prompt, own in chosen.items()}
    asked = {caption: texts[prompt] if hears == "text" else prompt for caption, prompt in heard.items()}
    spelling = {asked[caption]: chosen[prompt] for caption, prompt in heard.items()}
    says = texts[heard[scene.prompts[0]]]
    return Find(name, partial(draw_spelt, scene, asked, spelling, None), units, says)


def hard(slots: Slots, ids: Tensor) -> Slots:
    """The slots with a token in place of each free vector."""
    return [int(ids[-1 - i]) if i < 0 else i for i in slots]


def draw_spelt(
    scene: Scene,
    heard: dict[str, str],
    slots: dict[str, Slots],
    vectors: Tensor | None,
    cells: Sequence[Cell],
    noise: Sequence[Noise],
) -> Tensor:
    """Images of the prompts that are heard, spelt otherwise."""
    with spelt(scene.model, slots, vectors):
        return scene.drawn([heard[scene.prompt(cell)] for cell in cells], noise)
