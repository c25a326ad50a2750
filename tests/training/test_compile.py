"""trainer.compile=true: student and teacher through torch.compile and inductor, to the same adapter."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from loops import quiet, unlearner
from torch._dynamo.utils import counters

from fade.adapters.lora import Lora
from fade.data.pairs import Pairs
from fade.models import Diffusion
from fade.training.unlearner import Trainer, fit


@pytest.mark.slow
def test_a_compiled_training_ends_as_any_other(model: Diffusion, pairs: Pairs, tmp_path: Path) -> None:
    found = {}
    for compiles in (False, True):
        torch.manual_seed(0)
        adapter = Lora.attach(model, rank=2, alpha=2)
        counters.clear()
        trainer = partial(Trainer, compile=compiles, **quiet(3, 1).keywords)
        fit(unlearner(model, adapter, pairs, tmp_path / str(compiles)), trainer, tmp_path / str(compiles), 9, [])
        # one graph for the student, one for the teacher, once each: no step compiles anew, no layer falls out
        assert counters["stats"]["unique_graphs"] == (2 if compiles else 0), dict(counters["graph_break"])
        assert "forward" not in vars(model.network) and adapter.teacher_passes == 3
        found[compiles] = [p.detach().clone() for p in adapter.parameters()]
        adapter.detach()
    for mine, theirs in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
