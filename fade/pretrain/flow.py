"""A small Stable Diffusion 3: two CLIPs, a T5 and a transformer that flows, from scratch (arXiv 2403.03206)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from fade.checked import Count, Portion, Seed, Side
from fade.data.dataset import Dataset
from fade.files import write_json
from fade.judges import Judge
from fade.pretrain import Pretraining
from fade.pretrain.diffusion import caption_shares, make_tokenizer, tokenise
from fade.pretrain.stage import Loss, Schedule, pick

UNDERSCORE = "▁"  # how a word's beginning is written
ZERO = ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")


@dataclass(kw_only=True)
class FlowSettings(Schedule):
    """width, layers, heads, patch: of the transformer. clip_width, t5_width, text_layers: of the encoders; two layers
    are the least, for the pipeline reads CLIP's last but one. max_length: tokens of either tokenizer. empty, partial:
    shares of empty and of each partial caption. sampling_steps, guidance: how it is sampled."""

    width: Count
    layers: Count
    heads: Count
    patch: Count
    clip_width: Count
    t5_width: Count
    text_layers: Count
    max_length: Count
    empty: Portion
    partial: Portion
    sampling_steps: Count
    guidance: float


class FlowPretraining(Pretraining):
    """The third stage alone, around an autoencoder and judges that are there: folders that diffusers and `Judge` read.

    Writes `out/pipeline/` (fp16, stock diffusers), `out/numbers.json`, `out/recipe.json` and contact sheets.
    """

    stages = ("diffusion",)
    diffusion: FlowSettings  # type: ignore[assignment]

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        size: Side,
        vae: str,
        judges: str,
        diffusion: FlowSettings,
        seed: Seed = 0,
        look_every: Count = 1000,
        workers: Count = 2,
        accelerator: str = "auto",
        devices: Count = 1,
    ) -> None:
        self.dataset, self.out, self.size, self.seed, self.flip = dataset, out, size, seed, False
        self.vae, self.judges, self.diffusion = Path(vae), Path(judges), diffusion
        self.look_every, self.workers, self.accelerator, self.devices = look_every, workers, accelerator, devices
        self.state = out / "state"

    def run(self) -> dict[str, Any]:
        """Train what is not trained, and measure what came out of it."""
        self.claim()
        judges = {domain: Judge.load(self.judges / domain) for domain in self.dataset.domains}
        vae = AutoencoderKL.from_pretrained(self.vae).eval().requires_grad_(False)
        found = {**self.measure(self.train_diffusion(vae, judges), judges), "training_s": self.seconds()}
        write_json(self.out / "numbers.json", found)
        return found

    def load(self, folder: Path) -> StableDiffusion3Pipeline:
        pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def fresh(
        self, vae: AutoencoderKL, latents: Tensor, captions: list[list[str]], owner: Tensor
    ) -> tuple[StableDiffusion3Pipeline, Loss]:
        texts, s = [text for group in captions for text in group], self.diffusion
        clip, t5 = make_tokenizer(texts, s.max_length), make_t5_tokenizer(texts, s.max_length)
        torch.manual_seed(self.seed + 2)
        pipe = make_flow(vae, clip, t5, s, latents.shape[-1])
        tokens = torch.stack([torch.stack([tokenise(of, group) for of in (clip, t5)], 1) for group in captions])
        return pipe, flow_loss(pipe, latents, tokens, owner, s)

    def trained(self, pipe: StableDiffusion3Pipeline) -> nn.ModuleDict:
        names = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
        return nn.ModuleDict({name: getattr(pipe, name) for name in names})

    def write_attention_out(self, pipe: StableDiffusion3Pipeline) -> None:
        """Of the text encoders; the transformer's has no such form in diffusers."""
        for encoder in (pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3):
            encoder.set_attn_implementation("eager")

    def sampling(self) -> dict[str, Any]:
        sides = {"height": self.size, "width": self.size}
        return super().sampling() | sides | {"max_sequence_length": self.diffusion.max_length}


