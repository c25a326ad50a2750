"""metrics.jsonl is the record; W&B mirrors it: read back from its own file, and broken in every way that it breaks."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import finished
from PIL import Image

from benchmarks.measure.predictions import read_rows
from benchmarks.record.results import Run
from benchmarks.report.wandb import Panel, RunSet, group_of, publish, report, spec
from fade.errors import BadInput
from fade.training.logs import JsonLines, Mirror, layers, wandb


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "run" / "metrics.jsonl")
    lines.log_metrics({"loss/forget": 0.5, "rate": float("nan")}, 3)
    lines.log_metrics({"loss/forget": 0.25}, 4)
    found = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found == [{"step": 3, "loss/forget": 0.5, "rate": None}, {"step": 4, "loss/forget": 0.25}]


def test_a_resumed_run_says_no_step_twice(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.go_on_from(0)
    for step in range(4):
        lines.log_metrics({"loss/total": 1.0 - step / 10}, step)
    with lines.path.open("a") as file:
        file.write('{"step": 4, "loss/to')  # killed while it wrote
    lines.go_on_from(3)
    lines.log_metrics({"loss/total": 0.7}, 3)
    assert [json.loads(line)["step"] for line in lines.path.read_text().splitlines()] == [0, 1, 2, 3]


SALIENCY = {"down.to_q": torch.tensor([[1.0, 2.0]]), "up.to_k": torch.tensor([[0.0, 1.0]])}
MASKS = {"down.to_q": torch.tensor([[True, True]]), "up.to_k": torch.tensor([[False, True]])}


def test_layers_are_a_line_each_on_disk(tmp_path: Path) -> None:
    JsonLines(tmp_path / "metrics.jsonl").log_rows("layers", layers(SALIENCY, MASKS))
    assert json.loads((tmp_path / "layers.json").read_text()) == [
        {"layer": "down.to_q", "saliency": 1.5, "share": 0.75, "density": 1.0},
        {"layer": "up.to_k", "saliency": 0.5, "share": 0.25, "density": 0.5},
    ]
    assert layers({}, MASKS)[0]["saliency"] is None


def records(path: Path) -> Iterator[Any]:
    """A .wandb file's records: LevelDB's log format (blocks of 32 KiB, chunks of crc, length, kind) after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):  # still being written
            return
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def finished_records(path: Path) -> list[Any]:
    """All of them, once the last says that the run has ended: W&B's service may write on after `finish` returned."""
    for _ in range(600):
        found = list(records(path))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} does not say after a minute that its run has ended")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)


def test_what_was_written_offline_equals_the_results(tmp_path: Path, quiet: None) -> None:
    results = finished(tmp_path / "run", "neon")
    Image.new("RGB", (300, 100)).save(tmp_path / "run" / "comparison.png")
    mirror = Mirror(partial(wandb, tmp_path / "run", True, project="fade", group="g", tags=["canvas", "neon"]))
    mirror.log_hyperparams({"target": "neon", "sparsity": {"p": 0.1}})
    mirror.log_rows("layers", layers(SALIENCY, MASKS))
    mirror.log_metrics({"loss/forget": 0.5}, 1)
    for name in ("run/images", "base"):
        (tmp_path / name).mkdir()
        for row in read_rows(tmp_path / "run" / "predictions.csv"):
            Image.new("RGB", (32, 32), "red" if name == "base" else "blue").save(tmp_path / name / row["file"])
    mirror.finish({**results, "base_answers": str(tmp_path / "base")}, tmp_path / "run")
    assert not mirror.broken
    (file,) = (tmp_path / "run").rglob("run-*.wandb")
    summary: dict[str, Any] = {}
    started = None
    for record in finished_records(file):
        if record.HasField("run"):
            started = record.run
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert started is not None and started.run_group == "g" and list(started.tags) == ["canvas", "neon"]
    for name in ("ua", "ira", "cra"):
        for key in ("value", "low", "high", "n"):
            assert summary[f"metrics/{name}/{key}"] == results["metrics"][name][key]
    assert summary["cost/adapter_bytes"] == 148_000 and any("before and after" in key for key in summary)
    assert summary["layers/nrows"] == 2 and summary["before beside after/count"] == 24
    captions = summary["before beside after/captions"]
    assert captions[0] == "neon_cat_seed0.png, seed 0" and sum("neon_" in c for c in captions) == 12
    sheets = sorted((tmp_path / "run").rglob("media/images/before beside after*.png"))
    with Image.open(sheets[0]) as sheet:
        assert (
            sheet.size == (64, 32) and sheet.getpixel((5, 5)) == (255, 0, 0) and sheet.getpixel((40, 5)) == (0, 0, 255)
        )


