"""FADE against who searches: distilled at the caption, at what finds it again and at the worst embedding near it.

e* = (λI + Σ_l W'_lᵀ W'_l)⁻¹ (Σ_l W'_lᵀ W_l) e_f, over keys and values, W' = W + Δ (fade/attacks/closed.py)
δ* = argmin over ‖δ_i‖ ≤ ρ‖e_i‖ of MSE(ε_{θ+Δ}(z_f, t, e_f + δ), y), y the target of plain training
L = w_f · MSE(ε_{θ+Δ}(z_f, t, e_f), ε_θ(z_f, t, e_s)) + w_c · MSE(ε_{θ+Δ}(z_f, t, e*), ε_θ(z_f, t, e_s))
    + w_a · MSE(ε_{θ+Δ}(z_f, t, e_f + δ*), ε_θ(z_f, t, e_s))
    + w_r · MSE(ε_{θ+Δ}(z_r, t', e_r), ε_θ(z_r, t', e_r)) + Σ_k w_k · MSE(ε_{θ+Δ}(z_r, t', e_k), ε_θ(z_r, t', e_k))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.attacks import closed
from fade.checked import Count, NonNegative, Positive
from fade.data.pairs import Batch, Example, Pairs
from fade.errors import BadInput, at_least
from fade.methods import denoising, noised
from fade.methods.fade import Fade
from fade.methods.uce import reading
from fade.models import Diffusion
from fade.models.embedding import Embedding

RANDOM, SHORTEST, LONGEST = 256, 3, 8  # random captions, unless told otherwise, and their tokens
RIDGES = -4.0, 0.0  # log10 of the λ that the solve draws, around those that the attack tries (conf/attack/closed.yaml)
ELSEWHERE = ("around", "random", "between", "empty")  # the terms of what is kept beside the retain captions
Question = tuple[Tensor, Tensor, Embedding]  # z_t, t, what is asked


class FadeRobust(Fade):
    """This project's own. start: as Fade's.

    `closed`: each step solves for the embeddings that the keys and values, as they stand, read as the captions, which
    is what RECE (arXiv 2407.12383) does to a finished edit, and teaches the surrogate there; λ is drawn anew, and no
    gradient goes through the solve.

    `adversarial`: AdvUnlearn's idea (arXiv 2405.15234), there in the text encoder. radius: ρ of the ball around each
    row of an embedding, in lengths of that row. attack_steps: of steepest descent within it, from a random point of its
    surface, on the plain training loss at the concept's images, which attacks minimise. A step is 1.25 radii long where
    there is one (arXiv 2001.03994), else 2.5 radii over their number (arXiv 1706.06083).

    What is kept beside the retain captions is asked at the same images, each term at its share of them: `around`, the
    retain captions moved at random by a radius, without which adversarial training takes retention along; `random`,
    one of `captions` of random tokens, none that only captions of the concept have; `between`, mixtures of two retain
    captions; `empty`, the empty caption. A term of weight 0 is not computed. A pooled vector is not attacked.
    """

    terms: Mapping[str, float] = {
        "forget": 0.3,
        "adversarial": 0.5,
        "closed": 1.0,
        "retain": 3.0,
        "around": 0.0,
        "random": 3.0,
        "between": 3.0,
        "empty": 0.0,
    }

    def __init__(
        self,
        radius: Positive = 1.0,
        attack_steps: Count = 1,
        saliency: str = "forget",
        terms: Mapping[str, NonNegative] | None = None,
        captions: Count = RANDOM,
        start: Positive | None = None,
    ) -> None:
        super().__init__(saliency, "", terms, start)
        at_least(1, method__attack_steps=attack_steps, method__captions=captions)
        if not radius > 0:
            raise BadInput(f"method.radius is {radius}; it must be above 0, for example 1.0")
        self.radius, self.attack_steps, self.captions = radius, attack_steps, captions

    def check(self, kind: str, sparsity: str, steps: int, timesteps: str = "uniform") -> None:
        super().check(kind, sparsity, steps, timesteps)
        if self.terms["closed"] and kind != "lora":
            raise BadInput(
                f"method.terms.closed solves over a LoRA's layers, and the adapter is a {kind}; use "
                "method.terms.closed=0"
            )

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().suits(model, adapter, pairs)
        if self.terms["closed"] and not reading(adapter, model.text_keys):
            raise BadInput(
                "method.terms.closed solves over what reads the text itself, and no layer under the adapter does: use "
                "method.terms.closed=0, or name others in adapter.targets"
            )

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.empty = model.negative()
        if self.terms["random"]:
            self.random = model.embed(
                random_captions(model, pairs, torch.Generator().manual_seed(RANDOM))[: self.captions]
            )

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget = batch["forget"]
        z_f = noised(model, forget)
        gone = {term: (z_f, forget["t"], at) for term, at in self.forgotten(model, adapter, forget).items()}
        kept = self.kept(noised(model, batch["retain"]), batch["retain"])
        target = [(z_f, forget["t"], forget["surrogate"])] if gone else []  # of all that is forgotten: asked once
        with torch.no_grad(), adapter.off():
            taught = answered(model, [*target, *kept.values()])
        wanted = [*taught[:1] * len(gone), *taught[len(target) :]]
        given = answered(model, [*gone.values(), *kept.values()])
        return {term: mse_loss(own, known) for term, own, known in zip([*gone, *kept], given, wanted, strict=True)}

    def forgotten(self, model: Diffusion, adapter: Adapter, forget: Example) -> dict[str, Embedding]:
        """Where the surrogate is taught, for each term of it that has a weight."""
        found = {}
        if self.terms["forget"]:
            found["forget"] = forget["prompt"]
        if self.terms["adversarial"]:
            found["adversarial"] = self.worst(model, forget)
        if self.terms["closed"]:
            found["closed"] = self.solved(model, adapter, forget["prompt"])
        return found

    def kept(self, z_r: Tensor, retain: Example) -> dict[str, Question]:
        """What student and teacher are asked alike, for each term of it that has a weight."""
        found: dict[str, Question] = {}
        if self.terms["retain"]:
            found["retain"] = z_r, retain["t"], retain["prompt"]
        elsewhere = [term for term in ELSEWHERE if self.terms[term]]
        n = max(1, len(z_r) // max(1, len(elsewhere)))  # of the retain images, for each of them
        for k, term in enumerate(elsewhere):
            rows = (torch.arange(n, device=z_r.device) + k * n) % len(z_r)
            at = self.elsewhere(retain["prompt"][rows], retain["prompt"][(rows + 1) % len(z_r)])[term]()
            found[term] = z_r[rows], retain["t"][rows], at
        return found

    def elsewhere(self, own: Embedding, other: Embedding) -> dict[str, Callable[[], Embedding]]:
        """The embeddings at which nothing may change, made from two retain captions' for each."""
        return {
            "around": lambda: moved(own, self.surface(own.tokens)),
            "random": lambda: self.random[torch.randint(len(self.random), (len(own),), device=own.device)],
            "between": lambda: own.between(other, torch.rand(len(own), device=own.device, dtype=own.dtype)),
            "empty": lambda: self.empty.expand_as(own),
        }

    def surface(self, rows: Tensor) -> Tensor:
        """A random point (B, L, D) of the surface of each row's ball."""
        return self.radius * lengths(rows) * unit(torch.randn_like(rows))

    @torch.no_grad()
    def solved(self, model: Diffusion, adapter: Adapter, own: Embedding) -> Embedding:
        """The captions as the present keys and values would have to be given them to say what they said."""
        weights = adapter.weights()
        names = reading(adapter, model.text_keys)
        edited = [weights[name] + adapter.delta(name) for name in names]
        ridge = 10 ** float(torch.empty(()).uniform_(*RIDGES))
        matrix = closed.solve(edited, [weights[name] for name in names], ridge)
        return replace(own, tokens=(own.tokens.to(matrix) @ matrix.T).to(own.tokens))

    def worst(self, model: Diffusion, example: Example) -> Embedding:
        """The captions, moved within their balls to where the student still knows the concept best."""
        own = example["prompt"]
        reach, δ = self.radius * lengths(own.tokens), self.surface(own.tokens)
        for _ in range(self.attack_steps):
            δ.requires_grad_(True)
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(denoising(model, example, moved(own, δ)), δ)
            δ = δ.detach() - 2.5 / max(2, self.attack_steps) * reach * unit(slope)
            δ = δ * (reach / lengths(δ).clamp(min=1e-12)).clamp(max=1)
        return moved(own, δ)


