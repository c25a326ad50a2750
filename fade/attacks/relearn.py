"""Relearning: the plain training loss on a few real images of the concept, over a LoRA or all weights of the network.

Reported as a curve: success after so many steps. Its zero is how fast a model that never saw the concept learns it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from fade.adapters import Adapter, Masks
from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.attacks import Attack, Find, Scene, attack_loss, copies, descend
from fade.checked import Count, Counts, Positive
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Diffusion, Noise

NAME = "attack"
# What is trained, and AdamW's rate there: on the canvas, of four tried on development targets the largest that leaves
# the rest of the image right (docs/attacks.md, "How strong is the attack?"). Stable Diffusion's are 1e-5 and 1e-4.
OVER = {"weights": 3e-4, "lora": 3e-3}


class Relearn(Attack):
    """images: real ones, under their captions. over: OVER. rank: of the LoRA. rate: AdamW's; None: of OVER."""

    level = "T3"
    optimises = True
    shown = True

    def __init__(
        self,
        images: Count = 5,
        over: str = "weights",
        marks: Counts = (5, 10, 20, 40, 80),
        batch: Count = 4,
        rank: Count = 4,
        rate: Positive | None = None,
    ) -> None:
        if over not in OVER:
            raise BadInput(f"attack.relearn.over is {over!r}; choose {', '.join(OVER)}")
        self.images, self.over, self.marks, self.batch, self.rank = images, over, list(marks), batch, rank
        self.rate = OVER[over] if rate is None else rate

    def finds(self, scene: Scene) -> list[Find]:
        model, g = self.learner(scene), scene.generator()
        latents, asked = self.examples(scene)
        captions = model.embed(asked)

        def loss(step: int) -> Tensor:
            chosen = torch.randint(0, len(latents), (self.batch,), generator=g)
            t = model.process.draw(self.batch, generator=g).to(model.device)
            noise = torch.randn(self.batch, *latents.shape[1:], generator=g).to(latents)
            return attack_loss(model, latents[chosen], t, noise, captions[chosen])

        with freed(model, self.over, self.rank, scene.seed) as adapter:
            if masks := self.masks(scene):
                adapter.set_masks({name: masks[name] for name in adapter.weights()})
            start = copies(adapter.parameters())
            optimizer = torch.optim.AdamW(adapter.parameters(), lr=self.rate)
            marks = descend(
                scene, adapter.parameters(), loss, optimizer, self.marks, after=adapter.project, cosine=False
            )
        return [
            Find(f"{mark.step} steps", partial(self._draw, scene, start, mark.values), mark.units) for mark in marks
        ]

    def learner(self, scene: Scene) -> Diffusion:
        """The model that learns. Where it is another than the one under attack, what it learnt is put on that one."""
        return scene.model

    def examples(self, scene: Scene) -> tuple[Tensor, list[str]]:
        """What is learned: latents (N, C, h, w) and their captions."""
        latents, rows = scene.examples(self.images)
        return latents, [scene.prompts[row] for row in rows]

    def masks(self, scene: Scene) -> Masks:
        """Which of the weights may move; none: all of them."""
        return {}

    def _draw(
        self, scene: Scene, start: list[Tensor], values: list[Tensor], cells: Sequence[Cell], noise: Sequence[Noise]
    ) -> Tensor:
        with freed(scene.model, self.over, self.rank, scene.seed) as adapter:
            for weight, before, value in zip(adapter.parameters(), start, values, strict=True):
                same = torch.equal(weight, before)  # to the bit what was learnt, where it was learnt there
                weight.data = value.clone() if same else weight.data + (value - before)
            return scene.plain(cells, noise)


@contextmanager
def freed(model: Diffusion, over: str = "weights", rank: int = 4, seed: int = 0) -> Iterator[Adapter]:
    """Inside, there is something to change on top of what is there; gone afterwards, bit for bit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lora = over == "lora"
        adapter: Adapter = Lora.attach(model, rank, rank, name=NAME) if lora else Patch.attach(model, [r"."], NAME)
    try:
        yield adapter
    finally:
        adapter.detach()
