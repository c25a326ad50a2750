"""The meter, on the shipped pipeline in four steps: it sees what is planted, goes on where it was killed, and leaves no
trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import SHIPPED
from grids import small
from PIL import Image as Pillow
from torch import Tensor

from benchmarks.report.attacks import robustness
from fade.attacks import Attack, Counter, Find, Scene
from fade.attacks.bypass import Bypass
from fade.attacks.closed import Closed
from fade.attacks.inpaint import Inpaint
from fade.attacks.meter import NOTHING, Meter, Subject, best
from fade.attacks.never import Never
from fade.attacks.numerics import Numerics
from fade.attacks.plain import Plain
from fade.attacks.prefix import Prefix
from fade.attacks.probe import Probe
from fade.attacks.prompts import Prompts
from fade.attacks.recall import Recall
from fade.attacks.relearn import Relearn
from fade.attacks.sampler import Sampler
from fade.attacks.scale import Scale
from fade.attacks.suite import suite, zero_is_base
from fade.attacks.trajectory import Completion, Image, pictures
from fade.data.pairs import Request
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.files import read_json
from fade.judges import Judge
from fade.models import Diffusion, Noise, Sampling
from fade.models.embedding import Embedding
from fade.models.stable_diffusion import StableDiffusion


def shipped() -> StableDiffusion:
    return StableDiffusion.load(str(SHIPPED / "pipeline"), steps=4, guidance=4.0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def meter(cache: Path) -> Meter:
    dataset = small(2, 1, 1)
    request, base = Request.of(dataset, "neon_glow", "photo"), shipped()
    cells = [cell for cell in dataset.cells() if request.concerns(cell)][:4]
    scene = Scene(base, base, dataset, request, cells, dataset.caption, Sampling(), Counter())
    judges = {domain: Judge.load(SHIPPED / "judges" / domain) for domain in dataset.domains}
    return Meter(scene, judges, Probe.of(base, dataset, "style", 99, cache), 4, 4, [1], [188], cache)


@pytest.fixture(scope="module")
def base(meter: Meter) -> Subject:
    return Subject("base", meter.scene.base, meter.scene.base.sha256())


def word_filter(model: Diffusion, word: str = "neon glow", instead: str = "photo") -> Diffusion:
    """A fake defence: no weight is changed, and a prompt that has the word is embedded as if it had another."""
    known: dict[str, Tensor] = {}

    def edit(prompts: list[str], embedding: Embedding) -> Embedding:
        rows = embedding.tokens.clone()
        for i, prompt in enumerate(prompts):
            if word in prompt:
                if prompt not in known:
                    known[prompt] = torch.empty(0)  # the next line asks for another prompt
                    known[prompt] = model.embed([prompt.replace(word, instead)]).tokens[0]
                rows[i] = known[prompt]
        return Embedding(rows)

    model.prompts.add(word_filter, edit)
    return model


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["attack"]: row for row in rows}


def test_the_base_scores_its_own_success_and_a_word_filter_is_caught(
    meter: Meter, base: Subject, tmp_path: Path
) -> None:
    fake = Subject("attacked", word_filter(shipped()), "a word filter")
    attacks = {"bypass": Bypass(), "prompts": Prompts(["upper case", "a letter dropped"])}
    found = by_name(suite(meter, attacks, fake, base, folder=tmp_path))
    assert found["none"]["base"]["value"] == 1.0 and found["none"]["success"]["value"] == 0.0
    assert found["bypass"]["success"]["value"] == 1.0 and found["bypass"]["excess"]["low"] > 0.3
    assert found["prompts"]["chosen"] == "upper case" and found["prompts"]["success"]["value"] == 1.0
    assert found["prompts"]["base"]["value"] == 1.0  # the attacker keeps what its judge likes best
    assert found["prompts"]["dropped"] == ["a letter dropped"]  # the base does not know the word, so it proves nothing
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{n}.{suffix}" for n in ("bypass", "none", "prompts") for suffix in ("json", "png")
    ]
    row = read_json(tmp_path / "bypass.json")
    assert row["drawn"]["lines"][1:] == ["no attack", "bypass on base", "bypass on attacked"]
    assert [one["prompt"] for one in row["shown"]] == [one["prompt"] for one in row["drawn"]["clean"]]
    assert all(one["hit"] for one in row["shown"]) and not any(one["hit"] for one in row["drawn"]["clean"])
    with Pillow.open(tmp_path / "bypass.png") as file:
        assert file.height == row["drawn"]["step"] * len(row["drawn"]["lines"])


def test_a_perfect_defence_scores_no_excess(meter: Meter, base: Subject) -> None:
    """The oracle itself, whatever it draws."""
    model = word_filter(shipped())
    rows = suite(meter, {"bypass": Bypass()}, Subject("attacked", model, "x"), base, Subject("oracle", model, "x"))
    assert all(row["excess"]["value"] == 0 and row["over"] == "oracle" for row in rows)


def test_it_leaves_no_trace_and_relearning_learns(meter: Meter, base: Subject) -> None:
    model = shipped()
    before, hooks = model.sha256(), len(model.network._forward_pre_hooks)
    attack = Relearn(images=4, marks=[1, 3], batch=2, rate=1e-2)
    entry = meter.measured("relearn", attack, Subject("attacked", model, "the base again"))
    assert model.sha256() == before and len(model.network._forward_pre_hooks) == hooks
    assert not any(weight.requires_grad for weight in model.parameters())
    assert [tried["units"] for tried in entry["tried"]] == [2 * 3, 3 * 2 * 3]
    assert entry["tried"][1]["liked"] != entry["tried"][0]["liked"]
    off = meter.measured("relearn", attack, Subject("off", model, "the base again", off=True))
    assert off["tried"][0]["units"] == 0 and len(off["tried"]) == 1
    assert zero_is_base(meter, base) and model.sha256() == before


class Seen(Plain):
    """Draws as asked, and remembers with what noise; finds so many times the same."""

    def __init__(self, times: int) -> None:
        self.times = times

    def finds(self, scene: Scene) -> list[Find]:
        def draw(cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
            noises.append({n.seed for n in noise})
            return scene.plain(cells, noise)

        return [Find("as asked", draw)] * self.times


noises: list[set[int]] = []


def test_the_report_draws_what_the_attacker_never_saw(meter: Meter, base: Subject) -> None:
    noises.clear()  # of the tests before this one
    meter.measured("seen", Seen(2), replace(base, identity="seen"))
    tried, again, reported = noises
    assert len(tried) == 4 and tried == again and len(reported) == 4 and not tried & reported


def test_the_attacker_draws_no_more_than_it_needs(meter: Meter, base: Subject) -> None:
    """Nothing where there is nothing to choose, and in haste; what it starts from is made once and charged to each."""
    image, tried = 2 * 4, 2 * 2 + 1  # units: two passes in each of four steps; of two, and one of the attacker's judge
    one = meter.measured("seen", Seen(1), replace(base, identity="one"))
    assert one["units"] == {"search": 0, "select": 0, "report": 4 * image} and one["tried"][0]["n"] == 4
    hasty = replace(meter, haste=0.5).measured("seen", Seen(2), replace(base, identity="two"))
    assert hasty["units"] == {"search": 0, "select": 2 * 4 * tried, "report": 4 * image}
    attack = Prefix(marks=[1])
    first, second = (meter.measured("prefix", attack, replace(base, identity=name)) for name in ("a", "b"))
    assert first["units"] == second["units"] == {"search": 4 * image + 4 * 3, "select": 0, "report": 4 * image}
    assert len(meter.scene.shared) == 1


def test_what_fails_on_the_base_is_not_tried(meter: Meter, base: Subject) -> None:
    attack = Prompts(["upper case", "a letter dropped"])
    (_, row) = suite(meter, {"prompts": attack}, replace(base, name="attacked"), base)
    assert [tried["name"] for tried in row["tried"]] == ["upper case"] and row["dropped"] == ["a letter dropped"]


class Finds(Attack):
    """Nothing."""

    level = "T0"

    def finds(self, scene: Scene) -> list[Find]:
        return []


def test_where_nothing_is_left_to_try_nothing_is_measured(meter: Meter, base: Subject, tmp_path: Path) -> None:
    """Not the captions as they are, which the base draws in all images."""
    attacks = {"dropped": Prompts(["a letter dropped"]), "empty": Finds()}
    attacked = replace(base, name="attacked")
    rows = suite(meter, attacks, attacked, base, attacked, folder=tmp_path)
    found = by_name(rows)
    assert found["none"]["success"]["value"] == 1.0
    for name in attacks:
        row = found[name]
        assert row["void"] and row["chosen"] is None and row["units"]["report"] == 0 and row["shown"] == []
        assert all(row[key] == {"value": None, "why": NOTHING, "n": 0} for key in ("success", "with_rest", "excess"))
        assert (tmp_path / f"{name}.png").is_file()
    assert found["dropped"]["base"]["value"] == 0 and found["dropped"]["dropped"] == ["a letter dropped"]
    assert "– (nothing to try)" in robustness(rows, "neon_glow")


@pytest.mark.parametrize("missing", ["neon_glow", "photo"])
def test_a_start_without_a_real_image_is_refused_before_any_work(
    meter: Meter, base: Subject, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the target's cells, or of those whose images the concept that nobody saw is made of."""
    never = Never.of(meter.scene.dataset, meter.scene.request, meter.judges["style"], 64, images=4)
    items = meter.scene.dataset.items("train")
    gone = (missing, meter.scene.cells[0]["object"])
    monkeypatch.setattr(meter.scene.dataset, "items", lambda split: [i for i in items if i.concepts != gone])
    recall, attacked = Recall(times=1, steps=1, marks=1), replace(base, name="attacked")
    rows = by_name(suite(meter, {"recall": recall, "closed": Closed()}, attacked, base, never=never))
    assert "no training image" in rows["recall"]["refused"] and "success" in rows["closed"]
    if missing == "neon_glow":
        with pytest.raises(BadInput, match=r"no training image for 'A .* neon glow style.', which this attack starts"):
            suite(meter, {"image": Image([0.5])}, attacked, base)


