"""RECE: UCE's closed form, then again on the embeddings that bring the concept back (arXiv 2407.12383).

A_0 = I + N(c, g, p), UCE's (fade/methods/uce.py); then for each epoch, with all edited weights W'_l = W_l A_i
e = (λI + Σ_l W'_lᵀ W'_l)⁻¹ (Σ_l W'_lᵀ W_l) c
A_{i+1} = A_i (I + N(e, g, p)): the same form, on the edited weights, with e in place of c
"""

from __future__ import annotations

import torch
from torch import Tensor

from fade.attacks import closed
from fade.errors import above, at_least
from fade.methods.uce import Uce, solve


class Rece(Uce):
    """epochs: how often the concept is brought back and erased again; 0 is UCE. regulariser: λ, how short those
    embeddings are kept ("close_regzero" of the code's three). No training.

    Differs: captions, surrogates and alignment are Uce's (the code edits all positions of the bare name, each toward
    what stands at the same place of " " or "art"); erase, preserve and ridge are the same in UCE's form and in RECE's,
    where the code begins at a UCE checkpoint of other ones; what is preserved are all captions to keep (the code: " "
    or "" alone); the code draws images after every epoch and saves the epoch that judges like best.
    """

    def __init__(
        self,
        tokens: str = "all",
        erase: float = 1.0,
        preserve: float = 0.1,
        ridge: float = 0.1,
        epochs: int = 1,
        regulariser: float = 1e-3,
    ) -> None:
        super().__init__(tokens, erase, preserve, ridge)
        at_least(0, method__epochs=epochs)
        above(0, method__regulariser=regulariser)
        self.epochs, self.regulariser = epochs, regulariser
        self.variant = f"{self.variant}, {epochs} epochs"

    def solved(self, weights: list[Tensor], c: Tensor, g: Tensor, p: Tensor) -> Tensor:
        own = [weight.double() for weight in weights]
        unchanged = torch.eye(c.shape[1]).to(c)
        edited = unchanged + super().solved(weights, c, g, p)  # A
        for _ in range(self.epochs):
            back = closed.solve([weight @ edited for weight in own], own, self.regulariser)
            edited = edited @ (unchanged + solve(c @ back.T, g, p, self.erase, self.preserve, self.ridge))
        return edited - unchanged
