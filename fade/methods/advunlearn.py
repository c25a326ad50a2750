"""AdvUnlearn: the text encoder unlearns the concept behind a prefix that an attack has just found (arXiv 2405.15234).

v* = argmin_v MSE(f(z, t, E(v ⧺ c)), f(z, t, E_0(c)))
L = MSE(f(z, t, E(v* ⧺ c)), f(z, t, ∅) − η [f(z, t, E_0(c)) − f(z, t, ∅)])
  + λ MSE(f(z_r, t, E(c_r)), f(z_r, t, E_0(c_r)))
f is what denoises, untouched; E the text encoder, E_0 as it was; z, z_r half-denoised from pure noise under E_0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.attacks.spelling import Slots, check_words, embedded, norm, prefixed, room, spelt, table
from fade.checked import Count, NonNegative, Rate, Whole
from fade.data.pairs import Batch, Example, Pairs
from fade.errors import BadInput
from fade.methods import Method
from fade.models import Diffusion
from fade.models.embedding import Embedding


class AdvUnlearn(Method):
    """c are the forget captions, c_r the retain captions. warmup: first steps without an attack. attack_steps,
    attack_rate: of Adam on v in every later step, from random tokens, each step on a z of its own; the rate in lengths
    of a token's vector. length: of v, in tokens. sampling_steps: of the sampler, of which a random number is done, the
    same for z and z_r. terms.retain is λ.

    Differs: c are the batch's captions, each with a v of its own, where the code has one name; retain captions are this
    suite's, as many as forget captions, there five of COCO's objects; t is the sampler's own, there drawn from its
    bin; the attack's gradient is set to zero between its steps, which the code forgets.
    """

    terms: Mapping[str, float] = {"forget": 1.0, "retain": 0.3}
    kinds = ("patch",)
    draws_t = False
    part = "text"

    def __init__(
        self,
        warmup: Whole = 200,
        attack_steps: Whole = 30,
        attack_rate: Rate = 0.0025,
        length: Count = 1,
        eta: NonNegative = 1.0,
        guidance: NonNegative = 3.0,
        sampling_steps: Count = 50,
        terms: Mapping[str, NonNegative] | None = None,
    ) -> None:
        self.warmup, self.attack_steps, self.attack_rate, self.length = warmup, attack_steps, attack_rate, length
        self.eta, self.guidance, self.sampling_steps = eta, guidance, sampling_steps
        self.terms = self.weighted(terms)
        self.step = 0

    def check_family(self, family: type[Diffusion]) -> None:
        check_words(family)

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        longest = max((caption for caption, _ in pairs.captions("forget")), key=model.texts[0].count)
        if (n := model.texts[0].count(longest)) + self.length > room(model):
            raise BadInput(
                f"the caption {longest!r} has {n} tokens of {room(model)}, and method.length={self.length} more are to "
                "stand before them; shorten it"
            )

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.texts, self.rate = pairs.texts, self.attack_rate * norm(model)
        with adapter.off():
            self.empty = model.negative()

    def before_step(self, step: int, *_: object) -> None:
        self.step = step

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget, retain = batch["forget"], batch["retain"]
        asked, n = self.captions(forget), len(forget["latents"])
        slots, found = self.prefixes(model, forget["prompt"], asked)
        known = Embedding.cat([forget["prompt"], retain["prompt"]])
        z, t = self.sampled(model, known)
        with torch.no_grad():
            told, empty = model.predict(z, t, known), model.predict(z[:n], t[:n], self.empty.expand(n))
        with spelt(model, slots, found):
            given = model.predict(z, t, embedded(model, [*asked, *self.captions(retain)]))
        away = empty - self.eta * (told[:n] - empty)
        return {"forget": mse_loss(given[:n], away), "retain": mse_loss(given[n:], told[n:])}

    def captions(self, example: Example) -> list[str]:
        return [self.texts[row] for row in example["row"].tolist()]

    def sampled(self, model: Diffusion, c: Embedding) -> tuple[Tensor, Tensor]:
        """z_t and t, from noise under c."""
        stop = int(torch.randint(0, self.sampling_steps, (1,)))
        return model.denoise_until(c, self.sampling_steps, stop, self.guidance, self.empty)

    def prefixes(self, model: Diffusion, known: Embedding, asked: list[str]) -> tuple[dict[str, Slots], Tensor | None]:
        """Each caption spelt with vectors before it, and those vectors (captions · length, D), which bring back most of
        what it said; none in the warm-up."""
        if self.step < self.warmup or not self.attack_steps:
            return {}, None
        slots = prefixed(model, dict.fromkeys(asked), self.length)
        words = table(model).weight
        vectors = words[torch.randint(len(words), (len(slots) * self.length,), device=words.device)].detach().clone()
        optimizer = torch.optim.Adam([vectors.requires_grad_(True)], lr=self.rate)
        for _ in range(self.attack_steps):
            z, t = self.sampled(model, known)
            with torch.no_grad():
                wanted = model.predict(z, t, known)
            with torch.enable_grad(), spelt(model, slots, vectors):
                loss = mse_loss(model.predict(z, t, embedded(model, asked)), wanted)
                (vectors.grad,) = torch.autograd.grad(loss, [vectors])
            optimizer.step()
        return slots, vectors.detach()
