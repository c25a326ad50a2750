"""The second stage: an autoencoder that the judges help to teach."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.checked import Count, NonNegative, Portion
from fade.errors import BadInput
from fade.judges import Judge, accuracy
from fade.pretrain.images import mirrored, sheet
from fade.pretrain.stage import Loss, Schedule, pick

log = logging.getLogger(__name__)


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


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The posteriors' modes (N, C, h, w), not scaled, of images (N, 3, H, W) uint8."""
    return torch.cat([vae.encode(x.float() / 127.5 - 1).latent_dist.mode() for x in images.split(64)])


@torch.no_grad()
def show_reconstructions(path: Path, vae: AutoencoderKL, images: Tensor, columns: int) -> None:
    """A line and a contact sheet: images (N, 3, H, W) uint8, each beside what is made of it. path: STAGE.png."""
    chosen = images.to(vae.device).float() / 127.5 - 1
    rebuilt = vae(chosen).sample
    error = mse_loss(rebuilt.clamp(-1, 1), chosen).item()
    log.info("%s: %.2f dB on held-out images", path.stem, 10 * math.log10(4 / error))
    pairs = torch.stack([chosen, rebuilt], 1).flatten(0, 1)
    sheet((pairs / 2 + 0.5).float().cpu(), path, columns)


@torch.no_grad()
def check_reconstructions(
    stage: str,
    vae: AutoencoderKL,
    s: AutoencoderSettings,
    judges: dict[str, Judge],
    images: Tensor,
    truth: dict[str, Tensor],
) -> None:
    """The gate: the judges read in reconstructions what they read in the originals, images (N, 3, H, W) uint8. truth:
    what they should say, by domain. Raises BadInput where too little is kept."""
    rebuilt = torch.cat([vae(x.float() / 127.5 - 1).sample.clamp(-1, 1) / 2 + 0.5 for x in images.split(64)])
    for domain, judge in judges.items():
        kept = accuracy(judge.cpu(), rebuilt, truth[domain])
        said = "%s: the %s judge reads %.2f %% of the reconstructions (%.2f %% of the originals)"
        log.info(said, stage, domain, 100 * kept, 100 * (judge.accuracy or 0))
        if kept < s.gate * (judge.accuracy or 1):
            raise BadInput(
                f"{stage}: only {kept:.1%} of the reconstructions keep their {domain}; train it longer with "
                f"pretrain.{stage}.steps (it is {s.steps}), or lower pretrain.{stage}.gate ({s.gate})"
            )
