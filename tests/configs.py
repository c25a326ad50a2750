"""The options of conf/ and the configurations that they compose to, for the tests."""

from __future__ import annotations

import copy
from functools import cache

from command import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

GROUPS = [path.name for path in (ROOT / "conf").iterdir() if path.is_dir()]
OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((ROOT / "conf" / g).glob("*.yaml"))]


@cache
def _composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", [*overrides], return_hydra_config=False)


def composed(*overrides: str) -> DictConfig:
    """The configuration, yours to change: each is composed once."""
    return copy.deepcopy(_composed(*overrides))


def overrides_of(group: str, option: str) -> list[str]:
    """A dataset of files needs a root before it resolves."""
    given = [f"{group}={option}"]
    if (group == "experiment" and option != "minicanvas") or (
        group == "dataset" and option not in ("minicanvas", "canvas")
    ):
        given.append("dataset.root=nowhere")
    if "unlearncanvas" in option and group in ("dataset", "experiment"):
        given.append("classifiers=nowhere")
    if "unlearncanvas" in option and group != "protocol":
        given.append("model.path=nowhere")
    return given


METHODS = [path.stem for path in sorted((ROOT / "conf" / "method").glob("*.yaml"))]
