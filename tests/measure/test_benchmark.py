"""The answer set: resumable, complete or not scored; and the gates."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from judging import judge
from torch import Tensor

from benchmarks.measure import answers as module
from benchmarks.measure.answers import Answer, answers, generate, lines_of, read, read_chunks, refuse_gaps
from benchmarks.measure.benchmark import Benchmark, Measured, Protocol
from benchmarks.measure.judging import look, predict
from benchmarks.measure.metrics import wilson
from benchmarks.record.folder import Record, adapter_bytes, peak_memory_mb
from benchmarks.record.results import Run
from benchmarks.report.pictures import comparison
from benchmarks.report.tables import run_table, summary
from fade.console import Stage
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.judges import Judge
from fade.models import Diffusion, Noise, Sampling


@pytest.fixture
def judges(dataset: Canvas) -> dict[str, Judge]:
    return {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}


def asked(dataset: Canvas, seeds: list[int], noise: str) -> list[Answer]:
    return answers(dataset, [dataset.caption(cell) for cell in dataset.cells()], seeds, noise)


def test_one_latent_a_seed_or_one_an_image(dataset: Canvas) -> None:
    fixed = asked(dataset, [1, 2], "seed")
    assert len(fixed) == 2 * 16 and len({a.noise for a in fixed}) == 2
    assert len({a.noise for a in asked(dataset, [1, 2], "image")}) == 2 * 16
    assert asked(dataset, [1, 2], "grid")[16 + 5].noise == Noise(2, 5)
    assert fixed[0].file == "photo_house_cat_seed1.png"
    assert fixed[0].prompt == "A house cat image in photo style."
    with pytest.raises(BadInput, match=r"protocol\.noise"):
        asked(dataset, [1], "none")


def test_a_killed_answer_set_is_finished_to_the_same_bytes(dataset: Canvas, model: Diffusion, tmp_path: Path) -> None:
    wanted = asked(dataset, [1], "seed")[:12]
    generate(model, wanted, tmp_path / "a", batch=5, sampling=Sampling())
    generate(model, wanted[:5], tmp_path / "b", batch=5, sampling=Sampling())
    (tmp_path / "b" / wanted[2].file).unlink()
    generate(model, wanted, tmp_path / "b", batch=5, sampling=Sampling())
    for answer in wanted:
        assert (tmp_path / "a" / answer.file).read_bytes() == (tmp_path / "b" / answer.file).read_bytes()


def test_what_was_drawn_is_written_whatever_ends_the_rest(
    dataset: Canvas, model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is encoded while the next one is drawn: an error there loses none of it."""
    wanted, drawn, batches = asked(dataset, [1], "seed")[:10], model.generate, iter(range(3))

    def third_fails(*given: Any) -> Tensor:
        if next(batches) == 2:
            raise RuntimeError("out of memory")
        return drawn(*given)

    monkeypatch.setattr(model, "generate", third_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(model, wanted, tmp_path, batch=4, sampling=Sampling())
    there = {path.name for path in tmp_path.glob("*.png")}
    assert (
        there
        == {answer.file for answer in wanted[:8]}
        == {file for line in lines_of(tmp_path) for file in line["sha256"]}
    )


def test_what_a_start_makes_is_told_image_by_image(
    dataset: Canvas, model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace that a user reads is made of it; the last batch is smaller than the others."""
    wanted, told, done = asked(dataset, [1], "seed")[:5], list[tuple[int, int | None]](), Stage.done

    def noted(stage: Stage, number: int, note: str = "", made: int | None = None) -> None:
        told.append((number, made))
        done(stage, number, note, made)

    monkeypatch.setattr(Stage, "done", noted)
    generate(model, wanted, tmp_path, batch=2, sampling=Sampling())
    assert told == [(0, None), (2, 2), (4, 4), (5, 5)]
    told.clear()
    for answer in (wanted[2], wanted[4]):
        (tmp_path / answer.file).unlink()
    generate(model, wanted, tmp_path, batch=2, sampling=Sampling())
    assert told == [(0, None), (4, 2), (5, 3)]


def test_nothing_is_scored_on_a_partial_set(dataset: Canvas, model: Diffusion, tmp_path: Path) -> None:
    wanted = asked(dataset, [1], "seed")[:4]
    generate(model, wanted, tmp_path, batch=4, sampling=Sampling())
    assert read(wanted, tmp_path).shape == (4, 3, 32, 32)
    (tmp_path / wanted[1].file).write_bytes(b"no picture")
    with pytest.raises(BadInput, match=wanted[1].file):
        read(wanted, tmp_path)
    (tmp_path / wanted[1].file).unlink()
    with pytest.raises(BadInput, match=f"1 of 4 images are missing: {wanted[1].file}"):
        refuse_gaps(wanted, tmp_path)
    (tmp_path / "mine.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"mine\.png"):
        generate(model, wanted, tmp_path, batch=4, sampling=Sampling())


def test_gates(dataset: Canvas, judges: dict[str, Judge], tmp_path: Path) -> None:
    protocol = Protocol("default", [1], fid=[])
    shuffled = judge("style", dataset.domains["style"][::-1])
    foreign = judge("style", [*dataset.domains["style"][:-1], "cubism"])
    for style, message in ((shuffled, "their order"), (foreign, "cubism, neon_glow")):
        with pytest.raises(BadInput, match=message):
            Benchmark(dataset, {**judges, "style": style}, protocol, tmp_path)
    with pytest.raises(BadInput, match="no judge for the domain 'object'"):
        Benchmark(dataset, {"style": judges["style"]}, protocol, tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(BadInput, match=r"style judge is right on .*the gate is 90"):  # whatever its file says
        Benchmark(dataset, judges, protocol, tmp_path).judged(tmp_path / "images", tmp_path)


def test_a_judge_saved_and_loaded_is_the_same(judges: dict[str, Judge], tmp_path: Path) -> None:
    judges["style"].save(tmp_path / "style")
    again = Judge.load(tmp_path / "style")
    x = torch.rand(2, 3, 48, 48)
    assert torch.equal(again(x), judges["style"](x)) and again.accuracy == 0.99
    judge("object", judges["object"].labels[1:]).save(tmp_path / "object")
    (tmp_path / "style" / "model.safetensors").write_bytes((tmp_path / "object" / "model.safetensors").read_bytes())
    with pytest.raises(BadInput, match="does not fit"):
        Judge.load(tmp_path / "style")
    with pytest.raises(BadInput, match="is missing"):
        Judge.load(tmp_path / "none")


def test_the_whole_meter(dataset: Canvas, model: Diffusion, judges: dict[str, Judge], tmp_path: Path) -> None:
    benchmark = Benchmark(dataset, judges, Protocol("default", [1, 2], judge_floor=0), tmp_path / "cache")
    request = Request.of(dataset, "neon_glow", None)
    said = ("A house cat image in neon glow style.", "A house cat image in photo style.")
    assert said in benchmark.check_captions(request)
    base = benchmark.measure_base(model, "0" * 64)
    results = benchmark.results(base, base, request)
    assert results["metrics"] == results["base"] and results["metrics"]["ua"]["n"] == 8
    assert results["metrics"]["fid_judge"]["value"] is None and "more images" in results["metrics"]["fid_judge"]["why"]
    looks = look(judges, read(benchmark.wanted[:1], base.folder / "images"))
    rows = predict(judges, benchmark.wanted[:1], looks)
    assert rows[0] == base.rows[0] and set(rows[0]) >= {"prompt", "seed", "style_predicted", "object_probability"}
    comparison(
        base.folder / "images", base.folder / "images", benchmark.wanted, dataset, request, tmp_path / "picture.png"
    )
    cost = {"locate_s": 1, "distil_s": 2, "generate_s": 3, "judge_s": 4, "adapter_bytes": 1000}
    whole = {**results, "method": "fade", "cost": cost, "sparsity": {"kind": "neuron", "p": 0.1, "density": 0.1}}
    run = Run(tmp_path, whole)
    said = run_table(run)
    assert "over images of this one adapter" in said and "without neon glow" in said
    assert f"– ({results['metrics']['fid_judge']['why'].split(':')[0]})" in said
    assert f"{1000 * results['metrics']['kid_judge']['value']:.2f}" in said
    assert "neuron p=0.1" in summary([run] * 2).markdown()


def test_each_image_passes_each_judge_once(
    dataset: Canvas, model: Diffusion, judges: dict[str, Judge], tmp_path: Path
) -> None:
    benchmark, passed = (
        Benchmark(dataset, judges, Protocol("p", [1], judge_floor=0), tmp_path),
        dict.fromkeys(judges, 0),
    )

    def count(domain: str, images: torch.Tensor) -> None:
        passed[domain] += len(images)

    for domain, own in judges.items():
        first = next(module for module in own.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_pre_hook(lambda _, given, domain=domain: count(domain, given[0]))
    base = benchmark.measure_base(model, "0" * 64)
    assert passed == dict.fromkeys(judges, len(benchmark.wanted) + len(dataset.items("test")))
    pixels = read(benchmark.wanted[:2], base.folder / "images").float() / 255
    with torch.no_grad():
        seen = judges["style"].look(pixels)
        assert torch.equal(seen.probabilities, judges["style"](pixels).softmax(-1))
    assert seen.features.shape[1] * len(judges) == base.features["judge"].shape[1]


def test_a_forget_caption_that_is_never_asked_is_refused(
    dataset: Canvas, judges: dict[str, Judge], tmp_path: Path
) -> None:
    benchmark = Benchmark(dataset, judges, Protocol("p", [1], fid=[], prompt="{object}, {style}"), tmp_path)
    with pytest.raises(BadInput, match=r"'A house cat image in neon glow style\.' is never asked in the evaluation"):
        benchmark.check_captions(Request.of(dataset, "neon_glow", None))


def test_kb_is_the_file_that_is_shipped_and_not_the_card_beside_it(tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"x" * 1234)
    (tmp_path / "README.md").write_text("a card")
    assert adapter_bytes(tmp_path) == 1234


@pytest.mark.parametrize("gone", ["neon_glow", "house_cat"])
def test_the_distances_leave_the_target_out_on_both_sides(
    dataset: Canvas, judges: dict[str, Judge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Features of two dimensions: cells at their place in the grid, the target's far off in what is made, and as far
    off, elsewhere, in what is real."""
    benchmark = Benchmark(dataset, judges, Protocol("default", [1, 2], judge_floor=0), tmp_path)
    request = Request.of(dataset, gone, None)
    generator = torch.Generator().manual_seed(0)
    cells = [tuple(cell.values()) for cell in dataset.cells()] * 9
    rows = [{"file": str(k), "seed": "1", "style": s, "object": o} for k, (s, o) in enumerate(cells)]
    away = torch.tensor([[gone in cell] for cell in cells]).float()
    features = torch.randn(len(cells), 2, generator=generator)
    real = features + away * torch.tensor([0.0, 50.0])
    made = features + away * torch.tensor([50.0, 0.0])
    monkeypatch.setattr(benchmark.tests, "features", lambda name, size: (real, cells))
    found = benchmark.distances(
        Measured(tmp_path, rows, {"judge": made}, 32), lambda cell: cell[request.domain] != gone
    )
    assert found["fid_judge"]["value"] == pytest.approx(0, abs=1e-6) and abs(found["kid_judge"]["value"]) < 1  # of 1e8
    assert found["fid_judge"]["n"] == found["kid_judge"]["n"] == sum(gone not in cell for cell in cells)
    score = {f"{d}_predicted": "photo" for d in ("style", "object")}
    measured = Measured(tmp_path, [{**row, **score} for row in rows], {"judge": made}, 32)
    assert benchmark.score(measured, request)["fid_judge"] == found["fid_judge"]


@pytest.mark.parametrize(("noise", "shared"), [("seed", True), ("image", False), ("grid", False)])
def test_images_of_one_seed_are_taken_for_independent_only_where_each_has_its_own_noise(
    dataset: Canvas, judges: dict[str, Judge], tmp_path: Path, noise: str, shared: bool
) -> None:
    benchmark = Benchmark(dataset, judges, Protocol("default", [1, 2], noise=noise, fid=[], judge_floor=0), tmp_path)
    rows = [
        {
            "file": a.file,
            "seed": str(a.seed),
            **a.cell,
            "style_predicted": a.cell["style"],
            "object_predicted": a.cell["object"],
        }
        for a in benchmark.wanted
    ]
    found = benchmark.score(Measured(tmp_path, rows, {}, 32), Request.of(dataset, "neon_glow", None))
    assert (found["ira"]["low"] < wilson(1.0, 24)[0] - 0.01) == shared and found["ira"]["n"] == 24
    assert found["cra_target"]["high"] == 1 and found["ua"]["value"] == 0


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    record = Record(tmp_path / "run", "a: 1")
    assert record.results is None
    assert record.finish({"format": 1})["git_commit"] is not None
    assert Record(tmp_path / "run", "a: 1").results["format"] == 1  # type: ignore[index]
    with pytest.raises(BadInput, match="another configuration"):
        Record(tmp_path / "run", "a: 2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(BadInput, match="not empty"):
        Record(tmp_path / "mine", "a: 1")


def test_noise_as_the_published_scripts_drew_it(model: Diffusion) -> None:
    """One generator per seed through the grid (compvis samplers), or the seed set for each image (diffusers ones)."""
    generator = torch.Generator().manual_seed(188)
    drawn = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(3)]
    assert [torch.equal(model.latent(Noise(188, k)), drawn[k]) for k in (2, 0, 1)] == [True] * 3
    assert torch.equal(model.latent(Noise(188)), drawn[0]) and model.latent(Noise(1), size=64).shape == (1, 4, 16, 16)


def test_the_samplers_settings_change_the_images(model: Diffusion) -> None:
    prompt, noise = ["A house cat image in neon glow style."], [Noise(1)]
    own = model.generate(prompt, noise)
    scheduler = model.pipe.scheduler
    for other in (
        Sampling(steps=3),
        Sampling(guidance=1.0),
        Sampling(sampler="LMSDiscreteScheduler"),
        Sampling(negative="dog"),
    ):
        assert not torch.equal(model.generate(prompt, noise, other), own), other
    assert model.generate(prompt, noise, Sampling(size=64)).shape == (1, 3, 64, 64)
    assert model.pipe.scheduler is scheduler and torch.equal(model.generate(prompt, noise, Sampling(steps=2)), own)
    with pytest.raises(BadInput, match="diffusers has no scheduler 'DDIM'"):
        model.generate(prompt, noise, Sampling(sampler="DDIM"))


def test_a_protocols_prompts_files_and_part(dataset: Canvas, judges: dict[str, Judge], tmp_path: Path) -> None:
    def asked_by(**settings: object) -> dict[str, str]:
        benchmark = Benchmark(dataset, judges, Protocol("p", [1, 2], **settings), tmp_path)  # type: ignore[arg-type]
        return {answer.file: answer.prompt for answer in benchmark.wanted}

    official = asked_by(photo_prompt="A {object} image in Seed Images style.", suffix="jpg")
    assert official["photo_house_cat_seed2.jpg"] == "A house cat image in Seed Images style."
    assert official["neon_glow_house_cat_seed2.jpg"] == "A house cat image in neon glow style."
    assert len(official) == 2 * 16
    without_stop = asked_by(prompt="A {object} image in {style} style")
    assert without_stop["neon_glow_house_cat_seed1.png"] == "A house cat image in neon glow style"
    assert len(asked_by(share=0.25)) == 2 * 4 * 1
    dataset.domains["style"][3] = judges["style"].labels[3] = "Neon_Lines"
    assert asked_by()["Neon_Lines_house_cat_seed1.png"] == "A house cat image in Neon Lines style."
    assert asked_by(underscores=True)["Neon_Lines_house_cat_seed1.png"] == "A house_cat image in Neon_Lines style."
    for wrong, message in (({"reading": "mine"}, "retained, authors"), ({"suffix": "gif"}, "png or jpg")):
        with pytest.raises(BadInput, match=message):
            asked_by(**wrong)
    with pytest.raises(BadInput, match="name each seed once"):
        Protocol("p", [1, 1])


@pytest.mark.parametrize("stated", [None, 0.99])
def test_a_judge_is_measured_on_this_datasets_images_whatever_its_file_says(
    dataset: Canvas, tmp_path: Path, stated: float | None
) -> None:
    judges = {domain: judge(domain, labels, accuracy=stated) for domain, labels in dataset.domains.items()}
    benchmark = Benchmark(dataset, judges, Protocol("p", [1], judge_floor=0.0, fid=[]), tmp_path)
    items = dataset.items("test")
    pixels = dataset.images(items, 32).float() / 255
    for domain, own in judges.items():
        right = own(pixels).argmax(-1) == dataset.labels(items, domain)
        assert benchmark.accuracies[domain] == pytest.approx(right.float().mean().item())
    assert len(list(tmp_path.glob("judge-*.json"))) == 2
    dataset.images = None  # type: ignore[assignment] # the second time nothing is read
    again = Benchmark(dataset, judges, Protocol("p", [1], judge_floor=0.0, fid=[]), tmp_path)
    assert again.accuracies == benchmark.accuracies
    gates = {"judge_accuracy": again.accuracies, "judge_stated": dict.fromkeys(judges, 0.99) if stated else {}}
    rows = [
        {**cell, "seed": "1", "style_predicted": "photo", "object_predicted": "house_cat"} for cell in dataset.cells()
    ]
    results = again.results(Measured(tmp_path, rows, {}, 32), None, Request.of(dataset, "neon_glow", None))
    assert {key: results["gates"][key] for key in gates} == gates
    cost = {"locate_s": 1, "distil_s": 2, "generate_s": 3, "judge_s": 4, "adapter_bytes": 1000}
    whole = {**results, "method": "fade", "cost": cost, "sparsity": {"kind": "neuron", "p": 0.1, "density": 0.1}}
    assert ("its own file says 99.0 %" in run_table(Run(tmp_path, whole))) == bool(stated)


def test_the_splits_lie_with_the_run(dataset: Canvas, tmp_path: Path) -> None:
    record = Record(tmp_path / "run", "a: 1")
    record.keep_splits(dataset)
    lines = gzip.decompress((tmp_path / "run" / "splits.csv.gz").read_bytes()).decode().splitlines()
    assert lines[0] == "split,style,object,file,index" and len(lines) == 1 + 16 * (6 + 3 + 3)
    stamp = (tmp_path / "run" / "splits.csv.gz").read_bytes()
    Record(tmp_path / "again", "a: 1").keep_splits(dataset)
    assert (tmp_path / "again" / "splits.csv.gz").read_bytes() == stamp


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be forgotten here")
def test_a_runs_peak_memory_is_its_own(tmp_path: Path) -> None:
    large = torch.ones(64_000_000)
    before, _ = peak_memory_mb(), large.sum()
    del large
    Record(tmp_path / "next", "a: 1")
    assert peak_memory_mb() < before - 200  # MB, of 244


def test_the_protocols_version_says_what_was_asked_and_read(
    dataset: Canvas, judges: dict[str, Judge], model: Diffusion, tmp_path: Path
) -> None:
    def version(given: Protocol, readers: dict[str, Judge] = judges) -> str:
        return Benchmark(dataset, readers, given, tmp_path).version(model)

    own = version(Protocol("p", [1, 2]))
    assert own == version(Protocol("called otherwise", [1, 2], batch=7))
    others = [
        Protocol("p", [1]),
        Protocol("p", [1, 2], noise="image"),
        Protocol("p", [1, 2], reading="code"),
        Protocol("p", [1, 2], prompt="An image of a {object}, {style}."),
        Protocol("p", [1, 2], sampling=Sampling(steps=7)),
        Protocol("p", [1, 2], fid=[]),
    ]
    found = {own, *map(version, others)}
    other = judge("style", dataset.domains["style"])
    next(other.network.parameters()).data.add_(1)
    found.add(version(Protocol("p", [1, 2]), {**judges, "style": other}))
    model.guidance += 1
    found.add(version(plain := Protocol("p", [1, 2])))
    assert len(found) == 9
    single = version(plain)
    model.precision = "bfloat16"  # as if the protocol asked for it
    assert version(plain) == version(Protocol("p", [1, 2], sampling=Sampling(precision="bfloat16"))) != single
    assert version(Protocol("p", [1, 2], sampling=Sampling(precision="float32"))) == single
    model.pipe.scheduler = model.scheduler("DPMSolverMultistepScheduler")
    asked = [Sampling(sampler=name, precision="float32") for name in ("DPMSolverMultistepScheduler", "DDIMScheduler")]
    theirs, before = (version(Protocol("p", [1, 2], sampling=said)) for said in asked)
    assert version(Protocol("p", [1, 2], sampling=Sampling(precision="float32"))) == theirs != single == before


def test_the_bases_images_are_kept_by_the_precision_and_the_sampler_that_they_are_made_by(
    dataset: Canvas, judges: dict[str, Judge], model: Diffusion, tmp_path: Path
) -> None:
    benchmark = Benchmark(dataset, judges, Protocol("p", [1]), tmp_path)
    single = benchmark._base_names(model, "base")
    assert benchmark.sampling(model)["precision"] == "float32"
    model.precision = "bfloat16"
    own = benchmark._base_names(model, "base")[0]
    assert own != single[0] and benchmark._base_names(model, "base")[1] == single[1]
    said = {"sampler": "DDIMScheduler", "steps": 2, "guidance": 3.0, "size": 32, "precision": "bfloat16"}
    assert benchmark.sampling(model) == said
    model.pipe.scheduler = model.scheduler("DPMSolverMultistepScheduler")
    assert benchmark._base_names(model, "base")[0] not in (single[0], own)
    assert benchmark.sampling(model) == {**said, "sampler": "DPMSolverMultistepScheduler"}


def test_a_precision_that_the_gpu_does_not_have_is_refused(
    dataset: Canvas, judges: dict[str, Judge], model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.precision = "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)  # a T4
    benchmark = Benchmark(dataset, judges, Protocol("p", [1]), tmp_path)
    benchmark.suits(model)  # on a CPU, which has it
    benchmark.device = torch.device("cuda")
    with pytest.raises(BadInput, match=r"no bfloat16, in which .*protocol\.sampling\.precision=float32"):
        benchmark.suits(model)
    single = Protocol("p", [1], sampling=Sampling(precision="float32"))
    benchmark.protocol = single
    benchmark.suits(model)


def test_chunks_are_read_ahead_in_their_order(
    dataset: Canvas, model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, decoded = asked(dataset, [1], "image")[:7], list[str]()
    generate(model, wanted, tmp_path, batch=7, sampling=Sampling())
    decode = module._decoded
    monkeypatch.setattr(module, "_decoded", lambda path: decoded.append(path.name) or decode(path))
    chunks = read_chunks(wanted, tmp_path, 3)
    first = next(chunks)
    until = time.monotonic() + 20
    while len(decoded) < 6 and time.monotonic() < until:  # nobody asked for the second one yet
        time.sleep(0.01)
    assert sorted(decoded) == sorted(answer.file for answer in wanted[:6])
    found = [first, *chunks]
    assert [answer for part, _ in found for answer in part] == wanted
    assert [len(pixels) for _, pixels in found] == [3, 3, 1]
    assert torch.equal(torch.cat([pixels for _, pixels in found]), read(wanted, tmp_path))
    (tmp_path / wanted[6].file).write_bytes(b"no picture")
    with pytest.raises(BadInput, match=wanted[6].file):
        list(read_chunks(wanted, tmp_path, 3))
