"""The third stage: text encoder and U-Net together, on the latents of the images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fade.checked import Count, Portion, Positive
from fade.models.processes import Diffusing
from fade.pretrain.stage import Loss, Schedule, pick


@dataclass(kw_only=True)
class DiffusionSettings(Schedule):
    """widths, layers: of the U-Net's levels. text_width, text_layers, max_length: of the text encoder. empty, partial:
    shares of empty and of each partial caption. time_power a: t = 1000 uᵃ. sampling_steps, guidance: how it is
    sampled."""

    widths: list[Count]
    layers: Count
    text_width: Count
    text_layers: Count
    max_length: Count
    empty: Portion
    partial: Portion
    time_power: Positive
    sampling_steps: Count
    guidance: float


def make_scheduler() -> DPMSolverMultistepScheduler:
    """What fewest steps serve best (docs/performance.md, at the edge)."""
    return DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def caption_shares(kinds: int, empty: float, partial: float) -> Tensor:
    """How often a caption of each kind is drawn: a cell's own, the empty one, its partial ones."""
    return torch.tensor([1 - empty - partial * (kinds - 2), empty] + [partial] * (kinds - 2))


def diffusion_loss(
    pipe: StableDiffusionPipeline, latents: Tensor, tokens: Tensor, owner: Tensor, s: DiffusionSettings
) -> Loss:
    """‖v − v_θ(z_t, t, c)‖². latents (N, C, h, w); tokens (cells, kinds, L): each cell's caption, the empty one, its
    partial ones; owner (N,): the cell of each latent."""
    shares, process = caption_shares(tokens.shape[1], s.empty, s.partial), Diffusing(pipe.scheduler.config)

    def loss(device: torch.device) -> Tensor:
        index = pick(len(latents), s.batch)
        z = latents[index].to(device)
        kind = torch.multinomial(shares, len(z), replacement=True)
        t = (1000 * torch.rand(len(z), device=device) ** s.time_power).long().clamp(max=999)
        noise = torch.randn_like(z)
        embedding = pipe.text_encoder(tokens[owner[index], kind].to(device))[0]
        guess = pipe.unet(process.noised(z, t, noise), t, embedding).sample
        return mse_loss(guess, process.target(z, t, noise))

    return loss


def make_tokenizer(texts: list[str], max_length: int) -> CLIPTokenizer:
    """A CLIPTokenizer whose vocabulary holds every word of the captions, and every byte for words it has never seen."""
    stock = CLIPTokenizer()._tokenizer
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer, trained.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
    trained.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=16_384, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(f"{c}</w>" for c in letters), *model["vocab"], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids (B, L)."""
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def make_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    # With CLIP's own initialisation (std 0.02) the object words collapse onto one another and the model ignores them.
    nn.init.normal_(encoder.get_input_embeddings().weight, std=1.0)
    return encoder


def make_unet(s: DiffusionSettings, channels: int, side: int) -> UNet2DConditionModel:
    widths = tuple(s.widths)
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        layers_per_block=s.layers,
        cross_attention_dim=s.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fresh_pipeline(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, latents: Tensor, s: DiffusionSettings
) -> StableDiffusionPipeline:
    """An untrained text encoder and U-Net, of latents (N, C, h, w), around the autoencoder."""
    text_encoder = make_text_encoder(tokenizer, s.text_width, s.text_layers)
    return make_pipeline(
        vae, text_encoder, tokenizer, make_unet(s, latents.shape[1], latents.shape[-1]), make_scheduler()
    )


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe
