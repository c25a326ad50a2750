"""What an attacker has, on the tiny model."""

from __future__ import annotations

import pytest

from fade.attacks import Counter, Scene
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Request
from fade.models import Diffusion, Sampling


@pytest.fixture
def scene(model: Diffusion, dataset: Canvas) -> Scene:
    request = Request.of(dataset, "neon_glow", "photo")
    cells = [cell for cell in dataset.cells() if request.concerns(cell)][:2]
    return Scene(model, model, dataset, request, cells, dataset.caption, Sampling(), Counter())
