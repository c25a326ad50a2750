"""LACU, "Distill, Forget, Repeat": one request of a sequence, on the teacher's own latents (arXiv 2512.02657).

L = λ_u MSE(S(z_f, t, c_f), T(z_f, t, c_map)) + λ_p MSE(S(z_r, t, c_r), T(z_r, t, c_r)) + λ_reg ‖θ − θ_T‖², T the model
before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.checked import NonNegative
from fade.data.pairs import Batch, Pairs
from fade.data.prompts import Cell, swapped
from fade.errors import BadInput, at_least
from fade.methods import Method
from fade.models import Diffusion
from fade.models.embedding import Embedding


class Lacu(Method):
    """Latents are made by the teacher (`sampling_steps` of DDIM, or of Euler's on a flow, guidance 1), `pool` of either
    side. The mapping concept is the candidate whose predictions lie nearest to the target's (`mapping_samples` K of z
    and t); what is kept are the `related` captions nearest to the request's by the same distance (`related_samples`),
    and `others` of the rest at random. A distance is a mean over K samples, each under the next of the request's
    captions, so over all of them: K is raised to their number. latents: of the samples, "noise", x_0 ~ N(0, I) as
    released, or "target", the teacher's of the request. The forget term's t is drawn by timesteps=window, the paper's
    [0, 600].

    Differs: the mapping is one concept for all captions of a request, so that it can be said in words (mapped=given
    uses the request's surrogate instead), released: the nearest of a language model's rewritings of each prompt; the
    candidates of what is related are the dataset's captions, released: names of concepts, of which a language model
    then writes prompts; latents come from a pool made once, released: anew in each step; captions that an earlier
    request removed may be kept, for they must stay so. adapter.targets says what is trained; released: the whole U-Net.
    """

    terms: Mapping[str, float] = {"forget": 5.0, "retain": 25.0, "stay": 2e-4}  # λ_u (of 5 to 7), λ_p, λ_reg

    def __init__(
        self,
        pool: int = 128,
        sampling_steps: int = 20,
        mapping_samples: int = 32,
        related_samples: int = 16,
        related: int = 10,
        others: int = 0,
        latents: str = "noise",
        mapped: str = "nearest",
        seed: int = 0,
        terms: Mapping[str, NonNegative] | None = None,
    ) -> None:
        if mapped not in ("nearest", "given"):
            raise BadInput(
                f"method.mapped is {mapped!r}; choose nearest (the paper's) or given (the request's surrogate)"
            )
        if latents not in ("noise", "target"):
            raise BadInput(
                f"method.latents is {latents!r}; choose noise (as released) or target (the teacher's of the request)"
            )
        at_least(0, method__others=others)
        at_least(
            1,
            method__pool=pool,
            method__sampling_steps=sampling_steps,
            method__related=related,
            method__mapping_samples=mapping_samples,
            method__related_samples=related_samples,
        )
        self.pool, self.sampling_steps, self.mapped, self.seed = pool, sampling_steps, mapped, seed
        self.related, self.others, self.latents = related, others, latents
        self.terms = self.weighted(terms)
        self.samples = {"mapping": mapping_samples, "related": related_samples}

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        if len(pairs.requests) != 1:
            raise BadInput("LACU meets one request at a time; use another strategy")
        wanted = max(*self.samples.values(), len(pairs.captions("forget")))
        if self.latents == "target" and self.pool < wanted:
            raise BadInput(
                f"method.pool is {self.pool}, and the distances are measured on {wanted} of its latents; raise it "
                f"to {wanted}, or choose method.latents=noise"
            )

    @torch.no_grad()
    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """Choose the mapping and the related captions and make the latents; the same at every start of the run."""
        (request,) = pairs.requests
        cells = [cell for cell in pairs.dataset.cells() if pairs.side(cell) == "forget"]
        with torch.random.fork_rng(devices=[]), adapter.off():
            torch.manual_seed(self.seed)
            asked = model.embed([pairs.caption(cell) for cell in cells])
            empty = model.negative()
            which = torch.randint(0, len(asked), (self.pool,))
            made = self.made(model, asked[which], empty)
            several = max(*self.samples.values(), len(asked))
            z = torch.randn(several, *made.shape[1:]).to(made) if self.latents == "noise" else made
            self.mapping = request.surrogate if self.mapped == "given" else self.nearest(model, z, asked, cells, pairs)
            rows = model.embed([pairs.caption(swapped(cell, request.domain, self.mapping)) for cell in cells])
            self.forget = made, asked[which], rows[which]
            self.kept = self.relatives(model, z, asked, pairs)
            retained = model.embed(self.kept)
            which = torch.randint(0, len(retained), (self.pool,))
            self.retain = self.made(model, retained[which], empty), retained[which]

    def made(self, model: Diffusion, embedding: Embedding, empty: Embedding) -> Tensor:
        """Latents (B, C, h, w) that the teacher makes of the captions."""
        parts = [
            model.denoise_until(part, self.sampling_steps, self.sampling_steps, 1.0, empty)[0]
            for part in embedding.split(32)
        ]
        return torch.cat(parts)

    def nearest(self, model: Diffusion, z: Tensor, asked: Embedding, cells: list[Cell], pairs: Pairs) -> str:
        """The concept of the request's domain, none that was removed, whose captions' predictions lie nearest."""
        (request,) = pairs.requests
        removed = {r.target for r in (*pairs.gone, request)}
        labels = [label for label in pairs.dataset.domains[request.domain] if label not in removed]
        others = (
            model.embed([pairs.caption(swapped(cell, request.domain, label)) for cell in cells]) for label in labels
        )
        return labels[int(torch.stack(self.distances(model, z, asked, others, "mapping")).argmin())]

    def relatives(self, model: Diffusion, z: Tensor, asked: Embedding, pairs: Pairs) -> list[str]:
        """The captions to keep: the nearest to the request's, then some of the rest."""
        (request,) = pairs.requests
        captions = [pairs.caption(cell) for cell in pairs.dataset.cells() if not request.concerns(cell)]
        found = self.distances(model, z, asked, (model.embed([caption]) for caption in captions), "related")
        order = torch.stack(found).argsort().tolist()
        far = order[self.related :]
        drawn = [far[i] for i in torch.randperm(len(far))[: self.others].tolist()]
        return [captions[i] for i in order[: self.related] + drawn]

    def distances(
        self, model: Diffusion, z: Tensor, own: Embedding, others: Iterable[Embedding], kind: str
    ) -> list[Tensor]:
        """E ‖ε(z_t, t, own) − ε(z_t, t, other)‖² over samples and own captions; same z, t and noise for every other."""
        generator = torch.Generator().manual_seed(self.seed)
        z = z[: max(self.samples[kind], len(own))]
        t = model.process.draw(len(z), generator=generator).to(z.device)
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
            wanted = model.predict(z, t, Embedding.cat([self.forget[2][f], self.retain[1][r]]))
        given = model.predict(z, t, Embedding.cat([self.forget[1][f], self.retain[1][r]]))
        n = len(f)
        return {
            "forget": mse_loss(given[:n], wanted[:n]),
            "retain": mse_loss(given[n:], wanted[n:]),
            "stay": moved(adapter),
        }


def moved(adapter: Adapter) -> Tensor:
    """‖θ − θ_before‖² over the weights that the adapter changes."""
    return torch.stack([adapter.delta(name).square().sum() for name in adapter.weights()]).sum()
