"""A diffusers pipeline behind five verbs: embed, encode, noised, predict, generate."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from fade.errors import BadInput
from fade.files import tensors_hash


class Diffusion(nn.Module):
    """A frozen Stable Diffusion pipeline; `predict` speaks its own parameterisation (ε or v).

    steps, guidance: of the default sampler, which is the pipeline's own scheduler. size: image side in pixels.
    Distilling in v instead of ε weights the loss of ε by 1/ᾱ_t: for one z_t, v = (ε − √(1−ᾱ_t) z_t)/√ᾱ_t up to sign.
    """

    def __init__(self, pipe: StableDiffusionPipeline, steps: int, guidance: float, size: int | None = None) -> None:
        super().__init__()
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=True)
        self.unet, self.vae, self.text_encoder = pipe.unet, pipe.vae, pipe.text_encoder
        self.steps, self.guidance = steps, guidance
        self.size = size or pipe.unet.config.sample_size * pipe.vae_scale_factor
        for module in (self.unet, self.vae, self.text_encoder):
            module.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: str, steps: int, guidance: float, size: int | None = None, dtype: str = "float32") -> Diffusion:
        """Read a pipeline's folder (or a hub name). Raises BadInput where it is missing or its weights do not fit."""
        if not Path(path).is_dir() and path.startswith((".", "/", "~", "pretrained")):
            raise BadInput(f"no pipeline at {path}; train one with task=pretrain, or give model.path=FOLDER")
        try:
            pipe = StableDiffusionPipeline.from_pretrained(path, dtype=getattr(torch, dtype), safety_checker=None)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise BadInput(f"cannot load the pipeline {path}: {' '.join(lines)[:300]}") from error
        return cls(pipe, steps, guidance, size)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.size // self.pipe.vae_scale_factor
        return self.unet.config.in_channels, side, side

    def sha256(self) -> str:
        """The identity of the base: a hash over every tensor of U-Net, autoencoder and text encoder, adapters left out."""
        modules = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        tensors = {
            f"{part}.{name.replace('base_layer.', '')}": value
            for part, module in modules.items()
            for name, value in module.state_dict().items()
            if ".lora_" not in name
        }
        return tensors_hash(tensors)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Text embeddings (B, L, D)."""
        tokenizer = self.pipe.tokenizer
        tokens = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.device))[0]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w), scaled for the U-Net, of images (B, 3, H, W) in [0, 1]: the posterior's mode."""
        pixels = (images * 2 - 1).to(self.device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor

    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t (B, C, h, w)."""
        return self.pipe.scheduler.add_noise(latents, noise, t)

    def target(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What `predict` is trained to give for z_t: the noise, or the velocity."""
        kind = self.pipe.scheduler.config.prediction_type
        return self.pipe.scheduler.get_velocity(latents, noise, t) if kind == "v_prediction" else noise

    def predict(self, z_t: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        """The U-Net's prediction (B, C, h, w)."""
        return self.unet(z_t, t, embedding).sample

    def latent(self, seed: int) -> Tensor:
        """The starting noise (1, C, h, w) of a seed; drawn on the CPU, so it is the same everywhere."""
        return torch.randn((1, *self.latent_shape), generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def generate(self, prompts: list[str], seeds: list[int], steps: int | None = None, guidance: float | None = None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] on the CPU; image i starts from the noise of seeds[i]."""
        latents = torch.cat([self.latent(seed) for seed in seeds]).to(self.device, self.unet.dtype)
        empty = self.embed([""]).expand(len(prompts), -1, -1)
        made = self.pipe(
            prompt_embeds=self.embed(prompts),
            negative_prompt_embeds=empty,
            latents=latents,
            num_inference_steps=steps or self.steps,
            guidance_scale=self.guidance if guidance is None else guidance,
            output_type="pt",
        )
        return made.images.float().cpu()
