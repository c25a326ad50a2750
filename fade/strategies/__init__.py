"""How a method meets one request after another: one file a strategy, each wrapping any method of the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fade.adapters import Adapter, Masks
from fade.data.pairs import Batch, Pairs, Request
from fade.errors import BadInput
from fade.methods import Gradients, Method, Take
from fade.models import Diffusion
from fade.saliency import Saliency
from fade.sparsity import Sparsity


@dataclass
class Step:
    """What is trained for one request. requests: met at once; gone: met before, their images are not touched; guard:
    whether the captions that are gone are held where they are."""

    requests: list[Request]
    gone: list[Request]
    method: Method
    sparsity: Sparsity
    guard: bool = False

    @property
    def times(self) -> int:
        """How often the method's budget of steps is spent: once for each request that is met."""
        return len(self.requests)


class Strategy:
    """The base is the plain sequence: each request starts from the model that the last one left.

    on_base: each adapter is trained on the untouched model instead. together: one adapter serves all requests so far.
    """

    on_base = False
    together = False
    sums = True
    guard = False

    def check(self, method: Method) -> None:
        """Raises BadInput, before any work, for a method that the strategy cannot wrap."""

    def method(self, method: Method) -> Method:
        return method

    def sparsity(self, sparsity: Sparsity, used: Sequence[Masks]) -> Sparsity:
        """used: the masks of the adapters that are on the model."""
        return sparsity

    def step(
        self, requests: Sequence[Request], k: int, method: Method, sparsity: Sparsity, used: Sequence[Masks]
    ) -> Step:
        """What is trained for request number k (from 0)."""
        now, gone = (list(requests[: k + 1]), []) if self.together else ([requests[k]], list(requests[:k]))
        gone = [] if self.on_base else gone
        return Step(now, gone, self.method(method), self.sparsity(sparsity, used), self.guard)

    def assemble(self, model: Diffusion, adapters: Sequence[Adapter]) -> list[Adapter]:
        """The adapters that are measured, given those of all requests, which are attached; more may be attached."""
        return list(adapters)


class Around(Method):
    """A method with something added, to its `terms` too: everything else is the inner method's."""

    def __init__(self, inner: Method) -> None:
        self.inner = inner
        self.terms, self.kinds, self.combines, self.variant = inner.terms, inner.kinds, inner.combines, inner.variant
        self.draws_t, self.passes, self.part = inner.draws_t, inner.passes, inner.part

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.inner.suits(model, adapter, pairs)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.inner.prepare(model, adapter, pairs)

    def locate(self, model: Diffusion, adapter: Adapter, batches: Sequence[Batch], sides: bool = False) -> Saliency:
        return self.inner.locate(model, adapter, batches, sides)

    def edit(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        self.inner.edit(model, adapter, pairs)

    def losses(self, model: Diffusion, adapter: Adapter, batch: Batch) -> dict[str, Tensor]:
        return self.inner.losses(model, adapter, batch)

    def stepped(self, adapter: Adapter) -> None:
        self.inner.stepped(adapter)

    def finish(self, adapter: Adapter) -> None:
        self.inner.finish(adapter)

    def before_step(self, step: int, adapter: Adapter, take: Take) -> None:
        self.inner.before_step(step, adapter, take)

    def state(self) -> dict[str, Tensor]:
        return self.inner.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.inner.load_state(state)

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        """The inner method's step, or the sum where it has none, plus the gradients of the terms that were added."""
        own = {term: gradient for term, gradient in gradients.items() if term in self.inner.terms}
        added = [gradient for term, gradient in gradients.items() if term not in own]
        return total(*([self.inner.combine(own)] if self.inner.combines else own.values()), *added)


def total(*parts: Gradients) -> Gradients:
    """The sum, parameter by parameter."""
    return [sum(values[1:], start=values[0]) for values in zip(*parts, strict=True)]


def trained(method: Method, strategy: str) -> None:
    """Raises BadInput for a method without a loss, to which nothing can be added."""
    if not method.terms:
        raise BadInput(
            f"strategy {strategy} changes how a method is trained, and {type(method).__name__} is not; use "
            f"strategy=plain"
        )
