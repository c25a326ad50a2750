"""Pretraining: a stage resumes to the same weights and can be made longer, its tokenizer knows every word, its parts
fit stock diffusers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from grids import small
from PIL import Image
from torch import Tensor, nn

from fade.data.dataset import Dataset
from fade.data.folder import Folder
from fade.errors import BadInput
from fade.files import read_json, write_json
from fade.models import Diffusion
from fade.pretrain import Pretraining
from fade.pretrain.autoencoder import AutoencoderSettings
from fade.pretrain.diffusion import (
    DiffusionSettings,
    diffusion_loss,
    load_pipeline,
    make_scheduler,
    make_tokenizer,
    tokenise,
)
from fade.pretrain.judge import JudgeSettings
from fade.pretrain.stage import Schedule, Stage, train
from fade.pretrain.staged import check_images, images_of

TEMPLATE, PARTIALS = "A {object} image in {style} style.", {"object": "A {object} image."}


def toy(dies_at: int | None = None) -> tuple[nn.Module, Callable[[torch.device], Tensor]]:
    torch.manual_seed(0)
    network, calls = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)), [0]

    def loss(device: torch.device) -> Tensor:
        calls[0] += 1
        if calls[0] == dies_at:
            raise RuntimeError("killed")
        return network(torch.randn(16, 4, device=device)).square().mean()

    return network, loss


def trained(state: Path, schedule: Schedule, dies_at: int | None = None) -> dict[str, Tensor]:
    network, loss = toy(dies_at)
    train(Stage("toy", network, loss, schedule, seed=1), state, 10**6, "cpu", 1)
    return network.state_dict()


SHORT = Schedule(steps=12, batch=16, rate=1e-2, ema=0.9, restarts=[5])


def test_a_killed_stage_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fade.pretrain.stage.SAVE_EVERY_S", 0.0)
    whole = trained(tmp_path / "a.ckpt", SHORT)
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "b.ckpt", SHORT, dies_at=8)
    resumed = trained(tmp_path / "b.ckpt", SHORT)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    again = trained(tmp_path / "b.ckpt", SHORT)  # nothing is left to do: the average stands there all the same
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_a_longer_stage_goes_on_as_one_with_a_restart_where_it_ended(tmp_path: Path) -> None:
    longer = replace(SHORT, steps=16, restarts=[5, 12])
    trained(tmp_path / "a.ckpt", SHORT)
    extended, whole = trained(tmp_path / "a.ckpt", longer), trained(tmp_path / "b.ckpt", longer)
    assert all(torch.equal(whole[k], extended[k]) for k in whole)


def test_a_stage_leaves_the_average_of_its_weights(tmp_path: Path) -> None:
    """Ten steps of plain SGD-like bookkeeping by hand: the first step copies, then min(decay, n / (n + 9)) is kept."""
    seen: list[Tensor] = []
    network, loss = toy()

    def recorded(device: torch.device) -> Tensor:
        seen.append(network[0].weight.detach().clone())  # before the step, so after the one before it
        return loss(device)

    train(
        Stage("toy", network, recorded, replace(SHORT, restarts=[], rate=1.0), seed=1),
        tmp_path / "a.ckpt",
        10**6,
        "cpu",
        1,
    )
    average = seen[1]
    for n, live in enumerate(seen[2:], start=2):
        keep = min(0.9, n / (n + 9))
        average = keep * average + (1 - keep) * live
    # the last step's own weights are not seen; its rate is 0.001, and they count for 1 - keep of what is left
    keep = min(0.9, 12 / 21)
    last = (network[0].weight.detach() - keep * average) / (1 - keep)
    assert (last - seen[-1]).abs().max() < 2e-3 and not torch.equal(network[0].weight, seen[-1])


def test_the_rate_always_falls_to_zero() -> None:
    schedule = Schedule(steps=2000, batch=1, rate=1.0, ema=0.9, restarts=[1000])
    assert schedule.factor(0) == schedule.factor(1000) == pytest.approx(1 / 200, rel=1e-2)
    assert schedule.factor(999) < 1e-4 and schedule.factor(1999) < 1e-4
    assert schedule.factor(500) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    for restarts in ([2000], [2500], [0], [800, 300], [7, 7]):
        with pytest.raises(BadInput, match="before the last step"):
            Schedule(steps=2000, batch=1, rate=1.0, ema=0.9, restarts=restarts)


def test_a_loss_that_is_no_number_ends_the_stage(tmp_path: Path) -> None:
    network, _ = toy()
    stage = Stage("toy", network, lambda _: network(torch.ones(2, 4)).mean() * math.nan, SHORT, seed=1)
    with pytest.raises(BadInput, match="toy: the loss is nan at step 0; lower its rate"):
        train(stage, tmp_path / "a.ckpt", 10**6, "cpu", 1)
    assert not (tmp_path / "a.ckpt").exists()


def recipe(out: Path, dataset: Dataset) -> Pretraining:
    judge = JudgeSettings(architecture="test_resnet", size=32, steps=3, batch=8, rate=1e-3, ema=0.9)
    autoencoder = AutoencoderSettings(
        widths=[8, 8],
        channels=4,
        steps=4,
        batch=4,
        rate=1e-3,
        ema=0.9,
        precision="bf16-mixed",
        feature_weight=0.1,
        kl_weight=1e-4,
        gate=0.0,
    )
    diffusion = DiffusionSettings(
        widths=[16, 16],
        layers=1,
        restarts=[2],
        steps=4,
        batch=4,
        rate=1e-3,
        ema=0.9,
        time_power=0.7,
        sampling_steps=2,
        guidance=2.0,
        text_width=32,
        text_layers=1,
        max_length=16,
        empty=0.1,
        partial=0.1,
    )
    return Pretraining(dataset, out, 32, judge, autoencoder, diffusion, look_every=3, accelerator="cpu")


def grid(root: Path, per_cell: int, name: str = "grid") -> Folder:
    for style in ("ink", "oil"):
        for thing in ("cat", "dog"):
            (root / style / thing).mkdir(parents=True, exist_ok=True)
            for k in range(per_cell):
                Image.new("RGB", (8, 8), (k, 9, 9)).save(root / style / thing / f"{k}.png")
    return Folder(name, str(root), {"style": None, "object": None}, TEMPLATE)


def test_what_a_folder_was_begun_with(tmp_path: Path) -> None:
    dataset = grid(tmp_path / "a", 8)
    recipe(tmp_path / "out", dataset).claim()
    same = recipe(tmp_path / "out", dataset)
    same.diffusion = replace(same.diffusion, steps=9)
    same.claim()
    assert same.diffusion.restarts == [2, 4]  # made longer: its rate begins again where it was to end
    again = recipe(tmp_path / "out", dataset)
    again.diffusion = replace(again.diffusion, steps=9)
    again.claim()
    assert again.diffusion.restarts == [2, 4]
    shorter = recipe(tmp_path / "out", dataset)
    with pytest.raises(BadInput, match=r"pretrain.diffusion.steps is 4, and .* was begun with 9"):
        shorter.claim()
    other = recipe(tmp_path / "out", dataset)
    other.autoencoder = replace(other.autoencoder, channels=8)
    with pytest.raises(BadInput, match=r"another pretrain.autoencoder.channels .*choose another out=FOLDER"):
        other.claim()
    other = recipe(tmp_path / "out", dataset)
    other.seed = 5
    with pytest.raises(BadInput, match="begun with another seed"):
        other.claim()
    write_json(tmp_path / "out" / "state" / "autoencoder.json", {"steps": 4, "seconds": 1})
    late = recipe(tmp_path / "out", dataset)
    late.judge, late.diffusion = replace(late.judge, steps=30), replace(late.diffusion, steps=9)
    with pytest.raises(BadInput, match=r"pretrain.judge.steps is more than 3, with which autoencoder was made already"):
        late.claim()


def test_a_pretrained_folder_belongs_to_its_images(tmp_path: Path) -> None:
    dataset = grid(tmp_path / "a", 8)
    recipe(tmp_path / "out", dataset).claim()
    before = images_of(dataset)
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = Folder("grid", str(tmp_path / "moved"), {"style": None, "object": None}, TEMPLATE)
    assert images_of(moved) == before == read_json(tmp_path / "out" / "recipe.json")["images"]
    check_images(tmp_path / "out", moved)
    check_images(tmp_path / "nowhere", moved)  # somebody else's weights: nothing is known of their images
    other = grid(tmp_path / "b", 9)
    with pytest.raises(BadInput, match=r"made of other images than grid has now .*another out=FOLDER"):
        check_images(tmp_path / "out", other)
    with pytest.raises(BadInput, match="made of other images"):
        recipe(tmp_path / "out", other).claim()


def test_the_autoencoders_gate_names_what_helps(tmp_path: Path) -> None:
    made = recipe(tmp_path / "out", small(1, 1, 1, partials=PARTIALS))
    made.autoencoder = replace(made.autoencoder, gate=1.0, steps=1)
    made.judge = replace(made.judge, steps=1)
    judge = made.train_judge("style")
    judge.accuracy = 1.0
    with pytest.raises(
        BadInput, match=r"pretrain.autoencoder.steps \(it is 1\), or lower pretrain.autoencoder.gate \(1.0\)"
    ):
        made.train_autoencoder({"style": judge})


@pytest.mark.parametrize("empty", [0.0, 1.0])
def test_the_diffusion_loss_is_its_formula(model: Diffusion, tmp_path: Path, empty: float) -> None:
    """v = √ᾱ ε − √(1 − ᾱ) z at t = 1000 u^0.7, under the caption of the image's own cell, or the empty one."""
    pipe, settings = (
        model.pipe,
        replace(recipe(tmp_path, small(1, 1, 1, partials=PARTIALS)).diffusion, empty=empty, partial=0.0),
    )
    pipe.scheduler = make_scheduler()
    captions = [["A cat image in neon style.", "", "A cat image."], ["neon", "", "cat"]]
    tokens = torch.stack([tokenise(pipe.tokenizer, texts) for texts in captions])
    latents, owner = torch.randn(6, 4, 8, 8), torch.tensor([0, 1, 0, 1, 1, 0])
    torch.manual_seed(5)
    found = diffusion_loss(pipe, latents, tokens, owner, settings)(torch.device("cpu"))
    torch.manual_seed(5)
    index = torch.randint(0, 6, (4,))
    torch.multinomial(torch.tensor([1 - empty, empty, 0.0]), 4, replacement=True)
    t = (1000 * torch.rand(4) ** 0.7).long()
    z, noise, alpha = latents[index], torch.randn(4, 4, 8, 8), pipe.scheduler.alphas_cumprod[t][:, None, None, None]
    c = model.embed(["" if empty else captions[int(owner[i])][0] for i in index]).tokens
    guess = model.unet(alpha.sqrt() * z + (1 - alpha).sqrt() * noise, t, c).sample
    torch.testing.assert_close(found, ((guess - (alpha.sqrt() * noise - (1 - alpha).sqrt() * z)) ** 2).mean())