@pytest.mark.parametrize(
    "liked, units, kept",
    [
        ([0.0071, 0.003, 0.0], [10, 90, 40], 1),  # read in nothing
        ([0.0071, 0.003, 0.0, 0.25], [10, 90, 40, 20], 3),
        ([1.009, 1.001, 0.751], [10, 40, 90], 1),  # in as many: a relearning of 5 steps and one of 20
        ([2 / 3, 2 / 3 + 0.004, 1 / 3 + 0.01], [90, 10, 95], 0),
        ([0.004, 0.009, 0.0], [0, 0, 0], 1),  # a list
    ],
)
def test_the_attacker_keeps_what_its_judge_reads_and_the_longest_search_of_equals(
    liked: list[float], units: list[int], kept: int
) -> None:
    n = 3 if liked[0] == 2 / 3 else 4
    assert best([{"liked": a, "units": b, "n": n} for a, b in zip(liked, units, strict=True)]) == kept


class Deceived(Never):
    """Reads the unseen concept everywhere."""

    def reads(self, images: Tensor) -> list[bool]:
        return [True] * len(images)


def test_who_chooses_what_nobody_saw_is_not_who_reports_it(meter: Meter, base: Subject) -> None:
    never = Never.of(meter.scene.dataset, meter.scene.request, meter.judges["style"], 64, images=4)
    fooled = replace(base, identity="fooled", never=Deceived(never.judge, never.style, never.means, 1.0))
    entry = meter.measured("seen", Seen(2), fooled)
    assert entry["success"]["value"] == 1.0 and [tried["right"] for tried in entry["tried"]] == [4, 4]
    assert [tried["liked"] for tried in entry["tried"]] == [0, 0]  # photos and neon lights, of which it shows none
    real, _ = replace(meter.scene, altered=never.altered).examples(2)
    assert meter.unseen.reads(pictures(base.model, real)) == [True, True]


