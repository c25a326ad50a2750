"""A task vector is turned round once, after the last step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from loops import config_of, trained
from torch import Tensor

from fade.adapters import Adapter
from fade.adapters.matrix import Matrix
from fade.data.pairs import Pairs
from fade.models import Diffusion
from fade.strategies import Strategy
from fade.training.checkpoint import read_checkpoint


def differences(adapter: Adapter) -> dict[str, Tensor]:
    return {name: adapter.delta(name).detach().clone() for name in adapter.weights()}


@pytest.mark.parametrize("kind", ["patch", "lora"])
def test_what_was_learned_is_taken_away_alpha_times(model: Diffusion, pairs: Pairs, tmp_path: Path, kind: str) -> None:
    """θ_0 − α (θ_ft − θ_0), θ_ft as the last checkpoint has it, which holds no turned change: going on from there turns
    it again, and no further."""
    targets = {"patch": "adapter.targets=['attn','conv_in']", "lora": "adapter.targets=[to_q,to_v]"}[kind]
    config = config_of("task_vector", 3, f"adapter={kind}", targets, "method.alpha=0.5")
    adapter = instantiate(config.adapter, _convert_="all")(model)
    trained(config, model, adapter, pairs, tmp_path)
    found = differences(adapter)
    trained(config, model, adapter, pairs, tmp_path)  # all of its steps are in the checkpoint
    assert all(torch.equal(value, found[name]) for name, value in differences(adapter).items())
    adapter.load_state(read_checkpoint(tmp_path / "last.ckpt")["state_dict"])
    learned = differences(adapter)
    assert max(float(value.abs().max()) for value in learned.values()) > 1e-3
    for name, value in learned.items():
        torch.testing.assert_close(found[name], -0.5 * value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["duge", "l2sp", "selft", "projection"])
def test_a_strategy_leaves_the_turn_to_the_method(model: Diffusion, name: str) -> None:
    config = composed("method=task_vector", f"strategy={name}", "adapter.targets=['attn2']")
    strategy: Strategy = instantiate(config.strategy)
    adapter = instantiate(config.adapter, _convert_="all")(model)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight += 0.25
    strategy.method(instantiate(config.method)).finish(adapter)
    for value in differences(adapter).values():
        torch.testing.assert_close(value, torch.full_like(value, -1.75 * 0.25))


def test_a_matrix_is_stretched_with_what_follows_from_it(model: Diffusion) -> None:
    matrix = Matrix.attach(model)
    n = 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = {name: weight.detach().double() for name, weight in matrix.weights().items()}
    matrix.multiply(n)
    matrix.stretch(-2)
    for settled in (False, True):  # the weights themselves, and then what the file's one matrix gives
        for name, weight in matrix.weights().items():
            change = matrix._found()[name] if settled else weight.detach() - before[name]
            torch.testing.assert_close(change.double(), -2 * before[name] @ n, atol=1e-5, rtol=1e-4)
