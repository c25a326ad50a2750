"""The change together with others': their sum, their average, or TIES (fade/adapters/merging.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fade.adapters.merging import Changes, changes_of, ties
from fade.adapters.stored import Stored
from fade.attacks import Attack, Find, Scene
from fade.attacks.numerics import check_merged, draw_changed
from fade.errors import BadInput
from fade.models import Diffusion
from fade.models.ledger import present_weights, untouched_weights


class Merge(Attack):
    """others: folders of adapters of the same base. T4: no attacker: what becomes of a concept when its adapter is used
    with those of other concepts. Does it stay forgotten?

    Raises BadInput for folders that hold no adapter, or one that depends on the prompt.
    """

    level = "T4"
    seeded = False

    def __init__(self, others: Sequence[str] = ()) -> None:
        self.others = [str(folder) for folder in others]
        self.sha256 = [Stored.read(folder).about["sha256"] for folder in self.others]

    def suits(self, model: Diffusion) -> None:
        check_merged(model)
        if not self.others:
            raise BadInput('no adapter to merge with; name some: "attack.merge.others=[outputs/RUN/adapter]"')

    def finds(self, scene: Scene) -> list[Find]:
        own = untouched_weights(scene.base.network)
        now = present_weights(scene.model.network)
        mine = {n: weight - own[n] for n, weight in now.items() if not torch.equal(weight, own[n])}
        changes = [*([mine] if mine else []), *(_of(scene.base, folder) for folder in self.others)]
        total = {n: torch.stack([c[n] for c in changes if n in c]).sum(0) for change in changes for n in change}
        ways = {"sum": total, "average": {n: value / len(changes) for n, value in total.items()}}
        ways |= {"TIES": ties(changes)}
        return [Find(name, partial(draw_changed, scene, partial(_put, own, found))) for name, found in ways.items()]


def _of(base: Diffusion, folder: str) -> Changes:
    """What an adapter changes on the base; nothing of it stays there."""
    stored = Stored.read(folder)
    stored.check_family(base)
    adapter = stored.attach(base)
    try:
        return changes_of(adapter)
    finally:
        adapter.detach()


def _put(own: dict[str, Tensor], change: Changes, name: str, weight: Tensor) -> Tensor:
    return own[name] + change[name] if name in change else own[name]
