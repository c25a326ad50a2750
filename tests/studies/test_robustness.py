"""Who falls to what, from rows written by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from finished import finished

from benchmarks.studies.robustness import main
from fade.files import write_json
from fade.intervals import share_of


def attacked(folder: Path, name: str, level: str, hits: int, control: int, over: str = "oracle") -> None:
    row = {"attack": name, "level": level, "success": share_of(hits, 16), "off": share_of(0, 16)}
    write_json(folder / "attacks" / f"{name}.json", {**row, over: share_of(control, 16)})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """neuron falls to prefix on the dog alone, weight to nothing; its scale is no attack."""
    for kind, target, prefix in (("neuron", "dog", 16), ("neuron", "cat", 4), ("weight", "dog", 5)):
        folder = tmp_path / "runs" / f"{kind}-{target}"
        finished(folder, target, kind)
        attacked(folder, "none", "T0", 0, 0)
        attacked(folder, "prefix", "T2", prefix, 4)
        attacked(folder, "scale", "T4", 16, 0)
    attacked(tmp_path / "runs" / "neuron-cat", "prompts", "T0", 1, 0, "never")
    return tmp_path / "runs"


def printed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    monkeypatch.setattr(sys, "argv", ["robustness", str(folder)])
    main()
    return [[c.strip() for c in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "|" in line]


def test_a_row_says_what_an_attack_reaches_and_what_is_decided(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = printed(runs, monkeypatch, capsys)
    heads = [line for line in cells if line[0] == "target"]
    assert heads[1:] == [
        ["target", "setting", "none", "prompts", "prefix", "scale"],
        ["target", "setting", "none", "prefix", "scale"],
    ]
    assert [line for line in cells if line[0] == "cat"] == [
        ["cat", "neuron", "0", "6", "25", "**100**"],
        ["cat", "*control*", "0", "0", "25", "0"],
    ]
    assert [line for line in cells if line[0] == "dog"] == [
        ["dog", "weight", "0", "31", "**100**"],
        ["dog", "neuron", "0", "**100**", "**100**"],
        ["dog", "*never saw it*", "0", "25", "0"],
    ]


def test_over_several_targets_what_is_decided_is_over_them(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """neuron's prefix is decided on one of two targets, and so not over both."""
    cells = printed(runs, monkeypatch, capsys)
    assert cells[0] == ["target", "setting", "none", "prompts", "prefix", "scale", "falls on"]
    assert [line for line in cells if line[0] == "2 objects"] == [
        ["2 objects", "weight", "0", "–", "31", "**100**", "0 of 1"],
        ["2 objects", "neuron", "0", "6", "62", "**100**", "1 of 2"],
        ["2 objects", "*control*", "0", "0", "25", "0", "–"],
    ]


def test_who_forgot_nothing_stands_last_and_is_no_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No attack can bring back more than a model without it draws, where that draws the target anyway."""
    for kind, target, hits, prefix in (("weight", "dog", 16, 16), ("weight", "cat", 0, 1), ("neuron", "dog", 2, 16)):
        folder = tmp_path / "runs" / f"{kind}-{target}"
        finished(folder, target, kind)
        attacked(folder, "none", "T0", hits, hits, "off")
        attacked(folder, "prefix", "T2", prefix, hits, "off")
    cells = printed(tmp_path / "runs", monkeypatch, capsys)
    assert [line for line in cells if line[0] == "dog"] == [
        ["dog", "neuron", "12", "**100**"],
        ["dog", "weight", "100", "100"],
        ["dog", "*control*", "12", "12"],
    ]
    assert [line[-1] for line in cells if line[0] == "2 objects"] == ["1 of 1", "1 of 2", "–"]
    main()
    assert capsys.readouterr().out.endswith("over the control nowhere: none\n")


def test_who_falls_to_nothing_is_said(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["robustness", str(runs)])
    main()
    assert capsys.readouterr().out.endswith("over the control nowhere: weight\n")


def test_runs_that_nobody_attacked_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "runs" / "a", "dog")
    monkeypatch.setattr(sys, "argv", ["robustness", str(tmp_path / "runs")])
    with pytest.raises(SystemExit, match="was attacked"):
        main()
