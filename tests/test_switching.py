"""Prompts are switched after each step, and the steps in between which it matters are found."""

from __future__ import annotations

import pytest
import torch
from loops import STEPS

from fade.errors import BadInput
from fade.models import Diffusion
from fade.switching import rise, stretch, switched, travelled

CAPTIONS = ["A house cat image in neon glow style.", "A city car image in neon glow style."]
OTHERS = ["A house cat image in photo style.", "A city car image in photo style."]


def test_each_row_is_a_sampling_of_its_own(model: Diffusion) -> None:
    """Row k against DDIM written again: k steps under the one prompt, the others under the other, guided."""
    own, other, empty = (model.embed(texts).tokens for texts in (CAPTIONS, OTHERS, ["", ""]))
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times, rows = switched(model, model.embed(CAPTIONS), model.embed(OTHERS), start, STEPS, 3.0)
    alphas = model.pipe.scheduler.alphas_cumprod
    assert len(rows) == STEPS + 1 and len(times) == STEPS
    for k, row in enumerate(rows):
        z = start
        for i, t in enumerate(times.tolist()):
            c = own if i < k else other
            with torch.no_grad():
                ε = -2.0 * model.unet(z, t, empty).sample + 3.0 * model.unet(z, t, c).sample
            before = t - 1000 // STEPS
            now, then = alphas[t], alphas[before] if before >= 0 else model.pipe.scheduler.final_alpha_cumprod
            z = then.sqrt() * (z - (1 - now).sqrt() * ε) / now.sqrt() + (1 - then).sqrt() * ε
        torch.testing.assert_close(row, z, rtol=1e-4, atol=1e-4)


def test_the_way_is_measured_along_the_line_from_one_image_to_the_other() -> None:
    a, b = torch.zeros(1, 1, 1, 2), torch.tensor([4.0, 0.0]).view(1, 1, 1, 2)
    beside, beyond = torch.tensor([1.0, 9.0]).view(1, 1, 1, 2), torch.tensor([6.0, -1.0]).view(1, 1, 1, 2)
    assert travelled(torch.stack([a, beside, beyond, b])).tolist() == [0.0, 0.25, 1.5, 1.0]
    with pytest.raises(BadInput, match="the same images"):
        travelled(torch.stack([a, beside, a]))


@pytest.mark.parametrize(
    ("curve", "steps"),
    [
        ([0.0, 0.0, 0.05, 0.5, 0.95, 1.0], range(2, 4)),
        ([0.0, 1.0, 1.0], range(0, 1)),
        ([0.0, 0.0, 1.0], range(1, 2)),
        ([0.0, 0.2, 0.05, 0.95, 0.4, 1.0], range(0, 5)),  # leaves for the first time, arrives for good
        ([0.3, 0.5, 0.7], range(0, 2)),  # neither of a base that draws it now and then, or not always
        ([1.0, 1.0, 1.0], range(0, 1)),
    ],
)
def test_a_rise_is_from_where_it_leaves_to_where_it_stays(curve: list[float], steps: range) -> None:
    assert rise(torch.tensor(curve), 0.1, 0.9) == steps


def test_a_curve_that_never_rises_is_refused() -> None:
    with pytest.raises(BadInput, match=r"never exceeds 0\.1"):
        rise(torch.zeros(4), 0.1, 0.9)


def test_a_step_reaches_down_to_the_next_ones_time() -> None:
    whole, flow = torch.tensor([900, 600, 300]), torch.tensor([1000.0, 857.1, 600.0])
    assert stretch(whole, range(0, 1), 1000) == (601, 1000)
    assert stretch(whole, range(1, 2), 1000) == (301, 601)
    assert stretch(whole, range(2, 3), 1000) == (0, 301)
    assert stretch(whole, range(0, 3), 1000) == (0, 1000)
    assert stretch(flow, range(1, 3), 1000) == (0, pytest.approx(857.1))
