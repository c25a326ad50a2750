"""Requests one after another: what a strategy adds, what no request may touch, a log that cannot be changed unseen."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import SHIPPED, SHORT, Command, complaint
from configs import composed
from grids import canvas
from judging import judge
from loops import recipe, requests
from PIL import Image

from benchmarks.measure.answers import read
from benchmarks.measure.benchmark import Benchmark, Measured, Protocol
from benchmarks.measure.target import TargetMeter
from benchmarks.record.attacks import Reached
from benchmarks.record.folder import Record
from benchmarks.record.sequences import SequenceRun
from benchmarks.report.page import of_sequences, page
from benchmarks.report.sequences import answers, heading
from benchmarks.runs.sequence import Continual, check_requests, check_revoked, nearest, summary
from benchmarks.runs.single import study
from fade.adapters import Adapter, history
from fade.adapters.folder import LATER, read_card
from fade.adapters.lora import Lora
from fade.adapters.stored import Stored
from fade.adapters.verify import predictions
from fade.cli import main as fade_command
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.files import read_json
from fade.intervals import share_of
from fade.models import Diffusion
from fade.models.stable_diffusion import StableDiffusion
from fade.sparsity import Neuron
from fade.strategies.independent import Independent
from fade.strategies.selft import SelFT
from fade.strategies.stack import Stack
from fade.training.recipe import Recipe


def guarded(dataset: Canvas, model: Diffusion, folder: Path, guard: bool) -> Pairs:
    """A house cat, after neon glow and the wild cat were removed."""
    neon, bird, cat = requests(dataset, "neon_glow", "wild_cat", "house_cat")
    pairs = Pairs(dataset, cat, forget=16, retain=64, batch=4, cache=folder, gone=[neon, bird], guard=guard)
    pairs.prepare(model)
    return pairs


def test_what_is_gone_is_on_neither_side(dataset: Canvas, model: Diffusion, tmp_path: Path) -> None:
    pairs = guarded(dataset, model, tmp_path, False)
    items = [item for side in pairs.choose().values() for item in side]
    assert not any({"neon_glow", "wild_cat"} & set(item.concepts) for item in items)
    cells = dataset.cells()
    asked = {tuple(cells[row].values()) for side in ("forget", "retain") for row in pairs.cells[side].tolist()}
    assert not any({"neon_glow", "wild_cat"} & set(cell) for cell in asked)


def test_the_guard_asks_for_what_is_gone_on_images_of_its_surrogate(
    dataset: Canvas, model: Diffusion, tmp_path: Path
) -> None:
    plain, pairs = guarded(dataset, model, tmp_path, False), guarded(dataset, model, tmp_path, True)
    items = [item for side in pairs.choose().values() for item in side]
    assert not any({"neon_glow", "wild_cat"} & set(item.concepts) for item in items)  # no forgotten image is read
    cells = dataset.cells()
    asked = {tuple(cells[row].values()) for row in pairs.cells["retain"].tolist()}
    alone, both = {("neon_glow", "city_bus"), ("pencil_sketch", "wild_cat")}, ("neon_glow", "wild_cat")
    assert {*alone, both} <= asked  # of captions
    assert ("neon_glow", "house_cat") in {tuple(cells[row].values()) for row in pairs.cells["forget"].tolist()}
    known = {tuple(z.flatten().tolist()) for z in plain.latents["retain"]}
    assert {tuple(z.flatten().tolist()) for z in pairs.latents["retain"]} == known
    for latent, row in zip(pairs.latents["retain"], pairs.cells["retain"].tolist(), strict=True):
        if cells[row]["style"] == "neon_glow" and cells[row]["object"] == "city_bus":
            photos = [
                z
                for z, r in zip(plain.latents["retain"], plain.cells["retain"].tolist(), strict=True)
                if cells[r] == {"style": "photo", "object": "city_bus"}
            ]
            assert any(torch.equal(latent, z) for z in photos)


def test_masks_that_avoid_and_masks_that_select(model: Diffusion, adapter: Lora) -> None:
    saliency = {name: torch.rand(weight.shape) for name, weight in adapter.weights().items()}
    first = Neuron(0.1)(saliency)
    second = Stack(avoid=True).sparsity(Neuron(0.1), [first])(saliency)
    overlap = sum(int((first[n] & second[n]).sum()) for n in first) / sum(int(m.sum()) for m in first.values())
    again = sum(int((first[n] & Neuron(0.1)(saliency)[n]).sum()) for n in first) / sum(
        int(m.sum()) for m in first.values()
    )
    assert again == 1 and overlap < 0.5
    selected = SelFT(0.1).sparsity(Neuron(0.5), [])(saliency)
    assert sum(int(m.sum()) for m in selected.values()) == round(0.1 * sum(m.numel() for m in selected.values()))


def test_sequences_that_make_no_sense(dataset: Canvas) -> None:
    with pytest.raises(BadInput, match="'neon_glow' twice"):
        check_requests(dataset, ["neon_glow", "house_cat", "neon_glow"])
    with pytest.raises(BadInput, match=r"'sea_fish' of 'house_cat' is itself removed.*remains: wild_cat, city_bus"):
        check_requests(dataset, ["house_cat > sea_fish", "sea_fish > city_bus"])
    with pytest.raises(BadInput, match="name each of the requests 1 to 3"):
        check_revoked([4], 3)
    for option in ("canvas_10", "canvas_10b"):
        assert len(check_requests(canvas(), composed(f"sequence={option}").sequence.requests)) == 10


def test_the_log_shows_every_change(tmp_path: Path) -> None:
    for number, target in enumerate(("neon_glow", "house_cat", "pencil_sketch"), 1):
        event = {
            "event": "forgotten",
            "number": number,
            "target": target,
            "surrogate": "x",
            "adapter_sha256": target,
            "ua": 1.0,
        }
        for _ in range(2):  # a resumed run says it again
            history.append(tmp_path, event, "base")
    lines = history.read(tmp_path, "base")
    assert [line["number"] for line in lines] == [1, 2, 3] and lines[0]["before"] == "base"
    path = tmp_path / history.NAME
    text = path.read_text()
    other, file = (
        text.replace('"target": "house_cat"', '"target": "dog"'),
        text.replace('"adapter_sha256": "house_cat"', '"adapter_sha256": "dog"'),
    )
    for broken in (other, file, "\n".join(text.splitlines()[1:]), text[: len(text) // 2]):
        path.write_text(broken)
        with pytest.raises(BadInput, match=r"history\.jsonl, line"):
            history.read(tmp_path, "base")
    path.write_text(text)
    with pytest.raises(BadInput, match="line 1"):
        history.read(tmp_path, "another base")


class Learned:
    """What training leaves for the record: its cost."""

    def cost(self) -> dict[str, float]:
        return {"steps": 1}


class Watched(Recipe):
    """Trains nothing, and tells first what is to be seen then."""

    def train(self, *_: Any, **__: Any) -> Any:
        self.settings["seen"]()
        return Learned()

    def attach(self, model: Diffusion, name: str = "fade") -> Adapter:
        return Lora.attach(model, rank=2, alpha=2, name=name)


def sequence(dataset: Canvas, model: Diffusion, folder: Path) -> Continual:
    """neon, then cat, measured without distances on one image a cell."""
    judges = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}
    benchmark = Benchmark(dataset, judges, Protocol("p", [1], fid=[]), folder / "cache")
    requests = check_requests(dataset, ["neon_glow > photo", "house_cat > sea_fish"])
    record = Record(folder / "run", "a: 1")
    return Continual(record, model, benchmark, requests, Stack(), recipe(dataset, folder / "cache", Watched), {})


def test_what_a_sequence_reports_by_hand(dataset: Canvas, model: Diffusion, tmp_path: Path) -> None:
    run = sequence(dataset, model, tmp_path)
    run.nearest = {"neon_glow": "ink_sketch", "house_cat": "wild_cat"}
    read = {("neon_glow", "wild_cat"): "neon_glow", ("ink_sketch", "wild_cat"): "photo"}  # one is left, one is lost
    rows = []
    for cell in dataset.cells():
        style, kind = cell["style"], cell["object"]
        said = "photo" if style == "neon_glow" else style
        rows.append(
            {
                **cell,
                "file": f"{style} {kind}",
                "seed": "1",
                "style_predicted": read.get((style, kind), said),
                "object_predicted": "wild_cat" if (style, kind) == ("photo", "city_bus") else kind,
            }
        )
    found = run.metrics(Measured(tmp_path, rows, {}, 32), [0, 1])
    assert {target: m["value"] for target, m in found["ua"].items()} == {"neon_glow": 3 / 4, "house_cat": 0}
    kept = found["kept"]  # three styles on four objects, three objects in four styles: what nobody asked to remove
    assert kept["style"]["value"] == kept["object"]["value"] == pytest.approx(11 / 12)
    assert found["retention"] == pytest.approx(11 / 12)
    assert found["nearest"]["value"] == pytest.approx((3 + 4) / (4 + 4)) and found["nearest"]["n"] == 8
    assert set(run.metrics(Measured(tmp_path, rows, {}, 32), [0])["ua"]) == {"neon_glow"}


def test_the_nearest_concept_is_the_one_that_the_judge_takes_for_the_target_most(
    dataset: Canvas, model: Diffusion, tmp_path: Path
) -> None:
    run = sequence(dataset, model, tmp_path)
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for answer in run.benchmark.wanted:
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "images" / answer.file)
    rows = [dict(answer.cell) for answer in run.benchmark.wanted]
    found = nearest(run.benchmark, Measured(tmp_path, rows, {}, 32), run.requests, run.never)
    pixels = read(run.benchmark.wanted, tmp_path / "images").float() / 255
    for target, domain in (("neon_glow", "style"), ("house_cat", "object")):
        labels = dataset.domains[domain]
        taken = run.benchmark.judges[domain].probabilities(pixels)[:, labels.index(target)]
        means = {x: taken[[row[domain] == x for row in rows]].mean().item() for x in labels if x != target}
        assert found[target] == max(means, key=lambda label: means[label])


@pytest.mark.parametrize(("strategy", "below"), [(Stack(), [0]), (Independent(), [])])
def test_independent_adapters_are_trained_on_the_base_alone(
    dataset: Canvas, model: Diffusion, tmp_path: Path, strategy: Stack | Independent, below: list[int]
) -> None:
    run, seen = sequence(dataset, model, tmp_path), []
    run.strategy = strategy
    run.recipe.settings["seen"] = lambda: seen.append(list(run.on))  # type: ignore[index]
    run.train(run.folder(0), run.requests, 0, "request1")
    run.put_on(0)
    run.train(run.folder(1), run.requests, 1, "request2")
    assert seen == [[], below]


@pytest.mark.processes
def test_the_card_of_a_request_says_all_that_a_single_runs_does(
    dataset: Canvas, model: Diffusion, tmp_path: Path
) -> None:
    about = {"method": "fade", "variant": "", "seeds": {"train": 0}, "overrides": ["seed=0"]}
    run = sequence(dataset, model, tmp_path)
    run.recipe, run.about = recipe(dataset, tmp_path / "cache"), about
    run.train(run.folder(0), run.requests, 0, "request1")
    record = Record(tmp_path / "single", "a: 1")
    run.benchmark.protocol = replace(run.benchmark.protocol, judge_floor=0.0)  # the judges are untrained
    assert study(record, model, TargetMeter(run.benchmark, run.requests[0]), run.recipe, about)
    card, single = read_card(run.folder(0) / "adapter"), read_card(record.folder / "adapter")
    assert card.keys() == single.keys() - set(LATER)
    assert card["sha256"] == single["sha256"] and card["config"] == "a: 1" and card["versions"]["torch"]
    assert {key: card[key] for key in about} == about


def test_the_summary() -> None:
    def step(ua: dict[str, float], kept: float, seconds: float) -> dict[str, Any]:
        return {
            "ua": {k: {"value": v} for k, v in ua.items()},
            "retention": kept,
            "nearest": {"value": kept},
            "cost": {"train_s": seconds, "adapter_bytes": 10},
        }

    steps = [step({"a": 1.0}, 0.9, 10), step({"a": 0.7, "b": 0.9}, 0.8, 11)]
    found = summary(steps, {"retention": 1.0})
    wanted = {
        "ua_mean": 0.8,
        "ua_worst": 0.7,
        "rebound": 0.3,
        "retention": 0.8,
        "retention_drop": 0.2,
        "retention_area": 0.85,
        "nearest": 0.8,
        "seconds": 21,
        "last_over_first": 1.1,
        "bytes": 20,
    }
    assert found == pytest.approx(wanted)


def test_the_report_of_a_sequence() -> None:
    """A row for each request and for each that was taken back, with intervals; other choices are other strategies."""
    value = {"value": 0.9, "low": 0.8, "high": 1.0}

    def step(*targets: str) -> dict[str, Any]:
        return {
            "ua": dict.fromkeys(targets, value),
            "kept": {"style": value},
            "retention": 0.9,
            "nearest": value,
            "fid_judge": {"value": 2.0},
            "cost": {"train_s": 7, "adapter_bytes": 10_000},
        }

    steps = [step("neon_glow"), step("neon_glow", "pencil_sketch")]
    taken = {**step("pencil_sketch"), "target": "neon_glow", "back": {"value": 0.0, "low": 0.0, "high": 0.1}}
    run = {
        "protocol": "default",
        "method": "fade",
        "strategy": "independent",
        "overrides": ["strategy.compose=ties", "seed=3"],
        "seeds": {"train": 3},
        "requests": [{"target": "neon_glow"}, {"target": "pencil_sketch"}],
        "base": step(),
        "steps": steps,
        "revoked": [taken],
        "summary": summary(steps, {"retention": 1.0}),
    }
    one = SequenceRun(Path(), run)
    html = page(of_sequences([one]), "a sequence")
    assert heading([one]) == "2 requests one after another, by fade, independent, strategy.compose=ties"
    assert [said for _, said in answers([one])] == [
        "UA is 90.0 % in the mean; the lowest: neon glow 90.0 [80.0, 100.0] %.",
        "No: none has a lower UA at the end than just after its own request.",
        "UA of neon glow: below 90 % never, below 50 % never, in 2 requests.",
        "Of what nobody asked to remove 90.0 % is read right, 90.0 % before; of what looks most like a request 90.0 "
        "[80.0, 100.0] %.",
        "Each alone, images that are read as it again: neon glow 100.0 %. Mean UA of the others then: 90.0 %.",
    ]
    hit = Reached("closed", "T2", share_of(12, 16), share_of(1, 16), "oracle", 1)
    miss = Reached("prefix", "T2", share_of(2, 16), share_of(3, 16), "off", 1)
    one.__dict__["reached"] = {"neon_glow": {"closed": hit, "prefix": miss}, "pencil_sketch": {"prefix": miss}}
    assert answers([one])[-1][1].startswith("Decided over the control on 1 of the 2 requests that were attacked. The")
    (question, said) = answers([one, SequenceRun(Path("b"), {**run, "strategy": "stack"})])[-1]
    assert question == "Can they be brought back?" and said.startswith(
        "Decided over the control on 1 of the 2 requests"
    )
    assert "neon glow in 75.0 [50.5, 89.8] % of the images, by closed, its control in 6.2 [" in answers([one])[-1][1]
    table = page(of_sequences([one]), "a sequence").split('id="attacked0"')[1].split("</table>")[0]
    assert "+68.8" in table and "= 75.0 − 6.2" in table and table.count("<tr") == 3
    fallen = {**steps[1], "ua": {**steps[1]["ua"], "neon_glow": {**value, "value": 0.6}}}
    other = SequenceRun(Path(), {**run, "steps": [steps[0], fallen], "revoked": [], "strategy": "stack"})
    (_, mean), (_, fall), (_, back), _, (_, taken_back) = answers([other])
    assert "75.0 % in the mean; the lowest: neon glow 60.0" in mean and "neon glow, 30.0 points" in fall
    assert back == "UA of neon glow: below 90 % after request 2 (pencil sketch), below 50 % never, in 2 requests."
    assert (
        taken_back == "Nobody tried; sequence.revoke=[1] does." and heading([one, other]) == "2 sequences of requests"
    )
    assert answers([one, other])[1][1].startswith(
        "60.0 to 90.0 %. Most: fade, independent, strategy.compose=ties, seed"
    )
    assert "<summary>fade, independent, strategy.compose=ties, seed 3, neon_glow first</summary>" in html
    rows = html.split('id="triangle0"')[1].split("</table>")[0].split("<tr")
    assert (
        len(rows) == 1 + 1 + 1 + 2 + 1
        and "without neon_glow" in rows[-1]
        and "[0.0, 10.0]" in rows[-1]
        and "[80.0, 100.0]" in rows[-2]
    )


def stacked(names: list[str], folder: Path, below: str = "adapter") -> list[float]:
    """A prediction of the shipped model with these adapters on it."""
    model = StableDiffusion.load(str(SHIPPED / "pipeline"), 2, 3.0)
    for name in names:
        Stored.read(folder / name / below).attach(model, name)
    return predictions(model).flatten().tolist()


THREE = [
    "sequence=canvas_10",
    'sequence.requests=["neon_glow > photo","house_cat > sea_fish","pencil_sketch > photo"]',
    "sequence.revoke=[2]",
    *SHORT,
]


@pytest.mark.processes
def test_a_sequence_goes_on_where_it_was_and_its_log_is_checked(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(*THREE)
    assert "3 pencil_sketch" in done.stdout and "without house_cat's" in done.stdout and "strategy stack" in done.stdout
    (folder,) = (tmp_path / "outputs").glob("*canvas_10*")
    whole, log = read_json(folder / "results.json"), (folder / history.NAME).read_text()
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["forgotten"] * 3 + ["revoked"]

    # killed after the second request was trained: what was done is not done again, and it ends as it did
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "03-pencil_sketch")
    shutil.rmtree(folder / "revoked-02-house_cat")
    (folder / "02-house_cat" / "measured.json").unlink()
    (folder / history.NAME).write_text("\n".join(log.splitlines()[:1]) + "\n")
    kept = (folder / "01-neon_glow" / "adapter" / "adapter.safetensors").stat().st_mtime_ns
    run(*THREE)
    again = read_json(folder / "results.json")
    assert (folder / "01-neon_glow" / "adapter" / "adapter.safetensors").stat().st_mtime_ns == kept
    for a, b in zip(whole["steps"], again["steps"], strict=True):
        assert a["ua"] == b["ua"] and a["retention"] == b["retention"]
    hashes = [json.loads(line)["adapter_sha256"] for line in log.splitlines()[:3]]
    found = (folder / history.NAME).read_text().splitlines()
    assert [json.loads(line)["adapter_sha256"] for line in found[:3]] == hashes

    assert fade_command(["verify", str(folder), "--base", str(SHIPPED / "pipeline")]) == 0
    assert "revoked    house_cat -> sea_fish" in capsys.readouterr().out

    base = ["--base", str(SHIPPED / "pipeline")]
    assert fade_command(["fold", str(folder), *base, "--out", str(tmp_path / "two"), "--without", "2"]) == 0
    assert "2 requests as one patch" in capsys.readouterr().out
    assert stacked(["01-neon_glow", "03-pencil_sketch"], folder) == pytest.approx(
        stacked(["two"], tmp_path, ""), abs=1e-5
    )
    assert fade_command(["fold", str(folder), *base, "--out", str(tmp_path / "none"), "--without", "4"]) == 1
    assert "the requests 1 to 3" in capsys.readouterr().err and not (tmp_path / "none").exists()

    small = ["attack.images=2", "attack.tries=1", "attack.cells=1", "attack.judge_images=1", "attack=[closed]"]
    attacked = run("task=attack", f"run={folder}", "target=house_cat", *small)
    assert "attacks on house_cat: percent of 2 images" in attacked.stdout
    assert [path.name for path in (folder / "attacks").iterdir()] == ["02-house_cat"]
    reached = SequenceRun(folder, again).reached
    assert [*reached] == ["house_cat"] and "closed" in reached["house_cat"]

    shutil.move(folder / "02-house_cat" / "adapter", tmp_path / "aside")
    (folder / "results.json").unlink()
    assert "says that it was made" in complaint(run(*THREE, code=1))


def test_a_sequence_that_cannot_be_is_refused_before_any_work(run: Command, tmp_path: Path) -> None:
    done = run(
        "sequence=canvas_10",
        "sequence.requests=[neon_glow]",
        "method=uce",
        "strategy=l2sp",
        *SHORT[:1],
        *SHORT[2:],
        code=1,
    )
    assert "strategy=plain" in complaint(done) and not (tmp_path / "outputs").exists()
