"""The model that never saw the target: read, refused, and measured against, on tiny models."""

from __future__ import annotations

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny
from finished import finished
from judging import judge

from benchmarks.measure.benchmark import Benchmark, Protocol
from benchmarks.measure.oracle import Oracle, ratio
from benchmarks.measure.target import TargetMeter
from benchmarks.record.results import Run
from benchmarks.report.tables import nearer, run_table, settings
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import read_json, write_json
from fade.metrics import cell_text
from fade.models import Diffusion
from fade.models.flux import Flux
from fade.models.stable_diffusion_3 import StableDiffusion3
from fade.pretrain.oracle import load_oracle, oracle_folder, sign


@pytest.fixture
def folder(model: Diffusion, tmp_path: Path) -> Path:
    """oracles/neon: another U-Net and text encoder on the model's autoencoder."""
    made = copy.deepcopy(model.pipe)
    torch.manual_seed(1)
    for part in (made.unet, made.text_encoder):
        for weight in part.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
    made.save_pretrained(tmp_path / "oracles" / "neon_glow" / "pipeline")
    write_json(tmp_path / "oracles" / "neon_glow" / "tiers.json", {"without": "neon_glow"})
    return tmp_path / "oracles" / "neon_glow"


def benchmark(dataset: Canvas, cache: Path) -> Benchmark:
    judges = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}
    return Benchmark(dataset, judges, Protocol("p", [1], fid=[], judge_floor=0), cache)


def test_the_folder_is_the_oracle_or_holds_one_for_some_targets(folder: Path, tmp_path: Path) -> None:
    assert oracle_folder(None, "neon_glow") is None
    assert oracle_folder(str(folder), "house_cat") == folder  # which is refused when it is read
    assert (
        oracle_folder(str(folder.parent), "neon_glow") == folder
        and oracle_folder(str(folder.parent), "house_cat") is None
    )
    with pytest.raises(BadInput, match="holds no model that was pretrained without a concept"):
        oracle_folder(str(tmp_path / "none"), "neon_glow")


def test_an_oracle_of_another_concept_or_another_base_is_refused(model: Diffusion, folder: Path) -> None:
    assert load_oracle(folder, model, "neon_glow").sha256() != model.sha256()
    with pytest.raises(
        BadInput, match="never saw 'neon_glow', and the target is 'house_cat'; name another, or oracle=null"
    ):
        load_oracle(folder, model, "house_cat")
    write_json(folder / "tiers.json", {"without": None})
    with pytest.raises(BadInput, match="has seen every concept, and the target is 'neon_glow'"):
        load_oracle(folder, model, "neon_glow")
    write_json(folder / "tiers.json", {"without": "neon_glow"})
    other = copy.deepcopy(model)
    next(iter(other.pipe.vae.parameters())).data += 0.1
    with pytest.raises(BadInput, match="is of another base: its autoencoder is not this model's"):
        load_oracle(folder, other, "neon_glow")
    (folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInput, match="cannot load the oracle"):
        load_oracle(folder, model, "neon_glow")


def test_an_oracle_is_sampled_as_its_base_and_predicts_as_it(model: Diffusion, folder: Path) -> None:
    model.pipe.scheduler = model.scheduler("DPMSolverMultistepScheduler")
    found = load_oracle(folder, model, "neon_glow")  # its folder says DDIM
    assert type(found.pipe.scheduler) is type(model.pipe.scheduler) and found.pipe.scheduler is not model.pipe.scheduler
    settings = folder / "pipeline" / "scheduler" / "scheduler_config.json"
    write_json(settings, {**read_json(settings), "prediction_type": "v_prediction"})
    with pytest.raises(BadInput, match="is of another base: it predicts v_prediction, not epsilon"):
        load_oracle(folder, model, "neon_glow")


def flow_oracle(base: Diffusion, folder: Path) -> Path:
    """Another transformer and other text encoders on the same autoencoder, of a Stable Diffusion 3."""
    made = copy.deepcopy(base.pipe)
    torch.manual_seed(1)
    for part in (base.denoiser, *base.encoders):
        for weight in getattr(made, part).parameters():
            weight.data += 0.3 * torch.randn_like(weight)
    made.save_pretrained(folder / "pipeline")
    write_json(folder / "tiers.json", {"without": "neon_glow"})
    return folder


def test_an_oracle_is_of_the_family_of_its_base_and_read_as_it(model: Diffusion, folder: Path, tmp_path: Path) -> None:
    base = tiny("sd3")
    base.reads(12)
    found = load_oracle(flow_oracle(base, tmp_path / "flow"), base, "neon_glow")
    assert isinstance(found, StableDiffusion3) and found.prediction == "flow" and found.text_length == 12
    assert found.sha256() != base.sha256() and (found.steps, found.guidance, found.size) == (3, 3.0, 32)
    shutil.rmtree(tmp_path / "flow" / "pipeline" / "vae")
    sign(tmp_path / "flow", base.pipe.vae)
    assert load_oracle(tmp_path / "flow", base, "neon_glow").sha256() == found.sha256()
    with pytest.raises(BadInput, match=r"is a Stable Diffusion, and this model a Stable Diffusion 3: .* oracle=null"):
        load_oracle(folder, base, "neon_glow")
    with pytest.raises(BadInput, match="is a Stable Diffusion 3, and this model a Stable Diffusion: "):
        load_oracle(tmp_path / "flow", model, "neon_glow")


