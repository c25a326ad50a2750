"""SelFT: only the most salient weights train (CUIG, arXiv 2511.07970).

S = |θ ⊙ Σ_k ∂‖ε_θ(z_k, t_k, c_f) − sg ε_θ(z_k, t_k, c_s)‖² / ∂θ|, z_k the state before step k of sampling c_f.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import mse_loss

from fade.adapters import Adapter, Masks
from fade.data.pairs import Batch, Pairs
from fade.errors import at_least
from fade.gradients import trainable
from fade.methods import Method, check_values
from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.saliency import Saliency
from fade.sparsity import Sparsity, Weight
from fade.strategies import Around, Strategy, trained


class SelFT(Strategy):
    """The top `p` of the candidate weights, over all of them at once, whatever sparsity the method came with. states:
    steps of one sampling (DDIM's, or Euler's of a flow), each of whose states is made anew from noise, at guidance 3.

    The gradient is that of Concept Ablation's loss, whatever the method, as in CUIG's scripts for it. Differs: its one
    prompt is the bare concept, here each state is of another of the forget captions.
    """

    def __init__(self, p: float = 0.05, states: int = 50) -> None:
        at_least(1, strategy__states=states)
        self.chosen, self.states = Weight(p), states

    def check(self, method: Method) -> None:
        trained(method, "selft")

    def method(self, method: Method) -> Method:
        return Selected(method, self.states)

    def sparsity(self, sparsity: Sparsity, used: Sequence[Masks]) -> Sparsity:
        return self.chosen


class Selected(Around):
    def __init__(self, inner: Method, states: int) -> None:
        super().__init__(inner)
        self.states = states

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().suits(model, adapter, pairs)
        check_values(adapter, "strategy selft")

    def locate(self, model: Diffusion, adapter: Adapter, batches: Sequence[Batch], sides: bool = False) -> Saliency:
        weights = adapter.weights()
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        asked = Embedding.cat([batch["forget"]["prompt"] for batch in batches])
        others = Embedding.cat([batch["forget"]["surrogate"] for batch in batches])
        empty = model.negative()
        with trainable(model, weights):
            for k in range(self.states):
                row = slice(k % len(asked), k % len(asked) + 1)
                z, t = model.denoise_until(asked[row], self.states, k, 3.0, empty)
                with torch.no_grad():
                    wanted = model.predict(z, t, others[row])
                loss = mse_loss(model.predict(z, t, asked[row]), wanted)
                for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
                    total[name] += gradient
        return {name: (weight.detach() * total[name]).abs() for name, weight in weights.items()}
