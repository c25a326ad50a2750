"""A run whose files are harmed, lost or swapped: made again to the same result, or one line that tells what to do."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from command import ROOT
from harmed import flipped, halved, relabelled
from judging import judge
from loops import quiet, recipe, unlearner
from PIL import Image

from benchmarks.measure.answers import refuse_harmed
from benchmarks.measure.benchmark import Benchmark, Protocol
from benchmarks.measure.target import TargetMeter
from benchmarks.record.claim import LOCK, alive
from benchmarks.record.folder import Record
from benchmarks.runs.single import study
from fade.adapters.lora import Lora
from fade.claims import born, signature
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.files import read_json
from fade.methods.fade import Fade
from fade.models import Diffusion
from fade.training.logs import JsonLines
from fade.training.unlearner import fit

CONFIG = "target: neon_glow\n"
STEPS = 3
PROTOCOL = Protocol("default", [1], judge_floor=0.0, batch=8)  # the judges are untrained


class Run:
    """`study` on the tests' own model; everything lies below one folder."""

    def __init__(self, folder: Path, model: Diffusion, dataset: Canvas) -> None:
        self.folder, self.model, self.dataset = folder, model, dataset
        self.run, self.cache = folder / "run", folder / "cache"

    def __call__(self) -> dict[str, Any]:
        request = Request.of(self.dataset, "neon_glow", "photo")
        record = Record(self.run, CONFIG, ["target=neon_glow", f"output_dir={self.folder}"], self.cache)
        judges = {domain: judge(domain, labels) for domain, labels in self.dataset.domains.items()}
        about = {"method": "fade", "overrides": ["target=neon_glow", f"output_dir={self.folder}"]}
        benchmark = Benchmark(self.dataset, judges, PROTOCOL, self.cache)
        made = recipe(self.dataset, self.cache, method=Fade(terms={"forget": 1.0}), checkpoint_every=1)
        saliency, loggers = self.cache / "saliency.safetensors", [JsonLines(self.run / "metrics.jsonl")]
        found = record.results or study(
            record, self.model, TargetMeter(benchmark, request), made, about, saliency, loggers
        )
        for name in list(getattr(self.model.unet, "peft_config", {})):
            self.model.unet.delete_adapters(name)
        assert found is not None
        return found

    @property
    def base(self) -> Path:
        (folder,) = self.cache.glob("base-*")
        return folder

    def files(self) -> dict[str, bytes]:
        """Everything that must be the same, byte for byte, after whatever happened."""
        kept = [self.run / "config.yaml", self.run / "adapter" / "adapter.safetensors", *self.run.rglob("*.png")]
        for folder in (self.run, self.base):
            kept += [path for kind in ("*.csv*", "*.safetensors") for path in folder.glob(kind)]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in kept}


def told(results: dict[str, Any]) -> dict[str, Any]:
    return {key: results[key] for key in ("metrics", "base", "landed", "adapter_sha256", "base_sha256", "sparsity")}


@pytest.fixture
def run(tmp_path: Path, model: Diffusion, dataset: Canvas) -> Run:
    return Run(tmp_path, model, dataset)


