"""Task vectors: learn to draw the concept, then go the other way (arXiv 2404.03631).

θ_0 − α (θ_ft − θ_0), where θ_ft is θ_0 trained on the concept's images, L = MSE(f(z, t, ∅), target).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fade.adapters import Adapter
from fade.checked import NonNegative, Positive
from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput
from fade.methods import Method, denoising
from fade.models import Diffusion

CAPTIONS = ("empty", "own")


class TaskVector(Method):
    """alpha: α. captions: what the concept's images are shown under, "empty" for all (the released code, so that the
    change hangs on no prompt) or each its "own". Neither surrogate nor what is to be kept is used. While it trains, the
    model draws the concept better, not worse: the change is turned round once, after the last step.

    Differs from the code released (mnpham0417/prompt-agnostic-concept-erasure 6c55eb6): the images are the dataset's,
    where there the model draws 200 under one prompt; they are not mirrored; the last weights are taken, not their
    average over steps (EMA). Diverse Inversion, by which the paper chooses α and the weights that are changed, is not
    released and not here: α is given, and an adapter's `scale` s makes it s·α without training again.
    """

    terms: Mapping[str, float] = {"forget": 1.0}

    def __init__(
        self, alpha: Positive = 1.75, captions: str = "empty", terms: Mapping[str, NonNegative] | None = None
    ) -> None:
        if captions not in CAPTIONS:
            raise BadInput(f"method.captions is {captions!r}; it must be {' or '.join(CAPTIONS)}")
        if not alpha > 0:
            raise BadInput(f"method.alpha is {alpha}; it must be above 0, for example 1.75")
        self.alpha, self.captions, self.terms = alpha, captions, self.weighted(terms)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.empty = model.embed([""])

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget = batch["forget"]
        shown = forget["prompt"] if self.captions == "own" else self.empty.expand_as(forget["prompt"])
        return {"forget": denoising(model, forget, shown)}

    def finish(self, adapter: Adapter) -> None:
        adapter.stretch(-self.alpha)
