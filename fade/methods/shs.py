"""ScissorHands: the weights most connected to the concept are cut, then what is to be kept is learned again without
learning the concept again (arXiv 2401.06187).

|θ ⊙ ∂L_f/∂θ| ranks the weights; the top `cut` are re-initialised; then L_denoise(retain), its gradient projected so that
it does not lower L_denoise(forget).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fade.adapters import Adapter
from fade.data.pairs import Batch, Pairs
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.methods import Gradients, Method, denoising, dot
from fade.saliency import sum_of_signed
from fade.sparsity import Weight


class ScissorHands(Method):
    """cut: the re-initialised fraction of the weights (the paper's sparsity 0.99 is 0.01). New values are normal with the
    mean and deviation of their own tensor. Differs: the sensitivity is summed over one pass over the forget images; it is
    the gradient that is projected, not the step that the optimizer makes of it.
    """

    terms = ("forget", "retain")
    kinds = ("patch",)
    combines = True

    def __init__(self, cut: float = 0.01) -> None:
        if not 0 < cut < 1:
            raise BadInput(f"method.cut is {cut}; the re-initialised fraction must lie in (0, 1)")
        self.cut = cut

    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        generator = Generator().manual_seed(int(torch.randint(2**31, (1,))))  # the loop has seeded this with the run's seed
        weights = adapter.weights()
        found = sum_of_signed(model, weights, pairs.sweep(pairs.batch, generator))
        chosen = Weight(self.cut)({name: found[name] * weight.detach().abs() for name, weight in weights.items()})
        with torch.no_grad():
            for name, weight in weights.items():
                fresh = weight.mean() + torch.randn(weight.shape, generator=generator).to(weight) * weight.std(unbiased=False)
                weight.copy_(torch.where(chosen[name], fresh, weight))
        adapter.project()

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        return {side: denoising(model, batch[side], batch[side]["prompt"]) for side in self.terms}  # type: ignore[literal-required]

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        """g_r, without its part along g_f where a step down g_r would lower the forget loss too."""
        forget, retain = gradients["forget"], gradients["retain"]
        along = (dot(forget, retain) / dot(forget, forget).clamp(min=1e-20)).clamp(min=0)
        return [r - along * f for f, r in zip(forget, retain, strict=True)]
