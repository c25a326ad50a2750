"""trainer=ddp on two gloo processes of the CPU: what one process does with the joined batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from command import ROOT, SHORT, SMALL

from fade.errors import BadInput
from fade.training.ranks import check_world, share

CPU = ["trainer.accelerator=cpu", "device=cpu"]


def ran(folder: Path, *overrides: str) -> tuple[dict[str, Any], list[dict[str, float]], str]:
    """results.json, the lines of metrics.jsonl, and what was printed, of a run in processes of its own."""
    where = [f"output_dir={folder}/outputs", f"cache_dir={folder}/cache"]
    command = [
        sys.executable,
        "run.py",
        *SMALL,
        "target=neon_glow",
        *SHORT,
        "trainer.log_every_n_steps=1",
        *where,
        *overrides,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (folder / "outputs").iterdir()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return json.loads((run / "results.json").read_text()), lines, done.stdout


@pytest.mark.processes
def test_two_processes_make_the_losses_of_one(tmp_path: Path) -> None:
    one, alone, _ = ran(tmp_path / "one", *CPU)
    two, together, printed = ran(tmp_path / "two", "trainer=ddp", *CPU)
    assert len(together) == len(alone) == 4 and printed.count("| model ") == 1
    for mine, theirs in zip(together, alone, strict=True):
        # what is kept has hardly moved at the first step: its loss is the square of what single precision leaves of it
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-10)
    assert two["cost"]["teacher_passes"] == one["cost"]["teacher_passes"] == 4
    assert two["sparsity"] == one["sparsity"] and two["base_sha256"] == one["base_sha256"]


def test_shares_are_equal_and_disjoint() -> None:
    batch: Any = {"forget": {"latents": torch.arange(6)}, "retain": {"latents": torch.arange(6, 12)}}
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert share(batch, trainer)["forget"]["latents"].tolist() == list(range(6))
    check_world(3, 6, combines=False)
    with pytest.raises(BadInput, match=r"pairs\.batch is 16, which 3 processes cannot share"):
        check_world(3, 16, combines=False)
    with pytest.raises(BadInput, match="combines its terms' gradients"):
        check_world(2, 16, combines=True)
    with pytest.raises(BadInput, match="takes inner passes"):
        check_world(2, 16, combines=False, passes=2)