def test_a_pipeline_like_another_hears_the_same_guidance() -> None:
    base = tiny("flux")
    assert isinstance(base, Flux)
    base.told = 1.5
    found = base.like(copy.deepcopy(base.pipe))
    assert (found.told, found.text_length) == (1.5, base.text_length) and found.network is not base.network


def test_an_oracle_may_come_without_its_autoencoder_if_it_says_which(model: Diffusion, folder: Path) -> None:
    own = load_oracle(folder, model, "neon_glow").sha256()
    shutil.rmtree(folder / "pipeline" / "vae")
    with pytest.raises(BadInput, match="is of another base"):
        load_oracle(folder, model, "neon_glow")
    sign(folder, model.pipe.vae)
    assert (
        read_json(folder / "tiers.json")["without"] == "neon_glow"
        and load_oracle(folder, model, "neon_glow").sha256() == own
    )


def test_the_distance_is_one_for_the_base_and_none_for_the_oracle(
    dataset: Canvas, model: Diffusion, folder: Path, tmp_path: Path
) -> None:
    oracle = Oracle(folder, model, benchmark(dataset, tmp_path), Request.of(dataset, "neon_glow", None))
    base = oracle.guesses(model)
    assert {name: metric["value"] for name, metric in oracle.distances(base, base).items()} == {
        "oracle_eps": 1.0,
        "oracle_eps_kept": 1.0,
    }
    assert all(metric["value"] == 0 for metric in oracle.distances(oracle.guesses(oracle.model), base).values())
    halfway = {name: (base[name] + oracle.truth[name]) / 2 for name in base}
    found = oracle.distances(halfway, base)["oracle_eps"]
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx([0.25] * 3) and found["n"] == 12
    shown = {name: {dataset.cell(item)["style"] for item in oracle.items(name == "oracle_eps")} for name in base}
    assert shown["oracle_eps"] == {"neon_glow"} and shown["oracle_eps_kept"] == set(dataset.domains["style"]) - {
        "neon_glow"
    }
    assert ratio(base["oracle_eps"], oracle.truth["oracle_eps"], oracle.truth["oracle_eps"])["value"] is None


def test_the_interval_is_over_images() -> None:
    truth = torch.zeros(50, 4)
    base, other = torch.ones(50, 4), torch.ones(50, 4)
    other[:25] = 2.0
    found = ratio(other, base, truth)
    assert found["value"] == pytest.approx(2.5) and 1.9 < found["low"] < 2.2 and 2.8 < found["high"] < 3.1


def test_a_target_with_an_oracle_has_its_row_and_its_distance(
    dataset: Canvas, model: Diffusion, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = TargetMeter(benchmark(dataset, tmp_path), Request.of(dataset, "neon_glow", None), oracle=str(folder.parent))
    base, never_saw = meter.base(model, "0" * 64), meter.never_saw()
    assert meter.oracle is not None and never_saw is not None
    results = meter.results(base, base, never_saw)
    assert results["metrics"]["oracle_eps"]["value"] == 1 and "oracle_eps" not in results["oracle"]
    assert results["oracle"].keys() == results["base"].keys() and results["oracle"] != results["base"]
    assert sum(results["oracle_landed"].values()) == 4
    cost = {"locate_s": 1, "distil_s": 2, "generate_s": 3, "judge_s": 4, "adapter_bytes": 1000}
    whole = {**results, "method": "fade", "cost": cost, "sparsity": {"kind": "neuron", "p": 0.1, "density": 0.1}}
    said = run_table(Run(tmp_path, whole))
    assert "the same prompts to the model that never saw it: " in said
    assert "| never saw it " in said and "| oracle eps ↓ " in said and "1.00 [1.00, 1.00]" in said
    with caplog.at_level(logging.WARNING):
        meter.oracle.warn(["A house cat image.", "a " * 40])
    assert "the oracle's tokenizer cuts 1 of 2 prompts" in caplog.text
    assert (
        TargetMeter(meter.benchmark, Request.of(dataset, "house_cat", None), oracle=str(folder.parent)).never_saw()
        is None
    )


def test_the_report_says_where_a_method_ended_nearer_and_has_the_row(tmp_path: Path) -> None:
    def run(target: str, low: float, value: float, high: float) -> Run:
        results: dict[str, Any] = finished(tmp_path / target, target)
        eps = {"value": value, "low": low, "high": high, "n": 64}
        return Run(
            tmp_path / target,
            {**results, "metrics": {**results["metrics"], "oracle_eps": eps}, "oracle": results["base"]},
        )

    runs = [run("neon", 0.3, 0.4, 0.5), run("cat", 1.2, 1.4, 1.6), run("dog", 0.8, 0.9, 1.1)]
    assert nearer(runs) == [
        ("canvas/default fade neuron p=0.1", "nearer for neon; farther for cat (mean 0.90 of the base's distance)")
    ]
    assert nearer([Run(tmp_path, finished(tmp_path / "x", "neon"))]) == []
    names = [str(row[0]) for row in settings(runs).rows]
    assert names == ["base model (canvas/default)", "never saw it (canvas/default)", "canvas/default fade neuron p=0.1"]
    assert cell_text(runs[0].metrics["oracle_eps"], "oracle_eps") == "0.40 [0.30, 0.50]"
