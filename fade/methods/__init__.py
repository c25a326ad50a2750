"""One file a method: where to change the model (`locate`) and what to minimise (`losses`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from fade.adapters import Adapter
from fade.data.pairs import Batch, Example, Pairs
from fade.errors import BadInput, at_least
from fade.models import Diffusion
from fade.models.embedding import Embedding
from fade.saliency import Saliency, sides_of_abs, sum_of_abs

Gradients = list[Tensor]  # one for each of the adapter's parameters
Take = Callable[[dict[str, float] | None], None]  # a further step of the run's optimizer: Method.before_step


class Method:
    """A method is two functions, `locate` and `losses`; the rest has defaults.

    terms: its losses, one shared vocabulary (forget, retain, prior, ...), each with the paper's weight; the constructor
    takes others. kinds: of adapters it can train. variant: which of several published versions this is, for tables; ""
    where there is one.
    """

    terms: Mapping[str, float] = MappingProxyType({})
    kinds: tuple[str, ...] = ("lora", "patch")
    combines = False  # whether `combine` turns the terms' gradients into the step's
    draws_t = True  # whether its forget term uses the t of the batch, which `timesteps` draws
    part: Literal["network", "text"] = "network"  # of the pipeline, that it changes: what denoises, or a text encoder
    passes = 0  # how many times it takes further steps before some of its own
    variant = ""

    def weighted(self, terms: Mapping[str, float] | None) -> dict[str, float]:
        """The weights of all terms, those that are given in place of the method's own. Raises BadInput for a term that
        it does not have and for a weight below 0.
        """
        if odd := [term for term in terms or {} if term not in self.terms]:
            own = ", ".join(self.terms) or "none"
            raise BadInput(f"method.terms has {odd[0]!r}; {type(self).__name__} has the terms {own}")
        at_least(0, **{f"method__terms__{term}": weight for term, weight in (terms or {}).items()})
        return {**self.terms, **(terms or {})}

    def check(self, kind: str, sparsity: str, steps: int, timesteps: str = "uniform") -> None:
        """Raises BadInput, before any work, for an adapter, sparsity, number of steps or timesteps of no use to it."""
        name = type(self).__name__
        if kind not in self.kinds:
            raise BadInput(
                f"{name} cannot train an adapter of kind {kind}; it takes {' or '.join(self.kinds)}: choose another "
                f"adapter"
            )
        if kind == "matrix" and sparsity != "dense":
            raise BadInput(
                f"one matrix for all layers cannot be masked, and sparsity={sparsity} would; use sparsity=dense"
            )
        if kind == "text" and sparsity != "dense":
            raise BadInput(f"{name} changes no weights, so sparsity={sparsity} has nothing to mask; use sparsity=dense")
        if self.part == "text" and sparsity != "dense":
            raise BadInput(
                f"stage one scores what denoises, and {name} changes the text encoder: sparsity={sparsity} has nothing "
                "to go by; use sparsity=dense"
            )
        if timesteps != "uniform" and not self.draws_t:
            raise BadInput(
                f"{name} draws no timesteps, so timesteps={timesteps} would change nothing; use timesteps=uniform"
            )
        if steps < 0:
            raise BadInput(f"trainer.max_steps is {steps}; it must be 0 or more")
        if not self.terms and steps:
            raise BadInput(f"{name} has no loss to train; trainer.max_steps is {steps} and must be 0")
        if self.terms and not steps:
            raise BadInput(f"{name} is trained; trainer.max_steps is 0 and must be 1 or more")

    def check_family(self, family: type[Diffusion]) -> None:
        """Raises BadInput for a family of models on which the method has no meaning: asked of the class, before a rate
        is asked for, a pipeline is read or an adapter looks for layers that such a family may not have."""

    def check_part(self, model: Diffusion, adapter: Adapter) -> None:
        """Raises BadInput for weights of the other part of the pipeline: batches hold captions as they were read before
        training, so that a text encoder's would have no gradient."""
        text = self.part == "text"
        if odd := [name for name in adapter.weights() if (model.part_of(name) == model.denoiser) == text]:
            raise BadInput(
                f"{type(self).__name__} changes {'a text encoder' if text else 'what denoises'}, and {odd[0]} is of "
                f"{'what denoises' if text else 'a text encoder'}: change adapter.targets"
            )

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """Raises BadInput for weights or captions that the method cannot work on. The pairs are not prepared yet."""

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """What a step needs and no checkpoint holds; called at every start."""

    def locate(self, model: Diffusion, adapter: Adapter, batches: Sequence[Batch], sides: bool = False) -> Saliency:
        """Stage one: a score for every weight under the adapter. Not asked for where the sparsity is dense.

        sides: whether their sums along rows and columns will do; a method that cannot sum them as it goes ignores it.
        """
        if sides:
            return sides_of_abs(model, adapter.weights(), batches)
        return sum_of_abs(model, adapter.weights(), batches, "forget")

    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        """What is done to the weights once, after the masks are set: closed forms, re-initialisation."""

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        """Stage two: the named, unweighted terms of one step."""
        raise NotImplementedError

    def before_step(self, step: int, adapter: Adapter, take: Take) -> None:
        """What comes before step number `step`, counted from 0. take(terms) takes a further step of the same
        optimizer, on a batch of its own and the terms that are named, so weighted; None: as the run's own steps."""

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        """The step's gradient from those of the weighted terms, where `combines` is set."""
        raise NotImplementedError

    def stepped(self, adapter: Adapter) -> None:
        """Called after every step of the optimizer, once what lies outside the masks is put back."""

    def finish(self, adapter: Adapter) -> None:
        """What is done to the change once all steps are taken; no checkpoint holds it."""

    def state(self) -> dict[str, Tensor]:
        """What `edit` left for the steps; a checkpoint holds it and `load_state` takes it back."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See `state`."""


