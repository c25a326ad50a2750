"""The name of stage one's file: runs share it that differ in nothing it depends on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from configs import composed
from omegaconf import OmegaConf

from benchmarks.record.folder import NOT_STAGE_ONE, saliency_file


def values(*overrides: str) -> dict[str, Any]:
    found = OmegaConf.to_container(composed(*overrides), resolve=True)
    assert isinstance(found, dict)
    return found


def nodes(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Dotted name -> value, inner nodes too."""
    found = {}
    for key, value in config.items():
        found |= {f"{where}{key}": value} | (nodes(value, f"{where}{key}.") if isinstance(value, dict) else {})
    return found


def changed(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Another value for one leaf."""
    other = node = deepcopy(config)
    *inner, last = name.split(".")
    for key in inner:
        node = node[key]
    node[last] = f"not {node[last]}"
    return other


@pytest.mark.parametrize("overrides", [[], ["method=lacu"], ["method=salun", "trainer=ddp"], ["method=seot"]])
def test_every_key_names_another_saliency_but_what_is_listed(overrides: list[str]) -> None:
    """A key that nobody thought of makes the file anew; `method.terms` and the like do not."""
    config = values(*overrides)
    before, shared = saliency_file(config, "base").name, set()
    for name in (name for name, value in nodes(config).items() if not isinstance(value, dict)):
        if saliency_file(changed(config, name), "base").name == before:
            shared.add(name)
    parts = [name.split(".") for name in nodes(config)]
    listed = {".".join(p) for p in parts if any(".".join(p[:i]) in NOT_STAGE_ONE for i in range(1, len(p) + 1))}
    assert shared == {name for name in listed if not isinstance(nodes(config)[name], dict)}
    assert {"sparsity.p", "optimizer.build.lr", "trainer.max_steps"} <= shared
    needed = {"target", "surrogate", "seed", "pairs.forget", "trainer.precision", "adapter._target_", "dataset.train"}
    assert not shared & (needed | {"method._target_", "timesteps._target_", "optimizer.schedule.locate_batch"})
    assert saliency_file(config, "another base").name != before


def test_kinds_of_mask_share_it_but_where_everything_is_kept() -> None:
    one, other, none = (saliency_file(values(f"sparsity={kind}"), "base") for kind in ("neuron", "weight", "dense"))
    assert one == other != none


def test_what_is_listed_is_there() -> None:
    assert set(nodes(values("trainer=ddp", "sequence=compose"))) >= NOT_STAGE_ONE