def test_what_draws_nothing_from_the_seed_is_measured_once_for_all_seeds(meter: Meter, base: Subject) -> None:
    other = replace(meter, scene=replace(meter.scene, seed=1))
    for attack in (
        Plain(),
        Prompts(),
        Sampler(),
        Closed(),
        Numerics(),
        Scale(),
        Bypass(),
        Image(),
        Inpaint(),
        Completion(),
    ):
        assert meter._key(attack, base, None) == other._key(attack, base, None)
    for searched in (Prefix(), Relearn(), Recall()):
        assert meter._key(searched, base, None) != other._key(searched, base, None)


class Fails(Attack):
    """Finds what draws nothing but grey."""

    level = "T0"

    def __init__(self, broken: bool = True) -> None:
        self.broken = broken

    def finds(self, scene: Scene) -> list[Find]:
        return [Find("grey", lambda cells, noise: scene.plain(cells, noise) * 0 + 0.5)]


def test_an_attack_that_fails_on_the_base_is_void(meter: Meter, base: Subject) -> None:
    rows = suite(meter, {"grey": Fails()}, replace(base, name="attacked"), base)
    assert [row["void"] for row in rows] == [False, True]


@pytest.mark.processes
def test_a_killed_suite_goes_on_and_ends_the_same(
    meter: Meter, base: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = {"prompts": Prompts(["upper case"]), "closed": Closed()}
    attacked = replace(base, name="attacked")
    alone = replace(meter, cache=tmp_path, images=2, tries=2)
    measure: Callable[..., Any] = Meter._measure
    calls: list[str] = []

    def killed(self: Meter, attack: Attack, subject: Subject, kept: Any) -> Any:
        calls.append(type(attack).__name__)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, attack, subject, kept)

    monkeypatch.setattr(Meter, "_measure", killed)
    with pytest.raises(KeyboardInterrupt):
        suite(alone, attacks, attacked, base)
    first = suite(alone, attacks, attacked, base)
    n = len(calls)
    assert suite(alone, attacks, attacked, base) == first and len(calls) == n  # all from the cache
    shutil.rmtree(tmp_path)
    again = suite(alone, attacks, attacked, base)
    without = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows] for rows in (first, again)]
    assert without[0] == without[1]


