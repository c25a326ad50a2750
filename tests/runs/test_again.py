"""A UA that lies between: said beside it, and the same adapter measured again with more steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import Command, complaint

from benchmarks.record.format import AGAIN
from benchmarks.record.results import Run
from benchmarks.runs import again
from benchmarks.runs.again import advice, between
from fade.files import read_json, write_json
from fade.published import protocol_sampling

FEW = [
    *("target=neon_glow", "model.steps=2", "dataset.test=2", "protocol.seeds=[188]"),
    *("trainer.max_steps=1", "pairs.forget=4", "pairs.retain=12", "pairs.batch=2"),
    "optimizer.schedule.locate_batch=4",
]


def config(steps: int | None, own: int = 15) -> dict[str, Any]:
    return {"protocol": {"sampling": {"steps": steps}}, "model": {"steps": own}}


def run_of(folder: Path, ua: float) -> Run:
    return Run(folder, {"metrics": {"ua": {"value": ua, "n": 80}}})


def test_a_ua_that_lies_between_is_to_be_measured_again_unless_it_had_as_many_steps(tmp_path: Path) -> None:
    assert [between(run_of(tmp_path, ua), config(None)) for ua in (0.0, 0.09, 0.1, 0.5, 0.9, 0.91, 1.0)] == [
        *(False, False, True, True, True, False, False)
    ]
    many = protocol_sampling("careful")["steps"]
    assert not between(run_of(tmp_path, 0.5), config(many)) and not between(run_of(tmp_path, 0.5), config(None, many))
    line = advice(run_of(tmp_path, 0.5), config(8))
    assert line.startswith("UA lies between 10 and 90, ") and "protocol=careful" in line and "again=careful" in line
    write_json(tmp_path / AGAIN, {"steps": many})
    assert advice(run_of(tmp_path, 0.5), config(8)) == "" == advice(run_of(tmp_path, 1.0), config(8))


@pytest.mark.processes
def test_the_same_adapter_is_measured_again_and_trained_once(
    tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(*FEW, "again=careful")  # nothing is forgotten in a step, and so there is nothing to ask again
    (folder,) = (tmp_path / "outputs").iterdir()
    assert not (folder / AGAIN).exists() and "again" not in first.stdout
    own = (folder / "results.json").read_bytes()
    adapter = (folder / "adapter" / "adapter.safetensors").stat().st_mtime_ns

    monkeypatch.setattr(again, "BETWEEN", (0.0, 1.0))
    monkeypatch.setattr(again, "protocol_sampling", lambda _: {"steps": 3})
    asked = run(*FEW)
    assert "or give this command again=careful" in asked.stdout.splitlines()[-2] and not (folder / AGAIN).exists()

    second = run(*FEW, "again=careful")
    assert "distil" not in second.stderr and "done already" not in second.stdout
    found = read_json(folder / AGAIN)
    assert found["protocol"] == "careful" and found["steps"] == 3
    assert {"ua", "ira", "cra", "ua_p"} <= found["metrics"].keys() & found["base"].keys()
    before = read_json(folder / "results.json")["metrics"]
    assert found["metrics"]["ua"]["n"] == before["ua"]["n"] and found["metrics"]["ua_p"] != before["ua_p"]
    assert len(list((folder / "again" / "images").glob("*.png"))) == len(list((folder / "images").glob("*.png")))
    assert "| base, 3 steps " in second.stdout and "| after, 3 steps " in second.stdout
    assert (folder / "results.json").read_bytes() == own
    assert (folder / "adapter" / "adapter.safetensors").stat().st_mtime_ns == adapter

    third = run(*FEW, "again=careful")
    assert "done already" in third.stdout and "| after, 3 steps " in third.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["again=fast"], "again is 'fast'; it must be careful or null"),
        (
            ["again=careful", "sequence=canvas_10", "dataset=canvas"],
            "again asks a model about one target, which a sequence",
        ),
        (["again=careful", "task=score", "answers=x"], "again asks a model about one target, which task=score"),
    ],
)
def test_what_cannot_be_measured_again_is_refused_in_one_line(run: Command, overrides: list[str], message: str) -> None:
    assert message in complaint(run(*overrides, code=1))
