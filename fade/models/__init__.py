"""A text-to-image pipeline behind its verbs: embed, encode, noised, predict, generate. One class a family of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from fade.checked import Count
from fade.models.ledger import ledger, plain
from fade.models.noise import Noise
from fade.models.prompts import PromptHook
from fade.tensors import Digests

_DIGESTS: WeakKeyDictionary[nn.Module, Digests] = WeakKeyDictionary()  # of the pipeline that a network is part of


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


class Diffusion(nn.Module, ABC):
    """A frozen pipeline of one family: fade/models/stable_diffusion.py.

    network: what denoises, and what adapters change; denoiser: its name in the pipeline. text_keys: a regular
    expression that finds the keys and values of its cross-attention. steps, guidance: of the default sampler, which is
    the pipeline's own scheduler. size: image side in pixels.
    """

    denoiser: ClassVar[str]
    text_keys: ClassVar[str]

    def __init__(self, pipe: DiffusionPipeline, steps: int, guidance: float, size: int) -> None:
        super().__init__()
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=True)
        self.steps, self.guidance, self.size = steps, guidance, size
        self.prompts = PromptHook(pipe)
        self.handles: list[Any] = []  # of fade/api.py, those that are on

    @property
    def network(self) -> Any:
        return getattr(self, self.denoiser)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def train_steps(self) -> int:
        """T, 1000 in every family so far."""
        return self.pipe.scheduler.config.num_train_timesteps

    @property
    def prediction(self) -> str:
        """The parameterisation of `predict`: "epsilon" or "v_prediction"."""
        return str(self.pipe.scheduler.config.prediction_type)

    def sha256(self, dtype: torch.dtype | None = None) -> str:
        """The identity of the base: a hash over every tensor of the pipeline's modules, adapters left out.

        dtype: as the hash would be of the same pipeline in another floating-point type.
        """
        tensors = {
            f"{part}.{plain(name)}": value
            for part, module in self.named_children()
            for name, value in module.state_dict().items()
            if ".lora_" not in name
        }
        for name, original in ledger(self.network).original.items():
            key = f"{self.denoiser}.{name}"
            tensors[key] = original.to(tensors[key].dtype)
        return _DIGESTS.setdefault(self.network, Digests()).of(tensors, dtype)

    # words

    @abstractmethod
    def token_ids(self, prompts: list[str]) -> list[list[int]]:
        """The tokens of each prompt that `embed` sees, without the ones that begin, end and pad it."""

    def token_positions(self, prompt: str, concept: str) -> list[int]:
        """Positions (the first token is at 1) of the concept's words in a prompt's tokens, as often as it names it."""
        (tokens,), (wanted,) = self.token_ids([prompt]), self.token_ids([concept])
        found: set[int] = set()
        for start in range(1, len(tokens) - len(wanted) + 2):
            if tokens[start - 1 : start - 1 + len(wanted)] == wanted:
                found.update(range(start, start + len(wanted)))
        return sorted(found)

    @abstractmethod
    def check_prompts(self, prompts: list[str]) -> None:
        """Raises BadInput for the first one of which the tokenizer would cut something off."""

    @abstractmethod
    def embed(self, prompts: list[str]) -> Tensor:
        """Text embeddings (B, L, D), as the edits of attached adapters leave them."""

    # latents

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w), scaled for the network, of images (B, 3, H, W) in [0, 1]: the posterior's mode."""

    @abstractmethod
    def latent(self, noise: Noise, size: int | None = None, device: str = "cpu") -> Tensor:
        """The starting noise (1, C, h, w), drawn on the CPU unless told otherwise."""

    @abstractmethod
    def noised(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t (B, C, h, w)."""

    @abstractmethod
    def target(self, latents: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What `predict` is trained to give for z_t: the noise, or the velocity."""

    @abstractmethod
    def predict(self, z_t: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
        """The network's prediction (B, C, h, w), in its own parameterisation."""

    @abstractmethod
    def attention(self) -> AbstractContextManager[list[Tensor]]:
        """Inside, each cross-attention layer appends its probabilities (B, heads, h·w, L), gradients kept."""

    # images

    @abstractmethod
    def denoise_until(
        self, embedding: Tensor, steps: int, stop: int, guidance: float, negative: Tensor
    ) -> tuple[Tensor, Tensor]:
        """z_t (B, C, h, w) after `stop` of `steps` DDIM steps from pure noise, and its t (B,), for ESD and SPM.

        negative (1, L, D): the embedding of the empty prompt. At guidance 1 it is not used.
        """

    @abstractmethod
    def generate(self, prompts: list[str], noise: list[Noise], sampling: Sampling | None = None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] on the CPU; image i starts from noise[i]."""
