"""Places of a word in a prompt, and the attention that is paid to them."""

from __future__ import annotations

import torch
from adapting import ids_of

from fade.adapters.patch import Patch
from fade.data.pairs import Pairs
from fade.methods import noised
from fade.methods.fmn import ForgetMeNot
from fade.methods.uce import Uce
from fade.models import Diffusion
from fade.timesteps import Uniform, with_timesteps

# Forget-Me-Not


def test_padding_that_is_no_end_of_text_is_not_attended_away(model: Diffusion, pairs: Pairs) -> None:
    """Stable Diffusion 2 pads with "!"."""
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), model.process)
    patch, tokenizer = Patch.attach(model, [r"attn2\."]), model.pipe.tokenizer
    tokenizer.pad_token = next(
        t for t, i in tokenizer.get_vocab().items() if i not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    )
    method = ForgetMeNot()
    method.prepare(model, patch, pairs)
    with torch.no_grad(), model.attention() as maps:
        model.predict(noised(model, batch["forget"]), batch["forget"]["t"], batch["forget"]["prompt"])
        tokens = batch["forget"]["concept"].clone()
        for row, end in enumerate(batch["forget"]["end"]):
            tokens[row, end] = True
        wanted = sum((a[row][..., chosen] ** 2).sum() for a in maps for row, chosen in enumerate(tokens))
        found = method.losses(model, patch, batch)["forget"]
    torch.testing.assert_close(found, (wanted / len(tokens)).sqrt())


def test_places_are_all_mentions_that_the_encoder_sees(model: Diffusion, pairs: Pairs) -> None:
    assert model.token_positions("neon cat neon", "neon") == [1, 3]
    assert model.token_positions("A cat image in neon style.", "cat") == [2]
    for prompt, concept in (("A cat image", "neon"), ("", "neon"), ("neon", "")):
        assert model.token_positions(prompt, concept) == []
    long = "neon " * 30
    assert model.token_positions(long, "neon") == list(range(1, 15)) and len(model.token_ids([long])[0]) == 14
    assert Uce("last").contexts(model, [(long, long)])[0].shape == (1, 32)
    caption = pairs.dataset.caption({"style": "neon_glow", "object": "house_cat"})
    row = [pairs.dataset.caption(cell) for cell in pairs.dataset.cells()].index(caption)
    ids = model.pipe.tokenizer(caption).input_ids
    assert ids[int(pairs.end[row])] == model.pipe.tokenizer.eos_token_id
    assert [ids[i] for i in pairs.concept[row].nonzero()[:, 0]] == ids_of(model, "neon glow")


def test_attention_is_recorded_under_gradient_checkpointing(model: Diffusion, pairs: Pairs) -> None:
    patch = Patch.attach(model, [r"attn2\."])
    batch = with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), model.process)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        method = ForgetMeNot()
        method.prepare(model, patch, pairs)
        loss = method.losses(model, patch, batch)["forget"]
        gradients.append(torch.autograd.grad(loss, patch.parameters(), allow_unused=True))
    assert any(g is not None and g.any() for g in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
