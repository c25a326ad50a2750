"""What a pipeline is asked for, for the adapters that depend on it: edits of the embedding, gates of a change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

from diffusers import DiffusionPipeline

from fade.errors import BadInput
from fade.models.embedding import Embedding

Edit = Callable[[list[str], Embedding], Embedding]  # (prompts, embeddings) -> embeddings
PARTS = ("tokens", "pooled", "mask")
Places = tuple[int | None, ...]  # of PARTS, None where one is not there


@dataclass(frozen=True)
class Text:
    """The rows that one tokenizer has in an embedding: `length` of them from row `offset` on.

    first: where a caption's first token stands in them, 1 behind a token that begins it. One token ends the caption.
    prefix: what stands before it as far as the tokenizer is concerned.
    """

    tokenizer: Any
    length: int
    offset: int = 0
    first: int = 1
    prefix: str = ""

    @property
    def room(self) -> int:
        """How many tokens a caption may have."""
        return self.length - self.first - 1

    def ids(self, prompt: str) -> list[int]:
        """The tokens of a prompt that are seen, without the ones that begin, end and pad it."""
        text = self.prefix + prompt if prompt else ""
        return self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=self.room).input_ids

    def count(self, prompt: str) -> int:
        """How many tokens the prompt has, seen or not."""
        return len(self.tokenizer(self.prefix + prompt, add_special_tokens=False, verbose=False).input_ids)

    def positions(self, prompt: str, concept: str) -> set[int]:
        """The rows of the concept's words, as often as the prompt names it."""
        tokens, wanted = self.ids(prompt), self.ids(concept)
        starts = [i for i in range(len(tokens) - len(wanted) + 1) if tokens[i : i + len(wanted)] == wanted]
        return {self.offset + self.first + start + k for start in starts for k in range(len(wanted))}

    def last(self, prompt: str) -> int:
        """The row of the prompt's last token."""
        return self.offset + self.first - 1 + len(self.ids(prompt))


class PromptHook:
    """Two ways lead to the prompt: `Diffusion.generate` says it here, and `pipe("...")` is heard while anybody listens.

    own, other: where in what `encode_prompt` returns the parts of the prompt's embedding stand, and of the negative
    one's, in the order of PARTS. asked: the prompts of the batch that is being generated, None while there is none; the
    last as many rows that the network reads are theirs. length: the rows that a language model makes of a prompt; a
    call that asks for another number is refused.
    """

    def __init__(self, pipe: DiffusionPipeline, own: Places = (0,), other: Places = (1,)) -> None:
        self.pipe, self.own, self.other = pipe, own, other
        self.asked: list[str] | None = None
        self.length: int | None = None
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

    def edited(self, prompts: list[str], embedding: Embedding) -> Embedding:
        """The prompts' embedding as all edits leave it."""
        for _, edit in self.listeners:
            embedding = embedding if edit is None else edit(prompts, embedding)
        return embedding

    def _encode(self, encode: Callable[..., Any], *args: Any, **settings: Any) -> tuple[Any, ...]:
        """`encode_prompt`, then the edits; embeddings that the caller made are left alone."""
        given = signature(encode).bind(*args, **settings).arguments
        if given.get("prompt") is None:
            return tuple(encode(*args, **settings))
        if self.length and (asked := given.get("max_sequence_length")) not in (None, self.length):
            raise BadInput(
                f"this call asks for {asked} rows of text, and the adapter that is on was trained with {self.length}; "
                f"call the pipeline with max_sequence_length={self.length}"
            )
        found = list(encode(*args, **settings))
        prompts = [given["prompt"]] if isinstance(given["prompt"], str) else list(given["prompt"])
        refused = given.get("negative_prompt") or ""
        negatives = [refused] * len(prompts) if isinstance(refused, str) else list(refused)
        times = given.get("num_images_per_prompt", 1)
        self.asked = _each(prompts, times)
        self._edit(found, self.own, self.asked)
        if given.get("do_classifier_free_guidance", True):
            self._edit(found, self.other, _each(negatives, times))
        return tuple(found)

    def _edit(self, found: list[Any], places: Places, prompts: list[str]) -> None:
        """The embedding that stands at these places, edited there."""
        names = {name: place for name, place in zip(PARTS, places, strict=False) if place is not None}
        if not names or found[names["tokens"]] is None:
            return
        edited = self.edited(prompts, Embedding(**{name: found[place] for name, place in names.items()}))
        for name, place in names.items():
            found[place] = getattr(edited, name)

    def _done(self, free: Callable[[], None]) -> None:
        """`maybe_free_model_hooks`, the last thing a pipeline's call does."""
        self.asked = None
        free()


def _each(prompts: list[str], times: int) -> list[str]:
    return [text for text in prompts for _ in range(times)]
