"""What a method prepares before its first step: SalUn's and FADE's saliency, LACU's pools."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from configs import composed
from formulas import Formula
from hydra.utils import instantiate
from torch import Tensor

from fade.adapters.patch import Patch
from fade.data.pairs import Pairs
from fade.methods.fade import Fade
from fade.methods.lacu import Lacu
from fade.methods.salun import SalUn
from fade.models import Diffusion

# SalUn, EraseDiff, ScissorHands


def test_saluns_saliency_is_the_absolute_sum_of_guided_gradients(model: Diffusion, pairs: Pairs) -> None:
    drawn = [pairs.draw(torch.Generator().manual_seed(i)) for i in range(2)]
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"])
    method = SalUn(guidance=7.5)
    method.prepare(model, patch, pairs)
    torch.manual_seed(1)
    found = method.locate(model, patch, drawn)
    torch.manual_seed(1)
    name, weight = next(iter(patch.weights().items()))
    wanted = torch.zeros_like(weight)
    for batch in drawn:
        z, c = batch["forget"]["latents"], batch["forget"]["prompt"].tokens
        t, noise = torch.randint(0, 1000, (2,)), torch.randn_like(z)
        alpha = model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        z_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
        guided = 8.5 * model.unet(z_t, t, c).sample - 7.5 * model.unet(z_t, t, model.embed(["", ""]).tokens).sample
        wanted += torch.autograd.grad(((noise - guided) ** 2).mean(), weight)[0]
    torch.testing.assert_close(found[name], wanted.abs())
    assert (wanted < 0).any()


# FADE's stage one


@pytest.mark.parametrize("kind", ["forget", "ratio"])
def test_fades_saliency_is_of_the_forget_images(model: Diffusion, pairs: Pairs, kind: str) -> None:
    drawn = [pairs.draw(torch.Generator().manual_seed(i)) for i in range(2)]
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"])
    weights = list(patch.weights().values())

    def by_hand(side: str) -> list[Tensor]:
        total = [torch.zeros_like(weight) for weight in weights]
        for batch in drawn:
            example: Any = batch[side]  # type: ignore[literal-required]
            z, t = example["latents"], torch.randint(0, 1000, (2,))
            noise, alpha = torch.randn_like(z), model.pipe.scheduler.alphas_cumprod[t][:, None, None, None]
            given = model.unet(alpha.sqrt() * z + (1 - alpha).sqrt() * noise, t, example["prompt"].tokens).sample
            slopes = torch.autograd.grad(((given - noise) ** 2).mean(), weights)
            total = [sum_so_far + slope.abs() for sum_so_far, slope in zip(total, slopes, strict=True)]
        return total

    torch.manual_seed(1)
    found = Fade(kind).locate(model, patch, drawn)
    torch.manual_seed(1)
    wanted = by_hand("forget")
    if kind == "ratio":
        wanted = [s / (r + r.mean()) for s, r in zip(wanted, by_hand("retain"), strict=True)]
    for score, value in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(score, value)


# LACU


@pytest.mark.parametrize(("latents", "others"), [("noise", 0), ("target", 2)])
def test_lacu_maps_to_the_nearest_concept_and_keeps_the_nearest_captions(
    model: Diffusion, pairs: Pairs, latents: str, others: int
) -> None:
    """Each distance by hand, over all captions of the request; the pools by DDIM without guidance."""
    adapter = Patch.attach(model, ["attn2"])
    method = Lacu(
        pool=9, sampling_steps=2, mapping_samples=3, related_samples=2, related=3, others=others, latents=latents
    )
    method.prepare(model, adapter, pairs)
    formula = Formula(model, model.unet, pairs.draw(torch.Generator()))
    cells = pairs.dataset.cells()
    asked = [cell for cell in cells if cell["style"] == "neon_glow"]
    own = model.embed([pairs.dataset.caption(cell) for cell in asked]).tokens
    torch.manual_seed(0)

    def made(c: Tensor) -> Tensor:
        return formula.ddim(model.unet, torch.randn(9, 4, 8, 8), c, formula.times(2), 2, 1.0)

    rows = torch.randint(0, len(asked), (9,))
    of_target = made(own[rows])
    torch.testing.assert_close(method.forget[0], of_target, rtol=1e-4, atol=1e-4)
    assert torch.equal(method.forget[1].tokens, own[rows])
    assert len(asked) == 4  # more than either K: every caption is heard
    z = torch.randn(4, 4, 8, 8) if latents == "noise" else of_target[:4]
    generator = torch.Generator().manual_seed(0)
    t, noise = torch.randint(0, 1000, (4,), generator=generator), torch.randn(z.shape, generator=generator)
    alpha = formula.alphas[t][:, None, None, None]
    z_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise

    @torch.no_grad()
    def distance(captions: list[str]) -> float:
        c = model.embed(captions).tokens.expand(4, -1, -1)
        return float(((model.unet(z_t, t, own).sample - model.unet(z_t, t, c).sample) ** 2).mean())

    labels = {
        s: distance([pairs.dataset.caption({**c, "style": s}) for c in asked]) for s in pairs.dataset.domains["style"]
    }
    assert method.mapping == min((s for s in labels if s != "neon_glow"), key=labels.__getitem__)
    assert torch.equal(
        method.forget[2].tokens,
        model.embed([pairs.dataset.caption({**c, "style": method.mapping}) for c in asked]).tokens[rows],
    )
    kept = [pairs.dataset.caption(cell) for cell in cells if cell["style"] != "neon_glow"]
    order = sorted(kept, key=lambda caption: distance([caption]))
    far = [order[3:][i] for i in torch.randperm(len(order) - 3)[:others].tolist()]
    assert method.kept == order[:3] + far
    rows = torch.randint(0, 3 + others, (9,))
    assert torch.equal(method.retain[1].tokens, model.embed(method.kept).tokens[rows])
    torch.testing.assert_close(method.retain[0], made(method.retain[1].tokens), rtol=1e-4, atol=1e-4)


def test_lacu_forgets_below_600() -> None:
    drawn = instantiate(composed("method=lacu").timesteps).draw(torch.arange(1000), 1000, torch.zeros(0))
    assert (int(drawn.min()), int(drawn.max())) == (0, 600)
