"""A patch of weights stays inside its masks under any optimizer, adds up with others, and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapting import KEYS_AND_VALUES, inputs, predict, shake, snapshot, sparsify, train

from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.errors import BadInput
from fade.models import Diffusion
from fade.sparsity import Module, Neuron, Random, Sparsity, Weight

KINDS: list[Sparsity] = [Module(0.3), Neuron(0.2), Weight(0.1), Random(0.1, seed=1)]


@pytest.mark.parametrize("sparsity", KINDS, ids=lambda s: s.kind)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD], ids=lambda o: o.__name__)
def test_masked_weights_do_not_move(
    model: Diffusion, sparsity: Sparsity, optimizer: type[torch.optim.Optimizer]
) -> None:
    before = snapshot(model)
    patch = Patch.attach(model, KEYS_AND_VALUES)
    sparsify(patch, sparsity)
    train(model, patch, optimizer=optimizer)
    masks = patch.masks()
    for name, value in model.unet.state_dict().items():
        mask = masks.get(name, torch.zeros_like(value, dtype=torch.bool))
        assert torch.equal(value[~mask], before[name][~mask])
        assert not mask.any() or (value[mask] != before[name][mask]).any()


def test_gradients_are_masked_however_they_are_taken(model: Diffusion) -> None:
    patch = Patch.attach(model, KEYS_AND_VALUES)
    sparsify(patch, Weight(0.1))
    loss = model.predict(*inputs(model)).square().mean()
    taken = torch.autograd.grad(loss, patch.parameters(), retain_graph=True)
    loss.backward()
    for (name, weight), gradient in zip(patch.weights().items(), taken, strict=True):
        assert weight.grad is not None and torch.equal(weight.grad, gradient)
        assert not gradient[~patch.masks()[name]].any()
    assert any(gradient.any() for gradient in taken)


@pytest.mark.parametrize("sparsity", [None, *KINDS], ids=lambda s: s.kind if s else "dense")
def test_saved_and_loaded_it_is_the_same(model: Diffusion, tmp_path: Path, sparsity: Sparsity | None) -> None:
    before, untouched = snapshot(model), predict(model)
    patch = Patch.attach(model, KEYS_AND_VALUES)
    if sparsity is not None:
        sparsify(patch, sparsity)
    train(model, patch)
    wanted, identity = predict(model), patch.sha256()
    Stored.of(patch, {}).write(tmp_path / "adapter")
    patch.detach()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())
    again = Stored.read(tmp_path / "adapter").attach(model)
    assert again.sha256() == identity and not any(p.requires_grad for p in model.unet.parameters())
    assert (predict(model) - wanted).abs().max() == 0 and not torch.equal(wanted, untouched)
    with again.off():
        assert torch.equal(predict(model), untouched)
    again.detach()
    assert torch.equal(predict(model), untouched)


def test_what_was_never_settled_is_saved_all_the_same(model: Diffusion, tmp_path: Path) -> None:
    patch = Patch.attach(model, KEYS_AND_VALUES)
    shake(patch)
    wanted = predict(model)
    Stored.of(patch, {}).write(tmp_path / "adapter")
    patch.detach()
    assert not torch.allclose(predict(model), wanted, atol=1e-3)
    Stored.read(tmp_path / "adapter").attach(model)
    torch.testing.assert_close(predict(model), wanted)


def test_masks_cost_bytes_only_for_what_is_kept(model: Diffusion, tmp_path: Path) -> None:
    patch = Patch.attach(model, KEYS_AND_VALUES)
    sparsify(patch, Weight(0.1))
    train(model, patch)
    total = sum(weight.numel() for weight in patch.parameters())
    kept = sum(tensor.numel() for name, tensor in patch.compact().items() if name.endswith(".delta"))
    assert kept == sum(int(mask.sum()) for mask in patch.masks().values()) == round(0.1 * total)


def test_a_second_patch_trains_alone_and_sees_the_first(model: Diffusion) -> None:
    before = snapshot(model)
    first = Patch.attach(model, KEYS_AND_VALUES, name="first")
    train(model, first)
    with_first = predict(model)
    second = Patch.attach(model, [r"attn2\.to_k\.weight", r"ff\..*weight"], name="second")
    assert {id(p) for p in model.unet.parameters() if p.requires_grad} == {id(p) for p in second.parameters()}
    assert torch.equal(predict(model), with_first)
    train(model, second)
    with second.off():
        assert torch.equal(predict(model), with_first)
    for name, weight in model.unet.named_parameters():  # W_0 + Δ_1 + Δ_2, rounded once
        wanted = before[name].double()
        for patch in (first, second):
            wanted = wanted + patch.deltas[name] if name in patch.deltas else wanted
        assert torch.equal(weight, wanted.float()), name
    first.detach()
    second.detach()
    assert all(torch.equal(value, before[name]) for name, value in model.unet.state_dict().items())


def test_off_leaves_on_what_came_later(model: Diffusion) -> None:
    first = Patch.attach(model, KEYS_AND_VALUES, name="first")
    train(model, first)
    second = Patch.attach(model, [r"attn2\.to_k\.weight"], name="second")
    train(model, second)
    both = predict(model)
    with first.off():
        only_second = predict(model)
    assert torch.equal(predict(model), both)
    first.detach()
    assert torch.equal(predict(model), only_second) and not torch.equal(only_second, both)


def test_where_no_change_is_left_the_base_is_the_weights_themselves(model: Diffusion) -> None:
    """What is remembered of a base goes with the last change: a base that is changed by hand is another base."""
    before = model.sha256()
    patch = Patch.attach(model, KEYS_AND_VALUES)
    train(model, patch)
    assert model.sha256() == before
    patch.detach()
    dict(model.unet.named_parameters())[next(iter(patch.chosen))].data.add_(1)
    assert model.sha256() != before and not patch.ledger.original and not patch.ledger.writers


def test_scale(model: Diffusion) -> None:
    untouched = predict(model)
    patch = Patch.attach(model, KEYS_AND_VALUES)
    train(model, patch)
    full, weight = predict(model), patch.parameters()[0]
    start, end = patch.start[next(iter(patch.chosen))], weight.detach().clone()
    patch.scale = 0.5
    torch.testing.assert_close(weight.detach(), (start + end) / 2)
    patch.scale = 0.0
    assert torch.equal(predict(model), untouched)
    patch.scale = 1.0
    assert torch.equal(predict(model), full)


def test_wrong_targets_are_refused_and_nothing_is_left(model: Diffusion) -> None:
    before = snapshot(model)
    with pytest.raises(BadInput, match="no weight of this"):
        Patch.attach(model, ["to_nothing"])
    with pytest.raises(BadInput, match="regular expressions"):
        Patch.attach(model, ["attn2("])
    patch = Patch.attach(model, KEYS_AND_VALUES)
    with pytest.raises(BadInput, match="must be the same"):
        patch.set_masks({})
    patch.detach()
    assert snapshot(model).keys() == before.keys() and not any(p.requires_grad for p in model.unet.parameters())


@pytest.mark.parametrize("sparsity", [Neuron(0.2), Random(0.2, seed=0)], ids=lambda s: s.kind)
def test_rows_and_columns_of_a_convolution_or_a_bias_are_refused(model: Diffusion, sparsity: Sparsity) -> None:
    for targets in (["conv_in"], ["to_out.0.bias"]):
        patch = Patch.attach(model, targets)
        with pytest.raises(BadInput, match=r"keeps rows and columns of matrices.*use sparsity=weight"):
            sparsity.suits(patch.weights())
        Weight(0.2).suits(patch.weights())
        patch.detach()
