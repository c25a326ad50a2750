"""Samplers where a concept is half forgotten: the search for a scale, what is asked, what is kept, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from configs import composed
from omegaconf import OmegaConf

from benchmarks.measure.predictions import Row, read_rows, write_rows
from benchmarks.record.results import Run
from benchmarks.runs.reopened import together
from benchmarks.studies import _edge as edges
from benchmarks.studies import edge as study
from benchmarks.studies._edge import Edge, Sampler, half_forgotten
from benchmarks.studies._verdicts import Compared, Verdicts, at_edge, bootstrap, change, cheapest, row_of, share
from fade.adapters.lora import Lora
from fade.adapters.stored import Stored
from fade.errors import BadInput
from fade.files import write_json, write_text
from fade.models.stable_diffusion import StableDiffusion

CHOSEN = [Sampler("DDIM", 2), Sampler("DPM++", 1), Sampler("DDIM", 1, "bfloat16")]


def results(target: str = "neon_glow", sha: str = "a" * 64) -> dict[str, object]:
    few = {"value": 1.0, "low": 0.8, "high": 1.0, "n": 16}
    return {
        "format": 1,
        "dataset": "canvas",
        "target": target,
        "domain": "style",
        "surrogate": "neon_lines",
        "method": "fade",
        "protocol": "balanced",
        "metrics": {"ua": few, "ira_near": {**few, "of": ["neon_lines", "glass_mosaic"]}},
        "base": {},
        "cost": {},
        "gates": {"images": 16},
        "landed": {},
        "adapter_sha256": sha,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the canvas, its adapter of random values."""
    folder = tmp_path_factory.mktemp("runs") / "fade-neon_glow"
    config = composed("target=neon_glow")
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config))
    write_json(folder / "results.json", results())
    model = StableDiffusion.load(str(OmegaConf.select(config, "model.path")), 2, 4.0)
    adapter = Lora.attach(model, rank=2, alpha=2)
    for parameter in adapter.parameters():
        parameter.data.normal_(std=0.05)
    Stored.of(adapter, {"target": "neon_glow"}).write(folder / "adapter")
    return Run(folder, results())


def test_a_scale_is_found_at_which_half_is_forgotten() -> None:
    asked: list[float] = []

    def ua(scale: float, at: float = 0.3) -> float:
        asked.append(scale)
        return float(np.clip(0.5 + 4 * (scale - at), 0, 1))

    found = half_forgotten(ua)
    assert found is not None and abs(ua(found) - 0.5) <= 0.15 and len(asked) <= 6
    assert half_forgotten(lambda _: 0.55) == 1.0  # as trained
    assert half_forgotten(lambda _: 0.2) is None  # all of it forgets less
    assert half_forgotten(lambda scale: float(scale > 0.3)) is None  # at once


def test_every_image_has_noise_of_its_own_and_the_grid_is_asked_by_kinds(run: Run, tmp_path: Path) -> None:
    model, benchmark = together([run.folder], tmp_path)
    wanted = {}
    for scale in (0.5, 1.0):
        edge = Edge(run, scale)
        wanted[scale] = edges.asked(edges.of_edge(benchmark, edge, 2, 1), edge, 1 / 16)
        kinds = [edges.kind_of(answer, edge) for answer in wanted[scale]]
        assert {kind: kinds.count(kind) for kind in kinds} == {
            **{"name": 32, "near": 8, "other": 13},
            **{"template": 16, "synonym": 16, "description": 16},
        }
        names = [a for a, kind in zip(wanted[scale], kinds, strict=True) if kind == "name"]
        assert len({answer.noise for answer in names}) == 32
    assert not {a.noise for a in wanted[0.5]} & {a.noise for a in wanted[1.0]}
    assert model.prediction == "v_prediction"


