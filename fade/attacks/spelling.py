"""Free vectors and other tokens among a prompt's: the one place of the attacks that knows a text encoder.

A prompt is spelt as a list of slots, token ids and free vectors, and the text encoder sees those in place of its own
tokens. The prompt that is asked is what a gate or a text edit hears, if there is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.embedding import Embedding

Slots = list[int]  # a token's id, or -1 - j for the free vector j
Hears = Literal["text", "bypass"]  # a gate or a text edit: what the attacker's prompt says, or the surrogate's caption


def check_words(family: type[Diffusion] | Diffusion) -> None:
    """Raises BadInput for a family whose token embeddings cannot be reached."""
    if not family.alone:
        raise BadInput(
            f"{family.title} has no single text encoder that reads a caption alone, among whose token vectors a search "
            "could be made; use another one"
        )


def table(model: Diffusion) -> nn.Embedding:
    """The vectors of all tokens (V, D)."""
    return model.text_encoder.get_input_embeddings()  # type: ignore[union-attr,operator,return-value]


def norm(model: Diffusion) -> float:
    """The mean length of a token's vector, which rates are given in."""
    return float(table(model).weight.float().norm(dim=1).mean())


def room(model: Diffusion) -> int:
    """How many tokens a prompt can have, beside its first and last."""
    return int(model.pipe.tokenizer.model_max_length) - 2


def tokens(model: Diffusion, prompt: str) -> Slots:
    return model.token_ids([prompt])[0]


def prefixed(model: Diffusion, captions: Iterable[str], length: int) -> dict[str, Slots]:
    """Each caption with `length` free vectors of its own before it; cut where it is too long."""
    return {
        caption: [-1 - (row * length + j) for j in range(length)] + tokens(model, caption)[: room(model) - length]
        for row, caption in enumerate(captions)
    }


def usable(model: Diffusion, without: str = "") -> list[int]:
    """The ids that a search may use: no special token, none that stands in the words `without`."""
    odd = {*model.pipe.tokenizer.all_special_ids, *tokens(model, without)}
    return [i for i in range(len(table(model).weight)) if i not in odd]


def text(model: Diffusion, slots: Slots) -> str:
    """The tokens as a prompt; a free vector as *."""
    return " ".join("*" if i < 0 else model.pipe.tokenizer.decode([i]).strip() for i in slots)


def typed(model: Diffusion, ids: Slots) -> str:
    """The tokens as one would type them, parts of a word as that word; an encoder may cut it into others."""
    return str(model.pipe.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def replaced(model: Diffusion, prompt: str, concept: str, vectors: int = 1) -> Slots:
    """The prompt with free vectors where it names the concept. Raises BadInput where it does not."""
    own, named = tokens(model, prompt), tokens(model, concept)
    starts = [i for i in range(len(own)) if own[i : i + len(named)] == named]
    if not starts or not named:
        raise BadInput(f"the caption {prompt!r} does not say {concept!r}, in whose place a vector is to stand")
    free = [-1 - j for j in range(vectors)]
    return [*own[: starts[0]], *free, *own[starts[0] + len(named) :]]


@contextmanager
def spelt(model: Diffusion, slots: Mapping[str, Slots], vectors: Tensor | None = None) -> Iterator[None]:
    """Inside, the text encoder sees each of these prompts as its slots say; other prompts as they are.

    vectors (F, D): the free ones; gradients reach them.
    """
    known = {tuple(tokens(model, prompt)): given for prompt, given in slots.items()}
    end = int(model.pipe.tokenizer.eos_token_id)
    layer = table(model)
    free = layer.weight[:1] if vectors is None else vectors

    def put(_: nn.Module, args: tuple[Any, ...], found: Tensor) -> Tensor:
        rows = torch.tensor([_row(ids, known, end) for ids in args[0].tolist()], device=found.device)
        ours = embedding(rows.clamp(min=0), layer.weight)
        return torch.where((rows < 0)[..., None], free.to(ours)[(-1 - rows).clamp(min=0)], ours)

    handle = layer.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def _row(ids: list[int], known: Mapping[tuple[int, ...], Slots], end: int) -> list[int]:
    """The ids of a row, between its first token and its last one's place the slots."""
    last = ids.index(end) if end in ids else len(ids) - 1
    slots = known.get(tuple(ids[1:last]))
    if slots is None:
        return ids
    pad = ids[-1] if last < len(ids) - 1 else end
    row = [ids[0], *slots[: len(ids) - 2], ids[last]]
    return row + [pad] * (len(ids) - len(row))


def embedded(model: Diffusion, prompts: Sequence[str]) -> Embedding:
    """`embed`, through which gradients go."""
    return inspect.unwrap(type(model).embed)(model, list(prompts))


def states(model: Diffusion, prompts: Sequence[str]) -> Tensor:
    """What the text encoder says of the prompts (B, L, D), one state a token."""
    return model.embed(list(prompts)).tokens


@contextmanager
def mapped(model: Diffusion, prompts: Sequence[str], matrix: Tensor) -> Iterator[None]:
    """Inside, the text embeddings e (L, D) of these prompts are e·matrixᵀ, after all other edits; others stay."""
    listener, chosen = object(), set(prompts)

    def edit(asked: list[str], found: Embedding) -> Embedding:
        rows = torch.tensor([prompt in chosen for prompt in asked], device=found.device)[:, None, None]
        own = found.tokens
        return replace(found, tokens=torch.where(rows, (own.to(matrix) @ matrix.T).to(own), own))

    model.prompts.add(listener, edit)
    try:
        yield
    finally:
        model.prompts.remove(listener)
