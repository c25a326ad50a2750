"""The attacker's own judge: what it reads, how well, and that it says where it reads badly."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from families import TINY, tiny
from grids import small
from torch import Tensor
from torch.nn.functional import one_hot

from fade.attacks.probe import RIDGE, Probe, activations, ridge


@pytest.mark.parametrize("family", TINY)
def test_the_attackers_judge_reads_what_each_block_makes_of_the_image(family: str) -> None:
    model, images = tiny(family), torch.rand(3, 3, 32, 32)
    found = activations(model, images)
    assert found.isfinite().all() and found[:2].ne(found[2]).any(1).all()
    if family == "sd3":  # two blocks of width 32, and 16 places of the image beside 32 of the text
        rows: list[Tensor] = []
        handle = model.network.transformer_blocks[0].register_forward_hook(lambda *given: rows.append(given[2][1]))
        activations(model, images)
        handle.remove()
        assert found.shape == (3, 128) and rows[0].shape == (3, 16, 32)
        torch.testing.assert_close(found[:, :64], torch.cat([rows[0].mean(1), rows[0].std(1)], 1))


def test_a_fit_says_how_well_it_reads_what_it_was_not_fitted_on() -> None:
    """Beside as many fits as there are rows, each without one of them; the columns are centred on all of them."""
    torch.manual_seed(0)
    known = torch.arange(40) % 3
    a = 4 * torch.randn(40, 30, dtype=torch.float64)
    a[:, 0] += 3 * known
    a -= a.mean(0)
    y, right = one_hot(known).double(), 0
    for row in range(40):
        others = [k for k in range(40) if k != row]
        x = torch.cat([a[others], torch.ones(39, 1, dtype=torch.float64)], 1)
        penalty = RIDGE * torch.diag(torch.tensor([1.0] * 30 + [0.0], dtype=torch.float64))
        weight = torch.linalg.solve(x.T @ x + penalty, x.T @ y[others])
        right += int((a[row] @ weight[:-1] + weight[-1]).argmax() == known[row])
    found = ridge(a, y)
    assert found["accuracy"].item() == pytest.approx(right / 40)
    assert ((a @ found["weight"] + found["bias"]).argmax(1) == known).sum() > right


def test_it_is_fitted_once_for_all_domains_and_says_where_it_sees_little(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, base = small(3, 2, 1), tiny("sd3")
    with caplog.at_level(logging.WARNING):
        probe = Probe.of(base, dataset, "style", 2, tmp_path)
    most = 2 * max(len(labels) for labels in dataset.domains.values())
    assert f"reads {probe.accuracy:.0%} of {most} real images right" in caplog.text
    assert "attack.judge_images" in caplog.text
    other = Probe.of(base, dataset, "object", 2, tmp_path)
    assert len([*tmp_path.rglob("probe-*")]) == 1
    assert other.labels == dataset.domains["object"] and other.tensors["weight"].shape[1] == len(other.labels)
    assert torch.equal(probe.tensors["mean"], other.tensors["mean"]) and probe.identity != other.identity