@pytest.mark.processes
def test_a_run_whose_cache_and_folder_are_harmed_ends_as_the_undisturbed_one(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wanted = told(run())
    before, cost = run.files(), read_json(run.run / "results.json")["cost"]
    modes = {oct(path.stat().st_mode & 0o777) for path in run.folder.rglob("*") if path.is_file()}
    assert len(modes) == 1 and not (run.run / LOCK).exists()
    said = (run.run / "results.json").read_text() + (run.run / "adapter" / "README.md").read_text()
    assert str(run.folder) not in said + (run.run / "adapter" / "adapter.json").read_text()

    def again(*named: str) -> None:
        caplog.clear()
        assert told(run()) == wanted and run.files() == before
        warnings = [
            r.getMessage() for r in caplog.records if r.name.startswith(("fade", "benchmarks")) and r.levelno > 20
        ]
        for name in named:
            assert [name in line for line in warnings].count(True) == 1, (name, warnings)
        assert len(warnings) == len(named), warnings

    # the cache: a flipped bit each, a label, another picture; trained anew
    (saliency,) = run.cache.glob("saliency*")
    (real,) = run.cache.glob("real-*")
    latents = sorted((run.cache / "latents").iterdir())[0]
    for path in (saliency, real, latents, run.base / "features-judge.safetensors"):
        flipped(path, path.stat().st_size - 9)
    relabelled(run.base / "predictions.csv")
    shutil.rmtree(run.run)
    again("saliency", "real-", "latents", "features-judge")
    relabelled(run.base / "predictions.csv")
    shutil.copyfile(
        run.base / "images" / "neon_glow_house_cat_seed1.png", run.base / "images" / "photo_house_cat_seed1.png"
    )
    (run.run / "results.json").unlink()
    again("predictions.csv", "photo_house_cat_seed1.png")
    # the folder: altered and still well formed
    relabelled(run.run / "predictions.csv")
    shutil.copyfile(
        run.run / "images" / "neon_glow_house_cat_seed1.png", run.run / "images" / "photo_house_cat_seed1.png"
    )
    halved(run.run / "results.json")
    again("results.json", "predictions.csv", "photo_house_cat_seed1.png")
    # cut short, emptied, lost
    for name in ("run.json", "config.yaml", "splits.csv.gz"):
        halved(run.run / name)
    (run.run / "config.yaml").write_text(CONFIG)
    halved(run.run / "features-judge.safetensors")
    (run.run / "results.json").unlink()
    again("features-judge")
    halved(run.run / "judged.json")
    (run.run / "results.json").unlink()
    again("judged.json")
    (run.run / "run.json").unlink()
    (run.run / "splits.csv.gz").write_bytes(b"")
    (run.run / "predictions.csv").write_bytes(b"\xff\x00")
    (run.run / "results.json").write_text("")
    again("results.json", "predictions.csv")
    (run.run / "config.yaml").write_text("targ")
    (run.run / "results.json").unlink()
    again()
    found = read_json(run.run / "results.json")["cost"]
    assert found["generate_s"] >= cost["generate_s"] * 0.5 and found["judge_s"] > 0 and found["distil_s"] > 0
    # the adapter: one line, and what to do
    for harm in (halved, lambda path: flipped(path, path.stat().st_size - 1), Path.unlink):
        for name in ("adapter.safetensors", "adapter.json"):
            kept = (run.run / "adapter" / name).read_bytes()
            harm(run.run / "adapter" / name)
            (run.run / "results.json").unlink(missing_ok=True)
            if name.endswith("json") and harm not in (halved, Path.unlink):
                (run.run / "adapter" / name).write_text("[]")
            with pytest.raises(BadInput, match=rf"{name}.*; delete .*adapter and run the same command again"):
                run()
            (run.run / "adapter" / name).write_bytes(kept)


def test_a_lost_run_json_is_written_again_and_a_strange_folder_is_not_taken(tmp_path: Path) -> None:
    Record(tmp_path / "run", CONFIG).finish({"format": 1})
    (tmp_path / "run" / "run.json").unlink()
    assert Record(tmp_path / "run", CONFIG).results["format"] == 1  # type: ignore[index]
    assert read_json(tmp_path / "run" / "run.json")["identity"] and not (tmp_path / "run" / LOCK).exists()
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(BadInput, match="is no run of this configuration"):
        Record(tmp_path / "run", "target: house_cat\n")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".config.yaml.0123456789ab.part").write_text("targ")  # killed before there was anything
    Record(tmp_path / "begun", CONFIG)
    assert (tmp_path / "begun" / "config.yaml").read_text() == CONFIG
    assert not list((tmp_path / "begun").glob(".*.part"))


