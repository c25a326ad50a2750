"""The first stage: a judge for each domain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from fade.checked import Count
from fade.judges import Judge
from fade.pretrain.images import mirrored
from fade.pretrain.stage import Loss, Schedule, pick


@dataclass(kw_only=True)
class JudgeSettings(Schedule):
    """architecture: timm's name. size: side in pixels of what the judge sees."""

    architecture: str
    size: Count


def judge_loss(judge: Judge, images: Tensor, truth: Tensor, s: JudgeSettings, flip: bool) -> Loss:
    """Cross-entropy with a smoothing of 0.05, or binary where labels overlap. images (N, 3, H, W) uint8; truth (N,)
    classes or (N, labels)."""

    def loss(device: torch.device) -> Tensor:
        index = pick(len(images), s.batch)
        wanted = truth[index].to(device)
        logits = judge(augmented(images[index].to(device).float() / 255, flip))
        if judge.multilabel:
            return binary_cross_entropy_with_logits(logits, wanted)
        return cross_entropy(logits, wanted, label_smoothing=0.05)

    return loss


def augmented(x: Tensor, flip: bool) -> Tensor:
    """Small shifts and a little noise (and mirroring), so that a judge reads shapes and not single pixels."""
    x = mirrored(x) if flip else x
    shift = torch.randint(-3, 4, (2,)).tolist()
    return x.roll(shift, (-2, -1)) + 0.05 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)
