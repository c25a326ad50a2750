"""The hash of tensors, remembered: never of others than these, as they are now."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.models import Diffusion
from fade.tensors import Digests, in_type, tensors_hash


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(40, 9), "b": torch.arange(3), "c": torch.tensor(2.0)}


def replaced(tensors: dict[str, Tensor]) -> None:
    tensors["a"] = tensors["a"] + 1


def freed(tensors: dict[str, Tensor]) -> None:
    """Another tensor, most likely where the first one lay."""
    shape = tensors.pop("a").shape
    tensors["a"] = torch.randn(shape)


CHANGES: list[Callable[[dict[str, Tensor]], object]] = [
    lambda tensors: tensors["a"].add_(1),
    lambda tensors: tensors["a"][3].zero_(),
    lambda tensors: tensors["a"].data.mul_(2),
    lambda tensors: setattr(tensors["a"], "data", tensors["a"] + 1),
    lambda tensors: tensors.update(d=tensors.pop("a")),
    lambda tensors: tensors.update(a=tensors["a"].reshape(9, 40)),
    lambda tensors: tensors.update(a=tensors["a"].half()),
    lambda tensors: tensors["c"].fill_(3),
    replaced,
    freed,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_any_kind_is_another_hash(
    tensors: dict[str, Tensor], change: Callable[[dict[str, Tensor]], object]
) -> None:
    digests = Digests()
    before = digests.of(tensors)
    change(tensors)
    assert digests.of(tensors) == [tensors_hash(tensors)] != before


def test_it_is_the_same_hash_in_every_type_and_is_formed_once(
    tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    formed = []
    monkeypatch.setattr("fade.tensors.tensors_hash", lambda *given: formed.append(1) or tensors_hash(*given))
    digests = Digests()
    for _ in range(3):
        for dtype in (None, torch.float32, torch.float16, torch.bfloat16):
            assert digests.of(tensors, [dtype]) == [tensors_hash(in_type(tensors, dtype))]
    assert len(formed) == 3
    three = [torch.bfloat16, torch.float32, torch.float16]
    assert Digests().of(tensors, three) == digests.of(tensors, three) and len(formed) == 6
    assert len(set(Digests().of(tensors, three))) == 3


def test_tensors_of_inference_mode_are_hashed_each_time() -> None:
    with torch.inference_mode():
        tensors = {"a": torch.ones(4)}
        digests = Digests()
        assert digests.of(tensors) != (tensors["a"].add_(1), digests.of(tensors))[1]


def test_adapters_come_and_go_on_a_base_that_is_hashed_once(model: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    base, formed = model.sha256(), []
    monkeypatch.setattr("fade.tensors.tensors_hash", lambda *given: formed.append(1) or tensors_hash(*given))
    for _ in range(2):
        lora = Lora.attach(model, rank=2, alpha=2, name="lora")
        with torch.no_grad():
            for parameter in lora.parameters():
                parameter.add_(0.1)
        assert model.sha256() == base
        lora.merge()
        assert model.sha256() == base
        lora.detach()
        assert model.sha256() == base
    assert not formed
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"], "patch")
    with torch.no_grad():
        patch.parameters()[0].add_(1)
    assert model.sha256() == base
    patch.detach()
    assert model.sha256() == base
