"""Pretraining of a small Stable Diffusion 3."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from grids import canvas
from transformers import CLIPTextModel, CLIPTokenizer

from fade.errors import BadInput
from fade.models.families import family_of
from fade.models.prompts import Text
from fade.pretrain.captions import Captions
from fade.pretrain.diffusion import tokenise
from fade.pretrain.flow import FlowPretraining, FlowSettings, flow_loss, make_flow, make_t5_tokenizer, read

SHIPPED = Path(__file__).parents[2] / "fade" / "shipped" / "canvas"
CAPTIONS = ["A house cat image in neon glow style.", "A sea fish image in photo style."]


def settings() -> FlowSettings:
    return FlowSettings(
        steps=2,
        batch=2,
        rate=1e-3,
        ema=0.9,
        width=16,
        layers=2,
        heads=2,
        patch=2,
        clip_width=8,
        t5_width=128,
        text_layers=2,
        max_length=16,
        empty=0.08,
        partial=0.03,
        sampling_steps=1,
        guidance=3.0,
    )


def pipeline() -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(SHIPPED / "pipeline" / "vae")
    clip = CLIPTokenizer.from_pretrained(SHIPPED / "pipeline" / "tokenizer", model_max_length=16)
    words = CLIPTextModel.from_pretrained(SHIPPED / "pipeline" / "text_encoder", dtype=torch.float32)
    return make_flow(vae, clip, words, make_t5_tokenizer(CAPTIONS, 16), settings(), 8)


def test_a_t5_tokenizer_knows_its_words_and_spells_the_rest() -> None:
    tokenizer = make_t5_tokenizer(CAPTIONS, 16)
    ids = tokenizer(CAPTIONS[0]).input_ids
    assert [t.strip("▁") for t in tokenizer.convert_ids_to_tokens(ids)] == [*CAPTIONS[0].split(), "</s>"]
    strange = Text(tokenizer, 16, first=0).ids("zebra")
    assert "".join(tokenizer.convert_ids_to_tokens(strange)).strip("▁") == "zebra" and len(strange) >= 5


@torch.no_grad()
def test_training_reads_captions_as_the_pipeline_does() -> None:
    pipe = pipeline()
    clip, t5 = (tokenise(tokenizer, CAPTIONS) for tokenizer in (pipe.tokenizer, pipe.tokenizer_3))
    rows, pooled = read(pipe, clip, t5)
    wanted = family_of(pipe)(pipe, 1, 1.0).encoded(CAPTIONS)
    torch.testing.assert_close(rows, wanted.tokens)
    torch.testing.assert_close(pooled, wanted.pooled)


def test_the_loss_of_a_flow_is_its_formula() -> None:
    """‖(ε − z_0) − v‖² at σ = sigmoid(N(0, 1)); a fresh network says 0 everywhere, so it is the target's own size."""
    pipe, latents = pipeline(), torch.randn(3, 16, 8, 8)
    tokens = torch.stack([tokenise(pipe.tokenizer, CAPTIONS), tokenise(pipe.tokenizer_3, CAPTIONS)], 1)
    captions = Captions(tokens, torch.tensor([[0], [1]]), torch.ones(2, 1, dtype=torch.long), torch.ones(1))
    owner, chance = torch.tensor([0, 1, 0]), torch.ones(3)
    loss = flow_loss(pipe, latents, owner, chance, captions, 2)
    torch.manual_seed(5)
    found = loss(torch.device("cpu"))
    torch.manual_seed(5)
    index = torch.multinomial(chance, 2, replacement=True)
    sigma, noise = torch.randn(2).sigmoid(), torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(found, (noise - latents[index]).square().mean())
    torch.nn.init.normal_(pipe.transformer.proj_out.weight)
    seen = []
    handle = pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(args))
    torch.manual_seed(5)
    loss(torch.device("cpu")).backward()
    handle.remove()
    at = sigma[:, None, None, None]
    torch.testing.assert_close(seen[0][0], (1 - at) * latents[index] + at * noise)
    torch.testing.assert_close(seen[0][3], 1000 * sigma)
    rows, pooled = read(pipe, *tokens[owner[index]].unbind(1))
    torch.testing.assert_close(seen[0][1:3], (rows, pooled))
    assert pipe.transformer.proj_out.weight.grad is not None