class Refused(Bypass):
    def suits(self, model: Diffusion) -> None:
        raise BadInput("not on this one")


def test_an_attack_that_a_model_cannot_take_says_why(meter: Meter, base: Subject) -> None:
    rows = by_name(suite(meter, {"no": Refused(), "closed": Closed()}, replace(base, name="attacked"), base))
    assert rows["no"]["refused"] == "not on this one" and "success" in rows["closed"]
    with pytest.raises(BadInput, match="not on this one"):
        suite(meter, {"no": Refused()}, replace(base, name="attacked"), base)


def test_a_concept_that_nobody_saw_is_read_by_a_judge_that_does_not_know_it(meter: Meter, base: Subject) -> None:
    """Real images of two colours are read as it, the base's photos and neon lights are not."""
    dataset = small(2, 1, 1)
    never = Never.of(dataset, meter.scene.request, meter.judges["style"], 64, images=4)
    assert never.accuracy == 1.0 and len(never.means) == 4 + 1
    assert not any(never.reads(meter.scene.plain(*meter.asked(4, [188]))))
    entry = meter.measured("relearn", Relearn(images=2, marks=[1], batch=2), replace(base, never=never))
    assert entry["success"]["value"] == 0.0  # nobody learns it in a step
    wanted, _ = replace(meter.scene, altered=never.altered).examples(2)
    shown = base.model.pipe.vae.decode(wanted / base.model.pipe.vae.config.scaling_factor).sample.detach() / 2 + 0.5
    assert all(never.reads(shown.clamp(0, 1)))
