"""The second stage: an autoencoder that the judges help to teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.checked import Count, NonNegative, Portion
from fade.judges import Judge
from fade.pretrain.images import mirrored
from fade.pretrain.stage import Loss, Schedule, pick


@dataclass(kw_only=True)
class AutoencoderSettings(Schedule):
    """widths: of the levels, each but the first at half the side. channels: of the latents. gate: share of a judge's
    accuracy that reconstructions must keep."""

    widths: list[Count]
    channels: Count
    feature_weight: NonNegative
    kl_weight: NonNegative
    gate: Portion


def make_autoencoder(s: AutoencoderSettings, size: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(s.widths),
        up_block_types=("UpDecoderBlock2D",) * len(s.widths),
        block_out_channels=tuple(s.widths),
        layers_per_block=1,
        latent_channels=s.channels,
        norm_num_groups=8,
        sample_size=size,
    )


def autoencoder_loss(
    vae: AutoencoderKL, judges: Sequence[Judge], images: Tensor, s: AutoencoderSettings, flip: bool
) -> Loss:
    """|y − x| + (y − x)² + edges + feature_weight · map distance + kl_weight · KL a latent value, in [-1, 1]."""

    def loss(device: torch.device) -> Tensor:
        x = images[pick(len(images), s.batch)].to(device).float() / 127.5 - 1
        x = mirrored(x) if flip else x
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        value = s.feature_weight * sum(map_distance(judge.to(device), x, y) for judge in judges)
        with torch.autocast(device.type, enabled=False):
            y = y.float()
            value = value + (y - x).abs().mean() + mse_loss(y, x) + edge_distance(y, x)
            return value + s.kl_weight * posterior.kl().float().mean() / posterior.mean[0].numel()

    return loss


def map_distance(judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of a judge's feature maps, each map scaled by its own size; x, y in [-1, 1]."""
    with torch.no_grad():
        wanted = judge.eval().maps(x / 2 + 0.5)[:3]
    made = judge.maps(y / 2 + 0.5)[:3]
    apart = [mse_loss(b, a) / (a.square().mean() + 1e-6) for a, b in zip(wanted, made, strict=True)]
    return torch.stack(apart).sum()


def edge_distance(x: Tensor, y: Tensor) -> Tensor:
    """L1 distance of the horizontal and vertical differences of neighbouring pixels."""
    return torch.stack([(x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (-2, -1)]).sum()
