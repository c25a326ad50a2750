"""Real tiny models, random weights: what every test runs on. No network, one thread."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from command import ROOT, Command
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from finished import finished
from grids import small
from tiny import tiny_settings

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.models import Diffusion
from fade.models.stable_diffusion import StableDiffusion
from fade.pretrain.diffusion import make_pipeline, make_text_encoder, make_tokenizer

torch.set_num_threads(1)


@pytest.fixture
def dataset() -> Canvas:
    return small()


@pytest.fixture
def model() -> Diffusion:
    """32 px images, 8x8 latents of 4 channels, an ε-prediction U-Net of two levels, the lower without attention as
    Stable Diffusion's."""
    torch.manual_seed(0)
    settings = tiny_settings()
    tokenizer = make_tokenizer([small().caption(cell) for cell in small().cells()], 16)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(settings.widths),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=settings.layers,
        cross_attention_dim=settings.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return StableDiffusion(
        make_pipeline(
            vae, make_text_encoder(tokenizer, settings.text_width, settings.text_layers), tokenizer, unet, scheduler
        ),
        2,
        3.0,
    )


@pytest.fixture
def adapter(model: Diffusion) -> Adapter:
    return Lora.attach(model, rank=2, alpha=2)


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents are encoded once for all tests: every `model` is the same, and a file's name says whose it is."""
    return tmp_path_factory.mktemp("encoded")


@pytest.fixture
def pairs(dataset: Canvas, model: Diffusion, encoded: Path) -> Pairs:
    request = Request.of(dataset, "neon_glow", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=encoded)
    pairs.prepare(model)
    return pairs


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for k, target in enumerate(("neon", "glass", "cat", "dog")):
        for kind, p in (("neuron", 0.1), ("neuron", 0.5), ("random", 0.1)):
            finished(tmp_path / "runs" / f"{target}-{kind}-{p}", target, kind, p, seed=k)
    return tmp_path / "runs"


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's figures stand in its page alone: their files take most of its time (tests/report/test_report.py)."""
    monkeypatch.setattr("benchmarks.report.figures.Figure.save", lambda *_: None)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(ROOT)
    return Command(tmp_path, monkeypatch, capsys)
