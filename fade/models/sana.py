"""Sana: a transformer of linear attention whose cross-attention reads a language model's rows; a flow."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from diffusers import SanaPipeline
from torch import Tensor

from fade.models.embedding import Embedding
from fade.models.long_text import LongText
from fade.models.processes import Flowing
from fade.models.prompts import Text

INSTRUCTION = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


class Sana(LongText):
    """tokens (B, text_length, 2304): Gemma's rows, of the caption behind the pipeline's standing instruction, of which
    one row is left; mask (B, text_length). `predict` gives v.

    Keys and values of cross-attention read rows that one projection has changed already; it is what reads the text
    itself.
    """

    title = "Sana"
    denoiser = "transformer"
    pipeline = SanaPipeline
    pipelines = ("SanaPipeline",)
    quantised = ("transformer", "text_encoder")
    forward = Flowing
    preset = "sana"
    text_keys = r"^caption_projection\.linear_1"
    heard = ((0, None, 1), (2, None, 3))
    long_tokenizer = "tokenizer"
    usual_length = 300

    @property
    def texts(self) -> list[Text]:
        """The instruction ends in a space, which belongs to a caption's first word."""
        return [Text(self.pipe.tokenizer, self.text_length, prefix=" ")]

    def encoded(self, prompts: list[str]) -> Embedding:
        return self._encoded(prompts, INSTRUCTION)

    def _encoded(self, prompts: list[str], instruction: list[str] | None) -> Embedding:
        how = {"device": self.device, "max_sequence_length": self.text_length}
        rows, mask, _, _ = SanaPipeline.encode_prompt(
            self.pipe, prompts, False, complex_human_instruction=instruction, **how
        )
        return Embedding(rows, mask=mask)

    @torch.no_grad()
    def negative(self, prompt: str = "") -> Embedding:
        """Without the instruction, as the pipeline asks."""
        return self.prompts.edited([prompt], self._encoded([prompt], None))

    def _mode(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels).latent

    def predict(self, z_t: Tensor, t: Tensor, embedding: Embedding) -> Tensor:
        time = t * self.network.config.timestep_scale
        given = self.transformer(z_t, embedding.tokens, time, encoder_attention_mask=embedding.mask).sample
        return given[:, : self.channels]  # where a variance is learnt beside it, that is the second half

    def asking(self, embedding: Embedding, negative: Embedding, latents: Tensor) -> dict[str, Any]:
        return super().asking(embedding, negative, latents) | {
            "prompt_attention_mask": embedding.mask,
            "negative_prompt_attention_mask": negative.expand_as(embedding).mask,
            "negative_prompt": None,  # "" by default, and refused beside an embedding
            "use_resolution_binning": False,
        }
