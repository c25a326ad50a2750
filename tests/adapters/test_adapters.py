"""An adapter is exact: it starts at nothing, stays inside its mask, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import KINDS, inputs, predict, shake, sparsify
from diffusers import StableDiffusionPipeline

from benchmarks.runs._memory import Peak
from fade.adapters import Adapter
from fade.adapters.export import export
from fade.adapters.lora import Lora
from fade.adapters.stored import Stored
from fade.errors import BadInput
from fade.models import Diffusion
from fade.saliency import Sides
from fade.sparsity import Dense, Module, Neuron, Random, Sparsity


def test_attached_it_changes_nothing_and_detached_it_leaves_no_trace(model: Diffusion) -> None:
    before = {k: v.clone() for k, v in model.unet.state_dict().items()}
    untouched = predict(model)
    adapter = Lora.attach(model, rank=2, alpha=2)
    assert torch.equal(predict(model), untouched)
    shake(adapter)
    assert not torch.equal(predict(model), untouched)
    with adapter.off():
        assert torch.equal(predict(model), untouched)
    with adapter.applied():
        pass
    adapter.detach()
    after = model.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("sparsity", KINDS, ids=lambda s: s.kind)
@pytest.mark.parametrize(
    "optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop], ids=lambda o: o.__name__
)
def test_masked_weights_do_not_move(
    model: Diffusion, sparsity: Sparsity, optimizer: type[torch.optim.Optimizer]
) -> None:
    adapter = Lora.attach(model, rank=2, alpha=2)
    before = {n: w.clone() for n, w in adapter.weights().items()}
    sparsify(adapter, sparsity)
    shake(adapter)
    step = optimizer(adapter.parameters(), lr=0.1, weight_decay=0.5)  # type: ignore[call-arg]
    for _ in range(3):
        step.zero_grad()
        model.predict(*inputs(model)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1e-3)
        step.step()
    masks = adapter.masks()
    moved = 0
    with adapter.applied():
        for name, weight in adapter.weights().items():
            assert torch.equal(weight[~masks[name]], before[name][~masks[name]])
            moved += int((weight != before[name]).sum())
    assert moved > 0
    assert all(torch.equal(w, before[n]) for n, w in adapter.weights().items())


@pytest.mark.parametrize("sparsity", KINDS, ids=lambda s: s.kind)
def test_the_change_that_trains_is_the_one_that_is_merged_and_lies_within_the_mask(
    model: Diffusion, sparsity: Sparsity
) -> None:
    adapter = Lora.attach(model, rank=2, alpha=3)
    adapter.set_masks(sparsity({name: torch.rand(weight.shape) for name, weight in adapter.weights().items()}))
    shake(adapter)
    for name, mask in adapter.masks().items():
        change, merged = adapter.delta(name), adapter.exact(f"{name}.weight")
        assert not change[~mask].any() and bool(change.any()) == bool(mask.any())
        torch.testing.assert_close(change.double(), torch.zeros_like(change).double() if merged is None else merged)


@pytest.mark.parametrize("sparsity", [Module(0.3), Neuron(0.1), Random(0.1, 0)], ids=lambda s: s.kind)
def test_rectangles_are_formed_a_layer_at_a_time(model: Diffusion, sparsity: Sparsity) -> None:
    """From the scores' sums to what a checkpoint holds: all masks of FLUX at once would be 2.5 GB."""
    scores = {f"layer {i}": torch.rand(64, 64) for i in range(50)}
    sides = {name: Sides(s.sum(1), s.sum(0)) for name, s in scores.items()}
    with Peak() as peak:
        masks = sparsity(sides)
        kept = sum(float(mask.float().mean()) for mask in masks.values()) / len(masks)
    assert 0.05 < kept < 0.4 and peak.most < 20 * 64 * 64
    wanted = sparsity(scores)
    assert all(torch.equal(mask, wanted[name]) for name, mask in masks.items())
    adapter = Lora.attach(model, rank=2, alpha=3)
    sparsify(adapter, sparsity)
    bools = [value for value in adapter.state().values() if value.dtype == torch.bool]
    assert {value.dim() for value in bools} == {1} and len(bools) == 2 * len(adapter.layers)


@pytest.mark.parametrize("sparsity", KINDS, ids=lambda s: s.kind)
def test_a_checkpoint_gives_masks_back_also_an_older_versions(model: Diffusion, sparsity: Sparsity) -> None:
    adapter = Lora.attach(model, rank=2, alpha=3)
    sparsify(adapter, sparsity)
    shake(adapter)
    now, masks, wanted = adapter.state(), dict(adapter.masks()), predict(model)
    whole = {f"{name}.mask": mask for name, mask in masks.items()}
    older = {name: value for name, value in now.items() if name.rpartition(".")[2] in ("A", "B")} | whole
    for state in ({name: value.clone() for name, value in each.items()} for each in (now, older)):
        adapter.set_masks({name: torch.zeros_like(mask) for name, mask in masks.items()})
        adapter.load_state(state)
        assert all(torch.equal(mask, masks[name]) for name, mask in adapter.masks().items())
        assert torch.equal(predict(model), wanted)


