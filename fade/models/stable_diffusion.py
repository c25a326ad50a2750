"""Stable Diffusion 1.x and 2.x: a U-Net over an autoencoder's latents, with one text encoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from fade.checked import Count, Word
from fade.errors import BadInput
from fade.models import Diffusion, Noise, Sampling
from fade.models.attention import recorded


class StableDiffusion(Diffusion):
    """`predict` speaks the pipeline's own parameterisation (ε or v).

    Distilling in v instead of ε weights the loss of ε by 1/ᾱ_t: for one z_t, v = (ε − √(1−ᾱ_t) z_t)/√ᾱ_t up to sign.
    """

    denoiser = "unet"
    text_keys = r"attn2\.to_[kv]"

    def __init__(self, pipe: StableDiffusionPipeline, steps: int, guidance: float, size: int | None = None) -> None:
        super().__init__(pipe, steps, guidance, size or pipe.unet.config.sample_size * pipe.vae_scale_factor)
        self.unet, self.vae, self.text_encoder = pipe.unet, pipe.vae, pipe.text_encoder
        for module in self.children():
            module.requires_grad_(False).eval()

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
    ) -> StableDiffusion:
        """Read a pipeline's folder, a hub name, or a compvis .ckpt or .safetensors through diffusers' own converter.

        subfolder: the folder within `path` that is the pipeline. Raises BadInput where it is missing or does not fit.
        """
        local = path.startswith((".", "/", "~", "pretrained")) or Path(path).suffix in (".ckpt", ".safetensors")
        where = Path(path, subfolder or "") if local or Path(path).exists() else path
        if local and not Path(where).exists():
            raise BadInput(f"no pipeline at {where}; train one with task=pretrain, or give model.path=FOLDER")
        single = isinstance(where, Path) and where.is_file()
        read = StableDiffusionPipeline.from_single_file if single else StableDiffusionPipeline.from_pretrained
        try:
            pipe = read(str(where), dtype=getattr(torch, dtype), safety_checker=None)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise BadInput(f"cannot load the pipeline {where}: {' '.join(lines)[:300]}") from error
        if gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        return cls(pipe, steps, guidance, size)

    def token_ids(self, prompts: list[str]) -> list[list[int]]:
        tokenizer = self.pipe.tokenizer
        room = {"truncation": True, "max_length": tokenizer.model_max_length - 2}
        return [tokenizer(prompt, add_special_tokens=False, **room).input_ids for prompt in prompts]

    def check_prompts(self, prompts: list[str]) -> None:
        tokenizer = self.pipe.tokenizer
        room = tokenizer.model_max_length - 2
        for prompt in dict.fromkeys(prompts):
            tokens = len(tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids)
            if tokens > room:
                raise BadInput(
                    f"the caption {prompt!r} has {tokens} tokens and the text encoder takes {room}; shorten it"
                )

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        tokenizer = self.pipe.tokenizer
        tokens = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return self.prompts.edited(prompts, self.text_encoder(tokens.input_ids.to(self.device))[0])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        pixels = (images * 2 - 1).to(self.device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor

    def latent(self, noise: Noise, size: int | None = None, device: str = "cpu") -> Tensor:
        side = (size or self.size) // self.pipe.vae_scale_factor
        return noise.of((1, self.unet.config.in_channels, side, side), device)

    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.pipe.scheduler.add_noise(latents, noise, t)

    def target(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return self.pipe.scheduler.get_velocity(latents, noise, t) if self.prediction == "v_prediction" else noise

    def predict(self, z_t: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        return self.unet(z_t, t, embedding).sample

    def attention(self) -> AbstractContextManager[list[Tensor]]:
        return recorded(self.unet)

    @torch.no_grad()
    def denoise_until(
        self, embedding: Tensor, steps: int, stop: int, guidance: float, negative: Tensor
    ) -> tuple[Tensor, Tensor]:
        sampler = diffusers.DDIMScheduler.from_config(self.pipe.scheduler.config)
        sampler.set_timesteps(steps, device=self.device)
        z = torch.randn(len(embedding), *self.latent(Noise(0)).shape[1:], device=self.device, dtype=embedding.dtype)
        both = torch.cat([negative.expand_as(embedding), embedding]) if guidance != 1 else embedding
        for t in sampler.timesteps[:stop]:
            found = self.predict(torch.cat([z] * (len(both) // len(z))), t.expand(len(both)), both)
            if guidance != 1:
                without, given = found.chunk(2)
                found = without + guidance * (given - without)
            z = sampler.step(found, t, z).prev_sample
        return z, sampler.timesteps[min(stop, steps - 1)].expand(len(z))

    @torch.no_grad()
    def generate(self, prompts: list[str], noise: list[Noise], sampling: Sampling | None = None) -> Tensor:
        s = sampling or Sampling()
        latents = torch.cat([self.latent(n, s.size, s.noise_device) for n in noise]).to(self.device, self.unet.dtype)
        own = self.pipe.scheduler
        self.pipe.scheduler = self.scheduler(s.sampler, s.skip) if s.sampler or s.skip else own
        self.prompts.asked = prompts
        try:
            with torch.autocast(
                self.device.type, getattr(torch, s.precision or "float32"), enabled=s.precision is not None
            ):
                made = self.pipe(
                    prompt_embeds=self.embed(prompts),
                    negative_prompt_embeds=self.embed([s.negative]).expand(len(prompts), -1, -1),
                    latents=latents,
                    num_inference_steps=s.steps or self.steps,
                    guidance_scale=self.guidance if s.guidance is None else s.guidance,
                    output_type="pt",
                )
        finally:
            self.pipe.scheduler, self.prompts.asked = own, None
        return made.images.float().cpu()

    def scheduler(self, name: str | None, skip: int = 0) -> Any:
        """A diffusers scheduler with the pipeline's own settings. Raises BadInput for a name unknown to diffusers."""
        kind = getattr(diffusers, name, None) if name else type(self.pipe.scheduler)
        if kind is None or not hasattr(kind, "set_timesteps"):
            raise BadInput(f"diffusers has no scheduler {name!r}; name one of its classes, for example DDIMScheduler")
        made = kind.from_config(self.pipe.scheduler.config)
        if skip:
            made.set_timesteps = partial(_begin_lower, made, made.set_timesteps, skip)
        return made


def _begin_lower(scheduler: Any, set_timesteps: Callable[..., None], skip: int, *args: Any, **settings: Any) -> None:
    """The steps keep their width, and the highest `skip` of them are not taken."""
    set_timesteps(*args, **settings)
    scheduler.timesteps = scheduler.timesteps[skip:]
