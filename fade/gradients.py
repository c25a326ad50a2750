"""Gradients of a network's weights, of packed ones (4 bit) too, each handed on as soon as it is there.

Of y = x Wᵀ + b, with g = ∂L/∂y: ∂L/∂W = Σ gᵀ x over all rows of x, which asks nothing of W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fade.adapters.masked import shape_of
from fade.models import Diffusion


@contextmanager
def trainable(model: Diffusion, weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Inside, gradients flow to what is yielded: the weights, and a stand-in for each that is packed, which has no
    gradient of its own. After it, to those that they flowed to before."""
    own = {name: weight for name, weight in weights.items() if weight.is_floating_point()}
    layers = {} if len(own) == len(weights) else linear_layers(model)
    packed = {name: layers[id(weight)] for name, weight in weights.items() if name not in own}
    before = {name: weight.requires_grad for name, weight in own.items()}
    standing = {name: stand_in(layer) for name, layer in packed.items()}
    handles = [layer.register_forward_hook(partial(_beside, standing[name])) for name, layer in packed.items()]
    for weight in own.values():
        weight.requires_grad_(True)
    try:
        yield {name: standing.get(name, weight) for name, weight in weights.items()}
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in own.items():
            weight.requires_grad_(before[name])


def linear_layers(model: Diffusion) -> dict[int, nn.Linear]:
    """The linear layers, by the ids of their weights."""
    return {id(m.weight): m for m in model.network.modules() if isinstance(m, nn.Linear)}


def stand_in(layer: nn.Linear) -> Tensor:
    """(out, in) in single precision, of one number in memory: what a packed weight's gradient is of."""
    return torch.zeros((), device=layer.weight.device).expand(shape_of(layer)).requires_grad_()


def _beside(weight: Tensor, _: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Any:
    return _Beside.apply(y, given[0], weight)  # type: ignore[no-untyped-call]


class _Beside(torch.autograd.Function):
    """y (..., out) of x (..., in) as it is; on the way back gᵀ x in single precision goes to the weight (out, in).

    The way back reaches the layer whether x needs a gradient or not, for the weight does. What is kept of x is kept as
    any layer's input is, so a checkpointed block keeps none of it and makes it again; and a layer that runs twice has
    one gradient, the sum, as autograd adds it up.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, Tensor]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        kind = g.device.type if torch.amp.is_autocast_available(g.device.type) else "cpu"  # the meta device has none
        with torch.autocast(kind, enabled=False):
            return g, None, g.flatten(0, -2).float().T @ x.flatten(0, -2).float()


def add_gradients(loss: Tensor, weights: dict[str, Tensor], add: Callable[[str, Tensor], None]) -> None:
    """Hand each weight's gradient to `add` as soon as it is there, and let it go: never more than one is held."""

    def taken(name: str, weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        add(name, gradient)

    handles = [w.register_post_accumulate_grad_hook(partial(taken, name)) for name, w in weights.items()]
    try:
        loss.backward(inputs=list(weights.values()))
    finally:
        for handle in handles:
            handle.remove()
