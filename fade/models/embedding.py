"""What a caption becomes before the network reads it: rows of tokens, and what some families read beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Embedding:
    """tokens (B, L, D); pooled (B, P), one vector a caption, of families that read one; mask (B, L), which rows are the
    caption's, of families that ask.

    It holds what follows from the caption alone; what depends on sizes and settings is made in `Diffusion.predict`.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """Those that are there, by name."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, value) for name, value in named if value is not None)

    def each(self, change: Callable[[Tensor], Tensor]) -> Embedding:
        """Every part changed in the same way."""
        return Embedding(**{name: change(value) for name, value in self.parts()})

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor) -> Embedding:
        """Those captions; a slice, indices or a bool mask."""
        return self.each(lambda part: part[rows])

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tokens.dtype

    def to(self, *where: Any) -> Embedding:
        """On another device, or in another floating-point type; the mask stays what it is."""
        kept = {} if self.mask is None else {"mask": self.mask.to(self.tokens.to(*where).device)}
        moved = {name: part.to(*where) for name, part in self.parts() if name != "mask"}
        return Embedding(**moved, **kept)

    def expand(self, n: int) -> Embedding:
        """One caption's, n times."""
        return self.each(lambda part: part.expand(n, *part.shape[1:]))

    def expand_as(self, other: Embedding) -> Embedding:
        """One caption's, as often as the other has captions."""
        return self.expand(len(other))

    def between(self, other: Embedding, share: Tensor) -> Embedding:
        """Each caption's numbers mixed with those of one of another's: share (B,) of the other's. What either one's
        mask lets through is the mixture's."""
        mixed = {
            name: part.lerp(theirs, share.to(part).view(-1, *[1] * (part.dim() - 1)))
            for (name, part), (_, theirs) in zip(self.parts(), other.parts(), strict=True)
            if name != "mask"
        }
        both = {} if self.mask is None or other.mask is None else {"mask": self.mask | other.mask}
        return Embedding(**mixed, **both)

    def split(self, n: int) -> list[Embedding]:
        """In parts of at most n captions."""
        return [self[start : start + n] for start in range(0, len(self), n)]

    @staticmethod
    def cat(parts: Sequence[Embedding]) -> Embedding:
        """The captions of all of them, in order."""
        names = [name for name, _ in parts[0].parts()]
        return Embedding(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def rows(self) -> Tensor:
        """(B, ·): all of a caption's numbers as one vector, for cosines."""
        return torch.cat([part.flatten(1) for name, part in self.parts() if name != "mask"], 1)

    def gist(self) -> Tensor:
        """(B, ·): what tells captions apart: the pooled vector, where there is one, for the rows of a text encoder that
        pads are alike in all captions; else all rows, or those under the mask."""
        if self.pooled is not None:
            return self.pooled
        rows = self.tokens if self.mask is None else self.tokens * self.mask[:, :, None].to(self.tokens)
        return rows.flatten(1)
