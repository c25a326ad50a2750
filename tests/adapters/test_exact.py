"""Several adapters on one pipeline, in any order and any subset, and no trace of them afterwards: bit for bit."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from adapting import KINDS, inputs, made, predict, shake, state

from fade.adapters.gate import Gate
from fade.adapters.lora import Lora
from fade.adapters.masked import MaskedLinear
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.adapters.text import TextEdit
from fade.adapters.verify import stock_drift
from fade.errors import BadInput
from fade.models import Diffusion, Noise
from fade.sparsity import Dense, Neuron, Sparsity, Weight
from fade.tensors import tensors_hash

TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_order_of_merging_unmerging_and_removing_leaves_the_base(model: Diffusion, dtype: torch.dtype) -> None:
    """Two low-rank adapters and a patch on the same keys and values; each step is also what that subset would be."""
    kinds = {"a": Neuron(0.3), "b": Weight(0.3), "c": None}
    stored = {name: made(model, name, kind, seed) for seed, (name, kind) in enumerate(kinds.items())}
    model.pipe.to(dtype)
    clean, untouched, base = state(model), predict(model), model.sha256()
    alone: dict[frozenset[str], str] = {}
    every = list(permutations(stored))
    for order, left in (("abc", every if dtype == torch.float32 else every[:1]), ("cba", every[:1])):
        for leaving in left:
            on = {name: stored[name].attach(model, name) for name in order}
            for name in order:
                on[name].merge()
            assert model.sha256() == base
            for k, name in enumerate(leaving):
                on[name].unmerge()
                on[name].detach()
                rest = frozenset(leaving[k + 1 :])
                assert alone.setdefault(rest, found := tensors_hash({"e": predict(model)})) == found
            assert state(model) == clean
    assert len(set(alone.values())) == len(alone)  # what has left is gone: no two subsets say the same
    assert torch.equal(predict(model), untouched)


def test_any_subset_attached_is_the_same_in_any_order_and_the_same_as_merged(model: Diffusion) -> None:
    stored = [made(model, f"n{k}", kind, k) for k, kind in enumerate((Neuron(0.3), Weight(0.3), Dense()))]
    seen: dict[frozenset[int], torch.Tensor] = {}
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0), *permutations(range(3), 2)]:
        on = [stored[k].attach(model, f"n{k}") for k in order]
        for k, adapter in zip(order, on, strict=True):
            adapter.scale = 0.5 + k
        found = predict(model)
        assert torch.equal(seen.setdefault(frozenset(order), found), found)
        for adapter in on:
            adapter.merge()
        assert torch.equal(predict(model), found)  # several at once are folded into what merging would write
        for adapter in on:
            adapter.detach()
    assert len(seen) == 4


def test_what_is_folded_follows_every_change(model: Diffusion) -> None:
    first, second = (made(model, name, Dense(), seed).attach(model, name) for seed, name in enumerate("ab"))
    both = predict(model)
    with first.off():
        only_second = predict(model)
    second.scale = 0.5
    half = predict(model)
    second.scale = 1.0
    assert torch.equal(predict(model), both) and not torch.equal(half, both)
    second.merge()
    with second.off():
        only_first = predict(model)
    second.unmerge()
    assert torch.equal(predict(model), both)
    first.detach()
    assert torch.equal(predict(model), only_second) and not torch.equal(only_first, only_second)


def test_frozen_ones_below_one_in_training_are_folded_to_the_same_gradients(
    model: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input's too; and a weight that is in training itself is not written over by a sum that stands still."""
    for k, kind in enumerate((Neuron(0.3), Weight(0.3))):
        made(model, f"n{k}", kind, k).attach(model, f"n{k}")
    training = Lora.attach(model, rank=2, alpha=2, targets=["to_k", "to_v", "to_q"], name="new")
    shake(training)

    def gradients() -> list[torch.Tensor]:
        z, t, embedding = inputs(model)
        asked = [z.requires_grad_(), embedding.tokens.requires_grad_()]
        loss = model.predict(z, t, embedding).square().mean()
        return list(torch.autograd.grad(loss, [*training.parameters(), *asked]))

    found = gradients()
    with training.off():
        teacher = predict(model)
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"], "patch")
    model.predict(*inputs(model)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in patch.parameters())
    patch.detach()
    monkeypatch.setattr(MaskedLinear, "_foldable", lambda _: [])
    for mine, theirs in zip(found, gradients(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    with training.off():
        torch.testing.assert_close(teacher, predict(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_hundred_cycles_leave_no_trace_where_stock_ones_drift(
    model: Diffusion, dtype: torch.dtype, tmp_path: Path
) -> None:
    stored = made(model, "a", Neuron(0.3), 0)
    model.pipe.to(dtype)
    clean = state(model)
    adapter = stored.attach(model, "a")
    for _ in range(100):
        adapter.merge()
        adapter.unmerge()
    adapter.detach()
    assert state(model) == clean
    if dtype == torch.float32:
        said = stock_drift(model, stored, tmp_path / "lora", 20)
        assert float(said.rsplit(" ", 1)[1]) > 0  # about 1e-7: not what it was


@pytest.mark.parametrize("sparsity", [*KINDS, None], ids=lambda s: s.kind if s else "patch")
def test_round_trip_of_every_kind(model: Diffusion, sparsity: Sparsity | None, tmp_path: Path) -> None:
    stored = made(model, "a", sparsity, 0)
    adapter = stored.attach(model, "a")
    wanted = predict(model)
    Stored.of(adapter, {}).write(tmp_path / "again")
    adapter.detach()
    again = Stored.read(tmp_path / "again").attach(model)
    assert (predict(model) - wanted).abs().max() == 0 and again.sha256() == stored.about["sha256"]


def test_the_base_has_one_hash_whatever_is_attached_and_one_in_every_type(model: Diffusion) -> None:
    stored = [made(model, "a", Neuron(0.3), 0), made(model, "b", None, 1)]
    clean = model.sha256()
    on = [s.attach(model, s.about["target"]) for s in stored]
    on[0].merge()
    training = Patch.attach(model, [r"attn1\.to_q\.weight"], "t")
    with torch.no_grad():
        training.parameters()[0].mul_(2)
    assert model.sha256() == clean == stored[0].about["base_sha256"]
    training.detach()
    for adapter in on:
        adapter.detach()
    model.pipe.to(torch.float16)
    assert model.sha256() == stored[0].about["base_as"]["float16"] != clean
    stored[0].attach(model, "a").detach()  # the same base in another type is the same base


def test_nothing_is_merged_where_a_patch_is_in_training(model: Diffusion) -> None:
    adapter = made(model, "a", Dense(), 0).attach(model, "a")
    patch = Patch.attach(model, [r"attn2\.to_k\.weight"], "p")
    with pytest.raises(BadInput, match="in training"):
        adapter.merge()
    patch.detach()
    adapter.merge()


def test_off_works_while_merged(model: Diffusion) -> None:
    untouched = predict(model)
    adapter = made(model, "a", Dense(), 0).attach(model, "a")
    adapter.merge()
    merged = predict(model)
    with adapter.off():
        assert torch.equal(predict(model), untouched)
    assert torch.equal(predict(model), merged)
    with pytest.raises(BadInput, match="merged already"):
        adapter.merge()


def test_a_prompt_given_to_the_pipeline_reaches_edits_and_gates(model: Diffusion) -> None:
    """pipe("...") draws what Diffusion.generate draws: with a text edit on, and with a gated low-rank change on."""
    prompts, noise = ["A cat image in neon style.", "A cat image"], [Noise(0), Noise(1)]
    own = (model.pipe.encode_prompt, model.pipe.maybe_free_model_hooks)

    def stock() -> torch.Tensor:
        latents = torch.cat([model.latent(n) for n in noise])
        return model.pipe(prompts, latents=latents, num_inference_steps=2, guidance_scale=3.0, output_type="pt").images

    untouched = stock()
    edit = TextEdit.attach(model, 0.5)
    edit.concept = "neon"
    assert torch.equal(stock(), model.generate(prompts, noise)) and not torch.equal(stock(), untouched)
    gated = Lora.attach(model, rank=2, alpha=2)
    shake(gated)
    open_ = stock()
    gated.gate = Gate(("neon style",), 2.0)
    assert torch.equal(stock(), model.generate(prompts, noise)) and not torch.equal(stock(), open_)
    assert model.prompts.asked is None
    edit.detach()
    gated.detach()
    assert torch.equal(stock(), untouched)
    assert (model.pipe.encode_prompt, model.pipe.maybe_free_model_hooks) == own and "encode_prompt" not in vars(
        model.pipe
    )


def test_off_within_off_leaves_both_out_and_each_comes_back_alone(model: Diffusion) -> None:
    """Two patches and a merged low-rank adapter on the same weights, in any order; and one within itself."""
    kinds = {"a": None, "b": None, "c": Neuron(0.3)}
    stored = {name: made(model, name, kind, seed) for seed, (name, kind) in enumerate(kinds.items())}
    on = {name: adapter.attach(model, name) for name, adapter in stored.items()}
    on["c"].merge()
    alone: dict[frozenset[str], torch.Tensor] = {}

    def same_as(*off: str) -> bool:
        return torch.equal(alone.setdefault(frozenset(off), found := predict(model)), found)

    whole = state(model)
    for one, other, last in permutations(on):
        assert same_as()
        with on[one].off():
            assert same_as(one)
            with on[other].off():
                assert same_as(one, other)
                with on[last].off(), on[one].off():
                    assert same_as(one, other, last)
                assert same_as(one, other)
            assert same_as(one)
        assert state(model) == whole
    nothing = alone.pop(frozenset(on))
    assert not any(torch.equal(nothing, found) for found in alone.values())
    for adapter in on.values():
        adapter.detach()
    assert torch.equal(predict(model), nothing)


def test_nobody_writes_over_what_is_being_trained(model: Diffusion) -> None:
    """But where that is off itself."""
    below = made(model, "a", None, 0).attach(model, "a")
    training = Patch.attach(model, name="b")
    training.parameters()[0].data += 1
    values = state(model)
    with pytest.raises(BadInput, match="'b' is in training on the same weights"):
        below.scale = 0.5
    with pytest.raises(BadInput, match="'b' is in training on the same weights"), below.off():
        pass
    assert state(model) == values and below.scale == 1.0
    with training.off(), below.off():
        untouched = predict(model)
    assert state(model) == values
    training.detach()
    below.detach()
    assert torch.equal(predict(model), untouched)
