"""The last line of a run says how it ended; fail_under makes exit code 3 of what is not good enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.record.results import Run
from benchmarks.record.sequences import SequenceRun
from benchmarks.runs.usage import complain
from benchmarks.runs.verdict import Below, check_limits, enough, verdict
from fade.errors import BadInput


def results(gone: int, ira: float = 0.96, cra: float = 0.97) -> dict[str, Any]:
    """Of 40 images of neon, `gone` are read as something else; the base model loses one of 40."""
    return {
        "target": "neon",
        "metrics": {"ua": {"value": gone / 40, "n": 40}, "ira": {"value": ira}, "cra": {"value": cra}},
        "base": {"ua": {"value": 0.025, "n": 40}, "ira": {"value": 0.96}, "cra": {"value": 1.0}},
        "cost": {"adapter_bytes": 151_400},
    }


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (40, "forgotten 40 of 40 (base 1) · kept 98.5 % of base · adapter 151 kB · "),
        (31, "forgotten 31 of 40 (base 1) · "),
        (1, "NOT FORGOTTEN: 39 of 40 still read as neon · kept 98.5 % of base · "),
        (0, "NOT FORGOTTEN: 40 of 40 still read as neon · "),
    ],
)
def test_the_last_line_says_how_it_ended(gone: int, said: str, tmp_path: Path) -> None:
    """Kept is the mean of IRA and CRA, each over the base's: (0.96/0.96 + 0.97/1) / 2."""
    line = verdict(Run(tmp_path, results(gone)))
    assert line.startswith(said) and line.endswith(f"{tmp_path}/")
    (tmp_path / "comparison.png").touch()
    assert verdict(Run(tmp_path, results(gone))).endswith("comparison.png")
    (tmp_path / "report.html").touch()
    assert verdict(Run(tmp_path, results(gone))).endswith("report.html")


def test_images_scored_without_a_base_have_nothing_to_be_kept_of(tmp_path: Path) -> None:
    scored = {**results(40), "base": {}, "cost": {"judge_s": 1.0}}
    assert verdict(Run(tmp_path, scored)) == f"forgotten 40 of 40 · {tmp_path}/"


def test_a_sequence_says_every_request_as_it_stands_at_the_end(tmp_path: Path) -> None:
    first = {"ua": {"neon": {"value": 1.0, "n": 8}}, "retention": 0.97}
    last = {"ua": {"neon": {"value": 0.75, "n": 8}, "cat": {"value": 0.0, "n": 9}}, "retention": 0.9}
    said = {"kind": "sequence", "steps": [first, last], "base": {"retention": 1.0}, "summary": {"bytes": 302_000}}
    found = SequenceRun(tmp_path, said)
    line = verdict(found)
    assert line.startswith(
        "NOT FORGOTTEN: cat; forgotten neon 6 of 8, cat 0 of 9 · kept 90.0 % of base · adapters 302 kB · "
    )
    enough(found, {"ua": 0.0, "ira": 0.9, "cra": None})
    with pytest.raises(Below, match=r"ua is 0\.000, below fail_under\.ua=0\.5"):
        enough(found, {"ua": 0.5})


def test_what_is_below_its_limit_is_named_and_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    enough(Run(Path(), results(36)), {"ua": 0.9, "ira": None, "cra": 0.97})
    with pytest.raises(Below) as short:
        enough(Run(Path(), results(35)), {"ua": 0.9, "ira": 0.97, "cra": 0.5})
    assert complain(short.value, dict) == 3
    said = capsys.readouterr().err
    assert said == "error: ua is 0.875, below fail_under.ua=0.9; ira is 0.960, below fail_under.ira=0.97\n"
    unmeasured = {**results(40), "metrics": {"ua": {"value": 1.0, "n": 40}}}
    with pytest.raises(Below, match="cra is not measured"):
        enough(Run(Path(), unmeasured), {"cra": 0.1})


@pytest.mark.parametrize("limit", [90, "abc", -0.1, True, float("nan")])
def test_a_limit_is_a_proportion(limit: object) -> None:
    with pytest.raises(BadInput, match=r"fail_under\.ua is .*; it must be a number from 0 to 1"):
        check_limits({"ua": limit, "ira": None})
