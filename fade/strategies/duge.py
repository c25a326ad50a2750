"""DUGE: attention to the target is taught to look like attention to something else, with a small replay bank
(arXiv 2503.13769).

(1/M) Σ_i (A_i^θ(c_f) − A_i^{before}(c_s))² over all cross-attention maps, plus the denoising loss on the bank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.data.pairs import Batch, Pairs
from fade.methods import Method, check_maps, noised
from fade.models import Diffusion
from fade.strategies import Around, Strategy, trained


class Duge(Strategy):
    """Its parameter regulariser is not public and left out; the non-concept prompt is the surrogate's caption."""

    def __init__(self, attention: float = 1.0, replay: float = 1.0, bank: int = 32) -> None:
        self.added, self.bank = {"attention": attention, "replay": replay}, bank

    def check(self, method: Method) -> None:
        trained(method, "duge")

    def method(self, method: Method) -> Method:
        return Attending(method, self.added, self.bank)


class Attending(Around):
    def __init__(self, inner: Method, added: dict[str, float], bank: int) -> None:
        super().__init__(inner)
        self.bank = bank
        self.terms = {**inner.terms, **added}

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        super().suits(model, adapter, pairs)
        check_maps(model)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """The bank is spread evenly over what is kept."""
        super().prepare(model, adapter, pairs)
        total = len(pairs.latents["retain"])
        chosen = torch.linspace(0, total - 1, min(self.bank, total)).long()
        self.kept = pairs.latents["retain"][chosen], pairs.own[pairs.cells["retain"][chosen]]

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        forget, retain = batch["forget"], batch["retain"]
        x_t = noised(model, forget)
        with torch.no_grad(), adapter.off(), model.attention() as before:
            model.predict(x_t, forget["t"], forget["surrogate"])
        with model.attention() as now:
            model.predict(x_t, forget["t"], forget["prompt"])
        attention = torch.stack([mse_loss(a, b) for a, b in zip(now, before, strict=True)]).mean()
        drawn = torch.randint(0, len(self.kept[0]), (len(retain["t"]),))
        latents, prompt = self.kept[0][drawn], self.kept[1][drawn]
        wanted = model.target(latents, retain["t"], retain["noise"])
        replay = mse_loss(
            model.predict(model.noised(latents, retain["t"], retain["noise"]), retain["t"], prompt), wanted
        )
        return {**super().losses(model, adapter, batch), "attention": attention, "replay": replay}
