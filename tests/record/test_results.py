"""Finished runs as values and as one table; a metric that is described once is shown everywhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from finished import finished
from pandas.api.types import is_numeric_dtype

from benchmarks.record import format as formats
from benchmarks.record.results import Run, frame, read
from benchmarks.record.sequences import SequenceRun, State, read_sequences, steps_frame
from benchmarks.record.sequences import frame as sequence_frame
from benchmarks.report import sequences
from benchmarks.report.__main__ import write
from fade.adapters.card import card_text
from fade.files import write_json
from fade.metrics import METRICS, About, about


@pytest.fixture
def runs_of(tmp_path: Path) -> Path:
    for seed, target in enumerate(("neon", "cat", "dog")):
        finished(tmp_path / "runs" / target, target, seed=seed)
    return tmp_path / "runs"


def test_finished_runs_are_one_table_in_two_lines(runs_of: Path) -> None:
    write_json(runs_of / "broken" / "results.json", {"format": 0})
    runs, left_out = read([runs_of])
    table = frame(runs)
    assert len(table) == len(runs) == 3 and len(left_out) == 1 and "format 0, this version reads 1" in left_out[0]
    numbers = [
        "ua",
        "ua_low",
        "ua_high",
        "ua_n",
        "base_ira",
        "fid_judge",
        "kid_judge",
        "p",
        "density",
        "distil_s",
        "train_s",
    ]
    assert all(is_numeric_dtype(table[name]) for name in numbers)
    saved = json.loads((runs_of / "cat" / "results.json").read_text())
    (row,) = table[table["target"] == "cat"].to_dict("records")
    for metric in ("ua", "ira", "cra", "cra_target"):
        assert (
            row[metric] == saved["metrics"][metric]["value"] and row[f"{metric}_low"] == saved["metrics"][metric]["low"]
        )
    assert row["domain"] == "object" and row["train_s"] == 21.0 and row["folder"] == str(runs_of / "cat")
    assert table["fid_judge"].isna().tolist() == [
        False,
        True,
        False,
    ]  # cat, dog, neon: dog has too few images, and says so


def test_a_run_knows_its_names(tmp_path: Path) -> None:
    said = ["target=cat", "lr=0.1", "adapter.rank=8", "b=word", "launcher.n=2", "fail_under.ua=1", "out=somewhere"]
    run = Run(
        tmp_path,
        {
            "dataset": "d",
            "protocol": "default",
            "method": "esd",
            "variant": "as_released",
            "overrides": said,
            "sparsity": {"kind": "neuron", "p": 0.1},
            "seeds": {"train": 3},
        },
    )
    assert run.chosen == {"adapter.rank": "8", "b": "word", "lr": "0.1"} and run.seed == 3
    assert run.label == "esd (as_released) adapter.rank=8 b=word lr=0.1"
    assert run.setting == "d/default esd (as_released) neuron p=0.1 adapter.rank=8 b=word lr=0.1"
    assert run.setting_without("lr") == "d/default esd (as_released) neuron p=0.1 adapter.rank=8 b=word"
    assert run.setting_without("sparsity.p") == "d/default esd (as_released) neuron adapter.rank=8 b=word lr=0.1"
    assert run.numbers == {"sparsity.p": 0.1, "adapter.rank": 8.0, "lr": 0.1}
    scored = Run(tmp_path, {"dataset": "d", "protocol": "default", "method": "scored"})
    assert scored.setting == "d/default scored" and scored.seed is None and scored.numbers == {}


@pytest.mark.usefixtures("unsaved")
def test_the_csv_files_hold_numbers(runs_of: Path, tmp_path: Path) -> None:
    write([runs_of], tmp_path / "out")
    for name, rows in (("targets", 3), ("summary", 3)):  # style, object, all
        with (tmp_path / "out" / f"{name}.csv").open() as file:
            found = list(csv.DictReader(file))
        assert len(found) == rows
        for row in found:
            assert 0 <= float(row["ua_low"]) <= float(row["ua"]) <= float(row["ua_high"]) <= 1
            assert float(row["kid_judge"]) == pytest.approx(0.00123) and float(row["distil_s"]) == 20.0
    assert {row["domain"]: row["runs"] for row in found} == {"style": "1", "object": "2", "all": "3"}
    (both,) = [row for row in found if row["domain"] == "all"]
    assert [both[f"fid_judge{end}"] for end in ("_low", "", "_high")] == ["2.0", "2.5", "3.0"]


@pytest.mark.usefixtures("unsaved")
def test_a_metric_that_is_described_once_is_in_tables_page_and_card(
    runs_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "echo", About("Echo", "an attack brings it back", higher=False))
    for path in runs_of.rglob("results.json"):
        results = json.loads(path.read_text())
        results["metrics"]["echo"] = {"value": 0.625, "low": 0.5, "high": 0.75, "n": 8}
        write_json(path, results)
    printed = write([runs_of], tmp_path / "out")
    assert "Echo ↓" in printed and printed.count("62.5 [50.0, 75.0]") == 3 and "62.5 (62–62)" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count(">Echo ↓<") == 2 and page.count('62.5 <span class="interval">[50.0, 75.0]') == 3
    with (tmp_path / "out" / "targets.csv").open() as file:
        assert [row["echo_high"] for row in csv.DictReader(file)] == ["0.75"] * 3
    card = card_text({"kind": "lora", "sha256": "0", "results": results})
    assert "| Echo ↓ (an attack brings it back) | – | 62.5 [50.0, 75.0] | 8 |" in card


def test_a_card_points_to_what_attacks_found_and_does_not_say_that_nobody_tried() -> None:
    """It is written once, before any; task=attack leaves the adapter's folder as it was."""
    card = card_text({"kind": "lora", "sha256": "0"})
    unchecked = card.split("## What was NOT checked")[1].split("## Use")[0]
    assert "attack" not in unchecked and "fine-tuning" not in unchecked and "other languages" in unchecked
    assert "`../attacks/`" in card.split("## Can it be brought back?")[1].split("##")[0]


