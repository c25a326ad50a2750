"""Pretraining: its loop resumes to the same weights, its tokenizer knows every word, its parts fit stock diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fade.data.minicanvas import MiniCanvas
from fade.errors import BadInput
from fade.pretrain import Loop, Pretraining, load_pipeline, make_tokenizer, tokenise


def test_a_killed_loop_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    def train(state: Path, dies_at: int | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        loop = Loop(network, state, steps=30, rate=1e-2, ema=0.9, seed=1, restarts=[12])

        def loss() -> torch.Tensor:
            if loop.step == dies_at:
                loop._write()
                raise KeyboardInterrupt
            return network(torch.randn(16, 4)).square().mean()

        loop.run("toy", loss, lambda: None, 1e9)
        return {**network.state_dict(), **{f"average.{k}": v for k, v in loop.average.items()}}

    whole = train(tmp_path / "a.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b.safetensors", dies_at=17)
    resumed = train(tmp_path / "b.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_every_word_is_one_token_and_a_new_one_is_spelt(dataset: MiniCanvas) -> None:
    tokenizer = make_tokenizer([dataset.caption(cell) for cell in dataset.cells()], 16)
    ids = tokenise(tokenizer, ["A cat image in watercolor style.", "", "A zebra."])
    assert ids.shape == (3, 16)
    assert tokenizer.convert_ids_to_tokens(ids[0])[1:8] == [
        f"{w}</w>" for w in ("a", "cat", "image", "in", "watercolor", "style", ".")
    ]
    assert len(set(ids[2].tolist())) > 5


@pytest.mark.slow
def test_from_nothing_to_a_stock_pipeline(tmp_path: Path) -> None:
    """A few steps of every stage, and a second call that does nothing but measure."""
    template, partials = "A {object} image in {style} style.", {"object": "A {object} image."}
    common = {"rate": 1e-3, "ema": 0.9}
    judge = {"architecture": "test_resnet", "size": 32, "steps": 3, "batch": 8}
    autoencoder = {"widths": [8, 8], "channels": 4, "steps": 4, "batch": 4, "feature_weight": 0.1, "kl_weight": 1e-4}
    text = {"text_width": 32, "text_layers": 1, "max_length": 16, "empty": 0.1, "partial": 0.1}
    diffusion = {
        "widths": [16, 16],
        "layers": 1,
        "restarts": [2],
        "steps": 4,
        "batch": 4,
        "time_power": 0.7,
        "sampling_steps": 2,
        "guidance": 2.0,
    }
    recipe = Pretraining(
        MiniCanvas(template, partials, train=2, judge=2, test=2),
        tmp_path,
        size=32,
        sheet_minutes=0.01,
        judge=judge | common,
        autoencoder=autoencoder | common | {"bf16": True, "gate": 0.0},
        diffusion=diffusion | text | common,
    )
    found = recipe.run()
    assert found["grid_images"] == 360 and set(found["judges"]) == {"style", "object"}
    assert load_pipeline(tmp_path / "pipeline").unet.dtype == torch.float32
    stamp = (tmp_path / "pipeline" / "model_index.json").stat().st_mtime_ns
    assert recipe.run()["grid"] == found["grid"]
    assert (tmp_path / "pipeline" / "model_index.json").stat().st_mtime_ns == stamp
    recipe.seed = 5
    with pytest.raises(BadInput, match="another recipe"):
        recipe.run()