class Dying:
    """A logger whose service dies after the first call."""

    def __init__(self) -> None:
        self.calls = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        self.calls += 1
        if self.calls > 1:
            raise BrokenPipeError("the service is gone")


def refuse() -> Any:
    raise RuntimeError("no API key configured")


@pytest.mark.parametrize(("make", "said"), [(refuse, "no API key configured"), (Dying, "the service is gone")])
def test_a_failure_is_one_warning(make: Any, said: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    mirror = Mirror(make)
    for step in range(4):
        mirror.log_metrics({"loss": 1.0}, step)
    mirror.finish({}, tmp_path)
    assert mirror.broken and [said in r.message for r in caplog.records] == [True]


@pytest.mark.processes
@pytest.mark.parametrize(("key", "said"), [("short", "API key must have"), ("k" * 40, "")])
def test_no_key_or_no_network_costs_a_warning(tmp_path: Path, key: str, said: str) -> None:
    """In a process of its own, for W&B reads the environment once."""
    code = (
        "from functools import partial; from pathlib import Path; from fade.training.logs import Mirror, wandb\n"
        f"mirror = Mirror(partial(wandb, Path({str(tmp_path)!r}), True, project='fade', "
        f"settings=dict(init_timeout=3)))\n"
        "mirror.log_metrics({'loss': 1.0}, 1); print('broken', mirror.broken)"
    )
    away = {
        "WANDB_MODE": "online",
        "WANDB_API_KEY": key,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_SILENT": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **away}, capture_output=True, text=True, check=True
    )
    assert "broken True" in done.stdout and done.stderr.count("warning: W&B is out") == 1 and said in done.stderr


@pytest.fixture
def sweep(tmp_path: Path) -> list[Run]:
    found = []
    for folder, p in (("sparsity", 0.05), ("sparsity", 0.2), ("seeds", 0.2)):
        results = finished(tmp_path / f"{folder}-{p}", "neon", p=p)
        said = ["target=neon", f"sparsity.p={p}", f"output_dir=outputs/{folder}"]
        found.append(Run(tmp_path, {**results, "overrides": said}))
    return found


def test_a_wandb_report_is_specified_without_a_login(sweep: list[Run]) -> None:
    made = spec(sweep)
    assert made.runs == (RunSet("outputs/sparsity", "outputs/sparsity"), RunSet("outputs/seeds", "outputs/seeds"))
    over_p = Panel("scatter", "UA ↑ over the kept fraction", ("metrics/ua/value",), "config:sparsity.p", True)
    assert over_p in made.panels and "3 runs, 1 targets, canvas" in made.about
    (columns,) = [panel for panel in made.panels if panel.kind == "columns"]
    assert columns.y == ("config:sparsity.p", "metrics/ua/value", "metrics/ira/value", "metrics/cra/value")
    assert {panel.kind for panel in spec(sweep[1:]).panels} == {"bar", "scatter", "line", "pictures"}
    assert group_of(Run(Path(), {"overrides": ["target=neon"]})) == group_of(Run(Path(), {})) == "outputs"


def test_wandb_workspaces_takes_the_spec(sweep: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    pages = pytest.importorskip("wandb_workspaces.reports.v2")
    made = report(spec(sweep), "someone/fade")
    (grid,) = [block for block in made.blocks if isinstance(block, pages.PanelGrid)]
    assert len(grid.panels) == len(spec(sweep).panels) and [r.name for r in grid.runsets] == [
        "outputs/sparsity",
        "outputs/seeds",
    ]
    assert grid.runsets[0].filters == "Metric(\"Group\") == 'outputs/sparsity'"
    with pytest.raises(BadInput, match="write ENTITY/PROJECT"):
        report(spec(sweep), "fade")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(BadInput, match="W&B did not take the report"):
        publish(sweep, "someone/fade")