@pytest.mark.parametrize("sparsity", KINDS, ids=lambda s: s.kind)
def test_saved_and_loaded_it_is_the_same(model: Diffusion, tmp_path: Path, sparsity: Sparsity) -> None:
    adapter = Lora.attach(model, rank=2, alpha=3)
    sparsify(adapter, sparsity)
    shake(adapter)
    wanted, identity, masks = predict(model), adapter.sha256(), adapter.masks()
    Stored.of(adapter, {"target": "neon"}).write(tmp_path / "adapter")
    adapter.detach()
    again = Stored.read(tmp_path / "adapter").attach(model)
    assert again.sha256() == identity
    assert (predict(model) - wanted).abs().max() == 0
    kept = {n: m for n, m in again.masks().items() if m.any()}
    assert all(torch.equal(m, masks[n]) for n, m in kept.items())


@pytest.mark.parametrize("sparsity", [Dense(), Module(0.3), Neuron(0.1)], ids=lambda s: s.kind)
def test_exported_it_loads_in_stock_diffusers(model: Diffusion, tmp_path: Path, sparsity: Sparsity) -> None:
    model.pipe.save_pretrained(tmp_path / "base")
    adapter = Lora.attach(model, rank=2, alpha=3)
    sparsify(adapter, sparsity)
    shake(adapter)
    wanted = predict(model)
    export(adapter, tmp_path / "lora")
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None)
    stock.load_lora_weights(tmp_path / "lora")
    with torch.no_grad():
        z, t, embedding = inputs(model)
        assert (stock.unet(z, t, embedding.tokens).sample - wanted).abs().max() == 0


def test_a_second_adapter_trains_alone_and_sees_the_first(model: Diffusion) -> None:
    first = Lora.attach(model, rank=2, alpha=2, name="first")
    shake(first)
    with_first = predict(model)
    second = Lora.attach(model, rank=2, alpha=2, name="second")
    assert {id(p) for p in model.unet.parameters() if p.requires_grad} == {id(p) for p in second.parameters()}
    shake(second)
    with second.off():
        assert torch.equal(predict(model), with_first)
    second.detach()
    assert torch.equal(predict(model), with_first)


def test_scale(model: Diffusion) -> None:
    untouched = predict(model)
    adapter = Lora.attach(model, rank=2, alpha=4)
    shake(adapter)
    full = predict(model)
    adapter.scale = 0.0
    assert torch.equal(predict(model), untouched)
    adapter.scale = 1.0
    assert torch.equal(predict(model), full)


def test_a_wrong_file_is_refused_before_anything_is_attached(
    model: Diffusion, adapter: Adapter, tmp_path: Path
) -> None:
    shake(adapter)
    Stored.of(adapter, {}).write(tmp_path / "adapter")
    adapter.detach()
    clean = {k: v.clone() for k, v in model.unet.state_dict().items()}
    file = tmp_path / "adapter" / "adapter.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match="hash differs"):
        Stored.read(tmp_path / "adapter").attach(model)
    with pytest.raises(BadInput, match=r"adapter\.json is missing"):
        Stored.read(tmp_path / "nothing").attach(model)
    assert model.unet.state_dict().keys() == clean.keys()


def test_settled_it_is_what_the_file_holds(model: Diffusion) -> None:
    """Dropout is for training: after it the same input gives the same prediction, and nothing is trainable."""
    adapter = Lora.attach(model, rank=2, alpha=2, dropout=0.5)
    shake(adapter)
    model.unet.train()
    assert not torch.equal(predict(model), predict(model))
    adapter.settle()
    assert torch.equal(predict(model), predict(model)) and not any(p.requires_grad for p in model.unet.parameters())


def test_the_teacher_is_counted_and_only_it(model: Diffusion, adapter: Adapter) -> None:
    predict(model)
    with adapter.off():
        predict(model)
        predict(model)
    predict(model)
    assert adapter.teacher_passes == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 2.5}, "rank is 2.5; it must be a whole number"),
        ({"rank": "4"}, "rank is '4'; it must be a whole number"),
        ({"rank": 10**6}, r"rank is 1000000, and no matrix of these layers has more than \d+"),
        ({"alpha": 0}, "alpha is 0; it must be a number above 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"dropout": 1.5}, r"dropout is 1.5; it must lie in \[0, 1\)"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
    ids=str,
)
def test_numbers_that_make_no_adapter_are_refused_and_nothing_is_left(
    model: Diffusion, given: dict[str, Any], message: str
) -> None:
    names = [name for name, _ in model.unet.named_modules()]
    with pytest.raises(BadInput, match=f"adapter.{message}"):
        Lora.attach(model, **{"rank": 2, "alpha": 2, **given})
    assert [name for name, _ in model.unet.named_modules()] == names and not hasattr(model.unet, "peft_config")


def test_targets_that_match_nothing_are_refused(model: Diffusion) -> None:
    with pytest.raises(BadInput, match="no linear layer"):
        Lora.attach(model, rank=2, alpha=2, targets=["to_nothing"])
    with pytest.raises(BadInput, match="rank"):
        Lora.attach(model, rank=0, alpha=2)
