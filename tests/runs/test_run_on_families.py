"""`run.py`, from configuration to table, on a tiny random pipeline of every family read from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import families
import pytest
from command import SHORT, Command
from families import LENGTH, TINY, tiny
from grids import small

PRESETS = {"sdxl": "sdxl", "sd3": "sd35_medium", "flux": "flux_dev", "sana": "sana"}
LITTLE = ["model.dtype=float32", "model.size=32", "trainer.precision=32-true", "pairs.batch=2", "protocol=subset"]


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_a_run_from_configuration_to_table(
    family: str, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small()
    monkeypatch.setattr(families, "CAPTIONS", [grid.caption(cell) for cell in grid.cells()])  # else too long, spelt
    tiny(family).pipe.save_pretrained(tmp_path / "pipeline")
    given = [f"model={PRESETS[family]}", f"model.path={tmp_path / 'pipeline'}", *LITTLE, *SHORT]
    given += [] if family == "sdxl" else [f"model.text_length={LENGTH}"]
    done = run("target=neon_glow", *given)
    assert "forgotten" in done.stdout.splitlines()[-1].lower()
    (folder,) = (tmp_path / "outputs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["prediction"] == ("epsilon" if family == "sdxl" else "flow")
    card = json.loads((folder / "adapter" / "adapter.json").read_text())
    assert card.get("text_length") == (None if family == "sdxl" else LENGTH)
    wrong = "DDIMScheduler" if family != "sdxl" else "FlowMatchEulerDiscreteScheduler"
    sampler = [f"protocol.sampling.sampler={wrong}", f"output_dir={tmp_path / 'other'}"]
    refused = run("target=neon_glow", *given, *sampler, code=1)
    assert "choose one such as" in refused.stderr.splitlines()[-1] and not [
        *(tmp_path / "other").rglob("*.safetensors")
    ]