def test_what_a_metric_is_called_and_how_it_is_shown() -> None:
    assert [METRICS[key].heading for key in ("ua", "cra_target", "kid_judge")] == [
        "UA ↑",
        "CRA on target ↑",
        "1000 kid_judge ↓",
    ]
    assert about("kid_inception") == About("kid_inception", "", higher=False, share=False, times=1000)
    assert about("fid_inception").heading == "fid_inception ↓" and about("unknown").share


def test_an_older_format_is_read_and_a_newer_one_is_not(runs_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMAT", 2)
    newer = json.loads((runs_of / "cat" / "results.json").read_text())
    write_json(runs_of / "cat" / "results.json", {**newer, "format": 3})
    runs, left_out = read([runs_of])
    assert [run.target for run in runs] == ["dog", "neon"] and "format 3, this version reads 1 to 2" in left_out[0]


FIRST = "UA of neon: below 90 % after request 2 (cat), below 50 % never, in 2 requests."


def test_a_sequence_is_a_value_and_a_table_too(tmp_path: Path) -> None:
    def state(ua: dict[str, float], kept: float) -> dict[str, Any]:
        measured = {target: {"value": value, "n": 8} for target, value in ua.items()}
        return {"ua": measured, "kept": {"style": {"value": kept}}, "retention": kept, "nearest": {"value": kept}}

    cost, last = {"train_s": 7.0, "adapter_bytes": 1000}, {"neon": 0.5, "cat": 0.75}
    told = {
        "format": 1,
        "kind": "sequence",
        "dataset": "canvas",
        "protocol": "default",
        "method": "fade",
        "strategy": "stack",
        "overrides": ["strategy=stack", "sequence.requests=[neon,cat]", "seed=3", "optimizer.lr=0.1"],
        "seeds": {"train": 3},
        "requests": [{"target": "neon", "surrogate": "photo", "domain": "style"}, {"target": "cat"}],
        "base": state({}, 1.0),
        "steps": [{**state(ua, kept), "cost": cost} for ua, kept in (({"neon": 1.0}, 0.9), (last, 0.8))],
        "revoked": [{**state({"cat": 0.75}, 0.9), "target": "neon", "back": {"value": 0.0}}],
        "summary": {"ua_mean": 0.625, "bytes": 2000},
    }
    write_json(tmp_path / "one" / "results.json", told)
    write_json(tmp_path / "two" / "results.json", {**told, "format": 0})
    (run,), _ = read_sequences([tmp_path])
    assert run.targets == ["neon", "cat"] and run.requests[0].surrogate == "photo" and run.seed == 3
    assert run.label == "fade, stack, optimizer.lr=0.1" and not run.base.trained and run.steps[1].train_s == 7.0
    assert {t: m["value"] for t, m in run.revoked[0].ua_of_all.items()} == {"cat": 0.75, "neon": 0.0}
    (row,) = sequence_frame([run]).to_dict("records")
    assert row["requests"] == "neon cat" and row["ua_mean"] == 0.625 and row["bytes"] == 2000
    write_json(tmp_path / "fast" / "results.json", {**told, "protocol": "fast"})
    (again,), (line,) = read_sequences([tmp_path])
    assert again.protocol == "default" and line.startswith("1 of 2 sequences left out (protocol=fast")
    assert (run.first_back(0.9), run.first_back(0.5)) == (2, None)  # its UA is 100, then 50
    assert sequences.summary([run]).texts[0][-2:] == ["2", "never"] and row["first_back_90"] == 2
    assert ("After which request does the first come back?", FIRST) in sequences.answers([run])
    worse = SequenceRun(tmp_path, {**told, "strategy": "joint", "steps": [told["steps"][0], dict(told["steps"][1])]})
    worse.results["steps"][1]["ua"] = {"neon": {"value": 0.25, "n": 8}, "cat": {"value": 0.75, "n": 8}}
    said = dict(sequences.answers([run, worse]))
    below = "After which request does the first come back? (its UA below {} %)"
    assert said[below.format(90)].startswith("In 2 of 2 sequences, soonest after request 2")
    assert said[below.format(50)] == f"In 1 of 2 sequences, soonest after request 2: {worse.name}."
    steps = steps_frame([run])
    assert steps["ua"].tolist() == [1.0, 0.625] and steps["retention"].tolist() == [0.9, 0.8]
    assert steps[["ua_low", "ua_high", "retention_low", "retention_high"]].isna().all(axis=None)  # none was measured


def test_the_intervals_of_a_sequences_means_by_hand() -> None:
    """Of 4 and 3 hundredths below two requests' UA the root of 25 is left, over 2; of kept domains the mean ends."""
    ua = {"neon": {"value": 0.9, "low": 0.86, "high": 0.96}, "cat": {"value": 0.7, "low": 0.67, "high": 0.78}}
    kept = {"style": {"value": 0.8, "low": 0.7, "high": 0.9}, "object": {"value": 1.0, "low": 0.8, "high": 1.0}}
    state = State({"ua": ua, "kept": kept, "retention": 0.9})
    assert state.ua_ends == pytest.approx((0.8 - 0.025, 0.8 + 0.05))
    assert state.retention_ends == pytest.approx((0.75, 0.95))
