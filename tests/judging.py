"""An untrained judge."""

from __future__ import annotations

import torch

from fade.judges import Judge


def judge(domain: str, labels: list[str], accuracy: float | None = 0.99) -> Judge:
    torch.manual_seed(0)
    return Judge("test_resnet", domain, labels, size=32, accuracy=accuracy).eval()
