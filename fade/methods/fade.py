"""FADE: saliency confines a sparse adapter, self-distillation overwrites the concept (arXiv 2602.07058; v2 calls it
SPARE).

L = w_f · MSE(ε_{θ+Δ}(z_f, t, c_f), ε_θ(z_f, t, c_s)) + w_r · MSE(ε_{θ+Δ}(z_r, t', c_r), ε_θ(z_r, t', c_r))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.checked import NonNegative, Positive
from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput, above
from fade.methods import Method, check_values, noised
from fade.methods.uce import Uce, reading
from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.saliency import Saliency, ratio, sum_of_abs


class Fade(Method):
    """`saliency`: "forget", the paper's, or "ratio", forget over retain. With timesteps=targeted this is this project's
    reading of SPARE, which published no code for its timesteps; `variant` says so in tables. `start`: None, a change of
    zero as in the paper, or the λ of UCE's closed form over all tokens (fade/methods/uce.py), whose part within masks
    and rank the training begins from; this project's own.

    Differs from the paper: the loss lives in the model's own parameterisation (ε or v), both terms run as one batch,
    and the teacher is the same U-Net with the adapter muted. From the authors' code: latents are the posterior's mode,
    which it samples; a LoRA's A starts as kaiming uniform (PEFT's default), there as a Gaussian.
    """

    terms: Mapping[str, float] = {"forget": 0.3, "retain": 1.0}  # FADE's script

    def __init__(
        self,
        saliency: str = "forget",
        variant: str = "",
        terms: Mapping[str, NonNegative] | None = None,
        start: Positive | None = None,
    ) -> None:
        if saliency not in ("forget", "ratio"):
            raise BadInput(
                f"method.saliency is {saliency!r}; choose forget (the paper's) or ratio (forget over retain)"
            )
        self.saliency, self.variant, self.terms = saliency, variant, self.weighted(terms)
        above(0, method__start=1.0 if start is None else start)
        self.closed = None if start is None else Uce("all", ridge=start)

    def check(self, kind: str, sparsity: str, steps: int, timesteps: str = "uniform") -> None:
        super().check(kind, sparsity, steps, timesteps)
        if self.closed and kind != "lora":
            raise BadInput(f"method.start is where a LoRA begins, and the adapter is a {kind}; use method.start=null")

    def locate(self, model: Diffusion, adapter: Adapter, batches: Sequence[Batch], sides: bool = False) -> Saliency:
        if self.saliency == "forget":
            return super().locate(model, adapter, batches, sides)
        forget, retain = (sum_of_abs(model, adapter.weights(), batches, side) for side in ("forget", "retain"))
        return ratio(forget, retain)

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        if self.closed:
            check_values(adapter, "method.start")
        if self.closed and not any(reading(adapter, key) for key in self.closed.edits(model, adapter)):
            raise BadInput(
                "method.start begins from an edit of what reads the text itself, and no layer under the adapter does: "
                "use method.start=null, or name others in adapter.targets"
            )

    @torch.no_grad()
    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        if self.closed is None:
            return
        assert isinstance(adapter, Lora)
        weights = adapter.weights()
        for names, n in self.closed.solutions(model, adapter, pairs):
            for name in names:
                adapter.fit(name, weights[name].double() @ n)

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget, retain = batch["forget"], batch["retain"]
        z_t, t = torch.cat([noised(model, forget), noised(model, retain)]), torch.cat([forget["t"], retain["t"]])
        with torch.no_grad(), adapter.off():
            wanted = model.predict(z_t, t, Embedding.cat([forget["surrogate"], retain["prompt"]]))
        given = model.predict(z_t, t, Embedding.cat([forget["prompt"], retain["prompt"]]))
        n = len(forget["latents"])
        return {"forget": mse_loss(given[:n], wanted[:n]), "retain": mse_loss(given[n:], wanted[n:])}
