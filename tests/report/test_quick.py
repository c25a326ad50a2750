"""Runs under a protocol for development: marked wherever their numbers stand, and never beside others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from finished import finished

from benchmarks.record.results import Run, read
from benchmarks.record.sequences import SequenceRun
from benchmarks.report import sequences
from benchmarks.report.__main__ import write
from benchmarks.report.tables import run_table
from benchmarks.studies.compare import write as compare
from fade.files import write_json

pytestmark = pytest.mark.usefixtures("unsaved")
MARK = "protocol=fast: few steps, for development"


def asked_by(folder: Path, protocol: str, target: str, kind: str = "neuron", method: str = "fade") -> Run:
    about = {"protocol": protocol, "method": method, "seeds": {"train": 0, "images": [1]}}
    results = {**finished(folder, target, kind), **about, "identity": f"{protocol}-{folder.name}"}
    results["cost"] |= {"peak_memory_mb": 1.0, "teacher_passes": 1}
    write_json(folder / "results.json", results)
    return Run(folder, results)


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    for target in ("glass", "dog"):
        for method in ("fade", "uce"):
            asked_by(tmp_path / "fast" / f"{method}-{target}", "fast", target, method=method)
    return tmp_path / "fast"


def test_fast_runs_are_left_out_where_others_are(fast: Path, tmp_path: Path) -> None:
    asked_by(tmp_path / "default" / "fade-glass", "default", "glass")
    runs, problems = read([tmp_path])
    assert [run.protocol for run in runs] == ["default"]
    assert f"4 of 5 runs left out ({MARK}); name the folders of these alone" in problems
    printed = write([tmp_path], tmp_path / "out")
    assert "4 of 5 runs left out" in printed and "/fast" not in printed
    alone, problems = read([fast])
    assert len(alone) == 4 and not [line for line in problems if "left out" in line]


def test_every_table_of_fast_runs_is_marked(fast: Path, tmp_path: Path) -> None:
    write([fast], tmp_path / "out")
    for name in ("summary", "targets"):
        for suffix in ("md", "csv", "tex"):
            text = (tmp_path / "out" / f"{name}.{suffix}").read_text()
            assert text.count("/fast(development)") >= 4, name
    page = (tmp_path / "out" / "report.html").read_text()
    tables = re.findall(r'<table id="[^"]*"><caption><span>([^<]*)', page)
    assert len(tables) > 3
    unmarked = [caption for caption in tables if MARK not in caption]
    assert all("as published" in caption.lower() for caption in unmarked), unmarked
    assert re.search(rf">\s*(?:warning: )?{MARK}\s*<", page)  # among what the numbers rest on
    text = compare([fast], "fade", tmp_path / "compared", False)
    for name in ("methods", "differences", "decided"):
        assert MARK in (tmp_path / "compared" / f"{name}.md").read_text().splitlines()[0]
    assert text.count(MARK) == 3
    assert run_table(next(iter(read([fast])[0]))).startswith(MARK)


def test_other_runs_are_not_marked(tmp_path: Path) -> None:
    run = asked_by(tmp_path / "default" / "fade-glass", "default", "glass")
    assert run.mark == "" and "development" not in run_table(run) and "canvas/default fade" in run.setting
    write([tmp_path / "default"], tmp_path / "out")
    assert MARK not in (tmp_path / "out" / "report.html").read_text()


def test_a_fast_sequence_is_marked_in_its_line(tmp_path: Path) -> None:
    said = {"protocol": "fast", "method": "fade", "strategy": "stack", "summary": {}, "steps": []}
    said["requests"] = [{"target": "cat"}]
    ((_, label, *_),) = sequences.summary([SequenceRun(tmp_path, said)]).rows
    assert label.text == f"fade, stack ({MARK})"