def test_verdicts_are_kept_a_row_an_image_and_only_what_lacks_is_asked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, benchmark = together([run.folder], tmp_path)
    edge, base = Edge(run, 0.5), model.sha256()
    own = edges.of_edge(benchmark, edge, 1, 0)
    wanted = edges.asked(own, edge, 1 / 16)[12:20]  # of the target, and of its look-alikes
    study.ask(model, [(edge, own, wanted)], CHOSEN, tmp_path)
    assert model.sha256() == base and not hasattr(model.unet, "peft_config")
    rows = {sampler: study.rows_of(tmp_path, edge, sampler) for sampler in CHOSEN}
    for sampler, found in rows.items():
        assert [row["file"] for row in found] == [answer.file for answer in wanted]
        assert {row["passes"] for row in found} == {str(2 * sampler.steps)}  # guidance asks twice
        assert [row["kind"] for row in found] == ["name"] * 4 + ["near"] * 4
    assert not list(tmp_path.rglob("*.png"))
    probabilities = [[row["style_probability"] for row in found] for found in rows.values()]
    assert probabilities[0] != probabilities[1]

    path = study.file_of(tmp_path, edge, CHOSEN[0])
    write_rows(path, rows[CHOSEN[0]][:6])
    sizes: list[int] = []
    make = edges.made
    monkeypatch.setattr(edges, "made", lambda *given: sizes.append(len(given[2])) or make(*given))
    study.ask(model, [(edge, own, wanted)], CHOSEN, tmp_path)
    assert sizes == [2]
    again = read_rows(path)
    assert [float(row["style_probability"]) for row in again] == pytest.approx(
        [float(row["style_probability"]) for row in rows[CHOSEN[0]]], abs=1e-3
    )


def rows(gone: list[bool], right: list[bool], seconds: float = 2.0, cells: int = 8) -> list[Row]:
    """An edge's verdicts by hand: images of the target, gone or not; images of look-alikes, read right or not."""
    about = {"seconds": str(seconds), "passes": str(10 * seconds)}
    found = []
    for k, verdict in enumerate([*gone, *right]):
        name = k < len(gone)
        style, other = ("neon_glow", "ink_sketch") if name else ("neon_lines", "ink_sketch")
        read = other if verdict == name else style
        place = {"file": str(k), "kind": "name" if name else "near", "style": style, "object": str(k % cells)}
        found.append(
            {**place, "style_predicted": read, "style_bfloat16": read, "object_predicted": str(k % cells), **about}
        )
    return found


Pairs = list[tuple[Verdicts, Verdicts]]


