"""What a grid whose captions come in tiers is told of each of its cells, and how often in which words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers import CLIPTokenizer

from fade.data.canvas.dataset import Canvas
from fade.data.language import PAIR
from fade.errors import BadInput
from fade.models.processes import Diffusing
from fade.pretrain.diffusion import DiffusionSettings
from fade.pretrain.stage import Loss

EMPTY, PARTIAL = "empty", "partial"
Shown = tuple[str, ...]  # a style and an object, or a style and two


@dataclass(frozen=True)
class Captions:
    """Every caption of every cell. tokens (M, L); first, count (cells, kinds): where those of each kind lie among them;
    shares (kinds,): how often each kind is drawn."""

    tokens: Tensor
    first: Tensor
    count: Tensor
    shares: Tensor

    def draw(self, cells: Tensor) -> Tensor:
        """Token ids (B, L): for each cell a kind by its share, then one of its captions."""
        kind = torch.multinomial(self.shares, len(cells), replacement=True)
        first, count = self.first[cells, kind], self.count[cells, kind]
        return self.tokens[first + (torch.rand(len(cells)) * count).long()]


def check_lengths(tokenizer: CLIPTokenizer, texts: list[str]) -> None:
    """Raises BadInput for a caption that the tokenizer would cut."""
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        if len(ids) > tokenizer.model_max_length:
            limit = tokenizer.model_max_length
            raise BadInput(
                f"caption {text!r} is {len(ids)} tokens long and the tokenizer holds {limit}; shorten it, or raise "
                "pretrain.diffusion.max_length"
            )


def told(
    dataset: Canvas, shown: list[Shown], tiers: dict[str, float], partial: float, empty: float
) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """All captions of the cells, cell by cell; where those of each kind begin, how many there are; the kinds'
    shares. tiers: how often each is drawn; partial: each partial caption; empty: the empty one.

    A scene of two objects has the tier `pair` in the place of all other kinds but the empty one.
    """
    kinds = [*tiers, PARTIAL, EMPTY]
    texts: list[str] = []
    first, count = [], []
    for cell in shown:
        groups = kinds_of(dataset, cell, list(tiers))
        begin = {}
        for kind, group in groups.items():
            begin[kind] = len(texts)
            texts += group
        said = [kind if kind in groups else PAIR for kind in kinds]
        first.append([begin[kind] for kind in said])
        count.append([len(groups[kind]) for kind in said])
    shares = [*tiers.values(), partial * len(dataset.partials), empty]
    return texts, torch.tensor(first), torch.tensor(count), torch.tensor(shares)


def kinds_of(dataset: Canvas, cell: Shown, tiers: list[str]) -> dict[str, list[str]]:
    """The captions of a cell, by kind."""
    language = dataset.language
    if len(cell) > len(dataset.domains):
        return {PAIR: language.captions(cell, PAIR), EMPTY: [""]}
    partial = dataset.partial_captions(dict(zip(dataset.domains, cell, strict=True)))
    return {**{tier: language.captions(cell, tier) for tier in tiers}, PARTIAL: partial, EMPTY: [""]}


def chances(two: Tensor, scenes: float) -> Tensor:
    """How often each latent (N,) is drawn, where those that are `two` (N,) objects have a share of `scenes` in all."""
    return torch.where(two, scenes / two.sum(), (1 - scenes) / (~two).sum())


def tiered_loss(
    pipe: StableDiffusionPipeline,
    latents: Tensor,
    owner: Tensor,
    chance: Tensor,
    captions: Captions,
    s: DiffusionSettings,
) -> Loss:
    """‖v − v_θ(z_t, t, c)‖². latents (N, C, h, w); owner (N,): the cell of each latent, of those that `captions`
    holds; chance (N,): how often each is drawn."""
    process = Diffusing(pipe.scheduler.config)

    def loss(device: torch.device) -> Tensor:
        index = torch.multinomial(chance, s.batch, replacement=True)
        z = latents[index].to(device)
        t = (1000 * torch.rand(len(z), device=device) ** s.time_power).long().clamp(max=999)
        noise = torch.randn_like(z)
        embedding = pipe.text_encoder(captions.draw(owner[index]).to(device))[0]
        guess = pipe.unet(process.noised(z, t, noise), t, embedding).sample
        return mse_loss(guess, process.target(z, t, noise))

    return loss
