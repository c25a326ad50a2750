"""SPEED: an edit in the null space of what is to be kept, so that this is read as before (arXiv 2503.07392).

W ← W + W (C − T) Q,  Q = G − G K (Kᵀ G K + λI)⁻¹ Kᵀ G,  G = P (T P + ρI)⁻¹,  T = mean_e c_e c_eᵀ,  C = mean_e g_e c_eᵀ
P projects onto the singular vectors of mean_r r rᵀ whose value is below the threshold, K holds what must never change.
It is the minimum over Δ of mean_e ‖(W + ΔP) c_e − W g_e‖² + ρ ‖ΔP‖² with ΔPK = 0 (λ → 0).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fade.adapters import Adapter
from fade.adapters.matrix import Matrix
from fade.data.pairs import Pairs
from fade.errors import BadInput, above, at_least
from fade.methods.uce import Rows, Uce, change, demands
from fade.models import Diffusion
from fade.models.prompts import Text

CENTRES, ROUNDS = 3, 100  # of the empty caption's rows; more rounds than they take to stand still


class Speed(Uce):
    """c, g: rows of the forget captions and of their surrogates'; r: of those to keep, refined for each weight by how
    far W (C − T)(I + T)⁻¹, an edit that keeps nothing, moves them: those that it moves farther than the mean stay
    (`filter`, the paper's influence-based filtering), and of `augment` copies of each of these, moved at random along
    the direction that W reads least, again those beyond the mean (directed augmentation). K: what begins every caption
    and three centres of the empty caption's other rows (invariant equality constraints); slack: λ. ridge: ρ. No
    training.

    tokens: "last", the last token of each caption, or "all", every position but the one that begins it (the code's on
    nudity); both for what is kept too.

    With adapter=matrix one change serves all weights: they are refined as one, stacked.

    Differs: forget and retain captions are this suite's, and each has its own surrogate; the code has bare names (of
    1,000 or so to keep), " ", "art" or "person" as the surrogate, and on nudity keeps the empty caption alone. The mean
    that copies are held against is over all of them, not over each chunk of 128 rows. The three centres are begun at
    rows that stand evenly apart, not at random ones. Where Kᵀ G K has no inverse, the pseudo-inverse stands for it.
    """

    def __init__(
        self,
        tokens: str = "last",
        threshold: float = 0.1,
        ridge: float = 1.0,
        slack: float = 0.0,
        filter: bool = True,
        augment: int = 10,
    ) -> None:
        super().__init__(tokens, ridge=ridge)
        at_least(0, method__slack=slack, method__augment=augment)
        above(0, method__threshold=threshold)
        self.threshold, self.slack, self.filter, self.augment = threshold, slack, filter, augment

    def edits(self, model: Diffusion, adapter: Adapter) -> dict[str, Rows]:
        return {model.text_keys: self.contexts}  # of a pooled vector no invariants are known

    def rows(self, text: Text, own: str, other: str) -> tuple[list[int], list[int]]:
        here, there = super().rows(text, own, other)
        begin = text.first if self.tokens == "all" else 0
        return here[begin:], there[begin:]

    @torch.no_grad()
    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        weights = adapter.weights()
        groups = [list(weights)] if isinstance(adapter, Matrix) else [[name] for name in weights]
        c, g, p = demands(model, pairs, self.contexts)
        count, kept = len(pairs.captions("forget")), invariants(model)
        target, shift = c.T @ c / count, (g - c).T @ c / count  # T, C − T
        generator = Generator().manual_seed(int(torch.randint(2**31, (1,))))  # seeded by the loop with the run's seed
        for names in groups:
            chosen = [weights[name] for name in names]
            rest = self.refined(torch.cat(chosen).double(), p, shift, target, generator)
            change(adapter, chosen, shift @ allowed(target, self.room(rest), kept, self.ridge, self.slack))

    def refined(self, w: Tensor, p: Tensor, shift: Tensor, target: Tensor, generator: Generator) -> Tensor:
        """(M, D): of p (N, D) what the weight w (out, D) must keep; without augmentation all of it, as in the code."""
        if not self.augment:
            return p
        edit = w @ shift @ torch.linalg.inv(target + torch.eye(len(target)).to(target))
        chosen = most_moved(p, edit) if self.filter else p
        least = torch.linalg.svd(w, full_matrices=False).Vh[-1]
        steps = torch.randn(self.augment, len(chosen), 1, generator=generator).to(p)
        return torch.cat([chosen, most_moved((chosen + steps * least).flatten(0, 1), edit)])

    def room(self, rest: Tensor) -> Tensor:
        """P (D, D). Raises BadInput where the kept rows (M, D) leave none."""
        u, s, _ = torch.linalg.svd(rest.T @ rest / len(rest))
        if not (s < self.threshold).any():
            raise BadInput(
                f"what is to be kept leaves SPEED no room: the least of its singular values is {float(s[-1]):.2g}, and "
                f"method.threshold is {self.threshold:g}; raise it, or keep fewer captions (pairs.seen)"
            )
        empty = u[:, s < self.threshold]
        return empty @ empty.T


def most_moved(rows: Tensor, edit: Tensor) -> Tensor:
    """Of rows (N, D) those that an edit (out, D) moves at least as far as it moves them in the mean."""
    moved = (rows @ edit.T).norm(dim=1)
    return rows[moved >= moved.mean()]


def allowed(target: Tensor, room: Tensor, kept: Tensor, ridge: float, slack: float) -> Tensor:
    """Q (D, D) for T, P (D, D) and what must never change, kept (K, D)."""
    unit = torch.eye(len(target)).to(target)
    g = room @ torch.linalg.inv(target @ room + ridge * unit)
    moved = g @ kept.T  # G K
    held = kept @ moved + slack * torch.eye(len(kept)).to(target)
    least = 1e-10 * kept.square().sum() / ridge  # what has hardly a part in the room is not divided by it
    return g - moved @ torch.linalg.pinv(held, atol=least, rtol=0, hermitian=True) @ moved.T  # G is symmetric


def invariants(model: Diffusion) -> Tensor:
    """(K, D): of each text encoder what begins a caption, and the centres of the empty caption's other rows."""
    empty, found = model.embed([""]).tokens[0].double(), []
    for text in model.texts:
        rows = empty[text.offset : text.offset + text.length]
        found += [rows[: text.first], centres(rows[text.first :])]
    return torch.cat(found)


def centres(rows: Tensor) -> Tensor:
    """(CENTRES, D) of rows (N, D), by k-means from rows that stand evenly apart."""
    found = rows[torch.linspace(0, len(rows) - 1, CENTRES).round().long()]
    for _ in range(ROUNDS):
        nearest = torch.cdist(rows, found).argmin(1)
        found = torch.stack([rows[nearest == k].mean(0) if (nearest == k).any() else found[k] for k in range(CENTRES)])
    return found
