"""Attacks on the weights, by hand: NF4, what is put on top or back, what a mask tells, what merging does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fade.adapters.lora import Lora
from fade.adapters.merging import ties
from fade.adapters.stored import Stored
from fade.attacks import Attack, Scene
from fade.attacks.benign import Benign
from fade.attacks.foreign import Foreign, PutBack
from fade.attacks.mask import Refill, Within, changed, completed, enlarged, shuffled
from fade.attacks.merge import Merge
from fade.attacks.meter import Subject
from fade.attacks.numerics import LEVELS, Numerics, nf4
from fade.attacks.relearn import Relearn
from fade.attacks.suite import _subjects
from fade.console import Stage
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Diffusion, Noise
from fade.models.ledger import plain
from fade.models.quantization import BLOCK
from fade.models.stable_diffusion import StableDiffusion
from fade.sparsity import Weight

Weights = dict[str, Tensor]


class Shown(Scene):
    """In place of images, the weights that they would be drawn with."""

    def plain(self, cells: Sequence[Cell], noise: Sequence[Noise]) -> Any:  # type: ignore[override]
        return weights(self.model)


def weights(model: Diffusion) -> Weights:
    return {plain(n): w.detach().clone() for n, w in model.network.named_parameters() if ".lora_" not in n}


@pytest.fixture
def shown(scene: Scene) -> Shown:
    """A base, and a model with a sparse change merged into it."""
    base = StableDiffusion(copy.deepcopy(scene.model.pipe), 2, 3.0)
    adapter = random_lora(scene.model)
    adapter.merge()
    given = {**vars(scene), "base": base}
    return Shown(**{key: given[key] for key in Scene.__dataclass_fields__})


def random_lora(model: Diffusion, seed: int = 1) -> Lora:
    adapter = Lora.attach(model, 2, 2)
    g = torch.Generator().manual_seed(seed)
    adapter.set_masks(Weight(0.3)({n: torch.rand(w.shape, generator=g) for n, w in adapter.weights().items()}))
    for weight in adapter.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=g)
    return adapter


def test_nf4_is_the_nearest_level_of_each_block_by_looking_at_all() -> None:
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))  # blocks run over the rows' ends
    found, flat = nf4(weight).flatten(), weight.flatten()
    for start in range(0, 150, BLOCK):
        block = flat[start : start + BLOCK]
        levels = block.abs().max() * torch.tensor(LEVELS)
        nearest = levels[(block[:, None] - levels).abs().argmin(1)]
        assert torch.allclose(found[start : start + BLOCK], nearest)
    assert torch.allclose(nf4(nf4(weight)), nf4(weight)) and not nf4(torch.zeros(2, 2)).any()


def test_a_base_in_nf4_leaves_the_change_beside_it_whole(shown: Shown) -> None:
    finds = {find.name: find for find in Numerics([8], []).finds(shown)}
    merged: Any = finds["NF4"].draw([], [])
    beside: Any = finds["base in NF4, change beside it"].draw([], [])
    own, now = weights(shown.base), weights(shown.model)
    touched = {name for name, mask in changed(shown).items() if mask.any()}
    assert touched and all(torch.equal(merged[n], nf4(now[n])) for n in touched)
    assert all(torch.allclose(beside[n] - nf4(own[n]), now[n] - own[n], atol=1e-6) for n in touched)
    assert all(torch.equal(beside[n], w) for n, w in own.items() if w.dim() != 2)  # linear layers alone


def test_a_change_is_put_on_what_was_fine_tuned_without_it(shown: Shown) -> None:
    """W_0 + ΔW_benign + ΔW, where ΔW_benign is what the base learns alone."""
    small: dict[str, Any] = {"images": 2, "marks": [2], "batch": 2, "rate": 1e-2}
    own, now = weights(shown.base), weights(shown.model)
    alone = Shown(**{**{k: getattr(shown, k) for k in Scene.__dataclass_fields__}, "model": shown.base})
    learnt: Any = Benign(**small).finds(alone)[0].draw([], [])
    put: Any = PutBack(**small).finds(shown)[0].draw([], [])
    moved = [name for name in own if not torch.equal(learnt[name], own[name])]
    assert len(moved) > 10 and all(torch.allclose(put[n], learnt[n] + now[n] - own[n], atol=1e-6) for n in moved)
    assert all(torch.equal(a, b) for a, b in zip(weights(shown.model).values(), now.values(), strict=True))


def test_a_foreign_lora_learns_on_the_base_and_not_on_what_it_is_put_on(shown: Shown) -> None:
    small: dict[str, Any] = {"images": 2, "over": "lora", "marks": [2], "batch": 2, "rank": 2}
    alone = Shown(**{**{k: getattr(shown, k) for k in Scene.__dataclass_fields__}, "model": shown.base})
    learnt, wanted, own = (
        attack.finds(scene)[0].draw.args[2]  # type: ignore[attr-defined]
        for attack, scene in ((Foreign(**small), shown), (Relearn(**small), alone), (Relearn(**small), shown))
    )
    assert all(torch.equal(a, b) for a, b in zip(learnt, wanted, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(learnt, own, strict=True))


def test_what_is_missing_is_completed_and_what_is_known_stays() -> None:
    g = torch.Generator().manual_seed(0)
    whole = torch.randn(24, 2, generator=g) @ torch.randn(2, 20, generator=g)
    missing = torch.rand(whole.shape, generator=g) < 0.2
    spoilt = torch.where(missing, 9.0, whole)
    means = completed(spoilt, missing, 0)
    found = completed(spoilt, missing, 500)
    assert torch.equal(found[~missing], whole[~missing])
    assert (found - whole).norm() < 0.8 * (means - whole).norm() < 0.8 * (spoilt - whole).norm()


def test_the_largest_of_what_was_filled_gets_its_rows_largest_size() -> None:
    weight = torch.tensor([[3.0, -1.0, 0.2], [0.5, -2.0, 0.1]])
    filled = torch.tensor([[False, True, True], [True, False, True]])
    found = enlarged(weight, filled, 0.5)
    assert found.tolist() == [[3.0, -3.0, 0.0], [2.0, -2.0, 0.0]]


def test_refilling_changes_what_was_changed_and_nothing_else(shown: Shown) -> None:
    masks, now = changed(shown), weights(shown.model)
    for find in Refill(iterations=3).finds(shown):
        found: Any = find.draw([], [])
        moved = {name: found[name] != now[name] for name in now}
        assert any(m.any() for m in moved.values()) and not any((m & ~masks[n]).any() for n, m in moved.items())


@pytest.mark.parametrize("where", ["inside", "outside", "random"])
def test_relearning_stays_where_it_may_move(shown: Shown, where: Any) -> None:
    attack = Within(where, images=2, marks=[2], batch=2, rate=1e-2)
    masks, now = changed(shown), weights(shown.model)
    allowed = attack.masks(shown)
    count = sum(int(m.sum()) for m in masks.values())
    every = sum(m.numel() for m in masks.values())
    assert sum(int(m.sum()) for m in allowed.values()) == (every - count if where == "outside" else count)
    found: Any = attack.finds(shown)[0].draw([], [])
    moved = {name: found[name] != now[name] for name in now}
    assert any(m.any() for m in moved.values()) and not any((m & ~allowed[n]).any() for n, m in moved.items())
    assert where != "random" or not torch.equal(shuffled(torch.arange(9) < 4, 0), torch.arange(9) < 4)


def test_a_model_that_never_saw_the_concept_is_attacked_by_the_mask_of_the_one_that_forgot_it(shown: Shown) -> None:
    other = StableDiffusion(copy.deepcopy(shown.base.pipe), 2, 3.0)
    for weight in other.network.parameters():
        weight.data += 0.01
    masks, asked = changed(shown), replace(shown, model=other, masked=shown.model)
    assert all(torch.equal(mask, masks[name]) for name, mask in changed(asked).items())
    now, found = weights(other), Within("outside", images=2, marks=[2], batch=2, rate=1e-2).finds(asked)[0]
    drawn: Any = found.draw([], [])
    moved = {name: drawn[name] != now[name] for name in now}
    assert any(m.any() for m in moved.values()) and not any((m & masks[n]).any() for n, m in moved.items())


def test_the_control_of_an_attack_that_knows_the_mask_is_given_it(shown: Shown) -> None:
    attacked, base, oracle = (Subject(name, shown.model, name) for name in ("attacked", "base", "oracle"))
    asked: list[Subject] = []

    class Asking:
        def measured(self, name: str, attack: Attack, subject: Subject, kept: list[str] | None) -> dict[str, Any]:
            asked.append(subject)
            return {"tried": []}

    for attack in (Refill(), Within(), Relearn()):
        stage: Any = Stage("attacks", 4, "while attacking, after measurement")
        _subjects(Asking(), stage, "x", attack, attacked, base, oracle, None)  # type: ignore[arg-type]
    places = [one.places and one.places.name for one in asked if one.name == "oracle"]
    assert places == ["attacked", "attacked", None]
    assert replace(oracle, places=attacked).known == ["oracle", "attacked"] and oracle.known == "oracle"


def test_changes_are_merged_with_others(shown: Shown, tmp_path: Path) -> None:
    other = random_lora(shown.base, seed=2)
    Stored.of(other, {"target": "cat", "surrogate": "fish", "domain": "object", "method": "fade"}).write(tmp_path)
    theirs = {name: other.delta(name.removesuffix(".weight")).detach() for name in other.overwrites()}
    other.detach()
    own, now = weights(shown.base), weights(shown.model)
    finds = {find.name: find for find in Merge([str(tmp_path)]).finds(shown)}
    found: Any = {name: find.draw([], []) for name, find in finds.items()}
    mine = {n: now[n] - own[n] for n in theirs}
    for name, change in theirs.items():
        assert torch.allclose(found["sum"][name], own[name] + mine[name] + change, atol=1e-6)
        assert torch.allclose(found["average"][name], own[name] + (mine[name] + change) / 2, atol=1e-6)
    wanted = ties([mine, theirs])
    assert all(torch.allclose(found["TIES"][n], own[n] + wanted[n], atol=1e-5) for n in theirs)
    assert weights(shown.base).keys() == own.keys() and not hasattr(shown.base.network, "peft_config")
    with pytest.raises(BadInput, match="no adapter to merge with"):
        Merge().suits(shown.model)
    with pytest.raises(BadInput, match="nowhere"):
        Merge(["nowhere"])