@pytest.fixture
def pairs() -> Callable[[int, int], Pairs]:
    """Four adapters of 40 images of the target and 20 others; so many in all are forgotten by the reference alone, and
    so many look-alikes are read right by it alone."""

    def made(remembered: int, lost: int) -> Pairs:
        found = []
        for k in range(4):
            edge = Edge(Run(Path(), results(sha=f"{k}" * 64)), 0.5)
            gone, right = [n % 2 == 0 for n in range(40)], [True] * 20
            mine = rows(gone, right)
            kept = [n // 2 >= remembered // 4 if n % 2 == 0 else False for n in range(40)]
            found.append((Verdicts(edge, mine), Verdicts(edge, rows(kept, [n >= lost // 4 for n in range(20)], 0.5))))
        return found

    return made


def test_agreement_and_the_change_of_ua_by_hand(pairs: Callable[[int, int], Pairs]) -> None:
    found = row_of(pairs(8, 4))  # 8 of 160 are still there, 4 of 80 look-alikes are lost
    assert found.images == 240 and found.same["value"] == pytest.approx(0.95) and found.ua == pytest.approx(72 / 160)
    assert found.moved["value"] == pytest.approx(-0.05) and found.moved["high"] < 0
    assert found.ira["value"] == pytest.approx(-0.05) and found.cra["value"] == 0
    assert found.kept["value"] == pytest.approx(0.95) and (found.passes, found.cost) == (5, 0.25)
    assert not found.enough
    alike = row_of(pairs(0, 0))
    assert alike.enough and alike.same["value"] == 1 and alike.same["low"] < 0.98  # 160 images do not make it certain
    assert alike.moved["low"] < 0 < alike.moved["high"]


def test_an_adapter_that_is_not_half_forgotten_is_no_edge(pairs: Callable[[int, int], Pairs]) -> None:
    ((mine, _), *_) = pairs(0, 0)
    whole = Verdicts(mine.edge, rows([True] * 37 + [False] * 3, []))
    assert at_edge([mine, whole, Verdicts(mine.edge, [])]) == [mine]


def test_the_interval_is_over_adapters_and_cells() -> None:
    values = np.array([1.0] * 50 + [0.0] * 50)
    apart = [(f"{k // 50}", str(k % 50)) for k in range(100)]  # two adapters that say opposite things
    spread = [(f"{k % 10}", str(k)) for k in range(100)]
    wide, narrow = bootstrap(values, apart), bootstrap(values, spread)
    assert wide[0] == narrow[0] == 0.5 and wide[2] - wide[1] == 1.0 and narrow[2] - narrow[1] < 0.4
    assert share([True] * 10, [("a", "b")] * 10)["low"] == pytest.approx(0.722, abs=1e-3)  # Wilson's
    still = change([0.0] * 100, spread)
    assert still["value"] == 0 and -still["low"] == still["high"] == pytest.approx(0.0196, abs=1e-4)


def test_the_cheapest_that_gives_the_same_verdicts_is_named(pairs: Callable[[int, int], Pairs]) -> None:
    good, bad = row_of(pairs(0, 0)), row_of(pairs(8, 0))

    def costs(row: Compared, passes: float, cost: float) -> Compared:
        return replace(row, passes=passes, cost=cost)

    found = {
        "5": costs(bad, 10, 0.1),
        "15": costs(good, 30, 0.2),
        "15 bfloat16": costs(good, 30, 0.15),
        "30": costs(good, 60, 0.3),
    }
    assert cheapest(found) == "15 bfloat16" and cheapest({"5": found["5"]}) is None


def test_tables_are_made_of_what_is_kept(run: Run, tmp_path: Path, pairs: Callable[[int, int], Pairs]) -> None:
    ((mine, ours), *_) = pairs(8, 0)
    samplers = [Sampler("DDIM", 100), Sampler("DEIS", 8)]
    other = Edge(run, 1.0)
    for edge, verdicts in ((mine.edge, (mine, ours)), (other, (Verdicts(other, rows([True] * 8, [True])),) * 2)):
        for sampler, one in zip(samplers, verdicts, strict=True):
            write_rows(study.file_of(tmp_path, edge, sampler), one.rows)
    text = study.tables(tmp_path, [mine.edge, other], samplers)
    assert f"{other.name}: UA 100.0 by DDIM 100, not at the edge; left out" in text
    assert "| DEIS 8 " in text and "none of these. 120 images in all, of 1 adapters." in text
    assert {path.name for path in tmp_path.glob("*.csv")} == {"samplers.csv", "edges.csv"}
    with pytest.raises(BadInput, match="no run is half forgotten by the reference"):
        study.tables(tmp_path, [other], samplers)


def test_what_is_no_sampler_and_what_has_no_adapter_is_refused(run: Run, tmp_path: Path) -> None:
    assert Sampler.of("UniPC:12:bfloat16") == Sampler("UniPC", 12, "bfloat16")
    for wrong in ("Euler:8", "DDIM", "DDIM:0", "DDIM:x", "DDIM:8:int8"):
        with pytest.raises(BadInput, match=f"'{wrong}' is no sampler; give SOLVER:STEPS"):
            Sampler.of(wrong)
    with pytest.raises(BadInput, match="has no adapter to turn down"):
        edges.check_run(Run(tmp_path, results()))
    with pytest.raises(BadInput, match="forgets neon glow with house cat; name runs of one concept each"):
        edges.check_run(Run(run.folder, {**results(), "within": "house_cat"}))
    other = tmp_path / "other"
    write_text(other / "config.yaml", OmegaConf.to_yaml(composed("target=neon_glow", "model.guidance=3")))
    with pytest.raises(BadInput, match="differ in model; adapters are measured together on one model"):
        together([run.folder, other], tmp_path)
