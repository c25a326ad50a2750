"""What tests share is in given.py. xdist's controller runs none, and does not wait for those imports."""

from __future__ import annotations

import gc

import pytest

gc.disable()  # imports make a million objects, none of them garbage


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") == "no" or hasattr(config, "workerinput"):
        config.pluginmanager.import_plugin("given")


def pytest_collection_finish() -> None:
    """Nothing that is there by now goes away, so that no test pays for the collector's looks at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # of 700 at first: compositions and models are many small objects
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries that count their objects at the end would call them leaked