def flow_loss(pipe: StableDiffusion3Pipeline, latents: Tensor, tokens: Tensor, owner: Tensor, s: FlowSettings) -> Loss:
    """‖ε − z_0 − v_θ(z_σ, σ, c)‖², σ = sigmoid(N(0, 1)). latents (N, C, h, w); tokens (cells, kinds, 2, L), CLIP's and
    T5's: each cell's caption, the empty one, its partial ones; owner (N,): the cell of each latent."""
    shares = caption_shares(tokens.shape[1], s.empty, s.partial)

    def loss(device: torch.device) -> Tensor:
        index = pick(len(latents), s.batch)
        z = latents[index].to(device)
        kind = torch.multinomial(shares, len(z), replacement=True)
        sigma = torch.randn(len(z), device=device).sigmoid()
        noise, at = torch.randn_like(z), sigma[:, None, None, None]
        rows, pooled = read(pipe, *tokens[owner[index], kind].to(device).unbind(1))
        guess = pipe.transformer((1 - at) * z + at * noise, rows, pooled, 1000 * sigma).sample
        return mse_loss(guess, noise - z)

    return loss


def read(pipe: StableDiffusion3Pipeline, clip: Tensor, t5: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, 2 L, D) and pooled vectors (B, P) of token ids (B, L), as the pipeline's `encode_prompt` makes them, but
    with gradients."""
    found = [encoder(clip, output_hidden_states=True) for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    rows, own = torch.cat([out.hidden_states[-2] for out in found], -1), pipe.text_encoder_3(t5)[0]
    wide = pad(rows, (0, own.shape[-1] - rows.shape[-1]))
    return torch.cat([wide, own], 1), torch.cat([out.text_embeds for out in found], -1)


def make_t5_tokenizer(texts: list[str], max_length: int) -> T5Tokenizer:
    """A T5Tokenizer, without a file of sentencepiece, that knows every word of the texts; others are spelt."""
    words = sorted({word for text in texts for word in re.findall(r"\S+", text)})
    letters = sorted({chr(code) for code in range(33, 127)} | {letter for word in words for letter in word})
    pieces = [(f"{UNDERSCORE}{word}", -math.log(len(words))) for word in words]
    spelt = [(letter, -20.0) for letter in letters]  # far below any word, so that words are never spelt
    start = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (UNDERSCORE, -20.0)]
    return T5Tokenizer(vocab=[*start, *pieces, *spelt], extra_ids=0, model_max_length=max_length)


def make_clip(tokenizer: CLIPTokenizer, width: int, layers: int, act: str) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config)
    nn.init.normal_(encoder.get_input_embeddings().weight, std=1.0)  # as in fade/pretrain/diffusion.py
    return encoder


def make_t5(tokenizer: T5Tokenizer, width: int, layers: int) -> T5EncoderModel:
    """Without dropout, which would be on in training alone."""
    heads = {"num_heads": 4, "d_kv": width // 4, "num_layers": layers, "dropout_rate": 0.0}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=width, d_ff=2 * width, **heads))


def make_transformer(s: FlowSettings, channels: int, side: int) -> SD3Transformer2DModel:
    """Its blocks begin as the identity (adaLN-zero, arXiv 2212.09748), which diffusers leaves to who trains."""
    transformer = SD3Transformer2DModel(
        sample_size=side,
        patch_size=s.patch,
        in_channels=channels,
        out_channels=channels,
        num_layers=s.layers,
        num_attention_heads=s.heads,
        attention_head_dim=s.width // s.heads,
        joint_attention_dim=s.t5_width,
        caption_projection_dim=s.width,
        pooled_projection_dim=2 * s.clip_width,
        qk_norm="rms_norm",
        pos_embed_max_size=side,
    )
    for name, layer in transformer.named_modules():
        if name.endswith(ZERO):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return transformer


def make_flow(
    vae: AutoencoderKL, clip: CLIPTokenizer, t5: T5Tokenizer, s: FlowSettings, side: int
) -> StableDiffusion3Pipeline:
    vae.register_to_config(shift_factor=0.0)  # this pipeline decodes with a number there
    pipe = StableDiffusion3Pipeline(
        make_transformer(s, vae.config.latent_channels, side),
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae,
        make_clip(clip, s.clip_width, s.text_layers, "quick_gelu"),
        clip,
        make_clip(clip, s.clip_width, s.text_layers, "gelu"),
        clip,
        make_t5(t5, s.t5_width, s.text_layers),
        t5,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
