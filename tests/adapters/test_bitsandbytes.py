"""bitsandbytes' own 4-bit layers, where it is installed (no pin has it): docs/families.md says how it was run."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import torch
from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer
from families import CAPTIONS, tiny
from torch import Tensor, nn

import fade
from benchmarks.runs import architectures
from benchmarks.runs._packed import Packed
from fade.errors import BadInput
from fade.models import Diffusion, Noise, quantization

bnb = pytest.importorskip("bitsandbytes")


def layer_4bit(layer: nn.Linear) -> nn.Linear:
    made: nn.Linear = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, torch.float32, quant_type="nf4"
    )
    made.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=made).to("cpu")
    made.bias = layer.bias
    made.support_avx512bf16_for_cpu = False  # of inference alone: it turns weights into a format without a way back
    return made


def values(layer: nn.Linear) -> Tensor:
    found: Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return found


def quantised() -> tuple[Diffusion, Diffusion]:
    """A Stable Diffusion 3 in NF4, and one whose weights are what those stand for."""
    model, dense = tiny("sd3"), tiny("sd3")
    for name, layer in list(model.network.transformer_blocks.named_modules()):
        if isinstance(layer, nn.Linear):
            made, (parent, _, own) = layer_4bit(layer), name.rpartition(".")
            setattr(model.network.transformer_blocks.get_submodule(parent), own, made)
            dense.network.transformer_blocks.get_submodule(name).weight.data = values(made)
    return model, dense


@pytest.mark.parametrize("sparsity", ["module", "neuron", "weight"])
def test_masks_are_those_of_what_the_layers_stand_for(tmp_path: Path, sparsity: str) -> None:
    model, dense = quantised()
    before = model.generate(CAPTIONS[:1], [Noise(0)])
    handles = [
        fade.unlearn(
            each.pipe, "neon", "photo", sparsity=sparsity, templates=["A cat in {}"], retain=["A dog in a house"],
            images=2, batch=2, sampling_steps=2, steps=2, lr=1e-2, rank=2, alpha=2,
        )
        for each in (model, dense)
    ]  # fmt: skip
    ours, theirs = ({k: v for k, v in h.stored.tensors.items() if k[-2:] not in (".A", ".B")} for h in handles)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], places) for name, places in theirs.items())
    assert torch.equal(model.generate(CAPTIONS[:1], [Noise(0)]), before)
    handles[0].save(tmp_path / "own")
    with fade.load(model.pipe, tmp_path / "own") as loaded:
        after = model.generate(CAPTIONS[:1], [Noise(0)])
        loaded.scale = 0.0
        assert torch.equal(model.generate(CAPTIONS[:1], [Noise(0)]), before) and not torch.equal(after, before)
        with pytest.raises(BadInput, match="is quantised, and nothing can be written into packed weights"):
            loaded.merge()
    assert torch.equal(model.generate(CAPTIONS[:1], [Noise(0)]), before)


@pytest.mark.parametrize("family", ["sd3", "flux", "sana"])
def test_the_loader_packs_what_a_plan_counts(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers in the same bytes. Without a GPU diffusers' check for one is off, and ours, and bitsandbytes'
    format for a CPU, which has no room for layers this small."""
    if not torch.accelerator.is_available():
        monkeypatch.setattr(quantization, "check_packing", lambda: None)
        monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: False)
        monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *_, **__: None)
        monkeypatch.setattr(BnB4BitDiffusersQuantizer, "update_device_map", lambda *_: {"": "cpu"})
    model = tiny(family)
    model.pipe.save_pretrained(tmp_path)
    monkeypatch.setitem(architectures.ARCHITECTURES, str(tmp_path), getattr(families, family))
    kind = type(model)
    how = {"steps": 2, "guidance": 1.0, "dtype": "bfloat16", "text_length": families.LENGTH, "quantization": "nf4"}
    read = kind.load(str(tmp_path), **how)
    target = f"{kind.__module__}.{kind.__name__}.load"
    planned = architectures.without_weights({"_target_": target, "path": str(tmp_path), **how})

    def taken(model: Diffusion, packed: type[nn.Module]) -> dict[str, int]:
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, packed)}
        state = {name: getattr(layer.weight, "quant_state", layer) for name, layer in layers.items()}
        return {name: layer.weight.nbytes + state[name].absmax.nbytes for name, layer in layers.items()}

    found = taken(read, bnb.nn.Linear4bit)
    assert len(found) > 20 and found == taken(planned, Packed)
    assert {name.partition(".")[0] for name in found} == set(kind.quantised)
    images = read.generate(CAPTIONS[:1], [Noise(0)])
    assert torch.isfinite(images).all() and images.std() > 0
