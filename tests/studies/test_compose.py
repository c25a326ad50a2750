"""TIES against its definition by hand; what several adapters do to each other; parts rebuilt from a run's folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from adapting import made, predict, state
from configs import composed as composed_config
from grids import OBJECTS, PART, STYLES, small
from omegaconf import DictConfig, OmegaConf
from PIL import Image

import run
from benchmarks.measure.metrics import scores
from benchmarks.runs.options import check_options
from benchmarks.runs.reopened import SHARED, opened, shared
from benchmarks.studies import attached
from benchmarks.studies.compose import Target, composed, interfere, interference, jointly, matrix, picture
from fade.adapters.merging import changes_of, ties, trimmed
from fade.errors import BadInput
from fade.files import read_json, write_json
from fade.judges import Judge
from fade.models import Diffusion
from fade.sparsity import Dense, Neuron


def test_ties_by_hand() -> None:
    one = {"w": torch.tensor([4.0, -3.0, 0.1, 2.0]), "v": torch.tensor([0.0, 0.2])}
    two = {"w": torch.tensor([-1.0, -5.0, 3.0, 0.1])}
    assert trimmed(one, 0.5)["w"].tolist() == [4.0, -3.0, 0.0, 0.0]  # weight by weight, so v keeps its own largest:
    torch.testing.assert_close(trimmed(one, 0.5)["v"], torch.tensor([0.0, 0.2]))
    merged = ties([one, two], keep=0.5, scale=2.0)  # two keeps -5 and 3
    assert merged["w"].tolist() == [8.0, -8.0, 6.0, 0.0]  # means of those that agree, doubled
    opposed = ties([{"w": torch.tensor([4.0])}, {"w": torch.tensor([-1.0])}], keep=1.0, scale=1.0)
    assert opposed["w"].tolist() == [4.0]  # the elected sign is +, so -1 has no say
    with pytest.raises(BadInput, match="fraction in"):
        ties([one], keep=0.0)


def test_ties_trims_a_sparse_change_too() -> None:
    """A fifth of the entries that there are, not of all: where a tenth is not zero that would cut nothing."""
    change = {"w": torch.zeros(10, 10)}
    change["w"][0] = torch.arange(1.0, 11.0)
    assert sorted(trimmed(change, 0.2)["w"].flatten().tolist())[-3:] == [0.0, 9.0, 10.0]


def target(model: Diffusion, concept: str, domain: str, seed: int, folder: Path) -> Target:
    stored = made(model, concept, Neuron(0.3) if seed else Dense(), seed)
    stored.about.update({"target": concept, "domain": domain, "surrogate": "photo"})
    stored.write(folder / concept / "adapter")
    return Target.read(folder / concept)


def test_together_and_gone_again(model: Diffusion, tmp_path: Path) -> None:
    clean, untouched = state(model), predict(model)
    members = (target(model, "neon", "style", 0, tmp_path), target(model, "cat", "object", 1, tmp_path))
    with composed(model, members, "sum", 0.2, 1.75):
        together = predict(model)
    on = [m.stored.attach(model, m.concept) for m in reversed(members)]
    changes = [changes_of(adapter) for adapter in on]
    assert torch.equal(predict(model), together)
    for adapter in on:
        adapter.detach()
    with composed(model, members, "ties", 0.4, 1.75):
        merged = predict(model)
        weights = dict(model.unet.named_parameters())
        for name, delta in ties(changes[::-1]).items():
            base = weights[name] - delta
            torch.testing.assert_close(base + delta, weights[name])
    assert not torch.equal(merged, together) and not torch.equal(merged, untouched) and state(model) == clean


def test_interference_of_one_is_the_usual_score_and_of_two_leaves_both_out(model: Diffusion, tmp_path: Path) -> None:
    dataset = small(1, 1, 1)
    rows = []
    for k, cell in enumerate(dataset.cells()):  # neon glow reads as photo, every third wild cat as a fish
        read = {
            "style_predicted": "photo" if cell["style"] == "neon_glow" else cell["style"],
            "object_predicted": "sea_fish" if cell["object"] == "wild_cat" and k % 3 == 0 else cell["object"],
        }
        rows.append({**cell, **read, "seed": "1"})
    neon, bird = target(model, "neon_glow", "style", 0, tmp_path), target(model, "wild_cat", "object", 1, tmp_path)
    alone = interference(rows, (neon,), [neon, bird], ["style", "object"])
    usual = scores(rows, "neon_glow", "style", ["style", "object"])
    assert alone["ua neon_glow"] == usual["ua"]
    assert alone["ira"]["value"] == usual["ira"]["value"] and alone["cra"]["value"] == usual["cra"]["value"] < 1
    both = interference(rows, (neon, bird), [neon, bird], ["style", "object"])
    assert both["ira"]["value"] == both["cra"]["value"] == 1 and both["ua wild_cat"]["value"] == pytest.approx(
        1 / 3, abs=0.12
    )
    entries = [
        {"members": [], "rule": "", **interference(rows, (), [neon, bird], ["style", "object"])},
        {"members": ["neon_glow"], "rule": "", **alone},
        {"members": ["neon_glow", "wild_cat"], "rule": "sum", **both},
    ]
    header, lines = matrix(entries, [neon, bird])
    assert (
        header[2:] == ["UA neon_glow", "UA wild_cat", "IRA", "CRA"]
        and lines[1][2].endswith("*")
        and not lines[1][3].endswith("*")
    )
    assert lines[0][-1] == "–"
    picture(entries, [neon, bird], tmp_path / "composed.png")
    assert (tmp_path / "composed.png").stat().st_size > 500


def test_parts_of_a_run_are_built_again(tmp_path: Path) -> None:
    spec = {
        "_target_": "fade.data.canvas.dataset.Canvas",
        "template": "{style} {object}",
        "partials": {},
        "sentences": {},
        "said": {},
        "train": 1,
        "judge": 1,
        "test": 1,
        "pairs": 0,
        "styles": STYLES,
        "objects": OBJECTS,
    }
    shipped = {d: f"${{shipped:canvas/judges/{d}}}" for d in ("style", "object")}
    config = {
        "dataset": spec,
        "judges": shipped,
        "protocol": {
            "_target_": "benchmarks.measure.benchmark.Protocol",
            "name": "p",
            "seeds": [1, 2],
            "judge_floor": 0.0,
        },
        "model": {
            "_target_": "fade.models.stable_diffusion.StableDiffusion.load",
            "path": "${shipped:canvas/pipeline}",
            "steps": 2,
            "guidance": 3.0,
        },
    }
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    task = run.task_of(composed_config(f"cache_dir={tmp_path}/cache"))
    model, benchmark = shared(task, [tmp_path / "a", tmp_path / "b"], seeds=[7])
    assert model.steps == 2 and [a.seed for a in benchmark.wanted] == [7] * 16
    config["protocol"]["seeds"] = [1]  # type: ignore[index]
    (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(BadInput, match="differ in protocol"):
        shared(task, [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(BadInput, match="is no run"):
        opened(task, tmp_path)


def test_a_joint_adapter_of_other_targets_is_refused(model: Diffusion, tmp_path: Path) -> None:
    targets = [target(model, "neon", "style", 0, tmp_path), target(model, "cat", "object", 1, tmp_path)]
    (tmp_path / "joint" / "01-neon" / "adapter").mkdir(parents=True)
    write_json(tmp_path / "joint" / "results.json", {"requests": [{"target": "neon"}, {"target": "tree"}]})
    with pytest.raises(BadInput, match="was trained on neon, tree"):
        jointly(model, None, targets, tmp_path / "joint", tmp_path / "out")  # type: ignore[arg-type]


DATASETS = [
    PART,
    ["dataset=folder", "dataset.root=own", "dataset.domains.object=[cat,dog]"],
    ["dataset=grid", "dataset.root=own", "dataset.domains.style=[a,b]", "dataset.domains.object=[c,d]"],
    ["dataset=imagenette", "dataset.root=own"],
    ["dataset=lfw", "dataset.root=own"],
    ["dataset=sun_attributes", "dataset.root=own"],
    ["dataset=sun_scenes", "dataset.root=own"],
    ["dataset=unlearncanvas", "dataset.root=own", "classifiers=judges", "model.path=own"],
]


def recorded(overrides: list[str], folder: Path) -> DictConfig:
    """config.yaml as run.py writes it, and the configuration that it is of."""
    config = composed_config("target=house_cat", *overrides)
    folder.mkdir(parents=True)
    kept = OmegaConf.masked_copy(config, [key for key in config if key not in run.WHERE])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(kept))
    return config


@pytest.mark.parametrize("overrides", DATASETS, ids=lambda given: given[0])
def test_the_configuration_of_every_datasets_run_is_read_as_it_was_composed(
    overrides: list[str], tmp_path: Path
) -> None:
    config = recorded([*overrides, "cache_dir=elsewhere"], tmp_path / "run")
    found = opened(run.task_of(composed_config("cache_dir=elsewhere")), tmp_path / "run")
    assert found.cache == Path("elsewhere")
    for key in SHARED:
        assert found.values(key) == OmegaConf.to_container(config[key], resolve=True)


def pictures(folder: Path, *classes: str) -> None:
    """Four images of noise in each class."""
    for seed, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(4):
            pixels = torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(10 * seed + k)).byte()
            Image.fromarray(pixels.numpy()).save(folder / name / f"{k}.png")


@pytest.fixture
def own(model: Diffusion, tmp_path: Path) -> Path:
    """Two finished runs on a folder of the user's own classes, as far as composing looks at them."""
    pictures(tmp_path / "photos", "bird", "cat", "dog")
    model.pipe.save_pretrained(tmp_path / "base")
    labels = ["bird", "cat", "dog"]
    Judge("test_resnet", "object", labels, size=32, accuracy=1.0).eval().save(tmp_path / "judge")
    for seed, name in enumerate(("cat", "dog")):
        given = [
            f"model.path={tmp_path}/base",
            f"judges.object={tmp_path}/judge",
            f"dataset.root={tmp_path}/photos",
            "protocol.seeds=[1]",
            "model.steps=1",
            "protocol.judge_floor=0",
        ]
        recorded(["dataset=folder", *given], tmp_path / "runs" / name)
        target(model, name, "object", seed, tmp_path / "runs")
    return tmp_path


