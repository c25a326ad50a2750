"""An adapter is exact: it starts at nothing, stays inside its mask, and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import inputs, shake
from diffusers import StableDiffusionPipeline

from fade.adapters import Adapter
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.lora import Lora
from fade.sparsity import Dense, Module, Neuron, Random, Sparsity, Weight

KINDS: list[Sparsity] = [Dense(), Module(0.3), Neuron(0.1), Weight(0.1), Random(0.1, seed=1)]


def sparsify(adapter: Adapter, sparsity: Sparsity) -> None:
    generator = torch.Generator().manual_seed(0)
    adapter.set_masks(sparsity({n: torch.rand(w.shape, generator=generator) for n, w in adapter.weights().items()}))


@torch.no_grad()
def predict(model: Diffusion) -> torch.Tensor:
    return model.predict(*inputs(model))


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
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop], ids=lambda o: o.__name__)
def test_masked_weights_do_not_move(model: Diffusion, sparsity: Sparsity, optimizer: type[torch.optim.Optimizer]) -> None:
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
def test_saved_and_loaded_it_is_the_same(model: Diffusion, tmp_path: Path, sparsity: Sparsity) -> None:
    adapter = Lora.attach(model, rank=2, alpha=3)
    sparsify(adapter, sparsity)
    shake(adapter)
    wanted, identity, masks = predict(model), adapter.sha256(), adapter.masks()
    adapter.save(tmp_path / "adapter", {"target": "neon"})
    adapter.detach()
    again = Adapter.load(model, tmp_path / "adapter")
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
    adapter.export(tmp_path / "lora")
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None)
    stock.load_lora_weights(tmp_path / "lora")
    with torch.no_grad():
        assert (stock.unet(*inputs(model)).sample - wanted).abs().max() == 0


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


def test_a_wrong_file_is_refused_before_anything_is_attached(model: Diffusion, adapter: Adapter, tmp_path: Path) -> None:
    shake(adapter)
    adapter.save(tmp_path / "adapter", {})
    adapter.detach()
    clean = {k: v.clone() for k, v in model.unet.state_dict().items()}
    file = tmp_path / "adapter" / "adapter.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match="hash differs"):
        Adapter.load(model, tmp_path / "adapter")
    with pytest.raises(BadInput, match=r"adapter\.json is missing"):
        Adapter.load(model, tmp_path / "nothing")
    assert model.unet.state_dict().keys() == clean.keys()


def test_targets_that_match_nothing_are_refused(model: Diffusion) -> None:
    with pytest.raises(BadInput, match="no linear layer"):
        Lora.attach(model, rank=2, alpha=2, targets=["to_nothing"])
    with pytest.raises(BadInput, match="rank"):
        Lora.attach(model, rank=0, alpha=2)
