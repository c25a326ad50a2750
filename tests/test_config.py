"""Every option of every config group composes and instantiates; the house's direction of imports holds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from command import ROOT
from configs import OPTIONS, composed, overrides_of
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_method, instantiate
from omegaconf import OmegaConf

import run
from benchmarks.runs.options import check_options
from fade.data.dataset import Dataset
from fade.data.unlearncanvas import OBJECTS, STYLES
from fade.methods import Method
from fade.pretrain.tiered import TieredPretraining
from fade.published import GROUPS, published

SUITES = ("light", "standard", "full")
ATTACKS = [option for group, option in OPTIONS if group == "attack" and option not in SUITES]  # one list, as users give
EACH = [(group, option) for group, option in OPTIONS if group != "attack" or option in SUITES]


@pytest.mark.parametrize(("group", "option"), [*EACH, ("attack", f"[{','.join(ATTACKS)}]")])
def test_every_option_composes_and_passes_and_its_target_exists(
    monkeypatch: pytest.MonkeyPatch, group: str, option: str
) -> None:
    config = composed(*overrides_of(group, option))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    check_options(run.given(config))
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    targets = []

    def collect(node: object) -> None:
        if isinstance(node, dict):
            targets.extend(v for k, v in node.items() if k == "_target_")
            for value in node.values():
                collect(value)

    collect(OmegaConf.to_container(config.get(group, config), resolve=True))
    for target in targets:
        assert callable(get_method(target) if target.rsplit(".", 1)[1][0].islower() else get_class(target))


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g == "method"])
def test_every_method_is_a_method(option: str) -> None:
    config = composed(f"method={option}")
    method: Method = instantiate(config.method)
    assert callable(method.locate) and callable(method.losses)
    published = OmegaConf.load(ROOT / "conf" / "method" / f"{option}.yaml")
    assert (published.get("method") or published).get("terms", {}) == dict(type(method).terms)  # python has them too


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g == "method"])
def test_a_library_call_has_the_settings_of_run_py(option: str) -> None:
    """fade.unlearn(method=...) reads without Hydra what `model=sd15 method=...` composes with it."""
    config = OmegaConf.to_container(composed("model=sd15", f"method={option}"), resolve=True)
    assert published(option) == {key: config[key] for key in ("trainer", "method", "pairs", *GROUPS)}  # type: ignore[index, call-overload]


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g in ("sparsity",)])
def test_every_sparsity(option: str) -> None:
    sparsity = instantiate(composed(f"sparsity={option}").sparsity)
    assert sparsity.kind == option and 0 < sparsity.p <= 1


def test_parts_of_the_default() -> None:
    config = composed()
    dataset = instantiate(config.dataset, _convert_="all")
    assert isinstance(dataset, Dataset) and len(dataset.cells()) == 256
    recipe = instantiate(config.pretrain, dataset=dataset, out=Path("nowhere"), _convert_="all")
    assert isinstance(recipe, TieredPretraining)
    assert instantiate(config.trainer)(logger=False).max_steps == config.trainer.max_steps
    assert instantiate(config.protocol, _convert_="all").seeds == [188, 288]


def test_a_sweep_names_every_concept() -> None:
    sweep = OmegaConf.load(ROOT / "sweeps" / "all_targets.yaml")
    dataset = instantiate(composed().dataset, _convert_="all")
    named = [name.strip() for name in sweep.hydra.sweeper.params.target.split(",")]
    assert named == [c for labels in dataset.domains.values() for c in labels]


def test_a_sweep_over_unlearncanvas_names_every_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    targets = [style for style in STYLES if style != "Seed_Images"]
    for sweep, wanted in {"style": targets, "object": OBJECTS, "full": targets + OBJECTS}.items():
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", [f"+sweeps=unlearncanvas_{sweep}"], return_hydra_config=True)
        assert config.hydra.sweeper.params.target.split(",") == wanted
        assert config.sparsity.p == (0.1 if sweep == "full" else 0.5) and config.dataset.name == "unlearncanvas"


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {n.split(".")[0] for n in names | {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}}


def test_imports_run_one_way() -> None:
    for path in [*(ROOT / "fade").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        forbidden = {"hydra", "omegaconf", "wandb", "run", "pytorch_lightning", "pickle"}
        if path.is_relative_to(ROOT / "fade"):
            forbidden.add("benchmarks")
        if path == ROOT / "fade" / "published.py":  # reads run.py's files, without Hydra
            forbidden.remove("omegaconf")
        assert not imported(path) & forbidden, path
    assert len((ROOT / "run.py").read_text().splitlines()) < 150
    assert run.WHERE
