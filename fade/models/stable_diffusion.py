"""Stable Diffusion 1.x and 2.x: a U-Net over an autoencoder's latents, with one text encoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.models.prompts import Text


class StableDiffusion(Diffusion):
    """`predict` speaks the pipeline's own parameterisation (ε or v).

    Distilling in v instead of ε weights the loss of ε by 1/ᾱ_t: for one z_t, v = (ε − √(1−ᾱ_t) z_t)/√ᾱ_t up to sign.
    """

    title = "Stable Diffusion"
    denoiser = "unet"
    pipeline = StableDiffusionPipeline
    pipelines = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")
    without: ClassVar[dict[str, Any]] = {"safety_checker": None}
    preset = "sd15"
    alone = True
    text_keys = r"attn2\.to_[kv]"

    @property
    def texts(self) -> list[Text]:
        tokenizer = self.pipe.tokenizer
        return [Text(tokenizer, tokenizer.model_max_length)]

    def encoded(self, prompts: list[str]) -> Embedding:
        tokenizer = self.pipe.tokenizer
        tokens = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return Embedding(self.text_encoder(tokens.input_ids.to(self.device))[0])

    @torch.no_grad()
    def ends(self, captions: list[list[int]]) -> Tensor:
        first, last = self.pipe.tokenizer.bos_token_id, self.pipe.tokenizer.eos_token_id
        longest = max(map(len, captions))
        ids = [[first, *own, *[last] * (longest + 1 - len(own))] for own in captions]
        rows = self.text_encoder(torch.tensor(ids, device=self.device))[0]
        return rows[torch.arange(len(rows)), [1 + len(own) for own in captions]]

    def predict(self, z_t: Tensor, t: Tensor, embedding: Embedding) -> Tensor:
        return self.unet(z_t, t, embedding.tokens).sample