HOLD = (
    "import sys, time; from pathlib import Path; from benchmarks.record.folder import Record\n"
    "record = Record(Path(sys.argv[1]), sys.argv[2], ['target=neon_glow'], Path('cache')); print('here', flush=True); "
    "time.sleep(60)"
)


@pytest.mark.processes
def test_a_second_process_is_told_who_works_there_and_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    line = [sys.executable, "-c", HOLD, str(tmp_path / "run"), CONFIG]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "here\n"
        claim = (tmp_path / "run" / "run.json").read_text()
        with pytest.raises(
            BadInput, match=rf"another process \(pid {other.pid} on .*\) works in .*run since \d\d:\d\d; wait"
        ):
            Record(tmp_path / "run", CONFIG)
        assert (tmp_path / "run" / "run.json").read_text() == claim
        other.kill()
    Record(tmp_path / "run", CONFIG)
    assert read_json(tmp_path / "run" / "run.json")["pid"] != other.pid


def test_a_number_that_another_process_has_now_is_no_live_claim(tmp_path: Path) -> None:
    own = signature()
    assert own["born"] == born(own["pid"]) and alive(own, tmp_path)
    assert not alive(own | {"born": own["born"] - 1}, tmp_path)
    assert alive({key: own[key] for key in ("host", "pid")}, tmp_path)  # of an older version


def test_a_line_of_metrics_that_was_harmed_or_doubled_is_left_out(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.path.write_text(
        '{"step": 0}\n{"ste\n{"step": 1}\n{"step": 1, "a": 2}\n[3]\n{"step": null}\n{"step": 2}\n{"step": 3'
    )
    lines.go_on_from(2)
    assert [json.loads(line) for line in lines.path.read_text().splitlines()] == [{"step": 0}, {"step": 1, "a": 2}]


@pytest.mark.processes
def test_costs_add_up_over_starts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of its images: the batches that were made before count."""
    wanted = run()["cost"]["generate_s"]
    folder = run.run / "images"
    made = [json.loads(line) for line in (folder / ".made.jsonl").read_text().splitlines()]
    assert wanted == pytest.approx(sum(line["seconds"] for line in made)) and len(made) == 2
    made[0]["seconds"] = 1000.0
    (folder / ".made.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made[:1]) + '{"seco')
    for name in made[1]["sha256"]:
        (folder / name).unlink()
    for name in ("results.json", "predictions.csv"):
        (run.run / name).unlink()
    assert 1000 < run()["cost"]["generate_s"] < 1100


def test_a_harmed_checkpoint_begins_anew_and_ends_the_same(
    model: Diffusion, pairs: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def train() -> str:
        L.seed_everything(4, verbose=False)
        adapter = Lora.attach(model, rank=2, alpha=2)
        fit(
            unlearner(model, adapter, pairs, tmp_path),
            quiet(2, 1),
            tmp_path,
            1,
            [JsonLines(tmp_path / "metrics.jsonl")],
        )
        found = adapter.sha256()
        adapter.detach()
        return found

    wanted = train()
    for harm in (halved, partial(flipped, place=-5), lambda path: path.write_bytes(b"")):
        harm(tmp_path / "last.ckpt")
        caplog.clear()
        assert train() == wanted and [m.count("last.ckpt") for m in caplog.messages if "made again" in m] == [1]
        assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 1]


@pytest.mark.processes
def test_images_that_lie_elsewhere_are_scored_only_as_they_were_written(run: Run) -> None:
    run()
    judges = {domain: judge(domain, labels) for domain, labels in run.dataset.domains.items()}
    wanted = Benchmark(run.dataset, judges, PROTOCOL, run.cache).wanted
    shutil.copytree(run.run / "images", run.folder / "answers")
    refuse_harmed(wanted, run.folder / "answers")
    Image.new("RGB", (32, 32)).save(run.folder / "answers" / wanted[3].file)
    with pytest.raises(BadInput, match=rf"{wanted[3].file} is not the image that was written there \(1 in all\)"):
        refuse_harmed(wanted, run.folder / "answers")
