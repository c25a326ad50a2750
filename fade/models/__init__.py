"""A text-to-image pipeline behind its verbs: embed, encode, noised, predict, generate. One class a family of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from weakref import WeakKeyDictionary

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from fade.checked import Count, Word
from fade.errors import BadInput
from fade.models.attention import recorded
from fade.models.embedding import Embedding
from fade.models.ledger import ledger, plain
from fade.models.noise import Noise
from fade.models.processes import Diffusing, Process, flowing
from fade.models.prompts import Places, PromptHook, Text
from fade.models.quantization import Quantization, packing
from fade.models.reading import loaded, place
from fade.models.sampling import Precision, Room, Sampling, begun_lower
from fade.tensors import Digests

LARGE = 512  # pixels of a side, from which on images are decoded one at a time
OFFLOADED = "this pipeline moves its parts by itself (CPU offload), and an adapter would be left behind"
_DIGESTS: WeakKeyDictionary[nn.Module, Digests] = WeakKeyDictionary()  # of the pipeline that a network is part of


class Diffusion(nn.Module, ABC):
    """A frozen pipeline behind the verbs. What families differ in is theirs, one file each.

    network: what denoises, and what adapters change. steps, guidance: of the default sampler, which is the pipeline's
    own scheduler. size: image side in pixels. precision: of autocast while images are made, None for none.

    A family says: title, for messages; denoiser and encoders, their names in the pipeline. pipeline, pipelines: the
    class that is read, and the names of all that it takes. forward: the process. text_keys, pooled_keys: regular
    expressions that find the weights that read the text embedding itself, rows or pooled vector; "" for none.
    attention_layers: endings of the layers that a low-rank change takes. heard: PromptHook's places. upcast: whether
    the autoencoder leaves the range of float16. causal: whether a row of the text says nothing of the words behind it.
    joint: whether text and image are read in one softmax. alone: whether a single text encoder reads a caption alone.
    preset: the file of conf/model whose settings `fade.unlearn` takes.
    """

    title: ClassVar[str]
    denoiser: ClassVar[str]
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    pipeline: ClassVar[type[DiffusionPipeline]]
    pipelines: ClassVar[tuple[str, ...]]
    without: ClassVar[dict[str, Any]] = {}  # parts of the pipeline that are not read
    quantised: ClassVar[tuple[str, ...]] = ()  # parts that a quantization packs
    forward: ClassVar[type[Process]] = Diffusing
    text_keys: ClassVar[str]
    pooled_keys: ClassVar[str] = ""
    attention_layers: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    heard: ClassVar[tuple[Places, Places]] = ((0,), (1,))
    upcast: ClassVar[bool] = False
    causal: ClassVar[bool] = True
    joint: ClassVar[bool] = False
    alone: ClassVar[bool] = False
    preset: ClassVar[str]
    text_length: int | None = None  # rows that a language model makes of a caption, of families that have one

    def __init__(
        self,
        pipe: DiffusionPipeline,
        steps: int,
        guidance: float,
        size: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        super().__init__()
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=True)
        for name in (self.denoiser, "vae", *self.encoders):
            setattr(self, name, getattr(pipe, name))
        for module in self.children():
            module.requires_grad_(False).eval()
        self.steps, self.guidance = steps, guidance
        self.size, self.precision = size or self.own_size(), precision
        self.room = Room()
        self.prompts = PromptHook(pipe, *self.heard)
        self.handles: list[Any] = []  # of fade/api.py, those that are on
        self._process: tuple[Any, Process] | None = None

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
    ) -> Self:
        """Read a pipeline's folder, a hub name, or a .ckpt or .safetensors through diffusers' own converter.

        subfolder: the folder within `path` that is the pipeline. Raises BadInput where it is missing or does not fit.
        """
        return cls(cls.read(path, dtype, subfolder, gradient_checkpointing), steps, guidance, size, precision)

    @classmethod
    def read(
        cls,
        path: str,
        dtype: str,
        subfolder: str | None,
        gradient_checkpointing: bool,
        quantization: Quantization | None = None,
    ) -> DiffusionPipeline:
        """The family's pipeline, as `load` says."""
        where = place(path, subfolder)
        packed = packing(Path(where), cls.denoiser, cls.quantised, dtype, quantization)
        pipe: DiffusionPipeline = loaded(cls.pipeline, where, dtype, cls.without | packed)
        if gradient_checkpointing:
            getattr(pipe, cls.denoiser).enable_gradient_checkpointing()
        return pipe

    def like(self, pipe: DiffusionPipeline) -> Self:
        """Another pipeline of this family, read and sampled as this one is."""
        return type(self)(pipe, self.steps, self.guidance, self.size, self.precision)

    # what it is

    @property
    def network(self) -> Any:
        return getattr(self, self.denoiser)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device  # the network's own property walks through all of its modules

    @property
    def process(self) -> Process:
        """The forward process of the pipeline's present scheduler."""
        scheduler = self.pipe.scheduler
        if self._process is None or self._process[0] is not scheduler:
            self._process = scheduler, self.forward(scheduler.config)
        return self._process[1]

    @property
    def train_steps(self) -> int:
        """T, 1000 in every family so far."""
        return self.process.steps

    @property
    def prediction(self) -> str:
        """The parameterisation of `predict`: "epsilon", "v_prediction", or "flow"."""
        return self.process.prediction

    @property
    def channels(self) -> int:
        return self.vae.config.latent_channels

    @classmethod
    def part_of(cls, name: str) -> str:
        """The part of the pipeline that a weight of `changeable` is of: a text encoder, or the denoiser."""
        part = name.partition(".")[0]
        return part if part in cls.encoders else cls.denoiser

    def changeable(self) -> dict[str, nn.Parameter]:
        """What an adapter can change, by name: the network's weights by its own names, a text encoder's with the
        encoder's name in front (text_encoder.encoder.layers.0...)."""
        parts = {part: module for part, module in self.named_children() if part in (self.denoiser, *self.encoders)}
        return {
            plain(name) if part == self.denoiser else f"{part}.{plain(name)}": weight
            for part, module in parts.items()
            for name, weight in module.named_parameters()
            if ".lora_" not in name
        }

    @property
    def idle(self) -> tuple[str, ...]:
        """Layers that nothing of the output depends on: no candidates of any change."""
        return ()

    def own_size(self) -> int:
        """Image side in pixels that the pipeline makes where none is asked for."""
        return self.network.config.sample_size * self.pipe.vae_scale_factor

    def sha256(self, dtype: torch.dtype | None = None) -> str:
        """The identity of the base: a hash over every tensor of the pipeline's modules, adapters left out.

        dtype: as the hash would be of the same pipeline in another floating-point type.
        """
        return self.sha256_in([dtype])[0]

    def sha256_in(self, dtypes: Sequence[torch.dtype | None]) -> list[str]:
        """`sha256` in several types at once."""
        tensors = {
            f"{part}.{plain(name)}": value
            for part, module in self.named_children()
            for name, value in module.state_dict().items()
            if ".lora_" not in name
        }
        for name, original in ledger(self.network).original.items():
            key = f"{self.denoiser}.{name}" if self.part_of(name) == self.denoiser else name
            tensors[key] = original.to(tensors[key].dtype)
        return _DIGESTS.setdefault(self.network, Digests()).of(tensors, dtypes)

    def check_parts(self) -> None:
        """Raises BadInput for a pipeline whose weights have other names, or other places, than an adapter can know, and
        for one whose sampler is of the other process."""
        scheduler = self.pipe.scheduler
        if flowing(scheduler) == self.process.whole:
            self.process.adopted(type(scheduler))  # says so of the class, where no setting makes it right
            raise BadInput(
                f"this pipeline's {type(scheduler).__name__} is set to sample the other process than {self.title} is "
                f"trained for; make it with use_flow_sigmas={not self.process.whole}"
            )
        modules = [part for module in self.children() for part in module.modules()]
        if any(getattr(part, "fused_projections", False) for part in modules):
            raise BadInput(
                "this pipeline's attention projections are fused, so the layers of an adapter are not there; call "
                "pipe.unfuse_qkv_projections() first"
            )
        if any(hasattr(part, "_hf_hook") for part in modules):
            raise BadInput(f"{OFFLOADED}; call pipe.remove_all_hooks() first")
        if any(registry.hooks for part in modules if (registry := getattr(part, "_diffusers_hook", None))):
            raise BadInput(f"{OFFLOADED}; load it again without offloading or layerwise casting")

    # words

    def reads(self, length: int | None) -> None:
        """From here on a language model, where there is one, makes that many rows of a caption; None: the usual."""

    @property
    @abstractmethod
    def texts(self) -> list[Text]:
        """The rows of an embedding, tokenizer by tokenizer."""

    def token_ids(self, prompts: list[str]) -> list[list[int]]:
        """The tokens of each prompt that `embed` sees, without the ones that begin, end and pad it, by the first
        tokenizer."""
        return [self.texts[0].ids(prompt) for prompt in prompts]

    def token_positions(self, prompt: str, concept: str) -> list[int]:
        """Rows of a prompt's embedding that are the concept's words, as often as it names it, of every tokenizer."""
        return sorted(row for text in self.texts for row in text.positions(prompt, concept))

    def ends(self, captions: list[list[int]]) -> Tensor:
        """(B, D): of captions given as tokens, the row in which each ends, where an encoder reads them `alone`."""
        raise NotImplementedError

    def cutting(self) -> list[Text]:
        """Every tokenizer that could cut a caption, also one that has no rows in an embedding."""
        return self.texts

    def check_prompts(self, prompts: list[str]) -> None:
        """Raises BadInput for the first one of which a tokenizer would cut something off."""
        for prompt in dict.fromkeys(prompts):
            for text in self.cutting():
                if (tokens := text.count(prompt)) > text.room:
                    raise BadInput(
                        f"the caption {prompt!r} has {tokens} tokens and the text encoder takes {text.room}; shorten it"
                    )

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Embedding:
        """The prompts' embedding, as the edits of attached adapters leave it."""
        return self.prompts.edited(prompts, self.encoded(prompts))

    @abstractmethod
    def encoded(self, prompts: list[str]) -> Embedding:
        """The prompts' embedding as the text encoders give it."""

    def negative(self, prompt: str = "") -> Embedding:
        """Of one caption: what the family's sampler guides away from where nothing, or `prompt`, is refused."""
        return self.embed([prompt])

    # latents

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w), scaled for the network, of images (B, 3, H, W) in [0, 1]: the posterior's mode."""
        own, config = self.vae.dtype, self.vae.config
        if widened := self.upcast and own == torch.float16:
            self.vae.float()
        mode = self._mode((images * 2 - 1).to(self.device, self.vae.dtype))
        if widened:
            self.vae.to(own)
        return (mode - (getattr(config, "shift_factor", None) or 0)) * config.scaling_factor

    def _mode(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels).latent_dist.mode()

    def latent(self, noise: Noise, size: int | None = None, device: str = "cpu") -> Tensor:
        """The starting noise (1, C, h, w), drawn on the CPU unless told otherwise."""
        side = (size or self.size) // self.pipe.vae_scale_factor
        return noise.of((1, self.channels, side, side), device)

    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t (B, C, h, w)."""
        return self.process.noised(latents, t, noise)

    def target(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What `predict` is trained to give for z_t: the noise, or a velocity."""
        return self.process.target(latents, t, noise)

    @abstractmethod
    def predict(self, z_t: Tensor, t: Tensor, embedding: Embedding) -> Tensor:
        """The network's prediction (B, C, h, w), in its own parameterisation."""

    def guided(self, z: Tensor, t: Tensor, embedding: Embedding, guidance: float, negative: Embedding) -> Tensor:
        """The prediction (B, C, h, w) at one time t () that a sampler takes: ε(∅) + w (ε(c) − ε(∅)), one pass at
        guidance 1."""
        if guidance == 1:
            return self.predict(z, t.expand(len(z)), embedding)
        both = Embedding.cat([negative.expand_as(embedding), embedding])
        without, given = self.predict(torch.cat([z] * 2), t.expand(len(both)), both).chunk(2)
        return without + guidance * (given - without)

    def attention(self) -> AbstractContextManager[list[Tensor]]:
        """Inside, each cross-attention layer appends its probabilities (B, heads, h·w, L), gradients kept."""
        return recorded(self.network)

    # images

    def sampler(self, steps: int, z: Tensor) -> Any:
        """The deterministic first-order sampler of `denoise_until` for latents z (B, C, h, w), its times set."""
        return self.process.sampler(steps, z.device)

    @torch.no_grad()
    def denoise_until(
        self, embedding: Embedding, steps: int, stop: int, guidance: float, negative: Embedding
    ) -> tuple[Tensor, Tensor]:
        """z_t (B, C, h, w) after `stop` of `steps` steps from pure noise (DDIM's, or Euler's of a flow), and its t
        (B,), for ESD, SPM and LACU.

        negative: of the empty prompt, one caption. At guidance 1 it is not used.
        """
        z = torch.randn(len(embedding), *self.latent(Noise(0)).shape[1:], device=self.device, dtype=embedding.dtype)
        sampler = self.sampler(steps, z)
        for t in sampler.timesteps[:stop]:
            z = sampler.step(self.guided(z, t, embedding, guidance, negative), t, z).prev_sample
        return z, sampler.timesteps[min(stop, steps - 1)].expand(len(z))

    def settled(self, sampling: Sampling | None = None) -> Sampling:
        """The same with the sampler and the precision that it comes to on this model: None is no autocast."""
        s = sampling or Sampling()
        own, said = type(self.pipe.scheduler).__name__, s.precision or self.precision
        return replace(s, sampler=s.sampler or own, precision=None if said == "float32" else said)

    @torch.no_grad()
    def generate(self, prompts: list[str], noise: list[Noise], sampling: Sampling | None = None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] on the CPU; image i starts from noise[i]. In parts where the device's memory
        does not hold all of them: but for rounding, an image does not depend on those beside it."""
        s = self.settled(sampling)
        return self.room.made(lambda part: self._drawn(prompts[part], noise[part], s), len(prompts))

    def _drawn(self, prompts: list[str], noise: list[Noise], s: Sampling) -> Tensor:
        latents = torch.cat([self.latent(n, s.size, s.noise_device) for n in noise]).to(self.device, self.network.dtype)
        height, width = (side * self.pipe.vae_scale_factor for side in latents.shape[-2:])
        scheduler, slicing = self.pipe.scheduler, self.vae.use_slicing
        if s.skip or s.sampler != type(scheduler).__name__:
            self.pipe.scheduler = self.scheduler(s.sampler, s.skip)
        self.vae.use_slicing = slicing or max(height, width) >= LARGE
        self.prompts.asked = list(prompts)  # a new one each time: what gates and edits remember is of this call
        try:
            with torch.autocast(
                self.device.type, getattr(torch, s.precision or "float32"), enabled=s.precision is not None
            ):
                made = self.pipe(
                    **self.asking(self.embed(prompts), self.negative(s.negative), latents),
                    height=height,
                    width=width,
                    num_inference_steps=s.steps or self.steps,
                    guidance_scale=self.guidance if s.guidance is None else s.guidance,
                    output_type="pt",
                )
        finally:
            self.pipe.scheduler, self.vae.use_slicing, self.prompts.asked = scheduler, slicing, None
        return made.images.float().cpu()

    def asking(self, embedding: Embedding, negative: Embedding, latents: Tensor) -> dict[str, Any]:
        """What the pipeline's call is given in place of prompts. negative: of one caption."""
        return {
            "prompt_embeds": embedding.tokens,
            "negative_prompt_embeds": negative.expand_as(embedding).tokens,
            "latents": latents,
        }

    def scheduler(self, name: str | None, skip: int = 0) -> Any:
        """One with the pipeline's settings. Raises BadInput where diffusers has none, or of the other process only."""
        own = type(self.pipe.scheduler)
        kind = getattr(diffusers, name, None) if name and name != own.__name__ else own
        if kind is None or not hasattr(kind, "set_timesteps"):
            raise BadInput(f"diffusers has no scheduler {name!r}; name one of its classes, for example DDIMScheduler")
        return begun_lower(self.process.adopted(kind), skip)
