"""SIGKILL at random moments of a real process, imports included: the same command goes on to the undisturbed run's
result.

FADE_KILLS=50 python -m pytest tests/test_kills.py -m processes    that many kills (3); FADE_KILLS_SEED: of their
moments (0)
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, SMALL

TINY = [
    *SMALL,
    "target=neon_glow",
    "protocol.seeds=[188]",
    "protocol.share=0.25",
    "model.steps=2",
    "trainer.max_steps=6",
    "checkpoint_every=2",
    "trainer.log_every_n_steps=1",
    "pairs.forget=4",
    "pairs.retain=12",
    "optimizer.schedule.locate_batch=4",
    "pairs.batch=2",
    "dataset.test=2",
    "device=cpu",
]


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, ROOT / "run.py", *TINY, f"out={folder / 'run'}", f"cache_dir={folder / 'cache'}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    folder.mkdir(exist_ok=True)
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True)


def record(folder: Path) -> dict[str, Any]:
    """What must not depend on when a process died; all that it says is compared, byte for byte where it is bytes."""
    run = folder / "run"
    results = json.loads((run / "results.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ["predictions.csv", "splits.csv.gz", "config.yaml", "comparison.png", "layers.json", "timesteps.json"]
    files = [*(run / name for name in names), *sorted((run / "images").glob("*.png")), *run.glob("features-*")]
    files += [run / "adapter" / "adapter.safetensors", *sorted((folder / "cache").glob("base-*/*.csv"))]
    return {
        **{key: results[key] for key in ("metrics", "base", "landed", "adapter_sha256", "sparsity", "base_sha256")},
        "steps": [line["step"] for line in lines],
        "metrics.jsonl": lines,
        **{str(path.relative_to(folder)): path.read_bytes() for path in files},
        "left": sorted(path.name for path in run.rglob(".*") if path.name != ".made.jsonl"),
    }


@pytest.mark.processes
def test_a_run_that_is_killed_at_any_moment_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    moments = random.Random(int(os.environ.get("FADE_KILLS_SEED", 0)))
    wanted_kills, kills, number = int(os.environ.get("FADE_KILLS", 3)), 0, 0
    began = time.monotonic()
    assert start(tmp_path / "undisturbed").wait() == 0, (tmp_path / "undisturbed" / "said").read_text()[-2000:]
    whole_s, wanted = time.monotonic() - began, record(tmp_path / "undisturbed")
    assert wanted["steps"] == list(range(6)) and wanted["left"] == [] and len(wanted["metrics"]) > 4
    while kills < wanted_kills:
        folder, number, code = tmp_path / f"killed{number}", number + 1, -9
        while code != 0:
            process = start(folder)
            try:
                code = process.wait(moments.uniform(0, whole_s) if kills < wanted_kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
                kills += 1
            assert code in (0, -9), (folder / "said").read_text()[-2000:]
        found = record(folder)
        assert [key for key in wanted if found.get(key) != wanted[key]] == [] and found.keys() == wanted.keys()
