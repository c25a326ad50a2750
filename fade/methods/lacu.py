"""LACU, "Distill, Forget, Repeat": one request of a sequence, on the teacher's own latents (arXiv 2512.02657).

L = λ_u MSE(S(z_f, t, c_f), T(z_f, t, c_map)) + λ_p MSE(S(z_r, t, c_r), T(z_r, t, c_r)) + λ_reg ‖θ − θ_T‖², T the model before.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.data.pairs import Batch, Pairs
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.methods import Method
from fade.prompts import swapped


class Lacu(Method):
    """Latents are made by the teacher (DDIM, guidance 1, `sampling_steps`), `pool` of either side. The mapping concept is
    the candidate whose predictions lie nearest to the target's (`mapping_samples` K of z and t); what is kept are the
    `related` captions nearest by the same distance (`related_samples`), and as many others at random. The forget term's t is
    drawn by timesteps=window, the paper's [0, 600].

    Differs: the mapping is one concept for all captions of a request, so that it can be said in words (mapped=given uses
    the request's surrogate instead); captions that an earlier request removed are among those kept, for they must stay so.
    """

    terms = ("forget", "retain", "stay")

    def __init__(
        self,
        pool: int = 128,
        sampling_steps: int = 20,
        mapping_samples: int = 32,
        related_samples: int = 16,
        related: int = 10,
        mapped: str = "nearest",
        seed: int = 0,
    ) -> None:
        if mapped not in ("nearest", "given"):
            raise BadInput(f"method.mapped is {mapped!r}; choose nearest (the paper's) or given (the request's surrogate)")
        self.pool, self.sampling_steps, self.related, self.mapped, self.seed = pool, sampling_steps, related, mapped, seed
        self.samples = {"mapping": mapping_samples, "related": related_samples}

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        if len(pairs.requests) != 1:
            raise BadInput("LACU meets one request at a time; use another strategy")

    @torch.no_grad()
    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """Choose the mapping and the related captions and make the latents; the same at every start of the run."""
        dataset, (request,) = pairs.dataset, pairs.requests
        cells = [cell for cell in dataset.cells() if pairs.side(cell) == "forget"]
        kept = [pairs.caption(c) for c in dataset.cells() if not request.concerns(c)]
        with torch.random.fork_rng(devices=[]), adapter.off():
            torch.manual_seed(self.seed)
            asked = model.embed([pairs.caption(cell) for cell in cells])
            empty = model.embed([""])
            z = self.made(model, asked[torch.randint(0, len(asked), (self.pool,))], empty)
            self.mapping = request.surrogate if self.mapped == "given" else self.nearest(model, z, pairs)
            rows = [pairs.caption(swapped(cell, request.domain, self.mapping)) for cell in cells]
            found = self.distances(model, z, asked[:1], (model.embed([c]) for c in kept), "related")
            order = torch.stack(found).argsort().tolist()
            near, far = order[: self.related], order[self.related :]
            drawn = [far[i] for i in torch.randperm(len(far))[: self.related].tolist()]
            self.retained = model.embed([kept[i] for i in near + drawn])
            which = torch.randint(0, len(self.retained), (self.pool,))
            self.retain = self.made(model, self.retained[which], empty), self.retained[which]
            which = torch.randint(0, len(asked), (self.pool,))
            self.forget = self.made(model, asked[which], empty), asked[which], model.embed(rows)[which]

    def made(self, model: Diffusion, embedding: Tensor, empty: Tensor) -> Tensor:
        """Latents (B, C, h, w) that the teacher makes of the captions."""
        parts = [model.partly(part, self.sampling_steps, self.sampling_steps, 1.0, empty)[0] for part in embedding.split(32)]
        return torch.cat(parts)

    def nearest(self, model: Diffusion, z: Tensor, pairs: Pairs) -> str:
        """The concept of the request's domain, none that was removed, whose captions' predictions lie nearest."""
        (request,) = pairs.requests
        removed = {r.target for r in (*pairs.gone, request)}
        labels = [label for label in pairs.dataset.domains[request.domain] if label not in removed]
        cells = [cell for cell in pairs.dataset.cells() if pairs.side(cell) == "forget"]
        own = model.embed([pairs.caption(cell) for cell in cells])
        others = (model.embed([pairs.caption(swapped(cell, request.domain, label)) for cell in cells]) for label in labels)
        found = self.distances(model, z, own, others, "mapping")
        return labels[int(torch.stack(found).argmin())]

    def distances(self, model: Diffusion, z: Tensor, own: Tensor, others: Iterable[Tensor], kind: str) -> list[Tensor]:
        """E ‖ε(z_t, t, own) − ε(z_t, t, other)‖² over K samples, the same z, t and noise for every other."""
        generator = torch.Generator().manual_seed(self.seed)
        k = self.samples[kind]
        z = z[:k]
        t = torch.randint(0, model.train_steps, (len(z),), generator=generator).to(z.device)
        z_t = model.noised(z, t, torch.randn(z.shape, generator=generator).to(z))
        rows = torch.arange(len(z)) % len(own)
        wanted = model.predict(z_t, t, own[rows])
        return [mse_loss(wanted, model.predict(z_t, t, other[rows % len(other)])) for other in others]

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        t_f, t_r, noise_f, noise_r = (batch[side][key] for key in ("t", "noise") for side in ("forget", "retain"))  # type: ignore[literal-required]
        f, r = (torch.randint(0, self.pool, (len(t_f),)) for _ in range(2))
        z = torch.cat([model.noised(self.forget[0][f], t_f, noise_f), model.noised(self.retain[0][r], t_r, noise_r)])
        t = torch.cat([t_f, t_r])
        with torch.no_grad(), adapter.off():
            wanted = model.predict(z, t, torch.cat([self.forget[2][f], self.retain[1][r]]))
        given = model.predict(z, t, torch.cat([self.forget[1][f], self.retain[1][r]]))
        n = len(f)
        return {"forget": mse_loss(given[:n], wanted[:n]), "retain": mse_loss(given[n:], wanted[n:]), "stay": moved(adapter)}


def moved(adapter: Adapter) -> Tensor:
    """‖θ − θ_before‖² over the weights that the adapter changes."""
    return torch.stack([adapter.change(name).square().sum() for name in adapter.weights()]).sum()
