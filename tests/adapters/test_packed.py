"""An adapter on a base whose linear layers keep four bits a number, in a weight of another shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import CAPTIONS, tiny
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss

import fade
from benchmarks.runs.size import batch
from fade.adapters.lora import Lora
from fade.adapters.stored import Stored
from fade.attacks.numerics import LEVELS
from fade.errors import BadInput
from fade.methods.fade import Fade
from fade.models import Diffusion, Noise
from fade.sparsity import Dense, Module, Neuron, Random, Weight


class Packed(nn.Linear):
    """Two numbers a byte, bytes (n / 2, 1), as in bitsandbytes' Linear4bit; one scale for all of them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.register_buffer("scale", layer.weight.abs().max())
        codes = (layer.weight / self.scale).flatten()[:, None].sub(torch.tensor(LEVELS)).abs().argmin(1).byte()
        self.weight = nn.Parameter((codes[::2] << 4 | codes[1::2])[:, None], requires_grad=False)
        self.bias = layer.bias

    def unpacked(self) -> Tensor:
        codes = torch.cat([self.weight >> 4, self.weight & 15], 1).long()
        return (torch.tensor(LEVELS)[codes] * self.scale).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.unpacked(), self.bias)


def packed() -> tuple[Diffusion, Diffusion]:
    """A Stable Diffusion 3 with packed layers in its blocks, and one whose weights are what those stand for."""
    model, dense = tiny("sd3"), tiny("sd3")
    for name, layer in list(model.network.transformer_blocks.named_modules()):
        if isinstance(layer, nn.Linear):
            made, (parent, _, own) = Packed(layer), name.rpartition(".")
            setattr(model.network.transformer_blocks.get_submodule(parent), own, made)
            dense.network.transformer_blocks.get_submodule(name).weight.data = made.unpacked()
    return model, dense


def trained(model: Diffusion, steps: int = 2) -> Lora:
    """Two steps of FADE under neuron masks."""
    torch.manual_seed(1)
    adapter = Lora.attach(model, 4, 4, targets=model.attention_layers)
    shapes = {name: tuple(shape) for name, shape in adapter.settings()["layers"].items()}
    adapter.set_masks(Neuron(0.25)({name: torch.rand(shape) for name, shape in shapes.items()}))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for _ in range(steps):
        given = batch(model, 2)
        for side in ("forget", "retain"):
            given[side]["latents"], given[side]["noise"] = torch.randn(2, 2, 4, 8, 8)  # type: ignore[literal-required]
        given["forget"]["surrogate"] = model.embed(CAPTIONS[1:])
        torch.stack(list(Fade().losses(model, adapter, given).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    adapter.settle()
    return adapter


def test_an_adapter_trains_on_a_packed_base_as_on_what_it_stands_for(tmp_path: Path) -> None:
    model, dense = packed()
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([100.0, 900.0])
    with torch.no_grad():
        before = model.predict(z, t, model.embed(CAPTIONS[:2]))
    adapter, wanted = trained(model), trained(dense)
    assert all(b.any() for b in adapter.parameters()) and adapter.density() == pytest.approx(wanted.density())
    for own, other in zip(adapter.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    with torch.no_grad():
        found = model.predict(z, t, model.embed(CAPTIONS[:2]))
        with adapter.off():
            assert torch.equal(model.predict(z, t, model.embed(CAPTIONS[:2])), before)
    assert mse_loss(found, before) > 0
    Stored.of(adapter, {"target": "neon"}).write(tmp_path / "own")
    Stored.of(wanted, {"target": "neon"}).write(tmp_path / "dense")
    with pytest.raises(BadInput, match=r"is quantised.*attach the adapter without merging it"):
        adapter.merge()
    adapter.detach()
    with torch.no_grad():
        assert torch.equal(model.predict(z, t, model.embed(CAPTIONS[:2])), before)
        one = Stored.read(tmp_path / "own").attach(model)
        torch.testing.assert_close(model.predict(z, t, model.embed(CAPTIONS[:2])), found, rtol=0, atol=0)
        Stored.read(tmp_path / "dense").attach(model, "two", force=True)  # each for itself, none folded
        assert torch.isfinite(model.predict(z, t, model.embed(CAPTIONS[:2]))).all()
        with one.off():
            torch.testing.assert_close(model.predict(z, t, model.embed(CAPTIONS[:2])), found)


def test_what_asks_for_its_gradient_is_refused_in_one_line() -> None:
    model, _ = packed()
    weights = Lora.attach(model, 4, 4).weights()
    Dense().suits(weights)
    for sparsity in (Module(0.5), Neuron(0.1), Weight(0.1), Random(0.1, 0)):
        with pytest.raises(BadInput, match=r"is quantised, and stage one needs its gradient.*; use sparsity=dense"):
            sparsity.suits(weights)


def test_the_rank_is_measured_by_what_it_stands_for() -> None:
    model, _ = packed()
    with pytest.raises(BadInput, match=r"adapter\.rank is 65, and no matrix of these layers has more than \d\d;"):
        Lora.attach(model, 65, 1)
    assert model.generate(CAPTIONS[:1], [Noise(4)]).isfinite().all()


def test_a_stock_pipeline_with_packed_layers_is_unlearned_dense_and_refused_masked(tmp_path: Path) -> None:
    pipe = packed()[0].pipe
    given: dict[str, Any] = {"templates": ["A cat in {}"], "retain": ["A dog in a house"], "images": 2, "batch": 2}
    how: dict[str, Any] = {"sampling_steps": 2, "steps": 2, "lr": 1e-2, "rank": 2, "alpha": 2}
    fade.unlearn(pipe, "neon", "photo", sparsity="dense", **given, **how).save(tmp_path / "own")
    with fade.load(pipe, tmp_path / "own") as handle:
        assert handle.card["rank"] == 2
    with pytest.raises(BadInput, match="is quantised, and stage one needs its gradient"):
        fade.unlearn(pipe, "neon", "photo", sparsity="neuron", **given, **how)
    assert not fade.attached(pipe)
