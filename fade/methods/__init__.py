"""One file a method: where to change the model (`locate`) and what to minimise (`losses`)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.data.pairs import Batch, Example, Pairs
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.saliency import Saliency, sum_of_abs

Gradients = list[Tensor]  # one for each of the adapter's parameters


class Method:
    """A method is two functions, `locate` and `losses`; the rest has defaults.

    terms: the names of its losses, one shared vocabulary (forget, retain, prior, ...). kinds: of adapters it can train.
    variant: which of several published versions this is, for tables; "" where there is one.
    """

    terms: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("lora", "patch")
    combines = False  # whether `combine` turns the terms' gradients into the step's
    variant = ""

    def check(self, kind: str, sparsity: str, steps: int) -> None:
        """Raises BadInput, before any work, for an adapter, a sparsity or a number of steps that the method cannot use."""
        name = type(self).__name__
        if kind not in self.kinds:
            raise BadInput(
                f"{name} cannot train an adapter of kind {kind}; it takes {' or '.join(self.kinds)}: choose another adapter"
            )
        if not self.terms and steps:
            raise BadInput(f"{name} has no loss to train; trainer.max_steps is {steps} and must be 0")
        if self.terms and not steps:
            raise BadInput(f"{name} is trained; trainer.max_steps is 0 and must be 1 or more")

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """What a step needs and no checkpoint holds; called at every start."""

    def locate(self, model: Diffusion, adapter: Adapter, batches: Sequence[Batch]) -> Saliency:
        """Stage one: a score for every weight under the adapter. Not asked for where the sparsity is dense."""
        return sum_of_abs(model, adapter.weights(), batches, "forget")

    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """What is done to the weights once, after the masks are set: closed forms, re-initialisation."""

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        """Stage two: the named, unweighted terms of one step."""
        raise NotImplementedError

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        """The step's gradient from those of the weighted terms, where `combines` is set."""
        raise NotImplementedError


def noised(model: Diffusion, example: Example) -> Tensor:
    """z_t of an example, at the t and with the noise that the loop drew."""
    return model.noised(example["latents"], example["t"], example["noise"])


def denoising(model: Diffusion, example: Example, embedding: Tensor) -> Tensor:
    """The plain loss of diffusion training on an example, under a given caption."""
    wanted = model.target(example["latents"], example["t"], example["noise"])
    return mse_loss(model.predict(noised(model, example), example["t"], embedding), wanted)


def dot(one: Gradients, other: Gradients) -> Tensor:
    """The inner product over all parameters."""
    return sum((a * b).sum() for a, b in zip(one, other, strict=True))  # type: ignore[return-value]
