"""task=attack as a user runs it, and fade.attack: on an adapter of the shipped pipeline; what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import SHIPPED, Command, complaint
from diffusers import StableDiffusionPipeline
from finished import finished

import fade
from benchmarks.record.results import read
from benchmarks.report.attacks import beside, brought_back, curve, over_targets, ratio, rises
from benchmarks.report.page import sections
from benchmarks.report.tables import published_attacks, settings
from benchmarks.runs import attack as attacking
from benchmarks.runs.attack import Victim, oracle_of, runs_of, victims
from benchmarks.runs.task import Task
from fade.adapters.gate import Gate
from fade.adapters.lora import Lora
from fade.adapters.matrix import Matrix
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.errors import BadInput
from fade.files import file_hash, read_json, write_json
from fade.intervals import difference, share_of
from fade.judges import Judge
from fade.metrics import interval_text
from fade.models.stable_diffusion import StableDiffusion
from fade.strategies.independent import Independent

SMALL = ["attack.images=2", "attack.tries=1", "attack.cells=1", "attack.judge_images=1", "model.steps=3"]
SMALL += ["dataset.train=4", "dataset.judge=1", "dataset.test=1", "protocol.seeds=[188]"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A change of nothing, which forgot nothing."""
    folder = tmp_path_factory.mktemp("made") / "adapter"
    model = StableDiffusion.load(str(SHIPPED / "pipeline"), steps=3, guidance=4.0)
    about = {"target": "neon_glow", "surrogate": "photo", "domain": "style", "method": "uce"}
    Stored.of(Matrix.attach(model), about).write(folder)
    return folder


@pytest.mark.processes
def test_an_adapter_is_attacked_and_left_as_it_was(adapter: Path, tmp_path: Path, run: Command) -> None:
    before = {path: file_hash(path) for path in adapter.iterdir()}
    given = ["task=attack", f"run={adapter}", "attack=[bypass,closed]", *SMALL, f"out={tmp_path / 'attacks'}"]
    first = run(*given)
    found = json.loads((tmp_path / "attacks" / "closed.json").read_text())
    assert found["success"] == found["base"] and found["success"]["n"] == 2 and found["excess"]["value"] == 0
    assert "bypass: nothing on this model hears the prompt" in first.stdout
    assert "| closed | T2 " in first.stdout.replace("| closed  ", "| closed ") and "2 images" in first.stdout
    assert "attacks: 4 to do" in first.stderr and "attacks: 4/4, closed on attacked, " in first.stderr  # its time left
    again = run(*given)
    assert again.stdout == first.stdout and "attack closed" not in again.stderr
    assert {path: file_hash(path) for path in adapter.iterdir()} == before


@pytest.mark.parametrize(
    ("given", "code", "line"),
    [
        ([], 1, "task=attack needs run=FOLDER"),
        (["run=nowhere"], 1, "nowhere is no finished run and no adapter"),
        (["run=ADAPTER", "attack.seeds=[188]"], 1, "attack.seeds has 188, which the report draws with"),
        (["run=ADAPTER", "attack=[]"], 1, "attack names no attack"),
        (["adapter=outputs/neon/adapter"], 2, "to attack one: task=attack run=outputs/neon/adapter"),
        (["run=ADAPTER", "attack=nope"], 2, "attack has no option 'nope'"),
        (["run=ADAPTER", "attack.images=0"], 1, "attack.images is 0"),
        (["run=ADAPTER", "attack=[relearn]", "attack.relearn_5.over=all"], 1, "choose weights, lora"),
        (["run=ADAPTER", "oracle=nowhere"], 1, "oracle=nowhere holds no model"),
        (["run=ADAPTER", "dataset.train=0"], 1, "has no training image of neon_glow"),
    ],
)
def test_what_cannot_be_attacked_is_said_in_one_line(
    adapter: Path, run: Command, given: list[str], code: int, line: str
) -> None:
    where = [one.replace("ADAPTER", str(adapter)) for one in given]
    small = [one for one in SMALL if one.partition("=")[0] not in {w.partition("=")[0] for w in where}]
    assert line in complaint(run("task=attack", *where, *small, code=code))


def test_a_run_is_attacked_beside_its_own_oracle_unless_one_is_said() -> None:
    """Not beside the default model's, which knows another family's captions."""

    def task(oracle: str | None, *said: str) -> Task:
        return Task({"oracle": oracle}, "", {}, list(said), {}, dict, dict, task)

    default, victim = task("the default's"), Victim(task(None), "neon_glow", None, Path())
    assert oracle_of(default, victim) is None
    assert oracle_of(task("said", "oracle=said"), victim) == "said"
    assert oracle_of(task(None, "oracle=null"), replace(victim, task=task("the run's"))) is None
    assert oracle_of(default, replace(victim, task=default)) == "the default's"


