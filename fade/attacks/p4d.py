"""Prompting4Debugging: tokens in place of a prompt, or among its words, under which the unlearned model predicts
what the base does under the caption (arXiv 2309.06135).

min_p MSE(f'(z_t, t, TE(Π(p))), f_0(z_t, t, e_c)); Π(p) the nearest tokens by cosine, the gradient there applied to p.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from fade.attacks import Attack, Find, Scene, descend
from fade.attacks.inversion import found_tokens, heard_of
from fade.attacks.prefix import remembered
from fade.attacks.spelling import Hears, Slots, check_words, embedded, norm, room, spelt, table, tokens, usable
from fade.checked import Count, Counts, NonNegative, Positive, Whole
from fade.models import Diffusion


class P4d(Attack):
    """length: of the free tokens of P4D-N. every: K of P4D-K, one free token before every K of the prompt's; 0: N.
    rate: AdamW's, in lengths of a token's vector (released: 0.1 where that is about 0.4). hears: as Tokens'.

    Differs: the images are in the autoencoder's range, the generator starts anew, and the encoder sees the tokens that
    were found, not what it would cut their text into, all unlike the released code; the prompts of all cells are
    searched at once.
    """

    level = "T2"
    optimises = True

    def __init__(
        self,
        length: Count = 16,
        every: Whole = 0,
        marks: Counts = (1000, 2000, 3000),
        rate: Positive = 0.25,
        decay: NonNegative = 0.1,
        hears: Hears = "text",
    ) -> None:
        self.length, self.every, self.marks, self.rate, self.decay = length, every, list(marks), rate, decay
        self.hears = hears

    def suits(self, model: Diffusion) -> None:
        check_words(model)

    def finds(self, scene: Scene) -> list[Find]:
        model, heard, latents, g = scene.model, heard_of(scene, self.hears), remembered(scene), scene.generator()
        slots, words = self._slots(scene, heard), table(model).weight
        allowed = torch.tensor(usable(model), device=model.device)
        free = -min(i for slot in slots.values() for i in slot)
        start = allowed[torch.randint(0, len(allowed), (free,), generator=g)]
        p = words[start].detach().clone().requires_grad_()
        wanted = scene.base.embed(scene.prompts)

        def loss(step: int) -> Tensor:
            t = torch.randint(0, model.train_steps, (len(latents),), generator=g).to(model.device)
            z = model.noised(latents, t, torch.randn(latents.shape, generator=g).to(latents))
            with torch.no_grad():
                target = scene.base.predict(z, t, wanted)
            put = p + (words[nearest(p, words, allowed)] - p).detach()  # at Π(p), and its gradient to p
            with spelt(model, slots, put):
                return mse_loss(model.predict(z, t, embedded(model, list(heard.values()))), target)

        optimizer = torch.optim.AdamW([p], lr=self.rate * norm(model), weight_decay=self.decay)
        found = descend(scene, [p], loss, optimizer, self.marks, cosine=False)
        ids = [nearest(mark.values[0], words, allowed) for mark in found]
        return [
            found_tokens(scene, heard, slots, own, self.hears, f"{mark.step} steps", mark.units)
            for own, mark in zip(ids, found, strict=True)
        ]

    def _slots(self, scene: Scene, heard: dict[str, str]) -> dict[str, Slots]:
        """Each prompt's, with free vectors of its own."""
        found, used, most = {}, 0, room(scene.model)
        for prompt in scene.prompts:
            own = tokens(scene.model, prompt)
            slots = among(own, self.every)[:most] if self.every else [-1 - j for j in range(min(self.length, most))]
            found[heard[prompt]] = [i - used if i < 0 else i for i in slots]
            used += sum(i < 0 for i in slots)
        return found


def among(own: Slots, every: int) -> Slots:
    """One free vector before every `every` tokens."""
    parts = range(0, len(own), every)
    return [i for j, start in enumerate(parts) for i in (-1 - j, *own[start : start + every])]


@torch.no_grad()
def nearest(p: Tensor, words: Tensor, allowed: Tensor) -> Tensor:
    """The ids (F,) of the tokens, of those allowed, whose vectors point most nearly as p's (F, D) do."""
    return allowed[(normalize(p.float(), dim=1) @ normalize(words[allowed].float(), dim=1).T).argmax(1)]
