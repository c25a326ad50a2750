"""What the tests of pretraining share."""

from __future__ import annotations

import pytest

from fade.data.canvas.dataset import Canvas
from fade.pretrain.asked import asked


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few scenes of two, and few questions at the end."""
    two = Canvas.two
    monkeypatch.setattr(Canvas, "two", lambda dataset: two(dataset)[::97])
    monkeypatch.setattr(
        "fade.pretrain.tiered_diffusion.asked", lambda dataset, without, tier, _: asked(dataset, without, tier, 4)
    )
