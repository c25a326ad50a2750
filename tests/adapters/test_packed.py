"""An adapter on a base whose linear layers keep four bits a number, in a weight of another shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import CAPTIONS
from packing import packed
from torch.nn.functional import mse_loss

import fade
from benchmarks.runs.size import batch
from fade.adapters.lora import Lora
from fade.adapters.stored import Stored
from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.methods.fade import Fade
from fade.models import Diffusion, Noise
from fade.sparsity import Neuron, Random, Sparsity
from fade.strategies.selft import SelFT


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
    with adapter.applied(), wanted.applied(), torch.no_grad():  # as a run measures it
        assert not adapter.merged and wanted.merged
        assert torch.equal(model.predict(z, t, model.embed(CAPTIONS[:2])), found)
    adapter.detach()
    with torch.no_grad():
        assert torch.equal(model.predict(z, t, model.embed(CAPTIONS[:2])), before)
        one = Stored.read(tmp_path / "own").attach(model)
        torch.testing.assert_close(model.predict(z, t, model.embed(CAPTIONS[:2])), found, rtol=0, atol=0)
        Stored.read(tmp_path / "dense").attach(model, "two", force=True)  # each for itself, none folded
        assert torch.isfinite(model.predict(z, t, model.embed(CAPTIONS[:2]))).all()
        with one.off():
            torch.testing.assert_close(model.predict(z, t, model.embed(CAPTIONS[:2])), found)


def test_what_asks_for_its_values_is_refused_in_one_line(pairs: Pairs) -> None:
    model, _ = packed()
    adapter = Lora.attach(model, 4, 4)
    for method in (SelFT().method(Fade()), Fade(start=1.0)):
        with pytest.raises(BadInput, match=r"(selft|start) goes by the values of the .* is quantised; use"):
            method.suits(model, adapter, pairs)


def test_the_rank_is_measured_by_what_it_stands_for() -> None:
    model, _ = packed()
    with pytest.raises(BadInput, match=r"adapter\.rank is 65, and no matrix of these layers has more than \d\d;"):
        Lora.attach(model, 65, 1)
    assert model.generate(CAPTIONS[:1], [Noise(4)]).isfinite().all()


@pytest.mark.parametrize("sparsity", ["dense", "module", "neuron", "weight", Random(0.1, 0)])
def test_a_stock_pipeline_with_packed_layers_is_unlearned(tmp_path: Path, sparsity: str | Sparsity) -> None:
    """Under the masks of what the layers stand for; the sums of the scores alone are kept where they will do."""
    model, dense = packed()
    pipe = model.pipe
    given: dict[str, Any] = {"templates": ["A cat in {}"], "retain": ["A dog in a house"], "images": 2, "batch": 2}
    how: dict[str, Any] = {"sampling_steps": 2, "steps": 2, "lr": 1e-2, "rank": 2, "alpha": 2}
    handle = fade.unlearn(pipe, "neon", "photo", sparsity=sparsity, **given, **how)
    handle.save(tmp_path / "own")
    wanted = fade.unlearn(dense.pipe, "neon", "photo", sparsity=sparsity, **given, **how)
    assert handle.card["density"] == wanted.card["density"] and (handle.card["density"] < 1) == (sparsity != "dense")
    ours, theirs = ({k: v for k, v in h.stored.tensors.items() if k[-2:] not in (".A", ".B")} for h in (handle, wanted))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], places) for name, places in theirs.items())
    assert not fade.attached(pipe)
    with fade.load(pipe, tmp_path / "own") as loaded:
        assert loaded.card["rank"] == 2
        loaded.scale = 0.5
        with pytest.raises(BadInput, match="is quantised"):
            loaded.merge()
