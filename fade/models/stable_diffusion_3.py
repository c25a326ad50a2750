"""Stable Diffusion 3 and 3.5: a transformer in which text and image read each other in one softmax; a flow."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from fade.models.embedding import Embedding
from fade.models.long_text import LongText
from fade.models.processes import Flowing
from fade.models.prompts import Text

BOTH_STREAMS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class StableDiffusion3(LongText):
    """tokens (B, 77 + text_length, 4096): both CLIPs side by side, with zeros to T5's width, then T5's rows; pooled (B,
    2048): both CLIPs'. `predict` gives v.

    text_length: of T5's rows. A stock `pipe("...")` takes 256 unless it is given max_sequence_length, and attention has
    no mask: a caption's padding is read like its words.

    Keys and values of the text stream see rows that are mixed with time and image already; the two matrices through
    which a caption comes in are what reads the text itself.
    """

    title = "Stable Diffusion 3"
    denoiser = "transformer"
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    pipeline = StableDiffusion3Pipeline
    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")
    quantised = ("transformer", "text_encoder_3")
    forward = Flowing
    preset = "sd35_medium"
    causal = False
    joint = True
    text_keys = r"^context_embedder"
    pooled_keys = r"^time_text_embed\.text_embedder\.linear_1"
    attention_layers = BOTH_STREAMS
    heard = ((0, 2), (1, 3))
    long_tokenizer = "tokenizer_3"
    usual_length = 256

    @property
    def idle(self) -> tuple[str, ...]:
        """The last block makes no text for a next one, so what its text would ask of the image has no gradient."""
        return (f"transformer_blocks.{len(self.network.transformer_blocks) - 1}.attn.add_q_proj",)

    @property
    def texts(self) -> list[Text]:
        first, third = self.pipe.tokenizer, self.pipe.tokenizer_3
        length = self.pipe.tokenizer_max_length
        return [Text(first, length), Text(third, self.text_length, offset=length, first=0)]

    def encoded(self, prompts: list[str]) -> Embedding:
        how = {"device": self.device, "do_classifier_free_guidance": False, "max_sequence_length": self.text_length}
        tokens, _, pooled, _ = StableDiffusion3Pipeline.encode_prompt(self.pipe, prompts, None, None, **how)
        return Embedding(tokens, pooled)

    def predict(self, z_t: Tensor, t: Tensor, embedding: Embedding) -> Tensor:
        return self.transformer(z_t, embedding.tokens, embedding.pooled, t).sample

    def asking(self, embedding: Embedding, negative: Embedding, latents: Tensor) -> dict[str, Any]:
        return super().asking(embedding, negative, latents) | {
            "pooled_prompt_embeds": embedding.pooled,
            "negative_pooled_prompt_embeds": negative.expand_as(embedding).pooled,
        }
