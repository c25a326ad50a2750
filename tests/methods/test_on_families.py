"""Every method on every family: two steps that move what it trains, or one line that says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from families import CAPTIONS, TINY, tiny

import fade
from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.data.generated import Generated
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.methods.fade_robust import FadeRobust
from fade.methods.uce import Uce
from fade.models import Diffusion, Noise
from fade.published import adapter_of, made, names, published, sparsity_of
from fade.saliency import sum_of_abs
from fade.strategies.duge import Duge
from fade.tensors import tensors_hash
from fade.timesteps import Uniform, with_timesteps

SHORT: dict[str, dict[str, Any]] = {
    "esd": {"sampling_steps": 2},
    "spm": {"sampling_steps": 2, "anchors": 2},
    "lacu": {"pool": 4, "sampling_steps": 1, "mapping_samples": 1, "related_samples": 1, "related": 2},
    "salun": {"guidance": 1.0},
    "resalign": {"tuning_steps": [1]},
    "fade_robust": {"captions": 4, "terms": dict.fromkeys(FadeRobust.terms, 0.25)},  # those that are off unasked, too
}
JOINT = "text and image in one softmax"
REFUSED = {
    ("sd3", "fmn"): JOINT,
    ("flux", "fmn"): JOINT,
    ("sd3", "seot"): "spreads a word",
    ("flux", "seot"): "spreads",
    ("sd3", "safree"): "spreads",
    ("flux", "safree"): "spreads",
    ("sdxl", "safree"): "no single text encoder",
    ("sana", "safree"): "no single text encoder",
    **{
        (family, name): "no single text encoder"
        for family in TINY
        for name in ("stereo", "diff_quickfix", "advunlearn")
    },
    **{("flux", name): "no weight of this" for name in ("rece", "speed")},
    **{(family, name): "what reads the text itself" for family in ("sd3", "sana") for name in ("rece", "speed")},
    **{
        (family, name): "what reads the text itself"
        for family in ("sd3", "flux", "sana")
        for name in ("fade_uce", "fade_robust")
    },
}
CANDIDATES = {"sdxl": 64, "sd3": 18, "flux": 14, "sana": 16}  # linear layers
PREPARED: dict[str, tuple[Diffusion, Pairs, torch.Tensor]] = {}


@pytest.fixture(params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prepared(family: str, tmp_path: Path) -> tuple[Diffusion, Pairs, torch.Tensor]:
    """Built once a session: neon into photo, of random images; and what the model itself draws."""
    if family not in PREPARED:
        dataset = Generated("neon", "photo", ["A cat image in {} style.", "A dog image in {} style."], CAPTIONS[2:], 2)
        dataset.pixels = torch.randint(0, 255, (10, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
        model, request = tiny(family), Request.of(dataset, "neon", "photo")
        pairs = Pairs(dataset, request, forget=4, retain=6, batch=2, cache=tmp_path)
        pairs.prepare(model)
        PREPARED[family] = model, pairs, drawn(model)
    return PREPARED[family]


def drawn(model: Diffusion) -> torch.Tensor:
    return model.generate(CAPTIONS[:1], [Noise(0)])


def attached(model: Diffusion, pairs: Pairs, name: str) -> tuple[Any, Adapter]:
    """A method and its adapter as the family's preset composes them."""
    known = published(name, preset=model.preset)
    method = made(known["method"] | SHORT.get(name, {}))
    method.check_family(type(model))
    kind, shape = adapter_of(method, known["adapter"], None, None, None)
    adapter: Adapter = kind.attach(model, **shape)  # type: ignore[attr-defined]
    try:
        method.suits(model, adapter, pairs)
    except BadInput:
        adapter.detach()
        raise
    method.prepare(model, adapter, pairs)
    sparsity = sparsity_of(method, known["sparsity"], None, None)
    if sparsity.kind != "dense":
        adapter.set_masks(sparsity(method.locate(model, adapter, [pairs.draw(torch.Generator().manual_seed(0))])))
    torch.manual_seed(1)
    method.edit(model, adapter, pairs)
    return method, adapter