def test_of_a_sequence_each_request_is_attacked_on_the_model_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All changes are on the model, as the strategy puts them together, whichever request it is."""

    def load(*_: str) -> StableDiffusion:
        return StableDiffusion.load(str(SHIPPED / "pipeline"), steps=3, guidance=4.0)

    made = {"model": load, "strategy": Independent}
    own = Task(
        {"target": "x", "seed": 0, "out": None}, "", {}, [], {}, lambda key: made[key](), lambda _: {}, lambda _: own
    )
    monkeypatch.setattr(attacking, "opened", lambda task, run: own)
    requests = [{"target": "neon_glow", "surrogate": "photo"}, {"target": "house_cat", "surrogate": "sea_fish"}]
    run = tmp_path / "outputs" / "three"
    write_json(run / "results.json", {"format": 1, "kind": "sequence", "requests": requests})
    (run / "history.jsonl").write_text("")
    for k, request in enumerate(requests):
        model = load()
        adapter = Patch.attach(model)
        adapter.chosen[sorted(adapter.chosen)[k]].data[0, 0] += 1 + k
        Stored.of(adapter, {**request, "method": "uce"}).write(run / f"0{k + 1}-{request['target']}" / "adapter")
    assert runs_of(str(tmp_path / "outputs")) == [str(run)]
    first, second = victims(own, str(run))
    assert [first.folder, second.folder] == [run / "attacks" / "01-neon_glow", run / "attacks" / "02-house_cat"]
    model, before, known = second.models(None)
    changed = {n: (w - before.network.state_dict()[n]).abs().max() for n, w in model.network.state_dict().items()}
    assert sorted(float(size) for size in changed.values() if size) == [1.0, 2.0]
    assert first.models(None)[2] == known
    one = replace(own, overrides=["target=house_cat"], config={**own.config, "target": "house_cat"})
    assert [victim.target for victim in victims(one, str(run))] == ["house_cat"]
    with pytest.raises(BadInput, match="removes no 'dot_print'; its requests are neon_glow, house_cat"):
        victims(replace(one, config={**own.config, "target": "dot_print"}), str(run))


def test_a_gated_adapter_is_attacked_as_it_is_and_another_one_merged(adapter: Path, tmp_path: Path) -> None:
    def load(*_: str) -> StableDiffusion:
        return StableDiffusion.load(str(SHIPPED / "pipeline"), steps=3, guidance=4.0)

    gated = Lora.attach(load(), rank=1, alpha=1)
    gated.gate = Gate(("neon glow",))
    Stored.of(gated, {"target": "neon_glow"}).write(tmp_path / "gated")
    task = Task({}, "", {}, [], {}, load, dict, lambda _: task)
    for folder, heard in ((tmp_path / "gated", True), (adapter, False)):
        model, before, _ = Victim(task, "neon_glow", None, tmp_path, (folder,)).models(None)
        assert bool(model.prompts.listeners) is heard and not before.prompts.listeners


def test_fade_attack_leaves_the_pipeline_as_it_was(adapter: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(str(SHIPPED / "pipeline"), safety_checker=None, dtype=torch.float32)
    judge = Judge.load(SHIPPED / "judges" / "style")
    said = {"templates": ["A house cat image in {} style."], "retain": ["A city bus image in pencil sketch style."]}
    how = {**said, "images": 2, "examples": 2, "sampling_steps": 3, "guidance": 4.0}
    with pytest.raises(BadInput, match="no adapter is on this pipeline; give base="):
        fade.attack(pipe, "neon_glow", "photo", judge, "closed", **how)
    with pytest.raises(BadInput, match="does not know 'gold'"):
        fade.attack(pipe, "gold", "photo", judge, "closed", **how)
    with pytest.raises(BadInput, match="attack 'nope' is unknown; choose benign"):
        fade.attack(pipe, "neon_glow", "photo", judge, "nope", **how)
    half = StableDiffusionPipeline.from_pretrained(str(SHIPPED / "pipeline"), safety_checker=None, dtype=torch.float16)
    with pytest.raises(BadInput, match="attacks need float32"):
        fade.attack(half, "neon_glow", "photo", judge, "closed", base=pipe, **how)
    handle = fade.load(pipe, adapter)
    before = handle.model.sha256()
    rows = fade.attack(pipe, "neon_glow", "photo", judge, ["closed"], folder=tmp_path, **how)
    assert [row["attack"] for row in rows] == ["none", "closed"] and rows[1]["success"] == rows[1]["base"]
    assert (tmp_path / "closed.png").is_file() and fade.attached(pipe) == [handle]
    handle.remove()
    assert handle.model.sha256() == before


def test_a_report_shows_what_came_back_over_a_model_that_never_saw_it(tmp_path: Path) -> None:
    for name, success, unseen in (("cat", 8, 2), ("dog", 6, 4), ("fish", 5, None), ("neon", 0, 0)):
        finished(tmp_path / name, name)
        row = {"attack": "closed", "level": "T2", "success": share_of(success, 8), "off": share_of(0, 8)}
        more = {"oracle": None if unseen is None else share_of(unseen, 8), "void": name == "neon"}
        write_json(tmp_path / name / "attacks" / "closed.json", {**row, **more})
    write_json(tmp_path / "cat" / "attacks" / "scale.json", {**row, "attack": "scale", "level": "T4"})  # no attack
    runs = read([tmp_path])[0]
    table = brought_back(runs)
    assert table is not None and table.header == ["setting", "runs", "closed", "scale"]
    # 75, 25 and 62.5 points: 54.2 in the mean, a deviation of 26.02, Student's quantile of two degrees 4.303
    assert table.texts[0][1:3] == ["4", "+54.2 [-10.5, 100.0] = 79.2 − 25.0"]  # the void one is none
    assert brought_back([]) is None
    one = over_targets([run for run in runs if run.target == "dog"], "closed")
    assert one == {end: difference(share_of(6, 8), share_of(4, 8))[end] for end in ("value", "low", "high")}
    summary = beside(settings(runs), runs)
    found = dict(zip(summary.header, summary.texts[-1], strict=True))
    assert found["largest excess ↓"] == "+54.2 [-10.5, 100.0] closed" and summary.header[-1] == "1000 kid_judge ↓"
    assert "largest excess ↓" not in beside(settings([]), []).header
    shown = {section.title for section in sections(runs, [], tmp_path, [])}
    assert {"Can it be brought back?", "Published attacks"} <= shown
    published = published_attacks()
    (esd,) = [row for row in published.texts if row[:3] == ["UnlearnDiffAtk", "ESD", "church"]]
    assert esd[3:6] == ["14", "60", "50"] and all(0 <= float(row[4]) <= 100 for row in published.texts)


def test_an_attack_under_several_seeds_is_one_over_them_and_the_same_images_count_once(tmp_path: Path) -> None:
    finished(tmp_path / "cat", "cat")
    for seed, hits in enumerate((1, 5, 9)):
        folder = tmp_path / "cat" / "attacks" / (f"seed-{seed}" if seed else "")
        for name, kind, right in (("relearn", "Relearn", hits), ("prefix", "Prefix", 5), ("closed", "Closed", 5)):
            row = {"attack": name, "chosen": "a", "success": share_of(right, 10), "settings": {"class": kind}}
            write_json(folder / f"{name}.json", {**row, "off": share_of(0, 10), "seconds": seed})
    nothing = {"value": None, "n": 0, "why": "it finds nothing"}  # on the oracle, so that it is over `off`
    write_json(folder / "ring.json", {**row, "attack": "ring", "off": share_of(1, 10), "oracle": nothing})
    write_json(folder / "p4d.json", {**row, "attack": "p4d", "success": nothing, "void": True})
    (run,), _ = read([tmp_path])
    assert run.reached["ring"].over == "off" and "p4d" not in run.reached
    assert [row["attack"] for row in run.attacks].count("closed") == 1  # which draws nothing from the seed
    table = brought_back([run])
    assert table is not None
    found = dict(zip(table.header, table.rows[0], strict=True))
    one = f"{interval_text(difference(share_of(5, 10), share_of(0, 10)))} = 50.0 − 0.0"
    assert {found[name].text for name in ("relearn", "prefix", "closed")} == {"+50.0"}
    assert found["closed"].interval == found["prefix"].interval == one  # more seeds make no more prompts and noise
    spread = interval_text(run.reached["relearn"].success)
    assert spread == "[5.6, 94.4]"  # by hand: 3.84 + (10 · 0.16 / 0.25 − 1) / 3 · 4.303² for 1.96²


def test_a_curve_says_when_half_came_back() -> None:
    tried = [[100, 1, 8], [200, 4, 8], [400, 8, 8]]
    row = {"attack": "relearn", "curves": {"base": tried, "attacked": tried, "never": [[100, 0, 8], [200, 3, 8]]}}
    assert curve(row) == (
        "relearn, of 8 images by units: 1 after 100, 4 after 200, 8 after 400 (half after 200); the base, a concept "
        "that nobody saw: 0 after 100, 3 after 200 (never half); below 1.00 of the units of the base, a concept that "
        "nobody saw"
    )
    assert ratio(tried, [[100, 0, 8], [200, 1, 8], [400, 4, 8]], "a") == "0.50 of the units of a"
    assert ratio([[100, 3, 8]], tried, "a") == ""
    assert rises(row) and not rises({"attack": "prompts", "curves": {"attacked": [[0, 1, 8], [0, 2, 8]]}})


@pytest.mark.slow
def test_uce_falls_to_one_linear_solve(tmp_path: Path, run: Command) -> None:
    """It is one matrix before all keys and values (docs/attacks.md)."""
    short = ["protocol.seeds=[188]", "dataset.test=2", f"out={tmp_path / 'uce'}"]
    run("target=neon_glow", "method=uce", *short)
    before = {path: file_hash(path) for path in (tmp_path / "uce").rglob("*") if path.is_file()}
    run("task=attack", f"run={tmp_path / 'uce'}", "attack=[closed]", "attack.images=8")
    found = {name: read_json(tmp_path / "uce" / "attacks" / f"{name}.json") for name in ("none", "closed")}
    assert found["closed"]["success"]["value"] >= 0.8 and found["closed"]["excess"]["low"] > 0
    assert found["none"]["success"]["value"] == 0
    assert {path: file_hash(path) for path in before} == before
