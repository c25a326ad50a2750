"""The shipped Stable Diffusion 3 of the canvas, from configuration to table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import SHORT, Command, complaint


@pytest.mark.processes
def test_the_embedded_flow_draws_what_it_is_asked_for_and_can_be_unlearned(tmp_path: Path, run: Command) -> None:
    run("model=canvas_flow", "target=pencil_sketch", *(o for o in SHORT if o != "model.steps=2"), "model.steps=10")
    (folder,) = (tmp_path / "outputs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["prediction"] == "flow"
    assert results["base"]["ua"]["value"] == 0 and results["base"]["ira"]["value"] >= 0.9
    assert results["base"]["cra"]["value"] >= 0.8
    card = json.loads((folder / "adapter" / "adapter.json").read_text())
    assert card["text_length"] == 24


@pytest.mark.parametrize(
    ("method", "said"),
    [("fmn", "text and image in one softmax"), ("stereo", "no single text encoder"), ("seot", "spreads a word over")],
)
def test_a_method_without_a_meaning_here_is_refused_by_its_own_reason(run: Command, method: str, said: str) -> None:
    """Not for a rate or for layers that could be named, only to be refused again."""
    assert said in complaint(run("model=canvas_flow", f"method={method}", code=1))
