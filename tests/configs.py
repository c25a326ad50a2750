"""The options of conf/ and the configurations that they compose to, for the tests."""

from __future__ import annotations

import pickle
from functools import cache
from itertools import compress
from operator import not_

from command import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf

GROUPS = [path.name for path in (ROOT / "conf").iterdir() if path.is_dir()]
OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((ROOT / "conf" / g).glob("*.yaml"))]


@cache
def _composed(*overrides: str) -> bytes:
    """In memory alone, for it is copied from there in a seventh of `deepcopy`'s time."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return pickle.dumps(compose("config", [*overrides], return_hydra_config=False))


def hydras(*overrides: str) -> DictConfig:
    """As Hydra composes it, yours to change: each is composed once."""
    return pickle.loads(_composed(*overrides))  # type: ignore[no-any-return]


def composed(*overrides: str) -> DictConfig:
    """The configuration, yours to change: what Hydra composes of these (tests/runs/test_options.py). Each choice of
    options is composed once, and values are put into it as Hydra puts them."""
    parsed = OverridesParser.create().parse_overrides([*overrides])
    own = [one.key_or_group in GROUPS or one.is_hydra_override() or one.type != OverrideType.CHANGE for one in parsed]
    config = hydras(*(one.input_line for one in compress(parsed, own)))
    for one in compress(parsed, map(not_, own)):
        OmegaConf.update(config, one.key_or_group, one.value())
    return config


def overrides_of(group: str, option: str) -> list[str]:
    """A dataset of files needs a root before it resolves."""
    given = [f"{group}={option}"]
    if group == "experiment" or (group == "dataset" and option != "canvas"):
        given.append("dataset.root=nowhere")
    if "unlearncanvas" in option and group in ("dataset", "experiment"):
        given.append("classifiers=nowhere")
    if "unlearncanvas" in option and group != "protocol":
        given.append("model.path=nowhere")
    return given


METHODS = [path.stem for path in sorted((ROOT / "conf" / "method").glob("*.yaml"))]
