"""What a pipeline is asked for, for the adapters that depend on it: edits of the embedding, gates of a change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor

Edit = Callable[[list[str], Tensor], Tensor]  # (prompts, embeddings (B, L, D)) -> embeddings


class PromptHook:
    """Two ways lead to the prompt: `Diffusion.generate` says it here, and `pipe("...")` is heard while anybody listens.

    asked: the prompts of the batch that is being generated, None while there is none.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        self.asked: list[str] | None = None
        self.listeners: list[tuple[Any, Edit | None]] = []  # in the order in which they came

    def add(self, listener: object, edit: Edit | None = None) -> None:
        """From here on the pipeline's own call says what is asked, and `edit` changes its embeddings."""
        if any(other is listener for other, _ in self.listeners):
            return
        self.listeners.append((listener, edit))
        if len(self.listeners) == 1:
            self.pipe.encode_prompt = partial(self._encode, self.pipe.encode_prompt)
            self.pipe.maybe_free_model_hooks = partial(self._done, self.pipe.maybe_free_model_hooks)

    def remove(self, listener: object) -> None:
        """The pipeline's own methods are back when the last listener has gone."""
        before = len(self.listeners)
        self.listeners = [pair for pair in self.listeners if pair[0] is not listener]
        if before and not self.listeners:
            del vars(self.pipe)["encode_prompt"], vars(self.pipe)["maybe_free_model_hooks"]
            self.asked = None

    def edited(self, prompts: list[str], embeddings: Tensor) -> Tensor:
        """Embeddings (B, L, D) of the prompts as all edits leave them."""
        for _, edit in self.listeners:
            embeddings = embeddings if edit is None else edit(prompts, embeddings)
        return embeddings

    def _encode(
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
        self.asked = _each(prompts, num_images_per_prompt)
        if do_classifier_free_guidance and other is not None:
            other = self.edited(_each(negatives, num_images_per_prompt), other)
        return self.edited(self.asked, own), other

    def _done(self, free: Callable[[], None]) -> None:
        """`maybe_free_model_hooks`, the last thing a pipeline's call does."""
        self.asked = None
        free()


def _each(prompts: list[str], times: int) -> list[str]:
    return [text for text in prompts for _ in range(times)]