def test_every_word_is_one_token_and_a_new_one_is_spelt(dataset: Dataset) -> None:
    tokenizer = make_tokenizer([dataset.caption(cell) for cell in dataset.cells()], 16)
    ids = tokenise(tokenizer, ["A wild cat image in neon glow style.", "", "A zebra."])
    assert ids.shape == (3, 16)
    assert tokenizer.convert_ids_to_tokens(ids[0])[1:10] == [
        f"{w}</w>" for w in ("a", "wild", "cat", "image", "in", "neon", "glow", "style", ".")
    ]
    assert len(set(ids[2].tolist())) > 5


@pytest.mark.slow
def test_from_nothing_to_a_stock_pipeline(tmp_path: Path) -> None:
    """A few steps of every stage, a second call that does nothing but measure, a third that trains one stage longer."""
    dataset = small(2, 2, 2, partials=PARTIALS)
    found = recipe(tmp_path, dataset).run()
    assert found["grid_images"] == 80 and set(found["judges"]) == {"style", "object"}
    assert set(found["training_s"]) == {"judge-style", "judge-object", "autoencoder", "diffusion"}
    assert load_pipeline(tmp_path / "pipeline").unet.dtype == torch.float32
    stamp = (tmp_path / "pipeline" / "model_index.json").stat().st_mtime_ns
    assert recipe(tmp_path, dataset).run()["grid"] == found["grid"]
    assert (tmp_path / "pipeline" / "model_index.json").stat().st_mtime_ns == stamp
    judged = (tmp_path / "judges" / "style" / "judge.json").stat().st_mtime_ns
    longer = recipe(tmp_path, dataset)
    longer.diffusion = replace(longer.diffusion, steps=6)
    longer.run()
    assert (tmp_path / "pipeline" / "model_index.json").stat().st_mtime_ns > stamp
    assert (tmp_path / "judges" / "style" / "judge.json").stat().st_mtime_ns == judged
