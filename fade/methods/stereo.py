"""STEREO: search for what brings the concept back, thoroughly enough; then erase all of it at once (arXiv 2408.16807).

Search, each round from the model before, f: L = MSE(f'(z, t, c), f(z, t, c) − (s − 1)[f(z, t, c) − f(z, t, ∅)]), then a
token that brings c back, which is the next round's c.
Erase, from the base: L = MSE(f'(z, t, c_k), f_0(∅) + (s − 1)[f_0(a) − f_0(∅)] − (s + 1) mean_n [f_0(c_n) − f_0(∅)]).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.attacks import attack_loss
from fade.attacks.spelling import Slots, check_words, embedded, norm, replaced, spelt, table
from fade.checked import Count, NonNegative, Rate
from fade.console import doing
from fade.data.pairs import Batch, Pairs
from fade.errors import at_least
from fade.methods import Method, named_in_all
from fade.models import Diffusion
from fade.models.embedding import Embedding


class Stereo(Method):
    """c_0 are the forget captions, c_1 ... those with each round's token in the concept's place; a are retain captions.
    rounds: of the search; erase_steps, erase_rate: of AdamW in each; search_steps, search_rate: of textual inversion,
    the rate in lengths of a token's vector. batch: of either. scale: s. z is sampled by the student under what is
    erased, as far as a random one of `sampling_steps`.

    Differs: c are the forget captions where the code erases one name; which c_k a step erases is drawn, there
    stratified; retain captions stand for written prompts (its anchors); the vector starts at zero and its rate falls
    along a cosine, there from a word at a constant rate, which fails on this suite's base; t is the sampler's own. The
    code's adaptive projected guidance with its settings (η 1, no threshold) is plain guidance, as written above.
    """

    terms: Mapping[str, float] = {"forget": 1.0}
    draws_t = False

    def __init__(
        self,
        rounds: Count = 4,
        erase_steps: Count = 200,
        erase_rate: Rate = 5e-6,
        search_steps: Count = 3000,
        search_rate: Rate = 0.0125,
        batch: Count = 1,
        scale: float = 2.0,
        guidance: float = 3.0,
        sampling_steps: Count = 50,
        terms: Mapping[str, NonNegative] | None = None,
    ) -> None:
        at_least(1, method__rounds=rounds, method__erase_steps=erase_steps, method__search_steps=search_steps)
        at_least(1, method__batch=batch, method__scale=scale)
        at_least(3, method__sampling_steps=sampling_steps)
        at_least(0, method__guidance=guidance)
        self.rounds, self.erase_steps, self.erase_rate = rounds, erase_steps, erase_rate
        self.search_steps, self.search_rate, self.batch = search_steps, search_rate, batch
        self.scale, self.guidance, self.sampling_steps = scale, guidance, sampling_steps
        self.terms = self.weighted(terms)
        self.found: list[Embedding] = []  # c_1, c_2, ...: a row for each forget caption, as of `own`, c_0

    def check_family(self, family: type[Diffusion]) -> None:
        check_words(family)

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        named_in_all(model, pairs, "STEREO puts a vector in the concept's place")

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        cells = pairs.dataset.cells()
        self.empty, self.rows = model.negative(), pairs.cells["forget"].unique()
        self.captions = [pairs.caption(cells[row]) for row in self.rows.tolist()]
        self.own = model.embed(self.captions)

    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """The search. Afterwards the adapter is what it was."""
        slots = {caption: slots_of(model, pairs, caption) for caption in self.captions}
        untouched, self.found = copied(adapter), []
        for k in range(self.rounds):
            doing(f"searching, round {k + 1} of {self.rounds}")
            self._erase(model, adapter, self.found[-1] if self.found else self.own)
            vector = self._search(model, pairs, slots)
            with torch.no_grad(), spelt(model, slots, vector):
                self.found.append(embedded(model, self.captions))
        adapter.load_state(untouched)

    def _erase(self, model: Diffusion, adapter: Adapter, concept: Embedding) -> None:
        """One round's: away from what the last one found, by the guidance of the model as it stands."""
        before = copied(adapter)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=self.erase_rate)
        for _ in range(self.erase_steps):
            c = concept[torch.randint(len(concept), (self.batch,), device=concept.device)]
            z, t = self._sampled(model, c, self._stop())
            now = copied(adapter)
            adapter.load_state(before)
            with torch.no_grad():
                given, empty = model.predict(z, t, c), model.predict(z, t, self.empty.expand_as(c))
            adapter.load_state(now)
            optimizer.zero_grad()
            with torch.enable_grad():
                wanted = given - (self.scale - 1) * (given - empty)
                mse_loss(model.predict(z, t, c), wanted).backward()
            optimizer.step()
            adapter.project()
        optimizer.zero_grad()

    def _search(self, model: Diffusion, pairs: Pairs, slots: dict[str, Slots]) -> Tensor:
        """(1, D): the token whose captions fit the concept's images best, by the model as it stands."""
        latents, cells = pairs.latents["forget"], pairs.cells["forget"]
        vector = torch.zeros(1, table(model).weight.shape[1], device=model.device, requires_grad=True)
        optimizer = torch.optim.Adam([vector], lr=self.search_rate * norm(model))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.search_steps)
        for _ in range(self.search_steps):
            chosen = torch.randint(len(latents), (self.batch,))
            z = latents[chosen.to(latents.device)]
            t, noise = model.process.draw(len(z)).to(z.device), torch.randn_like(z)
            asked = [self.captions[int(k)] for k in torch.searchsorted(self.rows, cells[chosen])]
            with torch.enable_grad(), spelt(model, slots, vector.to(z)):
                (slope,) = torch.autograd.grad(attack_loss(model, z, t, noise, embedded(model, asked)), vector)
            vector.grad = slope
            optimizer.step()
            schedule.step()
        return vector.detach()

    def _stop(self) -> int:
        """After how many of the sampler's steps: at least one, and not the last two, as released."""
        return int(torch.randint(1, self.sampling_steps - 1, (1,)))

    @torch.no_grad()
    def _sampled(self, model: Diffusion, c: Embedding, stop: int) -> tuple[Tensor, Tensor]:
        """z_t and t, by the student from noise under c."""
        return model.denoise_until(c, self.sampling_steps, stop, self.guidance, self.empty)

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        anchors, stop = batch["retain"]["prompt"], self._stop()
        which = torch.randint(len(self.own), (len(anchors),), device=anchors.device)
        concepts = [concept[which] for concept in (self.own, *self.found)]
        c = concepts[int(torch.randint(len(concepts), (1,)))]
        z, t = self._sampled(model, c, stop)
        with torch.no_grad(), adapter.off():
            empty = model.predict(z, t, self.empty.expand_as(c))
            toward = model.predict(z, t, anchors) - empty
            away = torch.stack([model.predict(z, t, concept) - empty for concept in concepts]).mean(0)
        wanted = empty + (self.scale - 1) * toward - (self.scale + 1) * away
        return {"forget": mse_loss(model.predict(z, t, c), wanted)}

    def state(self) -> dict[str, Tensor]:
        return {str(k): concept.tokens for k, concept in enumerate(self.found)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.found = [Embedding(state[str(k)]) for k in range(len(state))]


def copied(adapter: Adapter) -> dict[str, Tensor]:
    """What a checkpoint would hold, which later steps do not change."""
    return {name: value.clone() for name, value in adapter.state().items()}


def slots_of(model: Diffusion, pairs: Pairs, caption: str) -> Slots:
    """The caption with a free vector in the place of the concept that it names."""
    said = next(word for word in map(pairs.said, pairs.requests) if model.token_positions(caption, word))
    return replaced(model, caption, said)
