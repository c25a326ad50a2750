"""A patch of a text encoder's weights has every verb of one of the U-Net's: on, off, scaled, merged, saved, removed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapting import KEYS_AND_VALUES, made
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file

import fade
from fade.adapters.export import export
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.adapters.verify import claims, weights_of
from fade.attacks.call import before_of
from fade.attacks.numerics import check_merged
from fade.cli import main
from fade.errors import BadInput
from fade.models import Diffusion, Noise
from fade.models.stable_diffusion import StableDiffusion
from fade.tensors import tensors_hash
from fade.untouched import untouched

PART = "text_encoder.encoder.layers.0.self_attn.out_proj.weight"
TARGETS = [rf"^{PART}$"]
PROMPT = "A cat image in neon style."


def pixels(pipe: StableDiffusionPipeline, model: Diffusion) -> torch.Tensor:
    how = {"latents": model.latent(Noise(4)), "num_inference_steps": 2, "output_type": "pt"}
    return pipe(PROMPT, **how).images  # type: ignore[no-any-return]


def loaded(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_only_an_expression_that_names_the_encoder_finds_its_weights(model: Diffusion) -> None:
    network = {name for name, _ in model.unet.named_parameters()}
    for targets in ([".*"], [r"out_proj|to_k"], ["."]):
        patch = Patch.attach(model, targets)
        assert set(patch.weights()) <= network
        patch.detach()
    with pytest.raises(BadInput, match="no weight of this"):
        Patch.attach(model, [r"self_attn\.out_proj"])
    patch = Patch.attach(model, TARGETS)
    assert list(patch.weights()) == [PART]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {PART}
    patch.detach()
    assert not any(p.requires_grad for p in model.parameters())


def test_on_off_scaled_and_removed_bit_for_bit(model: Diffusion, tmp_path: Path) -> None:
    before, base, plain = tensors_hash(weights_of(model)), model.sha256(), model.embed([PROMPT]).tokens
    made(model, "words", None, 0, TARGETS).write(tmp_path / "words")
    made(model, "both", None, 1, [*TARGETS, *KEYS_AND_VALUES]).write(tmp_path / "both")
    words = Stored.read(tmp_path / "words").attach(model, "words")
    full = model.embed([PROMPT]).tokens
    assert not torch.allclose(full, plain, atol=1e-3) and model.sha256() == base
    both = Stored.read(tmp_path / "both").attach(model, "both")
    with both.off():
        assert torch.equal(model.embed([PROMPT]).tokens, full)
    with words.off():
        alone = model.embed([PROMPT]).tokens
    words.detach()
    assert torch.equal(model.embed([PROMPT]).tokens, alone) and not torch.equal(alone, plain)
    both.scale = 0.0
    assert torch.equal(model.embed([PROMPT]).tokens, plain) and tensors_hash(weights_of(model)) == before
    both.scale = 0.5
    with both.applied():
        assert not torch.equal(model.embed([PROMPT]).tokens, plain)
    both.detach()
    assert tensors_hash(weights_of(model)) == before and model.sha256() == base


def test_what_fails_leaves_the_text_encoder_as_it_was(model: Diffusion) -> None:
    before = tensors_hash(weights_of(model))
    with pytest.raises(RuntimeError, match="stopped"), untouched(model):
        patch = Patch.attach(model, TARGETS)
        patch.parameters()[0].data.add_(1)
        patch.settle()
        raise RuntimeError("stopped")
    assert tensors_hash(weights_of(model)) == before and not any(p.requires_grad for p in model.parameters())


def test_every_claim_of_exactness_holds(model: Diffusion, tmp_path: Path) -> None:
    model.pipe.save_pretrained(tmp_path / "base")
    made(model, "both", None, 1, [*TARGETS, *KEYS_AND_VALUES]).write(tmp_path / "both")

    def base() -> Diffusion:
        return StableDiffusion.load(str(tmp_path / "base"), 2, 3.0)

    found = list(claims(Stored.read(tmp_path / "both"), base, cycles=2))
    assert {claim.name for claim in found} == {"tensors", "base", "round trip", "reversal", "stock"}
    assert not any(claim.gap for claim in found) and found[-1].says.startswith("fuse_lora and unfuse_lora, 2 times")


@torch.no_grad()
def test_stock_pipelines_read_it_in_every_form(
    model: Diffusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    model.pipe.save_pretrained(base)
    clean = pixels(loaded(base), model)
    for name, targets in (("words", TARGETS), ("both", [*TARGETS, r"attn2\.to_k\.weight"])):
        folder = tmp_path / name
        made(model, name, None, 0, targets).write(folder)
        adapter = Stored.read(folder).attach(model, name)
        wanted = pixels(model.pipe, model)
        export(adapter, tmp_path / f"{name}-lora")
        if name == "words":
            export(adapter, tmp_path / "peft", to="peft")
            export(adapter, tmp_path / "patch", to="patch")
        else:
            for form in ("peft", "patch"):
                with pytest.raises(BadInput, match=r"is of (text_encoder and unet|unet and text_encoder)"):
                    export(adapter, tmp_path / "none", to=form)
        adapter.detach()
        pipe = loaded(base)
        pipe.load_lora_weights(tmp_path / f"{name}-lora")
        assert (wanted - clean).abs().max() > 1e-3
        torch.testing.assert_close(pixels(pipe, model), wanted, atol=1e-4, rtol=1e-4)
        assert main(["merge", str(folder), "--base", str(base), "--out", str(tmp_path / f"{name}-merged")]) == 0
        torch.testing.assert_close(pixels(loaded(tmp_path / f"{name}-merged"), model), wanted, atol=1e-5, rtol=1e-5)
    pipe = loaded(base)
    own = pixels(loaded(tmp_path / "words-merged"), model)
    PeftModel.from_pretrained(pipe.text_encoder, tmp_path / "peft")
    torch.testing.assert_close(pixels(pipe, model), own, atol=1e-4, rtol=1e-4)
    pipe = loaded(base)
    _, strange = pipe.text_encoder.load_state_dict(load_file(tmp_path / "patch" / "patch.safetensors"), strict=False)
    assert not strange
    torch.testing.assert_close(pixels(pipe, model), own, atol=1e-5, rtol=1e-5)
    out = str(tmp_path / "cli")
    assert main(["export", str(tmp_path / "words"), "--to", "peft", "--out", out]) == 0
    assert "pipe.text_encoder" in capsys.readouterr().out


def test_the_model_before_it_reads_with_the_untouched_encoder(model: Diffusion, tmp_path: Path) -> None:
    plain = model.embed([PROMPT]).tokens
    made(model, "words", None, 0, TARGETS).write(tmp_path / "words")
    handle = fade.load(model.pipe, tmp_path / "words", force=True)
    before = before_of(model.pipe, None)
    assert torch.equal(before.embed([PROMPT]).tokens, plain)
    assert not torch.equal(handle.model.embed([PROMPT]).tokens, plain)
    with pytest.raises(BadInput, match=r"the change is of text_encoder\.encoder.*changes the weights of what denoises"):
        check_merged(handle.model)
    handle.remove()
    check_merged(handle.model)
