"""The benchmark of speed: what it compares, and that each part runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.measure.answers import answers
from benchmarks.measure.judging import look
from benchmarks.studies import _speed as speed
from benchmarks.studies import _whole as whole
from benchmarks.studies._clock import Row
from benchmarks.studies._locating import all_at_once, held, one_at_a_time
from benchmarks.studies.speed import beside, page, read, sections, slower, text
from fade.adapters.stored import Stored
from fade.errors import BadInput
from fade.files import shipped, write_json
from fade.judges import Judge
from fade.models import Sampling
from fade.sparsity import Neuron
from fade.tensors import tensors_hash

ROW = Row("a step", "ours", 383.0, 1.04, 1.02, 1.06, 12, "a bare loop", {"passes": 2.0})


def test_only_what_grew_by_more_than_its_noise_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"rows": [ROW.plain()], "versions": {"torch": "0"}})
    before = read(tmp_path / "run.json")
    assert before == {("a step", "ours"): ROW}
    within = replace(ROW, ratio=1.5, low=1.05)  # its quartiles reach into the old ones
    barely = replace(ROW, ratio=1.08, low=1.07, high=1.09)
    assert slower(before, [ROW, within, barely, replace(ROW, what="another", low=9.0, ratio=9.0)]) == []
    assert slower(before, [replace(ROW, ratio=1.2, low=1.1, high=1.3)]) == [
        "a step: ours takes 1.200 of a bare loop, 1.040 before"
    ]
    assert slower(before, [replace(ROW, counts={"passes": 3.0})]) == ["a step: ours takes 3 passes, 2 before"]
    with pytest.raises(BadInput, match="is no run of"):
        write_json(tmp_path / "run.json", {"rows": [{"part": "a step"}]})
        read(tmp_path / "run.json")


def test_the_page_is_made_of_the_run() -> None:
    made = page({"rows": [ROW.plain()], "versions": {"torch": "0"}})
    other = "\n## Fewer steps, where half is forgotten\n\n84 of 85\n"
    assert beside(made + other) == other and beside(made) == ""
    assert "## a step, against *a bare loop*" in made and text([ROW]) in made and "torch 0" in made


def test_a_step_takes_what_its_bare_loop_takes() -> None:
    """Two passes of all samples, one of them with a backward; the masks cost no product of matrices."""
    model = speed.embedded()
    alone = speed.counted(model.network, speed.bare(model, 2, 8))
    adapter = speed.put_on(speed.embedded(), 8, Neuron(0.1), "fade", frozen=False)
    ours = speed.counted(adapter.model.network, speed.stepping(adapter, 2))
    assert (ours["passes"], ours["samples"]) == (alone["passes"], alone["samples"]) == (2, 8)
    assert ours["GFLOP"] == pytest.approx(alone["GFLOP"], rel=0.01)


def test_frozen_adapters_below_add_no_product_to_a_step() -> None:
    def step(below: int) -> dict[str, float]:
        model = speed.embedded()
        for k in range(below):
            speed.put_on(model, 8, Neuron(0.1), f"below{k}", frozen=True)
        act = speed.stepping(speed.put_on(model, 8, Neuron(0.1), "fade", frozen=False), 1)
        act()  # the sum is formed once
        return speed.counted(model.network, act)

    assert step(3) == step(0)


def test_the_life_of_an_adapter_leaves_the_pipeline_as_it_was() -> None:
    model = speed.embedded()
    base = model.sha256()
    rows = {row.what: row for row in speed.adapter_rows(model, "embedded", 4, 2)}
    assert {"attach", "merge", "unmerge", "save", "detach"} < rows.keys() and rows["attach"].n == 2
    assert model.sha256() == base and not hasattr(model.unet, "peft_config")


def test_stage_one_holds_the_model_its_sums_and_little_else() -> None:
    """Of Stable Diffusion 1.5's size, without values: the sums of 93.5 M candidates in 4 bytes each are 0.088 of it."""
    now, before = held(one_at_a_time, 64), held(all_at_once, 64)
    assert now["of base"] <= 1.1 < 1.17 < before["of base"]


def test_the_official_way_is_a_call_a_prompt_and_a_look_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset, seen = speed.embedded(), speed.canvas(), list[int]()
    judges = {domain: Judge.load(shipped(f"canvas/judges/{domain}")) for domain in dataset.domains}
    wanted = answers(dataset, [dataset.caption(cell) for cell in dataset.cells()], [188], "seed")[:3]
    monkeypatch.setattr(whole, "look", lambda read_by, pixels: seen.append(len(pixels)) or look(read_by, pixels))
    alone = speed.counted(model.network, lambda: whole.one_by_one(model, judges, wanted, 2))
    assert (alone["passes"], alone["samples"], seen) == (6, 12, [1] * 6)
    batch = speed.counted(model.network, lambda: whole.together(model, judges, wanted, Sampling(steps=2)))
    assert (batch["passes"], batch["samples"], seen[6:]) == (2, 12, [3])


def test_a_datasets_size_is_what_a_run_reads_and_draws_from(tmp_path: Path) -> None:
    pairs = whole.pairs_of(speed.canvas(train=2), 32, tmp_path)
    pairs.prepare(speed.embedded())
    assert {side: len(latents) for side, latents in pairs.latents.items()} == {"forget": 8, "retain": 24}


def test_a_late_request_takes_the_passes_of_the_first_and_leaves_the_model_as_it_was() -> None:
    model = whole.after(2)
    before, base = tensors_hash(model.network.state_dict()), model.sha256()
    adapter = speed.put_on(model, 8, Neuron(0.1), "now", frozen=False)
    late = speed.counted(model.network, speed.stepping(adapter, 1))
    alone = speed.put_on(speed.embedded(), 8, Neuron(0.1), "now", frozen=False)
    assert late == speed.counted(alone.model.network, speed.stepping(alone, 1))
    adapter.detach()
    whole.on_and_off(model, Stored.of(alone, {}))
    assert tensors_hash(model.network.state_dict()) == before and model.sha256() == base


def test_parts_are_apart_whoever_measured_them_together() -> None:
    other = replace(ROW, part="another step")
    assert sections([ROW, other, ROW]) == [[ROW, ROW], [other]]