def check_values(adapter: Adapter, what: str) -> None:
    """Raises BadInput where `what` goes by the values of the base's weights, and they are packed."""
    if packed := [name for name, weight in adapter.weights().items() if not weight.is_floating_point()]:
        raise BadInput(
            f"{what} goes by the values of the weights, and {packed[0]} is quantised; use another, or the pipeline "
            "that was quantised"
        )


def check_alone(family: type[Diffusion] | Diffusion) -> None:
    """Raises BadInput for a family in which no single text encoder reads a caption alone."""
    if not family.alone:
        raise BadInput(f"{family.title} has no single text encoder that reads a caption alone; use another method")


def check_maps(family: type[Diffusion] | Diffusion) -> None:
    """Raises BadInput for a family in which text and image are read in one softmax."""
    if family.joint:
        raise BadInput(
            f"{family.title} reads text and image in one softmax and has no maps of cross-attention; use another method"
        )


def named_in_all(model: Diffusion, pairs: Pairs, why: str) -> None:
    """Raises BadInput where a forget caption has no token of any concept to forget."""
    said = [pairs.said(request) for request in pairs.requests]
    for caption, _ in pairs.captions("forget"):
        if not any(model.token_positions(caption, concept) for concept in said):
            raise BadInput(f"{why}, and the caption {caption!r} does not say {' or '.join(map(repr, said))}")


def noised(model: Diffusion, example: Example) -> Tensor:
    """z_t of an example, at the t and with the noise that the loop drew."""
    return model.noised(example["latents"], example["t"], example["noise"])


def denoising(model: Diffusion, example: Example, embedding: Embedding) -> Tensor:
    """The plain loss of diffusion training on an example, under a given caption."""
    wanted = model.target(example["latents"], example["t"], example["noise"])
    return mse_loss(model.predict(noised(model, example), example["t"], embedding), wanted)


def relabelled(model: Diffusion, batch: Batch) -> dict[str, Tensor]:
    """SalUn's and EraseDiff's terms: the forget captions are taught to give what the live model gives under the
    surrogate's (without gradient), and what is to be kept is denoised as in training."""
    forget, retain = batch["forget"], batch["retain"]
    x_t = noised(model, forget)
    with torch.no_grad():
        wanted = model.predict(x_t, forget["t"], forget["surrogate"])
    given = model.predict(x_t, forget["t"], forget["prompt"])
    return {"forget": mse_loss(given, wanted), "retain": denoising(model, retain, retain["prompt"])}


def dot(one: Gradients, other: Gradients) -> Tensor:
    """The inner product over all parameters."""
    return sum((a * b).sum() for a, b in zip(one, other, strict=True))  # type: ignore[return-value]