def answered(model: Diffusion, questions: Sequence[Question]) -> tuple[Tensor, ...]:
    """The answers to each, of one pass over all."""
    z_t, t, asked = zip(*questions, strict=True)
    return model.predict(torch.cat(z_t), torch.cat(t), Embedding.cat([*asked])).split([len(part) for part in z_t])


def moved(embedding: Embedding, δ: Tensor) -> Embedding:
    return replace(embedding, tokens=embedding.tokens + δ)


def lengths(rows: Tensor) -> Tensor:
    """(B, L, 1) of rows (B, L, D)."""
    return rows.norm(dim=-1, keepdim=True)


def unit(rows: Tensor) -> Tensor:
    """Each row with length 1; a row of zeros stays one."""
    return rows / lengths(rows).clamp(min=1e-12)


def random_captions(model: Diffusion, pairs: Pairs, generator: Generator) -> list[str]:
    """RANDOM captions of random tokens of the vocabulary, without those that captions of the concept have and their
    surrogates' have not."""
    text = model.texts[0]
    own, others = (
        {i for texts in side for i in text.ids(texts)} for side in zip(*pairs.captions("forget"), strict=True)
    )
    odd = {*text.tokenizer.all_special_ids, *(own - others)}
    usable = [i for i in sorted(text.tokenizer.get_vocab().values()) if i not in odd]
    sizes = torch.randint(SHORTEST, LONGEST + 1, (RANDOM,), generator=generator).tolist()
    chosen = (torch.randint(len(usable), (size,), generator=generator).tolist() for size in sizes)
    return [text.tokenizer.decode([usable[i] for i in ids]).strip() for ids in chosen]
