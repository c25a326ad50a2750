"""run.py as a user runs it, on the shipped weights: the main job, its second call, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from command import ROOT, SHIPPED, SHORT, Command, Done, complaint
from configs import composed
from folders import sun
from grids import write
from hydra.utils import instantiate
from PIL import Image

import fade
from benchmarks.record.format import digest
from benchmarks.record.submission import Track, problems
from benchmarks.report.__main__ import status
from benchmarks.runs.usage import complain
from fade.models.stable_diffusion import StableDiffusion

LEGIBLE = [given.replace("model.steps=2", "model.steps=4") for given in SHORT]  # the base draws what it is asked for
STAGES = (
    "loading the pipeline",
    "images: 16 to do",
    "judging: 16 to do",
    "locating: ",
    "distil: 4 to do",
    "real images: ",
    "drawing comparison.png",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and the base's images, for tests of what is done with them."""
    return tmp_path_factory.mktemp("cache")


def test_the_main_job_and_its_second_call(tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").touch(0o755)  # a login node
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        first = run("target=neon_glow", *LEGIBLE)
    assert not [str(w.message) for w in shown if "lightning" in w.filename or "torch" in w.filename]
    assert all(stage in first.stderr for stage in STAGES)
    assert first.stderr.index("distil: 4") < min(map(first.stderr.index, ("real images", "images: 16", "judging")))
    assert "A house cat image in neon glow style.  ->  A house cat image in photo style." in first.stdout
    (folder,) = (tmp_path / "outputs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert {
        "metrics",
        "base",
        "cost",
        "sparsity",
        "gates",
        "seeds",
        "overrides",
        "versions",
        "base_sha256",
        "protocol_version",
        "sampling",
    } <= results.keys()
    assert results["sha256"] == digest(results) != digest({**results, "target": "pencil_sketch"})
    track = [results[key] for key in ("dataset", "protocol", "protocol_version", "base_sha256")]
    checkout = {**results, "git_commit": "0" * 40}
    assert (
        problems({**checkout, "sha256": digest(checkout)}, [Track(*track, "shortened")]) == []
    )  # as the board reads it
    assert results["timesteps"] == "uniform" and results["prediction"] == "v_prediction"
    assert results["cost"]["teacher_passes"] == results["cost"]["steps"] == 4
    assert results["metrics"]["ua"]["n"] == 4 and results["base"]["ua"]["value"] < 0.2
    with (folder / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 16
    with Image.open(folder / "comparison.png") as picture:
        assert picture.width > 500
    card = (folder / "adapter" / "README.md").read_text()
    assert (
        "| UA ↑" in card and "before_after.png" in card and results["adapter_sha256"] in card and "max_steps: 4" in card
    )
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    again = run("target=neon_glow", *LEGIBLE)
    verdict = first.stdout.splitlines()[-1]
    assert verdict.startswith("NOT FORGOTTEN: 4 of 4 still read as neon_glow · kept ")
    assert verdict.endswith("comparison.png")
    assert first.stdout.endswith(again.stdout.replace("done already; nothing was done now\n", "").partition("\n\n")[2])
    assert (
        again.stdout.splitlines()[-2:] == ["done already; nothing was done now", verdict]
        and "->  A" not in again.stdout
    )
    low = run("target=neon_glow", *LEGIBLE, "fail_under.ua=0.9", "fail_under.cra=0.1", code=3)
    assert complaint(low) == "error: ua is 0.000, below fail_under.ua=0.9"
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    # A run killed between its steps goes on: the same table from the adapter and the images that are there.
    for name in ("results.json", "predictions.csv", "comparison.png"):
        (folder / name).unlink()
    for image in list((folder / "images").iterdir())[::3]:
        image.unlink()
    run("target=neon_glow", *LEGIBLE)
    resumed = json.loads((folder / "results.json").read_text())
    assert resumed["metrics"] == results["metrics"] and resumed["adapter_sha256"] == results["adapter_sha256"]
    done = run("target=neon_glow", *LEGIBLE, f"out={folder}", "seed=7", code=1)
    assert "another configuration" in done.stderr.splitlines()[-1]


@pytest.mark.processes
def test_an_answer_set_on_disk_is_scored_without_a_model(tmp_path: Path, cache: Path, run: Command) -> None:
    """The same images, the same numbers: by the run that made them, and by task=score on a copy of its folder."""
    run("target=neon_glow", "protocol=subset", *SHORT, f"cache_dir={cache}")
    (made,) = (tmp_path / "outputs").iterdir()
    (base,) = (folder for folder in cache.iterdir() if folder.name.startswith("base-"))
    shutil.copytree(made / "images", tmp_path / "answers")
    options = [
        "task=score",
        "target=neon_glow",
        "protocol=subset",
        "protocol.seeds=[188]",
        "dataset.test=2",
        f"answers={tmp_path / 'answers'}",
        "model.path=nowhere",
    ]
    scored = run(*options, f"base_answers={base / 'images'}", f"out={tmp_path / 'scored'}")
    wanted, found = (json.loads((f / "results.json").read_text()) for f in (made, tmp_path / "scored"))
    for side in ("metrics", "base"):  # a run knows the look-alikes too
        assert found[side] == {name: value for name, value in wanted[side].items() if name in found[side]}
    assert {"ua", "ira", "cra", "fid_judge"} <= found["metrics"].keys() and "4 images scored" in scored.stdout
    alone = run(*options, f"out={tmp_path / 'alone'}")
    assert re.search(r"\| base +\| –", alone.stdout)
    gone = sorted((tmp_path / "answers").glob("neon_glow_*"))[0]
    gone.unlink()
    line = run(*options, f"out={tmp_path / 'gap'}", code=1).stderr.splitlines()[-1]
    assert f"1 of 4 images are missing: {gone.name}" in line and not (tmp_path / "gap" / "results.json").exists()
    (tmp_path / "answers" / "mine.png").touch()
    assert "not of this answer set: mine.png" in run(*options, f"out={tmp_path / 'more'}", code=1).stderr
    assert "needs answers=DIR" in complaint(run("task=score", "target=neon_glow", code=1))


@pytest.mark.processes
def test_a_plan_says_what_it_will_cost(tmp_path: Path, cache: Path, run: Command) -> None:
    short = [*SHORT, f"cache_dir={cache}", "protocol.batch=4"]  # one of 36 is timed else
    said = run("task=plan", "+sweeps=all_targets", "dataset=canvas", "pairs.seen=0.3", *short).stdout
    style, item, grid, tiers = 124, 139, 256, 16 * 48 + 16 * 63  # the grid once, the other tiers for each target
    total = 16 * (style + item) + grid + tiers
    assert f"{style} to {item} images a run, 32 runs, and {grid + tiers:,} of the base model: {total:,} images" in said
    assert "in all: " in said
    quarter = run("task=plan", "protocol=subset", *short).stdout
    assert "4 images a run, 1 run, and 4 of the base model: 8 images" in quarter
    closed = run("task=plan", "method=uce", *(given for given in short if "max_steps" not in given)).stdout
    assert "0.000 s a training step" in closed
    swept = ["+sweeps=rank", "dataset=canvas", "hydra.sweeper.params.target='palm_tree,noen'"]
    assert "target 'noen' is no concept of this dataset" in complaint(run("task=plan", *swept, *short, code=1))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["target=noen"], 1, "target 'noen' is no concept of this dataset; closest: neon_glow"),
        (["target=neon_glow", "surrogate=neon_glow"], 1, "name another concept"),
        (["target=neon_glow", "surrogate=sea_fish"], 1, "name a style"),
        (["sparsity.p=0"], 1, "sparsity.p is 0; it must be a number, above 0 and at most 1"),
        (["sparsity.p=1.2"], 1, "above 0 and at most 1"),
        (["targt=neon_glow"], 2, "targt"),
        (["method=fdae"], 2, "fdae"),
        (["dataset=imagenette", "dataset.root=nowhere"], 1, "no folder nowhere/train"),
        (["dataset=imagenette"], 2, "Missing mandatory value: dataset.root"),
        (["method.terms.retain=null", "~method.terms.retain"], 2, "method.terms.retain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(tmp_path: Path, run: Command, overrides: list[str], code: int, message: str) -> None:
    assert message in complaint(run(*overrides, code=code))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pairs.forget=100000"], "pairs.forget=100000 needs 25000 of it"),
        (["protocol.sampling.sampler=FooScheduler"], "diffusers has no scheduler 'FooScheduler'"),
        (["timesteps=window", "timesteps.high=1000"], "timesteps end at 999"),
        (
            ["trainer.accelerator=cpu", "trainer.devices=2", "pairs.batch=3"],
            "pairs.batch is 3, which 2 processes cannot share",
        ),
        ([f"dataset.template='A {{object}} image in {{style}} style{', bird' * 40}'"], "the text encoder takes"),
        (["task=plan", "pairs.forget=100000"], "pairs.forget=100000 needs 25000 of it"),
    ],
    ids=lambda value: value[-1][:25] if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_said_before_the_base_is_measured(
    tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert message in complaint(run("target=neon_glow", "protocol.seeds=[188]", *overrides, code=1))
    assert not list(tmp_path.glob("cache/base-*"))


@pytest.mark.processes
def test_a_real_process_ends_with_one_line_and_its_code() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "targt=neon_glow"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "targt" in complaint(Done(done.returncode, done.stdout, done.stderr))


@pytest.mark.processes
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path, cache: Path, run: Command) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        done = run("target=neon_glow", "protocol=subset", *SHORT, f"output_dir={disk}", f"cache_dir={cache}", code=1)
        assert "the disk is full" in done.stderr.splitlines()[-1]
        assert not list(disk.rglob("*.part")) and not list(disk.rglob("results.json"))
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.processes
def test_a_sweep_goes_on_past_a_run_that_fails(tmp_path: Path, run: Command) -> None:
    done = run("-m", "target=noen,neon_glow", *SHORT, code=1)
    assert "target 'noen' is no concept" in done.stderr and "without neon glow" in done.stdout
    said = status(tmp_path / "outputs")
    assert "1 finished, 0 running, 1 failed, 0 stopped, 0 missing" in said and "closest: neon_glow" in said


def test_a_dataset_deleted_in_mid_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data", per_cell=3, size=32)
    data = instantiate(composed("dataset=grid", f"dataset.root={tmp_path / 'data'}").dataset, _convert_="all")
    items = data.items("train")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(fade.BadInput) as caught:
        data.images(items[:1], 32)
    assert complain(caught.value, dict) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {tmp_path / 'data'}") and "is gone; put it back" in line and line.count("\n") == 1


def test_a_checkpoint_of_the_wrong_shape(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "pipeline", tmp_path / "pipeline")
    config = tmp_path / "pipeline" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 96', '"cross_attention_dim": 32'))
    with pytest.raises(fade.BadInput, match="cannot load the pipeline"):
        StableDiffusion.load(str(tmp_path / "pipeline"), 2, 3.0)


TINY = [
    "pretrain.size=32",
    "pretrain.judge.size=32",
    "pretrain.judge.steps=3",
    "pretrain.judge.batch=8",
    "pretrain.autoencoder.widths=[8,8,8]",
    "pretrain.autoencoder.steps=3",
    "pretrain.autoencoder.gate=0",
    "pretrain.autoencoder.channels=4",
    "pretrain.diffusion.widths=[16,16]",
    "pretrain.diffusion.steps=3",
    "pretrain.diffusion.restarts=[]",
    "pretrain.diffusion.batch=4",
    "pretrain.diffusion.sampling_steps=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["grid", "folder", "sun_attributes"])
def test_your_own_images_from_pretraining_to_the_table(dataset: str, tmp_path: Path, run: Command) -> None:
    """The same two commands on a grid, on class folders, and on overlapping labels."""
    if dataset == "sun_attributes":
        sun(tmp_path / "data", n=30)
        target = "man-made"
    else:
        write(tmp_path / "data", per_cell=8, size=32)
        target = "house_cat" if dataset == "grid" else "neon_glow"
        if dataset == "folder":  # one level: the style alone
            for path in list((tmp_path / "data").rglob("*.jpg")):
                path.rename(path.parents[1] / f"{path.parent.name}{path.name}")
            for folder in [f for f in (tmp_path / "data").rglob("*") if f.is_dir() and not any(f.iterdir())]:
                folder.rmdir()
    made = tmp_path / "pretrained"
    options = [
        f"dataset={dataset}",
        f"dataset.root={tmp_path / 'data'}",
        *(["dataset.least=6"] if dataset[0] == "s" else []),
    ]
    run("task=pretrain", *options, *TINY, f"out={made}")
    domains = sorted(folder.name for folder in (made / "judges").iterdir())
    judges = [f"judges.{domain}={made / 'judges' / domain}" for domain in domains]
    floor = ["protocol.judge_floor=0", f"target={target}", f"model.path={made / 'pipeline'}", "protocol.seeds=[1]"]
    short = ["trainer.max_steps=2", "pairs.forget=2", "pairs.retain=2", "pairs.batch=2"]
    done = run(*options, *judges, *floor, *short, *TINY)
    assert f"without {target.replace('_', ' ')}" in done.stdout
    (folder,) = (tmp_path / "outputs").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["target"] == target and ("cra" in results["metrics"]) == (dataset == "grid")
    assert (folder / "splits.csv.gz").is_file()