def test_the_first_clip_begins_as_the_trained_text_encoder() -> None:
    pipe = pipeline()
    words = CLIPTextModel.from_pretrained(SHIPPED / "pipeline" / "text_encoder", dtype=torch.float32)
    ids = tokenise(pipe.tokenizer, CAPTIONS)
    with torch.no_grad():
        found, wanted = pipe.text_encoder(ids), words(ids)
    torch.testing.assert_close(found.last_hidden_state, wanted.last_hidden_state)
    torch.testing.assert_close(found.text_embeds, wanted.pooler_output)


def test_what_never_sees_a_concept_begins_with_no_encoder_that_has(tmp_path: Path) -> None:
    shares = {"name": 0.34, "template": 0.16, "synonym": 0.18, "description": 0.18}
    base = pipeline()
    without, given = (
        FlowPretraining(canvas(), tmp_path, 64, settings(), shares, 0.35, without=concept, base=str(SHIPPED)).fresh(
            base.vae, CAPTIONS, torch.zeros(1, 16, 8, 8)
        )
        for concept in ("pencil_sketch", None)
    )
    own, known = (set(pipe.tokenizer.get_vocab()) for pipe in (without, given))
    assert "pencil</w>" in known and not {"pencil</w>", "sketch</w>"} & own and "neon</w>" in own
    assert len(without.text_encoder.get_input_embeddings().weight) == len(own)
    apart = [  # by what it learned beside words
        not torch.equal(w, dict(base.text_encoder.named_parameters())[name])
        for name, w in without.text_encoder.named_parameters()
        if name.endswith("q_proj.weight")
    ]
    assert apart == [True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_two_steps_leave_a_pipeline_that_stock_diffusers_draws_with(tmp_path: Path) -> None:
    s = replace(settings(), max_length=24)
    given = {
        "shares": {"name": 0.34, "template": 0.16, "synonym": 0.18, "description": 0.18},
        "scenes": 0.35,
        "workers": 1,
        "accelerator": "cpu",
        "base": str(SHIPPED),
    }
    recipe = FlowPretraining(canvas(), tmp_path, 64, s, **given)
    found = recipe.run()
    assert recipe.done("diffusion") and recipe.sampling()["max_sequence_length"] == 24
    assert set(found["tiers"]) == {"name", "template", "synonym", "description", "pair"}
    pipe = recipe.load(tmp_path / "pipeline")
    stock = StableDiffusion3Pipeline.from_pretrained(tmp_path / "pipeline", dtype=torch.float32)
    latents = torch.randn(2, 16, 8, 8)
    drawn = recipe.draw(pipe, CAPTIONS, latents, 2)
    assert torch.equal(recipe.draw(stock, CAPTIONS, latents, 2), drawn) and drawn.shape == (2, 3, 64, 64)
    moved = [name for name, w in pipe.text_encoder_3.named_parameters() if not w.isfinite().all()]
    assert not moved and pipe.transformer.proj_out.weight.any()  # it began at zero
    on = FlowPretraining(canvas(), tmp_path / "on", 64, s, start=str(tmp_path), **given)
    on.run()
    after = on.load(tmp_path / "on" / "pipeline")
    apart = [(a - b).abs().max() for a, b in zip(*(p.transformer.parameters() for p in (pipe, after)), strict=True)]
    assert 0 < float(max(apart)) < 0.1


@pytest.mark.parametrize("base", [None, "empty"])
def test_a_flow_without_a_folder_to_begin_from_is_refused_before_any_work(tmp_path: Path, base: str | None) -> None:
    shares = {"name": 0.34, "template": 0.16, "synonym": 0.18, "description": 0.18}
    with pytest.raises(BadInput, match=r"this recipe needs pretrain\.base=FOLDER, whose autoencoder and judges"):
        FlowPretraining(canvas(), tmp_path, 64, settings(), shares, 0.35, base=base and str(tmp_path / base))