def composing(folder: Path, runs: list[Path], *given: str) -> None:
    """python run.py task=compose runs=[...]"""
    named = ",".join(map(str, runs))
    asked = [f"runs=[{named}]", f"out={folder}/out", f"cache_dir={folder}/cache", *given]
    config = composed_config("task=compose", *asked)
    check_options(run.given(config))
    interfere(run.task_of(config))


def test_runs_on_own_images_are_composed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    composing(own, [own / "runs"], "compose.rules=[sum]", "compose.seeds=[7]")
    said = capsys.readouterr().out
    assert "| cat + dog" in said and "UA cat" in said
    entries = read_json(own / "out" / "composed.json")
    assert [entry["members"] for entry in entries] == [[], ["cat"], ["dog"], ["cat", "dog"]]
    assert sorted(path.name for path in (own / "out" / "cat+dog-sum" / "images").glob("*.png")) == [
        "bird_seed7.png",
        "cat_seed7.png",
        "dog_seed7.png",
    ]


def test_what_cannot_be_composed_is_one_line_before_anything_is_made(own: Path) -> None:
    runs = own / "runs"
    (own / "empty").mkdir()
    (own / "broken").mkdir()
    shutil.copytree(runs / "cat" / "adapter", own / "broken" / "adapter")
    (own / "broken" / "config.yaml").write_text("dataset: ${nothing.of.this}")
    for folders, given, message in (
        ([own / "none"], [], "no folder"),
        ([], [], "name two or more runs"),
        ([own / "judge" / "judge.json"], [], "no folder"),
        ([own / "empty"], [], "no adapter in"),
        ([runs / "cat"], [], "name two or more runs"),
        ([runs / "cat", runs / "cat"], [], "both remove 'cat'"),
        ([runs / "cat" / "adapter"], [], "no adapter in"),
        ([runs], ["compose.keep=nan"], "compose.keep is nan; it must be a number, above 0 and at most 1"),
        ([runs], ["compose.keep=2"], "compose.keep is 2"),
        ([runs], ["compose.scale=nan"], "compose.scale is nan"),
        ([runs], ["compose.scale=0"], "it must be a number, above 0"),
        ([runs], ["compose.seeds=[-1]"], "compose.seeds is"),
        ([runs], ["compose.rules=[max]"], "compose.rules is"),
        ([runs], [f"compose.joint={own}/empty"], "is no finished sequence"),
        ([runs / "dog", own / "broken"], [], "broken/config.yaml is not the configuration of a run (KeyError"),
    ):
        with pytest.raises(BadInput) as refused:
            composing(own, folders, *given)
        line = str(refused.value)
        assert message in line and "\n" not in line, (folders, given, line)
    assert not (own / "cache").exists()


@pytest.mark.parametrize(
    "given", ["--counts 0", "--counts 2 -1", "--images 0", "--steps 0", "--repeats 0", "--rank 0", "--p nan"]
)
def test_what_cannot_be_timed_is_one_line(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr(sys, "argv", ["attached", *given.split()])
    with pytest.raises(SystemExit, match=r"^error: .*(must be|must lie)"):
        attached.main()
