"""run.py as a user runs it, for the tests."""

from __future__ import annotations

import logging
import pickle
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from grids import PART
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra._internal.hydra import Hydra
from hydra.core.default_element import InputDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

import fade
import run

ROOT = Path(__file__).parents[1]
SHIPPED = Path(fade.__file__).parent / "shipped" / "canvas"
SHORT = [
    "protocol.seeds=[188]",
    "trainer.max_steps=4",
    "pairs.forget=4",
    "pairs.retain=12",
    "pairs.batch=2",
    "optimizer.schedule.locate_batch=4",
    "model.steps=2",
    "dataset.test=2",
]
SMALL = [*PART, "protocol=default", "protocol.tiers=[]", "oracle=null"]
known = cache(run.known)
READ: dict[tuple[str, ...], bytes] = {}
load_config, choices_known = ConfigRepository.load_config, defaults_list._create_interpolation_map


def read_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """A file of conf/, or of Hydra's own, is parsed once, not at every composition: half of its time."""
    place = config_path, *(source.full_path() for source in repository.sources)
    if place in READ:
        return pickle.loads(READ[place])
    found = load_config(repository, config_path)
    if found is not None and found.path in (f"file://{ROOT / 'conf'}", "pkg://hydra.conf"):
        READ[place] = pickle.dumps(found)
    return found


def known_where_asked(overrides: Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig:
    """The choices that a list of defaults may refer to are put together where it refers to any: a fifth of its time."""
    asked = any(default.is_interpolation() for default in defaults)
    return choices_known(overrides, defaults, self_added) if asked else DictConfig({})


ConfigRepository.load_config = read_once
defaults_list._create_interpolation_map = known_where_asked


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str


class Command:
    """`python run.py OVERRIDES...` within this process, with its own folders.

    On a part of the grid, by its names alone, unless dataset or experiment is said."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture
        patch.setattr(run, "known", known)  # the default configuration is composed once
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)  # nothing sets it, and all is composed to ask for it

    def __call__(self, *overrides: str, code: int = 0) -> Done:
        given = {override.partition("=")[0] for override in overrides}
        places = [f"output_dir={self.folder / 'outputs'}", f"cache_dir={self.folder / 'cache'}"]
        where = [*places, *([] if given & {"dataset", "experiment"} else SMALL)]
        where = [override for override in where if override.partition("=")[0] not in given]
        flags = [o for o in overrides if o.startswith("-")]  # argparse wants them before what it collects
        self.patch.setattr(sys, "argv", ["run.py", *flags, *where, *(o for o in overrides if o not in flags)])
        self.capture.readouterr()
        root = logging.getLogger()
        handlers = list(root.handlers)
        try:
            run.entry()
            ended = 0
        except SystemExit as end:
            ended = int(end.code or 0)
        finally:
            root.handlers[:] = handlers  # Hydra's write to a stream that ends with the test
        done = Done(ended, *self.capture.readouterr())
        assert done.code == code, done.stderr[-2000:]
        return done


def complaint(done: Done) -> str:
    """The one line, but for those that say, with the time, what is being done."""
    (line,) = [text for text in done.stderr.splitlines() if text.strip() and not re.match(r"\d\d:\d\d:\d\d ", text)]
    assert line.startswith("error: ")
    return line
