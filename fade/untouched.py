"""A pipeline as it was: what work on it can leave behind, put back however that work ends.

The values of the weights are the ledger's (fade/models/ledger.py); here it is everything around them: which modules
there are, hooks, PEFT's records, train and eval, requires_grad, schedulers, the pipeline's own settings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fade.models import Diffusion
from fade.models.ledger import Ledger, Writer, ledger

Containers = (dict, OrderedDict, list, set)


@contextmanager
def untouched(model: Diffusion, only_on_error: bool = False) -> Iterator[None]:
    """After it the pipeline is what it was before; only_on_error: where it ends well, what was done stays."""
    written = ledger(model.network)
    writers = list(written.writers)
    objects = [model.pipe, model.pipe.scheduler, model.prompts, written, *model.modules()]
    before = [(thing, remembered(thing)) for thing in objects]
    done = False
    try:
        with same_flags(model):
            yield
        done = True
    finally:
        if not (done and only_on_error):
            take_back(model, written, writers)
            for thing, values in before:
                put_back(thing, values)


def remembered(thing: object) -> dict[str, tuple[Any, Any]]:
    """Each attribute, and a copy of what is in it where it is a plain container."""
    return {
        name: (value, type(value)(value) if type(value) in Containers else None) for name, value in vars(thing).items()
    }


def put_back(thing: object, values: dict[str, tuple[Any, Any]]) -> None:
    """The same containers with the same contents: a handle of a hook holds on to the container itself."""
    for value, content in values.values():
        if isinstance(content, list):
            value[:] = content
        elif content is not None:
            value.clear()
            value.update(content)
    vars(thing).clear()
    vars(thing).update({name: value for name, (value, _) in values.items()})


@torch.no_grad()
def take_back(model: Diffusion, written: Ledger, writers: list[Writer]) -> None:
    """The weights as these writers alone leave them. What one of them is still training is nobody else's."""
    written.writers[:] = writers
    training = {name for writer in writers if writer.training for name in writer.overwrites()}
    weights = model.changeable()
    for name in written.original.keys() - training:
        weights[name].data = written.value(name, weights[name])
        weights[name].grad = None


@contextmanager
def same_flags(*modules: nn.Module) -> Iterator[None]:
    """After it, modules and weights that were there before train, or do not, as before."""
    training = [(part, part.training) for module in modules for part in module.modules()]
    flags = [(weight, weight.requires_grad) for module in modules for weight in module.parameters()]
    try:
        yield
    finally:
        for part, flag in training:
            part.training = flag
        for weight, flag in flags:
            weight.requires_grad_(flag)
