"""FLUX.1: a transformer of two kinds of blocks over packed latents, told how strongly it is guided; a flow."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from fade.checked import Count, NonNegative, Word
from fade.models.embedding import Embedding
from fade.models.long_text import LongText
from fade.models.processes import Flowing
from fade.models.prompts import Text
from fade.models.quantization import Quantization
from fade.models.sampling import Precision
from fade.models.stable_diffusion_3 import BOTH_STREAMS


class Flux(LongText):
    """tokens (B, text_length, 4096): T5's rows; pooled (B, 768): CLIP's. `predict` gives v, unpacked.

    text_length: of T5's rows; a stock `pipe("...")` takes 512. told: the guidance that the network hears while it is
    trained and its teacher asked; dev's own images are made at 3.5, and schnell, which has no such input, is told
    nothing. Guidance of sampling is that number too: there is one pass a step, and the negative prompt is not used.
    """

    title = "FLUX.1"
    denoiser = "transformer"
    encoders = ("text_encoder", "text_encoder_2")
    pipeline = FluxPipeline
    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    quantised = ("transformer", "text_encoder_2")
    forward = Flowing
    preset = "flux_dev"
    causal = False
    joint = True
    text_keys = r"^context_embedder"
    pooled_keys = r"^time_text_embed\.text_embedder\.linear_1"
    attention_layers = BOTH_STREAMS
    heard = ((0, 1), ())
    long_tokenizer = "tokenizer_2"
    usual_length = 512

    def __init__(
        self,
        pipe: DiffusionPipeline,
        steps: int,
        guidance: float,
        size: int | None = None,
        precision: Precision | None = None,
        text_length: int | None = None,
        told: float = 3.5,
    ) -> None:
        super().__init__(pipe, steps, guidance, size, precision, text_length)
        self.told = told

    @classmethod
    def load(
        cls,
        path: Word,
        steps: Count,
        guidance: float,
        size: Count | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        subfolder: str | None = None,
        gradient_checkpointing: bool = False,
        precision: Precision | None = None,
        text_length: Count | None = None,
        quantization: Quantization | None = None,
        told: NonNegative = 3.5,
    ) -> Self:
        pipe = cls.read(path, dtype, subfolder, gradient_checkpointing, quantization)
        return cls(pipe, steps, guidance, size, precision, text_length, told)

    def like(self, pipe: DiffusionPipeline) -> Self:
        made = super().like(pipe)
        made.told = self.told
        return made

    def own_size(self) -> int:
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    @property
    def texts(self) -> list[Text]:
        return [Text(self.pipe.tokenizer_2, self.text_length, first=0)]

    def cutting(self) -> list[Text]:
        """CLIP's too, of which the pooled vector is all that is left."""
        return [*self.texts, Text(self.pipe.tokenizer, self.pipe.tokenizer_max_length)]

    def encoded(self, prompts: list[str]) -> Embedding:
        how = {"device": self.device, "max_sequence_length": self.text_length}
        tokens, pooled, _ = FluxPipeline.encode_prompt(self.pipe, prompts, **how)
        return Embedding(tokens, pooled)

    def predict(self, z_t: Tensor, t: Tensor, embedding: Embedding) -> Tensor:
        return self._told(z_t, t, embedding, self.told)

    def guided(self, z: Tensor, t: Tensor, embedding: Embedding, guidance: float, negative: Embedding) -> Tensor:
        """One pass that is told the guidance."""
        return self._told(z, t.expand(len(z)), embedding, guidance)

    def _told(self, z_t: Tensor, t: Tensor, embedding: Embedding, guidance: float) -> Tensor:
        n, _, height, width = z_t.shape
        guided = torch.full([n], guidance, device=z_t.device) if self.network.config.guidance_embeds else None
        given = self.transformer(
            packed(z_t),
            embedding.tokens,
            embedding.pooled,
            t.to(z_t.dtype) / self.train_steps,
            img_ids=FluxPipeline._prepare_latent_image_ids(n, height // 2, width // 2, z_t.device, z_t.dtype),
            txt_ids=torch.zeros(embedding.tokens.shape[1], 3, device=z_t.device, dtype=z_t.dtype),
            guidance=guided,
        ).sample
        return unpacked(given, height, width)

    def sampler(self, steps: int, z: Tensor) -> Any:
        """Times as the pipeline spaces them, shifted by the number of the image's tokens."""
        config, tokens = self.pipe.scheduler.config, z.shape[-2] * z.shape[-1] // 4
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        mu = calculate_shift(tokens, *(config.get(name) for name in names))
        return self.process.sampler(steps, z.device, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)

    def asking(self, embedding: Embedding, negative: Embedding, latents: Tensor) -> dict[str, Any]:
        given = {"prompt_embeds": embedding.tokens, "pooled_prompt_embeds": embedding.pooled}
        return given | {"latents": packed(latents)}


def packed(latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) as a row for every 2 x 2 of them, (B, h/2 · w/2, 4 C)."""
    return latents.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse: (B, h/2 · w/2, 4 C) as latents (B, C, h, w)."""
    grid = rows.unflatten(1, (height // 2, width // 2)).unflatten(-1, (-1, 2, 2))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
