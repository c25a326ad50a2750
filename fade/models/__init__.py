"""A diffusers pipeline behind five verbs: embed, encode, noised, predict, generate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from fade.checked import Count, Word
from fade.errors import BadInput
from fade.models.ledger import ledger, plain
from fade.tensors import tensors_hash


@dataclass(frozen=True)
class Noise:
    """Where an image starts: draw number `place` of the generator seeded with `seed`."""

    seed: int
    place: int = 0


@dataclass(frozen=True)
class Sampling:
    """How images are made; what is None is the model's own.

    sampler: a diffusers scheduler's class name. size: image side in pixels. precision: of autocast (float16, bfloat16).
    negative: the negative prompt. noise_device: where the noise is drawn; `cuda` repeats scripts that drew it there.
    skip: how many of the highest timesteps are left out, as forks of compvis do by one; for schedulers without a memory
    (DDIM).
    """

    steps: Count | None = None
    guidance: float | None = None
    sampler: str | None = None
    size: Count | None = None
    precision: Literal["float16", "bfloat16"] | None = None
    negative: str = ""
    noise_device: str = "cpu"
    skip: int = 0


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
        self.edits: list[Callable[[list[str], Tensor], Tensor]] = []  # (prompts, embeddings) -> embeddings, in order
        self.asked: list[str] | None = None  # the prompts of the batch that is being generated
        self.listeners: list[object] = []  # adapters that need to hear the prompt
        self.handles: list[Any] = []  # of fade/api.py, those that are on
        self.size = size or pipe.unet.config.sample_size * pipe.vae_scale_factor
        for module in (self.unet, self.vae, self.text_encoder):
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
    ) -> Diffusion:
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

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def train_steps(self) -> int:
        """T, 1000 in every Stable Diffusion."""
        return self.pipe.scheduler.config.num_train_timesteps

    @property
    def prediction(self) -> str:
        """The parameterisation of `predict`: "epsilon" or "v_prediction"."""
        return str(self.pipe.scheduler.config.prediction_type)

    def sha256(self, dtype: torch.dtype | None = None) -> str:
        """The identity of the base: a hash over every tensor of U-Net, autoencoder and text encoder, adapters left out.

        dtype: as the hash would be of the same pipeline in another floating-point type.
        """
        modules = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        tensors = {
            f"{part}.{plain(name)}": value
            for part, module in modules.items()
            for name, value in module.state_dict().items()
            if ".lora_" not in name
        }
        for name, original in ledger(self.unet).original.items():
            tensors[f"unet.{name}"] = original.to(tensors[f"unet.{name}"].dtype)
        if dtype is not None:
            tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
        return tensors_hash(tensors)

    def token_ids(self, prompts: list[str]) -> list[list[int]]:
        """The tokens of each prompt that `embed` sees, without the ones that begin, end and pad it."""
        tokenizer = self.pipe.tokenizer
        room = {"truncation": True, "max_length": tokenizer.model_max_length - 2}
        return [tokenizer(prompt, add_special_tokens=False, **room).input_ids for prompt in prompts]

    def places(self, prompt: str, concept: str) -> list[int]:
        """Positions (the first token is at 1) of the concept's words in a prompt's tokens, as often as it names it."""
        (tokens,), (wanted,) = self.token_ids([prompt]), self.token_ids([concept])
        found: set[int] = set()
        for start in range(1, len(tokens) - len(wanted) + 2):
            if tokens[start - 1 : start - 1 + len(wanted)] == wanted:
                found.update(range(start, start + len(wanted)))
        return sorted(found)

    def check_prompts(self, prompts: list[str]) -> None:
        """Raises BadInput for the first one of which the tokenizer would cut something off."""
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
        """Text embeddings (B, L, D), as the edits of attached adapters leave them."""
        tokenizer = self.pipe.tokenizer
        tokens = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        embeddings = self.text_encoder(tokens.input_ids.to(self.device))[0]
        for edit in self.edits:
            embeddings = edit(prompts, embeddings)
        return embeddings

    def listen(self, adapter: object) -> None:
        """From now on `pipe("...")` itself tells attached adapters what is asked: edits and gates work there too."""
        if any(other is adapter for other in self.listeners):
            return
        self.listeners.append(adapter)
        if len(self.listeners) == 1:
            self.pipe.encode_prompt = partial(self._heard, self.pipe.encode_prompt)
            self.pipe.maybe_free_model_hooks = partial(self._answered, self.pipe.maybe_free_model_hooks)

    def unlisten(self, adapter: object) -> None:
        """The pipeline's own methods are back when the last listener has gone."""
        before = len(self.listeners)
        self.listeners = [other for other in self.listeners if other is not adapter]
        if before and not self.listeners:
            del vars(self.pipe)["encode_prompt"], vars(self.pipe)["maybe_free_model_hooks"]
            self.asked = None

    def _heard(
        self,
        encode: Callable[..., Any],
        prompt: Any,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: Any = None,
        **settings: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """`encode_prompt`, then the edits; embeddings that the caller made are left alone."""
        own, other = encode(
            prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt, **settings
        )
        if prompt is None:
            return own, other
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        refused = negative_prompt or ""
        negatives = [refused] * len(prompts) if isinstance(refused, str) else list(refused)
        self.asked = [text for text in prompts for _ in range(num_images_per_prompt)]
        for edit in self.edits:
            own = edit(self.asked, own)
            if do_classifier_free_guidance and other is not None:
                other = edit([text for text in negatives for _ in range(num_images_per_prompt)], other)
        return own, other

    def _answered(self, free: Callable[[], None]) -> None:
        """`maybe_free_model_hooks`, the last thing a pipeline's call does."""
        self.asked = None
        free()

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
        return self.pipe.scheduler.get_velocity(latents, noise, t) if self.prediction == "v_prediction" else noise

    def predict(self, z_t: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        """The U-Net's prediction (B, C, h, w)."""
        return self.unet(z_t, t, embedding).sample

    def latent(self, noise: Noise, size: int | None = None, device: str = "cpu") -> Tensor:
        """The starting noise (1, C, h, w): draw number `place` of the seed's generator, on the CPU by default."""
        side = (size or self.size) // self.pipe.vae_scale_factor
        return _draws(noise.seed, (1, self.unet.config.in_channels, side, side), device)[noise.place]

    @torch.no_grad()
    def partly(
        self, embedding: Tensor, steps: int, stop: int, guidance: float, negative: Tensor
    ) -> tuple[Tensor, Tensor]:
        """z_t (B, C, h, w) after `stop` of `steps` DDIM steps from pure noise, and its t (B,): what ESD and SPM train
        on.

        negative (1, L, D): the embedding of the empty prompt. At guidance 1 it is not used.
        """
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

    @contextmanager
    def attention(self) -> Iterator[list[Tensor]]:
        """Inside, each cross-attention layer appends its probabilities (B, heads, h·w, L) , gradients kept."""
        maps: list[Tensor] = []
        layers = [m for name, m in self.unet.named_modules() if name.endswith("attn2")]
        before = [layer.processor for layer in layers]
        checkpointing = self.unet.is_gradient_checkpointing  # it would compute, in the backward pass, without recording
        if checkpointing:
            self.unet.disable_gradient_checkpointing()
        for layer in layers:
            layer.set_processor(_Recording(maps))
        try:
            yield maps
        finally:
            for layer, processor in zip(layers, before, strict=True):
                layer.set_processor(processor)
            if checkpointing:
                self.unet.enable_gradient_checkpointing()

    @torch.no_grad()
    def generate(self, prompts: list[str], noise: list[Noise], sampling: Sampling | None = None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] on the CPU; image i starts from noise[i]."""
        s = sampling or Sampling()
        latents = torch.cat([self.latent(n, s.size, s.noise_device) for n in noise]).to(self.device, self.unet.dtype)
        own = self.pipe.scheduler
        self.pipe.scheduler = self.scheduler(s.sampler, s.skip) if s.sampler or s.skip else own
        self.asked = prompts
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
            self.pipe.scheduler, self.asked = own, None
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


class _Recording(AttnProcessor):
    """diffusers' plain attention, which computes its probabilities, and keeps them."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def __call__(self, attn: Any, *args: Any, **settings: Any) -> Tensor:
        scores = attn.get_attention_scores

        def recorded(*given: Any) -> Tensor:
            found = scores(*given)
            self.maps.append(found.unflatten(0, (-1, attn.heads)))
            return found

        attn.get_attention_scores = recorded
        try:
            return super().__call__(attn, *args, **settings)
        finally:
            del attn.get_attention_scores


class _Draws:
    """The successive draws of one generator. The last one asked for is remembered; an earlier one is drawn anew."""

    def __init__(self, seed: int, shape: tuple[int, ...], device: str) -> None:
        self.seed, self.shape, self.device = seed, shape, device
        self.begin()

    def begin(self) -> None:
        self.generator, self.made = torch.Generator(self.device).manual_seed(self.seed), 0

    def __getitem__(self, place: int) -> Tensor:
        if place + 1 < self.made:
            self.begin()
        while self.made <= place:
            self.last = torch.randn(self.shape, generator=self.generator, device=self.device)
            self.made += 1
        return self.last


@lru_cache(maxsize=2)
def _draws(seed: int, shape: tuple[int, ...], device: str) -> _Draws:
    return _Draws(seed, shape, device)
