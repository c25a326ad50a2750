"""What a run of an earlier day was called is found by its name of today."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command import ROOT
from configs import composed
from omegaconf import OmegaConf

import run
from benchmarks.record.moved import KEYS, OPTIONS, current, key, target
from benchmarks.runs.reopened import SHARED, opened
from fade.checked import located
from fade.errors import BadInput

FOLDER = """
dataset:
  name: pets
  root: photos
  labels: [cat, dog]
  least: 4
  on_bad: skip
  source:
    _target_: fade.data.folder.Folder
    name: ${dataset.name}
    root: ${dataset.root}
    domains: {object: "${dataset.labels}"}
    template: "A photo of a {object}."
    shares: null
    least: ${dataset.least}
    on_bad: ${dataset.on_bad}
    cache: ${cache_dir}
  judges: {object: "pretrained/${dataset.name}/judges/object"}
"""
CANVAS = """
dataset:
  name: unlearncanvas
  root: canvas
  styles: benchmark
  objects: null
  on_bad: error
  classifiers: files
  source:
    _target_: fade.data.unlearncanvas.UnlearnCanvas
    root: ${dataset.root}
    template: "A {object} image in {style} style."
    partials: {style: "An image in {style} style.", object: "A {object} image."}
    styles: ${dataset.styles}
    objects: ${dataset.objects}
    on_bad: ${dataset.on_bad}
    cache: ${cache_dir}
  judges:
    style:
      _target_: fade.judges.Judge.pretrained
      architecture: vit_large_patch16_224.augreg_in21k
      checkpoint: ${dataset.classifiers}/style50.pth
      key: model_state_dict
    object:
      _target_: fade.judges.Judge.pretrained
      architecture: vit_large_patch16_224.augreg_in21k
      checkpoint: ${dataset.classifiers}/style50_cls.pth
      key: model_state_dict
"""
PROTOCOL = """
protocol:
  _target_: benchmarks.benchmark.Protocol
  name: unlearncanvas_esd
  seeds: [188, 288, 588, 688, 888]
  noise: steps
  noise_device: cuda
  batch: 8
  reading: authors
  judge_floor: 0.9
  share: 1.0
  prompt: null
  photo_prompt: "A {object} image in Seed Images style."
  underscores: false
  steps: 100
  guidance: 9.0
  sampler: DDIMScheduler
  size: 512
  skip: 1
  precision: float16
  negative: ""
  suffix: jpg
  fid: [judge]
  weights: {}
  clip: null
"""
MODEL = """
model: {_target_: fade.diffusion.Diffusion.load, path: sd, steps: 50, guidance: 7.5}
"""
SD = {"_target_": target("fade.diffusion.Diffusion.load"), "path": "sd", "steps": 50, "guidance": 7.5}
LATER = ("tiers", "tier_seeds", "whole_target")  # of the protocol, where its own defaults are the earlier ones
EARLIER = [
    (
        FOLDER,
        "dataset=folder dataset.name=pets dataset.root=photos dataset.domains.object=[cat,dog] dataset.least=4 "
        "dataset.on_bad=skip protocol=unlearncanvas_esd",
    ),
    (CANVAS, "dataset=unlearncanvas dataset.root=canvas classifiers=files model.path=sd protocol=unlearncanvas_esd"),
]


@pytest.mark.parametrize(("earlier", "today"), EARLIER, ids=["folder", "unlearncanvas"])
def test_an_earlier_configuration_is_todays(earlier: str, today: str, tmp_path: Path) -> None:
    """As the run's folder holds it, and as task=compose opens it."""
    (tmp_path / "config.yaml").write_text(earlier + PROTOCOL + "weights: {forget: 0.3, retain: 1.0}\n" + MODEL)
    config = composed(*today.split(), "cache_dir=cache")
    found, wanted = opened(run.task_of(config), tmp_path), OmegaConf.to_container(config, resolve=True)
    assert isinstance(wanted, dict)
    wanted["protocol"] = {key: value for key, value in wanted["protocol"].items() if key not in LATER}
    assert {name: found.values(name) for name in SHARED} == {**{name: wanted[name] for name in SHARED}, "model": SD}


def test_a_model_that_was_found_by_the_datasets_name_still_is() -> None:
    config = {**yaml.safe_load(FOLDER + PROTOCOL), "model": {"path": "pretrained/${dataset.name}/pipeline"}}
    assert current(config)["model"]["path"] == "pretrained/pets/pipeline"


def test_a_configuration_of_today_is_itself() -> None:
    config = OmegaConf.to_container(composed(), resolve=False)
    assert isinstance(config, dict) and current(config) == config
    assert set(SHARED) <= config.keys()


def test_what_is_called_otherwise_is_nowhere_today() -> None:
    there = composed("dataset=folder")
    for name in KEYS:
        assert key(f"{name}.x") != f"{name}.x" and OmegaConf.select(there, name) is None
    assert not any((ROOT / "conf" / f"{option.replace('=', '/')}.yaml").exists() for option in OPTIONS)


@pytest.mark.parametrize(
    "earlier",
    [
        "benchmarks.benchmark.Protocol",
        "fade.data.dog_breeds.DogBreeds",
        "fade.data.folder.Folder",
        "fade.data.imagenette.Imagenette",
        "fade.data.lfw.LFW",
        "fade.data.sun_attributes.SUNAttributes",
        "fade.data.unlearncanvas.UnlearnCanvas",
        "fade.diffusion.Diffusion.load",
        "fade.judges.Judge.pretrained",
    ],
)
def test_what_an_earlier_run_is_made_of_is_there(earlier: str) -> None:
    """Every `_target_` that a model, a dataset, a judge or a protocol had before the rooms."""
    assert callable(located(current({"dataset": {}, "protocol": {"_target_": earlier}})["protocol"]["_target_"]))


def test_a_run_of_the_grid_that_is_gone_says_so() -> None:
    with pytest.raises(BadInput, match=r"fade\.data\.minicanvas\.MiniCanvas is gone: .*version 0\.1.*report reads"):
        current({"dataset": {"_target_": "fade.data.minicanvas.MiniCanvas"}, "protocol": {"sampling": {}}})
