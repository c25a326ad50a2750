"""What task=plan says of a model without its weights: counted against real tensors, and against what was published."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from command import Command
from families import CAPTIONS, TINY, sd3, tiny

from benchmarks.runs._memory import Peak, fused_attention
from benchmarks.runs._packed import Packed
from benchmarks.runs.architectures import ARCHITECTURES, without_weights
from benchmarks.runs.size import batch, counted, file_bytes, locating_bytes, precision, said, size_of, sized, step_bytes
from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.data.generated import Generated
from fade.errors import BadInput
from fade.methods.fade import Fade
from fade.models import Diffusion
from fade.published import adapter_of, made, names, published
from fade.sparsity import Dense, Module, Neuron, Sparsity, Weight
from fade.timesteps import Uniform
from fade.training.recipe import Recipe

SLOWER = ("sdxl", "flux", "sana")


def recipe(tmp_path: Path) -> Recipe:
    return Recipe(
        Generated("neon", "photo", ["A cat image in {} style."], CAPTIONS[2:], 2),
        Fade(),
        Neuron(0.1),
        Uniform(),
        Lora,
        {"rank": 2, "alpha": 2},
        partial(torch.optim.AdamW, lr=1e-3),
        lambda **_: None,  # type: ignore[arg-type, return-value]
        2,
        {"batch": 2},
        tmp_path,
        {"locate_batch": 3},
    )


def test_what_is_alive_at_once_is_counted() -> None:
    held = torch.empty(10, device="meta")
    with Peak([held, held[2:]]) as peak:
        first = torch.empty(100, device="meta")
        second = first.view(10, 10) + 1
        assert peak.now == peak.most == 40 + 400 + 400
        del first
        assert peak.now == 440
        second.add_(1)
        third = second[:5].half()
        assert peak.now == 440 + 100 and peak.most == 840 and third.shape == (5, 10)


def test_attention_is_counted_without_its_map() -> None:
    """q, k, v and the result, and one number a row; the map would be 64 times as large."""
    own = torch.nn.functional.scaled_dot_product_attention
    q, k, v = (torch.empty(1, 2, 256, 4, device="meta", requires_grad=True) for _ in range(3))
    with fused_attention(), Peak() as peak:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0)
        assert out.shape == q.shape and peak.most == 4 * (2 * 256 * 4 + 2 * 256)
        out.sum().backward()
    assert q.grad is not None and q.grad.shape == q.shape
    assert torch.nn.functional.scaled_dot_product_attention is own


@pytest.mark.parametrize("family", ["sd3", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])
def test_a_step_takes_without_values_what_it_takes_with_them(family: str, tmp_path: Path) -> None:
    """With the gradient checkpointing that the presets have; the same tensors are made on the CPU."""

    def counts(model: Diffusion) -> tuple[int, int]:
        made = recipe(tmp_path)
        peak = Peak([*model.parameters(), *model.buffers()])
        with peak:
            adapter = made.attach(model)
        return step_bytes(peak, model, adapter, made), locating_bytes(peak, model, adapter, made)

    real, model = tiny(family), tiny(family)
    for each in (real, model):
        each.network.enable_gradient_checkpointing()
    step, locating = counts(model.to("meta"))
    assert (step, locating) == pytest.approx(counts(real), rel=0.02)
    weights = sum(p.nbytes for p in real.parameters())
    assert step > weights and locating > weights


@pytest.mark.parametrize("family", TINY)
def test_a_batch_without_values_has_the_shapes_of_one(family: str) -> None:
    real, model = tiny(family), tiny(family).to("meta")
    found, wanted = batch(model, 2)["forget"], batch(real, 2)["forget"]
    assert found["latents"].is_meta and found["latents"].shape == real.encode(torch.rand(2, 3, 32, 32)).shape
    pairs = zip(found["prompt"].parts(), wanted["prompt"].parts(), strict=True)
    assert all(a[0] == b[0] and a[1].shape == b[1].shape and a[1].is_meta for a, b in pairs)


@pytest.mark.parametrize(
    "sparsity", [Dense(), Module(0.25), Neuron(0.1), Weight(0.1)], ids=lambda sparsity: sparsity.kind
)
def test_the_files_bytes_are_those_of_its_tensors(sparsity: Sparsity) -> None:
    model = tiny("sdxl")
    for adapter in (Lora.attach(model, rank=4, alpha=4), Patch.attach(model)):
        if isinstance(adapter, Patch) and sparsity.kind in ("module", "neuron"):
            adapter.detach()
            continue
        adapter.set_masks(sparsity({name: torch.rand(w.shape) for name, w in adapter.weights().items()}))
        for weight in adapter.parameters():
            weight.data += 1
        adapter.settle()
        real = sum(tensor.nbytes for tensor in adapter.compact().values())
        assert file_bytes(adapter, sparsity.kind, sparsity.p) == pytest.approx(real, rel=0.1)
        adapter.detach()


@pytest.mark.parametrize("family", TINY)
def test_every_methods_adapter_has_a_size_without_values(family: str) -> None:
    model = tiny(family).to("meta")
    for name in names():
        known = published(name, preset=model.preset)
        kind, shape = adapter_of(made(known["method"]), known["adapter"], None, None, None)
        try:
            adapter: Adapter = kind.attach(model, **shape)  # type: ignore[attr-defined]
        except BadInput:  # for methods that are refused there: tests/methods/test_on_families.py
            continue
        assert (file_bytes(adapter, "dense", 1.0) > 0) == bool(adapter.weights()), name
        adapter.detach()


def test_a_packed_layer_takes_four_and_a_half_bits_a_number_and_what_it_unpacks() -> None:
    layer = Packed(torch.nn.Linear(256, 512, dtype=torch.bfloat16, device="meta"))
    assert 8 * (layer.weight.nbytes + layer.absmax.nbytes) == 4.5 * 256 * 512
    with Peak([*layer.parameters(), *layer.buffers()]) as peak:
        x = torch.empty(4, 256, dtype=torch.bfloat16, device="meta", requires_grad=True)
        before = peak.now
        y = layer(x)
        assert y.shape == (4, 512) and y.dtype == torch.bfloat16
        assert peak.now - before == y.nbytes and peak.most - before == y.nbytes + 2 * 256 * 512
        peak.most = peak.now
        y.backward(torch.empty_like(y))
        assert peak.most - peak.now >= 2 * 256 * 512
    assert x.grad is not None and x.grad.shape == x.shape


def test_a_packed_base_is_counted_by_what_it_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, the same file, fewer bytes; of T5 the layers that its class keeps stay as they are."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", sd3)
    given = {"_target_": "fade.models.stable_diffusion_3.StableDiffusion3.load", "path": "tiny", "dtype": "bfloat16"}
    whole, model = (without_weights({**given, "steps": 2, "guidance": 1.0, **q}) for q in ({}, {"quantization": "nf4"}))
    kept = {n.split(".")[-1] for n, m in model.text_encoder_3.named_modules() if type(m) is torch.nn.Linear}
    assert kept == {"wo"} and not any(type(m) is torch.nn.Linear for m in model.transformer.modules())
    assert not any(isinstance(m, Packed) for part in (model.vae, model.text_encoder) for m in part.modules())
    found, wanted = (sized(each, recipe(tmp_path)) for each in (model, whole))
    for name in ("parts", "layers", "candidates", "trained", "dense", "file"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.weights < wanted.weights and found.step < wanted.step and found.locating < wanted.locating
    assert "in NF4 and bfloat16" in said(found, precision(model)) and "GB in bfloat16" not in said(found, "")
    assert precision(whole) == "bfloat16"


def test_numbers_are_said_as_people_say_them() -> None:
    assert [counted(11_901_408_320), counted(83_650_000)] == ["11.901 B", "83.65 M"]
    assert [size_of(33_800_000_000), size_of(8_300_000)] == ["33.8 GB", "8.3 MB"]


@pytest.mark.slow
def test_a_plan_of_a_published_model_asks_for_no_weights(run: Command, tmp_path: Path) -> None:
    said = run("task=plan", "model=sana", "target=neon_glow").stdout
    assert "transformer 1.604 B" in said and "under the adapter: 160 weights of 802.82 M numbers" in said
    assert "memory at 1024 px, 4 + 4 images a step: a step of training" in said
    assert "no seconds: the weights of Efficient-Large-Model/Sana_1600M_1024px_diffusers are not on this" in said
    assert not (tmp_path / "outputs").exists()
