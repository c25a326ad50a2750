"""The `fade` command as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapting import made
from command import ROOT
from exported import alone, ours
from safetensors.torch import load_file

import fade
from fade.cli import main
from fade.models import Diffusion
from fade.sparsity import Neuron

SLOW = {"torch", "diffusers", "transformers", "peft", "lightning", "scipy", "hydra"}  # seconds each


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    return lines[0] if code else out


@pytest.mark.processes
def test_the_commands(model: Diffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(model, "neon", Neuron(0.3), 0).write(tmp_path / "neon")
    made(model, "whole", None, 0).write(tmp_path / "whole")
    base = tmp_path / "base"
    model.pipe.save_pretrained(base)
    assert "forget **neon**" in said(capsys, "info", tmp_path / "neon")
    assert "(exact)" in said(capsys, "export", tmp_path / "neon", "--to", "diffusers", "--out", tmp_path / "lora")
    said(capsys, "export", tmp_path / "whole", "--to", "patch", "--out", tmp_path / "patch", "--base", base)
    assert (
        load_file(tmp_path / "patch" / "patch.safetensors").keys()
        == json.loads((tmp_path / "whole" / "adapter.json").read_text())["weights"].keys()
    )
    said(capsys, "merge", tmp_path / "neon", "--base", base, "--out", tmp_path / "merged")
    with fade.load(model.pipe, tmp_path / "neon") as handle:
        attached = ours(model)
        handle.merge()
        wanted = ours(model)
    found = alone(tmp_path, model, [f"pipeline={tmp_path}/merged", f"diffusers={tmp_path}/lora"])
    for place, (prediction, picture) in (
        (f"pipeline={tmp_path}/merged", wanted),
        (f"diffusers={tmp_path}/lora", attached),
    ):
        assert torch.equal(found[place], prediction) and torch.equal(found[f"{place} image"], picture)
    report = said(capsys, "verify", tmp_path / "neon", "--base", base, "--cycles", "3")
    assert "round trip   max |Δε| 0 between" in report and report.count("max |ΔW| 0 after 3 cycles") == 3
    assert "fuse_lora and unfuse_lora, 3 times: max |ΔW| " in report and report.endswith("exact\n")
    report = said(capsys, "verify", tmp_path / "whole", "--base", base, "--cycles", "1")
    assert report.endswith("exact\n") and "no comparison" in report
    for arguments, message in (
        (["info", tmp_path / "none"], "adapter.json is missing"),
        (["export", tmp_path / "neon", "--to", "diffusers", "--out", base], "exists already"),
        (["export", tmp_path / "whole", "--to", "patch", "--out", tmp_path / "x"], "needs --base"),
        (["export", tmp_path / "whole", "--to", "peft", "--out", tmp_path / "x"], "cannot carry"),
        (["merge", tmp_path / "neon", "--base", tmp_path / "none", "--out", tmp_path / "x"], "no pipeline at"),
    ):
        assert message in said(capsys, *arguments, code=1)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "neon"), "--to", "onnx", "--out", "x"])
    assert ended.value.code == 2 and not (tmp_path / "x").exists()


@pytest.mark.processes
def test_help_and_the_card_need_no_torch_and_importing_the_package_costs_nothing(
    model: Diffusion, tmp_path: Path
) -> None:
    """What answers at once is what is not imported; that it is quick follows."""
    made(model, "neon", Neuron(0.3), 0).write(tmp_path / "neon")
    code = f"""
import sys, fade, fade.cli
print(fade.__file__)
assert fade.cli.main(["info", "neon"]) == 0 and fade.cli.main(["info", "."]) == 1
try:
    fade.cli.main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
slow = {SLOW}.intersection(sys.modules)
assert not slow, slow
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == "error: no adapter at .: adapter.json is missing\n", done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(ROOT) and "forget **neon**" in done.stdout
