"""One matrix for all layers: the file holds it alone, and everything a patch does stays exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapting import KEYS_AND_VALUES, inputs, predict, snapshot, train
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

import fade
from fade.adapters.export import export, export_factors
from fade.adapters.matrix import Matrix
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored, identity
from fade.api import diffusion_of
from fade.errors import BadInput
from fade.models import Diffusion


def drawn(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def multiplied(model: Diffusion, seed: int, name: str = "fade", kind: type[Matrix] = Matrix) -> Matrix:
    adapter = kind.attach(model, KEYS_AND_VALUES, name)
    adapter.multiply(drawn(seed))
    adapter.settle()
    return adapter


def test_the_file_holds_one_matrix_and_brings_back_every_bit(model: Diffusion, tmp_path: Path) -> None:
    before, untouched = snapshot(model), predict(model)
    adapter = multiplied(model, 1)
    for name, weight in adapter.weights().items():
        w = before[name].double()
        torch.testing.assert_close(weight.double(), w + w @ drawn(1), atol=1e-6, rtol=1e-5)
    changed, wanted = snapshot(model), predict(model)
    Stored.of(adapter, {}).write(tmp_path / "adapter")
    assert {key: list(t.shape) for key, t in Stored.read(tmp_path / "adapter").tensors.items()} == {"matrix": [32, 32]}
    adapter.detach()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())
    again = Stored.read(tmp_path / "adapter").attach(model)
    assert all(torch.equal(value, changed[name]) for name, value in model.unet.state_dict().items())
    assert torch.equal(predict(model), wanted) and not torch.equal(wanted, untouched)
    assert not any(p.requires_grad for p in model.unet.parameters())
    with again.off():
        assert torch.equal(predict(model), untouched)
    again.scale = 0.5
    for name, weight in again.weights().items():
        torch.testing.assert_close(weight.detach(), (before[name] + changed[name]) / 2)
    again.detach()
    assert torch.equal(predict(model), untouched)


def test_it_goes_onto_half_precision_and_off_again(model: Diffusion, tmp_path: Path) -> None:
    adapter = multiplied(model, 1)
    wanted = {name: weight.detach().clone() for name, weight in adapter.weights().items()}
    Stored.of(adapter, {}).write(tmp_path / "adapter")
    adapter.detach()
    model.half()
    before = snapshot(model)
    again = Stored.read(tmp_path / "adapter").attach(model, force=True)
    for name, weight in again.weights().items():
        assert weight.dtype == torch.float16
        torch.testing.assert_close(weight.float(), wanted[name], atol=2e-3, rtol=2e-3)
    again.detach()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())


def test_on_others_of_its_kind_it_is_still_one_matrix(model: Diffusion, tmp_path: Path) -> None:
    """W_0 (I + N_1)(I + N_2) = W_0 (I + N_1 + N): taken off and put on in another order, the weights are the same."""
    before = snapshot(model)
    first, second = multiplied(model, 1, "first"), multiplied(model, 2, "second")
    for name, weight in second.weights().items():
        w = before[name].double()
        torch.testing.assert_close(
            weight.double(), w @ (torch.eye(32) + drawn(1)) @ (torch.eye(32) + drawn(2)), atol=1e-5, rtol=1e-4
        )
    both = snapshot(model)
    for i, adapter in enumerate((first, second)):
        Stored.of(adapter, {}).write(tmp_path / str(i))
    assert set(Stored.read(tmp_path / "1").tensors) == {"matrix"}
    first.detach()
    second.detach()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())
    for i in (1, 0):
        Stored.read(tmp_path / str(i)).attach(model, str(i))
    assert all(torch.equal(value, both[name]) for name, value in model.unet.state_dict().items())


def test_on_a_change_of_another_kind_it_keeps_the_differences(model: Diffusion, tmp_path: Path) -> None:
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"], "patch")
    train(model, patch)
    adapter = multiplied(model, 2, "matrix")
    both = snapshot(model)
    Stored.of(adapter, {}).write(tmp_path / "adapter")
    assert all(key.endswith(".delta") for key in Stored.read(tmp_path / "adapter").tensors)
    adapter.detach()
    Stored.read(tmp_path / "adapter").attach(model, "again")
    assert all(torch.equal(value, both[name]) for name, value in model.unet.state_dict().items())


@pytest.mark.parametrize("form", ["diffusers", "peft", "patch"])
def test_what_stock_tools_read_is_the_change_itself(model: Diffusion, tmp_path: Path, form: str) -> None:
    adapter = multiplied(model, 1)
    adapter.scale = 0.5
    wanted = predict(model)
    stored = Stored(
        {"format": 2, "kind": "matrix", **adapter.settings(), "sha256": adapter.sha256(), **identity(model)},
        adapter.compact(),
    )
    assert export(adapter, tmp_path / "attached", form) == 0
    adapter.detach()
    model.pipe.save_pretrained(tmp_path / "base")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None)
    handle = fade.api.Handle(diffusion_of(pipe), stored)
    handle.scale = 0.5
    handle.export(tmp_path / "handle", form)
    (file,) = (p.name for p in (tmp_path / "attached").glob("*.safetensors"))
    attached, alone = (load_file(tmp_path / which / file) for which in ("attached", "handle"))
    assert attached.keys() == alone.keys() and all(torch.equal(attached[key], alone[key]) for key in attached)
    if form == "diffusers":
        pipe.load_lora_weights(tmp_path / "attached")
        z, t, embedding = inputs(model)
        found = pipe.unet(z, t, embedding.tokens).sample
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert (found - predict(model)).abs().max() > 0.01
    with pytest.raises(BadInput, match="needs --base"):
        export_factors(tmp_path / "alone", "peft", stored.factors())


def test_what_is_not_one_matrix_is_refused(model: Diffusion) -> None:
    before = snapshot(model)
    for targets in (["conv_in"], [r"attn1\.to_k", r"attn2\.to_k"], [r"attn2\.to_out"]):
        with pytest.raises(BadInput, match="keys and values of cross-attention"):
            Matrix.attach(model, targets)
    adapter = Matrix.attach(model, KEYS_AND_VALUES)
    masks = {key: torch.rand(mask.shape) > 0.5 for key, mask in adapter.masks().items()}
    with pytest.raises(BadInput, match="cannot be masked"):
        adapter.set_masks(masks)
    adapter.detach()
    assert snapshot(model).keys() == before.keys()
    settings = adapter.settings()
    with pytest.raises(BadInput, match="do not fit its own card"):
        Stored({"kind": "matrix", **settings}, {"matrix": torch.zeros(16, 16)}).decode()