@pytest.mark.parametrize("name", names())
def test_a_method_takes_two_steps_or_says_why_not(
    family: str, prepared: tuple[Diffusion, Pairs, torch.Tensor], name: str
) -> None:
    model, pairs, plain = prepared
    clean = tensors_hash(model.network.state_dict())
    if (family, name) in REFUSED:
        with pytest.raises(BadInput, match=REFUSED[family, name]):
            attached(model, pairs, name)
        assert tensors_hash(model.network.state_dict()) == clean
        return
    method, adapter = attached(model, pairs, name)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2) if method.terms else None
    for step in range(2 if optimizer else 0):
        torch.manual_seed(step)
        known, process = published(name)["timesteps"], model.process
        timesteps = made(known | ({"points": 4} if "points" in known else {}))
        measured = timesteps.measure(model, [pairs.draw(torch.Generator().manual_seed(9))])
        batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(step)), timesteps, measured, process)
        losses = method.losses(model, adapter, batch)
        assert losses.keys() == method.terms.keys() and all(value.isfinite() for value in losses.values())
        optimizer.zero_grad()  # type: ignore[union-attr]
        torch.stack([method.terms[term] * value for term, value in losses.items()]).sum().backward()
        optimizer.step()  # type: ignore[union-attr]
        adapter.project()
        method.stepped(adapter)
    method.finish(adapter)
    adapter.settle()
    assert not torch.equal(drawn(model), plain)
    adapter.detach()
    assert tensors_hash(model.network.state_dict()) == clean
    assert torch.equal(drawn(model), plain)


def test_duge_compares_maps_where_there_are_some(family: str, prepared: tuple[Diffusion, Pairs, torch.Tensor]) -> None:
    model, pairs, _ = prepared
    method, adapter = (
        Duge(bank=2).method(made(published("fade", preset=model.preset)["method"])),
        Lora.attach(model, 1, 1),
    )
    try:
        if family in ("sd3", "flux"):
            with pytest.raises(BadInput, match=JOINT):
                method.suits(model, adapter, pairs)
            return
        method.suits(model, adapter, pairs)
        method.prepare(model, adapter, pairs)
        batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(0)), Uniform(), torch.zeros(0), model.process)
        losses = method.losses(model, adapter, batch)
        assert losses.keys() == {"forget", "retain", "attention", "replay"} and losses["attention"] > 0
        torch.stack(list(losses.values())).sum().backward()
        assert any(weight.grad is not None and weight.grad.any() for weight in adapter.parameters())
    finally:
        adapter.detach()


def test_every_candidate_has_a_gradient(family: str, prepared: tuple[Diffusion, Pairs, torch.Tensor]) -> None:
    """The last block of SD 3 asks nothing for its text: that layer is no candidate."""
    model, pairs, _ = prepared
    lora = Lora.attach(model, 1, 1, targets=published("fade", preset=model.preset)["adapter"]["targets"])
    found = sum_of_abs(model, lora.weights(), [pairs.draw(torch.Generator().manual_seed(0))], "forget")
    lora.detach()
    assert len(found) == CANDIDATES[family] and all(score.any() for score in found.values())


@torch.no_grad()
def test_uce_makes_two_captions_one(
    family: str, prepared: tuple[Diffusion, Pairs, torch.Tensor], tmp_path: Path
) -> None:
    """With nothing to preserve and no ridge the prediction under the caption is the one under its surrogate's; SDXL's
    pooled vector comes in with the time, and is left."""
    model, *_ = prepared
    dataset = Generated("neon", "photo", ["A cat image in {} style."], CAPTIONS[2:], 1)
    pairs = Pairs(dataset, Request.of(dataset, "neon", "photo"), 1, 1, 1, tmp_path)
    own, other = (model.embed([text]) for text in pairs.captions("forget")[0])
    own = replace(own, pooled=own.pooled if model.pooled_keys else other.pooled)
    kind, shape = adapter_of(Uce(), published("uce", preset=model.preset)["adapter"], None, None, None)
    z, t = model.latent(Noise(1)), torch.tensor([500])
    before, wanted = model.predict(z, t, own), model.predict(z, t, other)
    adapter: Adapter = kind.attach(model, **shape)  # type: ignore[attr-defined]
    method = Uce("all", preserve=0.0, ridge=1e-6)
    method.suits(model, adapter, pairs)
    method.edit(model, adapter, pairs)
    after = model.predict(z, t, own)
    adapter.detach()
    assert (after - wanted).norm() < 0.02 * (before - wanted).norm()


def test_unlearn_takes_any_of_the_stock_pipelines(family: str, tmp_path: Path) -> None:
    """A pipeline in, an adapter out; it goes on, and comes off without a trace."""
    pipe: DiffusionPipeline = tiny(family).pipe
    short = {"steps": 2, "images": 1, "sampling_steps": 1, "batch": 1, "rank": 2, "retain": ["A fish"]}
    handle = fade.unlearn(pipe, "neon", "photo", templates=["A cat in {}"], **short)
    handle.save(tmp_path / "adapter")
    assert handle.card["family"] == type(handle.model).__name__
    with handle:
        assert fade.load(pipe, tmp_path / "adapter") in fade.attached(pipe)
        fade.attached(pipe)[-1].remove()
    assert not fade.attached(pipe)
