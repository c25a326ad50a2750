"""The shipped Stable Diffusion 3 of the canvas, from configuration to table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import SHIPPED, SHORT, Command, complaint

from fade.cli import main as fade_command


@pytest.mark.processes
def test_the_embedded_flow_draws_what_it_is_asked_for_and_can_be_unlearned(
    tmp_path: Path, run: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run("model=canvas_flow", "target=pencil_sketch", *(o for o in SHORT if o != "model.steps=2"), "model.steps=10")
    (folder,) = (tmp_path / "outputs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["prediction"] == "flow"
    assert results["base"]["ua"]["value"] == 0 and results["base"]["ira"]["value"] >= 0.9
    assert results["base"]["cra"]["value"] >= 0.8
    card = json.loads((folder / "adapter" / "adapter.json").read_text())
    assert card["text_length"] == 24
    base = str(SHIPPED.parent / "canvas_flow" / "pipeline")
    assert fade_command(["merge", str(folder / "adapter"), "--base", base, "--out", str(tmp_path / "merged")]) == 0
    assert capsys.readouterr().out.strip().endswith('merged"), then pipe("...", max_sequence_length=24)')


@pytest.mark.parametrize("model", ["canvas_flow", "flux_dev", "sd35_medium"])
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("fmn", "text and image in one softmax"),
        ("stereo", "no single text encoder"),
        ("advunlearn", "no single text encoder"),
        ("diff_quickfix", "no single text encoder"),
    ],
)
def test_a_family_is_refused_before_a_rate_or_a_pipeline_is_asked_for(
    run: Command, model: str, method: str, said: str
) -> None:
    """Not for what could be given, only to be refused again."""
    nowhere = "model.path=pretrained/nowhere"
    assert said in complaint(run(f"model={model}", f"method={method}", "target=pencil_sketch", nowhere, code=1))


def test_a_text_edit_is_refused_by_its_own_reason(run: Command) -> None:
    assert "spreads a word over" in complaint(run("model=canvas_flow", "method=seot", code=1))
