"""SPM: gates that hear the prompt, anchors, where sampling starts."""

from __future__ import annotations

import copy

import pytest
import torch
from adapting import ASKED

from fade.adapters.gate import Gate
from fade.adapters.lora import Lora
from fade.data.pairs import Pairs
from fade.methods.spm import Spm, anchored
from fade.models import Diffusion
from fade.models.embedding import Embedding

# SPM


def gated(model: Diffusion, name: str, gate: Gate) -> Lora:
    adapter = Lora.attach(model, rank=1, alpha=1, targets=["to_q", "ff.net.2"], name=name)
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for factor in adapter.parameters():
            factor.copy_(torch.randn(factor.shape, generator=generator))
    adapter.gate = gate
    return adapter


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gates_add_up_exactly(model: Diffusion, power: float) -> None:
    """Σ_i γ_i^power B_i A_i, each prompt of a batch with its own γ: as a base whose weights were changed so."""
    model.double()
    base = copy.deepcopy(model.unet)
    adapters = [gated(model, "one", Gate(("neon",), power)), gated(model, "other", Gate(("mosaic", "fish"), power))]
    z, t, c = torch.randn(3, 4, 8, 8).double(), torch.tensor(500), model.embed(ASKED)
    γ = torch.stack([Gate(adapter.gate.prompts).strength(model, ASKED) for adapter in adapters])  # type: ignore[union-attr]
    assert γ[0, 0] == 1 and γ[1, 1] == 1 and 0 < γ[0, 1] < 1
    model.prompts.asked = ASKED
    with torch.no_grad():
        found = model.predict(torch.cat([z, z]), t, Embedding.cat([c, c]))  # as under guidance: the prompts twice over
        for i in range(3):
            changed = copy.deepcopy(base)
            for adapter, strength in zip(adapters, γ[:, i], strict=True):
                for name, layer in adapter.layers.items():
                    product = layer.lora_B[adapter.name].weight @ layer.lora_A[adapter.name].weight
                    changed.get_submodule(name).weight += strength**power * product  # type: ignore[operator]
            wanted = changed(z[i : i + 1], t, c[i : i + 1].tokens).sample
            torch.testing.assert_close(found[[i]], wanted, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found[[i + 3]], wanted, rtol=1e-9, atol=1e-9)


def test_a_gate_is_its_formula(model: Diffusion) -> None:
    gate = Gate(("neon sign", "cat"))
    assert gate.strength(model, ["neon sign", "cat", "a cat"]).tolist() == pytest.approx([1.0, 1.0, 1.0])
    prompt = "A fish image in mosaic style."
    cosines = [
        torch.nn.functional.cosine_similarity(*(model.embed([x]).tokens.flatten() for x in (own, prompt)), dim=0)
        for own in gate.prompts
    ]
    overlaps = []
    for own in gate.prompts:
        ids, theirs = (set(model.pipe.tokenizer(x).input_ids[1:-1]) for x in (own, prompt))
        overlaps.append(len(ids & theirs) / len(ids))
    torch.testing.assert_close(gate.strength(model, [prompt])[0], torch.tensor(max(*map(float, cosines), *overlaps)))


def test_spm_anchors_have_the_prompts_norm_and_keep_away_from_it(model: Diffusion) -> None:
    torch.manual_seed(0)
    prompt = model.embed(["A cat image in neon style."])
    found = anchored(prompt, 64).tokens
    ratios = found.flatten(1).norm(dim=1) / prompt.tokens.norm()
    assert found.shape == (64, *prompt.tokens.shape[1:])
    assert ratios.min() >= 0.8 - 1e-5 and ratios.max() <= 1.2 + 1e-5 and ratios.std() > 0.08
    tiny = Embedding(
        torch.tensor([[[1.0]]])
    )  # in one dimension a Gaussian is ±: along the prompt it is always rejected
    assert (anchored(tiny, 16).tokens < 0).all()


def test_spm_as_released_never_starts_from_pure_noise(model: Diffusion, pairs: Pairs) -> None:
    """Of two steps of the sampler it is stopped after one, where the paper's is stopped after none as well."""
    adapter, batch = Lora.attach(model, rank=1, alpha=1), pairs.draw(torch.Generator().manual_seed(1))
    counted: list[int] = []
    model.unet.register_forward_pre_hook(lambda *_: counted.append(1))
    for variant, passes, power in (("paper", {5, 6}, 1.0), ("as_released", {6}, 2.0)):
        method = Spm(variant, sampling_steps=2, anchors=2)
        method.prepare(model, adapter, pairs)
        assert adapter.gate is not None and adapter.gate.power == power
        seen = set()
        for seed in range(4):
            counted.clear()
            torch.manual_seed(seed)
            method.losses(model, adapter, batch)
            seen.add(len(counted))
        assert seen == passes
