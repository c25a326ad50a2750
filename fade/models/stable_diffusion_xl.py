"""Stable Diffusion XL: a U-Net that reads two text encoders side by side, a pooled vector, and the image's size."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.models.prompts import Text


class StableDiffusionXL(Diffusion):
    """tokens (B, 77, 2048): the last layer but one of both encoders; pooled (B, 1280): the second's.

    The pipeline's Euler sampler mixes noise in by a formula of its own, which is not used here (fade/models/processes).
    Image sizes are said to the network as those that are made, without a crop, in training as in generation.
    """

    title = "Stable Diffusion XL"
    denoiser = "unet"
    encoders = ("text_encoder", "text_encoder_2")
    pipeline = StableDiffusionXLPipeline
    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
    preset = "sdxl"
    text_keys = r"attn2\.to_[kv]"
    heard = ((0, 2), (1, 3))
    upcast = True

    @property
    def texts(self) -> list[Text]:
        """Both tokenizers cut a caption into the same words, and their encoders' rows lie side by side."""
        tokenizer = self.pipe.tokenizer
        return [Text(tokenizer, tokenizer.model_max_length)]

    def encoded(self, prompts: list[str]) -> Embedding:
        how = {"device": self.device, "do_classifier_free_guidance": False}
        tokens, _, pooled, _ = StableDiffusionXLPipeline.encode_prompt(self.pipe, prompts, **how)
        return Embedding(tokens, pooled)

    @torch.no_grad()
    def negative(self, prompt: str = "") -> Embedding:
        """Zeros for the empty prompt, where the pipeline asks for them: its encoders make something else of it."""
        found = self.embed([prompt])
        zeros = not prompt and self.pipe.config.force_zeros_for_empty_prompt
        return found.each(torch.zeros_like) if zeros else found

    def predict(self, z_t: Tensor, t: Tensor, embedding: Embedding) -> Tensor:
        assert embedding.pooled is not None
        height, width = (side * self.pipe.vae_scale_factor for side in z_t.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=embedding.dtype, device=z_t.device)
        added = {"text_embeds": embedding.pooled, "time_ids": sizes.expand(len(z_t), -1)}
        return self.unet(z_t, t, embedding.tokens, added_cond_kwargs=added).sample

    def asking(self, embedding: Embedding, negative: Embedding, latents: Tensor) -> dict[str, Any]:
        return super().asking(embedding, negative, latents) | {
            "pooled_prompt_embeds": embedding.pooled,
            "negative_pooled_prompt_embeds": negative.expand_as(embedding).pooled,
        }
