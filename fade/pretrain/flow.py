"""A small Stable Diffusion 3: two CLIPs, a T5 and a transformer that flows, from scratch (arXiv 2403.03206)."""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss, pad
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from fade.checked import Count, Portion
from fade.judges import Judge
from fade.pretrain.captions import Captions, check_lengths
from fade.pretrain.diffusion import make_text_encoder, make_tokenizer, tokenise
from fade.pretrain.stage import Loss, Schedule
from fade.pretrain.tiered_diffusion import TieredDiffusion

UNDERSCORE = "▁"  # how a word's beginning is written
ZERO = ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")


@dataclass(kw_only=True)
class FlowSettings(Schedule):
    """width, layers, heads, patch: of the transformer. clip_width, t5_width, text_layers: of the second CLIP and of the
    T5; two layers are the least, for the pipeline reads CLIP's last but one. max_length: tokens of either tokenizer.
    empty, partial: shares of empty and of each partial caption. sampling_steps, guidance: how it is sampled."""

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


class FlowPretraining(TieredDiffusion):
    """As `TieredDiffusion`, a Stable Diffusion 3. Its first CLIP begins as the text encoder of `base`, and reads with
    its tokenizer, as Stable Diffusion 3 begins with encoders that are there; the rest begins from nothing. With
    `without` that CLIP does too, of the same size and with a vocabulary of its own: the base's has read the
    concept."""

    network = "transformer"
    diffusion: FlowSettings

    def load(self, folder: Path) -> StableDiffusion3Pipeline:
        pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def stand(self, folder: Path) -> tuple[dict[str, Judge], AutoencoderKL]:
        judges, vae = super().stand(folder)
        vae.register_to_config(shift_factor=0.0)  # this pipeline decodes with a number there
        return judges, vae

    def fresh(self, vae: AutoencoderKL, texts: list[str], latents: Tensor) -> StableDiffusion3Pipeline:
        s, known = self.diffusion, self.standing() / "pipeline"
        clip = CLIPTokenizer.from_pretrained(known / "tokenizer", model_max_length=s.max_length)
        words = CLIPTextModel.from_pretrained(known / "text_encoder", dtype=torch.float32)
        torch.manual_seed(self.seed + 2)
        if self.without is not None:
            clip = make_tokenizer(texts, s.max_length)
            words = make_text_encoder(clip, words.config.hidden_size, words.config.num_hidden_layers)
        return make_flow(vae, clip, words, make_t5_tokenizer(texts, s.max_length), s, latents.shape[-1])

    def tokens(self, pipe: StableDiffusion3Pipeline, texts: list[str]) -> Tensor:
        """Of CLIP's and of T5's tokenizer, (M, 2, L)."""
        for tokenizer in (pipe.tokenizer, pipe.tokenizer_3):
            check_lengths(tokenizer, texts)
        return torch.stack([tokenise(tokenizer, texts) for tokenizer in (pipe.tokenizer, pipe.tokenizer_3)], 1)

    def loss(
        self, pipe: StableDiffusion3Pipeline, latents: Tensor, owner: Tensor, chance: Tensor, captions: Captions
    ) -> Loss:
        return flow_loss(pipe, latents, owner, chance, captions, self.diffusion.batch)

    def trained(self, pipe: StableDiffusion3Pipeline) -> nn.ModuleDict:
        names = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
        return nn.ModuleDict({name: getattr(pipe, name) for name in names})

    def write_attention_out(self, pipe: StableDiffusion3Pipeline) -> None:
        """Of the text encoders; the transformer's is chosen by `attention`."""
        for encoder in (pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3):
            encoder.set_attn_implementation("eager")

    def sampling(self) -> dict[str, Any]:
        sides = {"height": self.size, "width": self.size}
        return super().sampling() | sides | {"max_sequence_length": self.diffusion.max_length}


def flow_loss(
    pipe: StableDiffusion3Pipeline, latents: Tensor, owner: Tensor, chance: Tensor, captions: Captions, batch: int
) -> Loss:
    """‖ε − z_0 − v_θ(z_σ, σ, c)‖², σ = sigmoid(N(0, 1)). latents (N, C, h, w); owner (N,): the cell of each latent, of
    those that `captions` holds, whose tokens are CLIP's and T5's (M, 2, L); chance (N,): how often each is drawn."""

    def loss(device: torch.device) -> Tensor:
        index = torch.multinomial(chance, batch, replacement=True)
        z = latents[index].to(device)
        sigma = torch.randn(len(z), device=device).sigmoid()
        noise, at = torch.randn_like(z), sigma[:, None, None, None]
        rows, pooled = read(pipe, *captions.draw(owner[index]).to(device).unbind(1))
        with attention(device):
            guess = pipe.transformer((1 - at) * z + at * noise, rows, pooled, 1000 * sigma).sample
        return mse_loss(guess, noise - z)

    return loss


def attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU written out, where the fused kind takes half of a step in bfloat16."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


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


def with_projection(words: CLIPTextModel) -> CLIPTextModelWithProjection:
    """The same encoder, with a projection that begins as the identity."""
    config = CLIPTextConfig.from_dict({**words.config.to_dict(), "projection_dim": words.config.hidden_size})
    encoder = CLIPTextModelWithProjection(config)
    encoder.text_model.load_state_dict(words.state_dict())
    nn.init.eye_(encoder.text_projection.weight)
    return encoder


def make_clip(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="gelu",
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


def make_transformer(s: FlowSettings, channels: int, side: int, pooled: int) -> SD3Transformer2DModel:
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
        pooled_projection_dim=pooled,
        qk_norm="rms_norm",
        pos_embed_max_size=side,
    )
    for name, layer in transformer.named_modules():
        if name.endswith(ZERO):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return transformer


def make_flow(
    vae: AutoencoderKL, clip: CLIPTokenizer, words: CLIPTextModel, t5: T5Tokenizer, s: FlowSettings, side: int
) -> StableDiffusion3Pipeline:
    """words: the first of the text encoders, trained; it and the second read the tokens of `clip`."""
    first, second = with_projection(words), make_clip(clip, s.clip_width, s.text_layers)
    pipe = StableDiffusion3Pipeline(
        make_transformer(s, vae.config.latent_channels, side, first.config.projection_dim + s.clip_width),
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae,
        first,
        clip,
        second,
        clip,
        make_t5(t5, s.t5_width, s.text_layers),
        t5,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
