"""What families share whose caption a language model reads: how many rows it makes of one is a setting."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar, Literal, Self

from diffusers import DiffusionPipeline

from fade.checked import Count, Word
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.quantization import Quantization
from fade.models.sampling import Precision


class LongText(Diffusion, ABC):
    """text_length: of the language model's rows, in training and in `generate`; None is `usual_length`, or what its
    tokenizer was made for. quantization: of the network and the language model, while they are read. A family says:
    long_tokenizer, its name in the pipeline; usual_length."""

    long_tokenizer: ClassVar[str]
    usual_length: ClassVar[int]
    text_length: int

    def __init__(
        self,
        pipe: DiffusionPipeline,
        steps: int,
        guidance: float,
        size: int | None = None,
        precision: Precision | None = None,
        text_length: int | None = None,
    ) -> None:
        super().__init__(pipe, steps, guidance, size, precision)
        self.reads(text_length)

    def reads(self, length: int | None) -> None:
        found = checked_length(length, getattr(self.pipe, self.long_tokenizer), self.usual_length)
        self.text_length = self.prompts.length = found

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
        text_length: Count | None = None,
        quantization: Quantization | None = None,
    ) -> Self:
        pipe = cls.read(path, dtype, subfolder, gradient_checkpointing, quantization)
        return cls(pipe, steps, guidance, size, precision, text_length)

    def like(self, pipe: DiffusionPipeline) -> Self:
        made = super().like(pipe)
        made.reads(self.text_length)
        return made


def checked_length(length: int | None, tokenizer: Any, usual: int) -> int:
    """How many rows a language model makes of a caption. Raises BadInput for more than its tokenizer was made for."""
    if length is not None and length > tokenizer.model_max_length:
        raise BadInput(
            f"model.text_length is {length}, and this pipeline's {type(tokenizer).__name__} was made for "
            f"{tokenizer.model_max_length} tokens; give as many or fewer"
        )
    return length or min(usual, tokenizer.model_max_length)
