"""AdvUnlearn beyond its loss without an attack (test_losses.py): the attack, what it trains, what it refuses."""

from __future__ import annotations

import re

import pytest
import torch
from configs import composed
from hydra.utils import instantiate
from loops import STEPS
from torch import Tensor, nn

from fade.data.pairs import Batch, Pairs
from fade.errors import BadInput
from fade.methods.advunlearn import AdvUnlearn
from fade.models import Diffusion
from fade.timesteps import Uniform, with_timesteps

TARGETS = composed("method=advunlearn").adapter


def drawn(model: Diffusion, pairs: Pairs) -> Batch:
    return with_timesteps(pairs.draw(torch.Generator().manual_seed(1)), Uniform(), torch.zeros(0), model.process)


def test_every_layer_of_the_text_encoder_is_trained_and_its_last_norm_but_no_word(model: Diffusion) -> None:
    wanted = {name for name, _ in model.named_parameters() if re.search(r"^text_encoder.*(layers\.|final_)", name)}
    instantiate(TARGETS, _convert_="all")(model)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == wanted
    assert not any("embedding" in name for name in wanted) and len(wanted) > 10


@pytest.mark.parametrize("step", [0, 1])
def test_the_attack_is_adam_on_a_word_before_each_caption(model: Diffusion, pairs: Pairs, step: int) -> None:
    """Two steps of it written again, each on a z of its own, and the loss behind what they find; none in warm-up."""
    model.double()
    adapter = instantiate(TARGETS, _convert_="all")(model)
    method = AdvUnlearn(warmup=1, attack_steps=2, attack_rate=0.1, sampling_steps=STEPS)
    method.prepare(model, adapter, pairs)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    method.before_step(step, adapter, None)
    batch = drawn(model, pairs)
    for example in (batch["forget"], batch["retain"]):
        example["prompt"] = example["prompt"].to(torch.float64)
    known, kept = batch["forget"]["prompt"], batch["retain"]["prompt"]
    asked = [pairs.texts[row] for row in batch["forget"]["row"]]
    assert len(set(asked)) == 2
    table = model.text_encoder.get_input_embeddings().weight
    torch.manual_seed(7)
    losses = method.losses(model, adapter, batch)
    torch.manual_seed(7)
    words = table[torch.randint(len(table), (2,))].detach().clone() if step else None
    m = v = torch.zeros_like(table[:2])
    rate = 0.1 * float(table.float().norm(dim=1).mean())

    def sampled(c: Tensor) -> tuple[Tensor, Tensor]:
        stop = int(torch.randint(0, STEPS, (1,)))
        return model.denoise_until(type(known)(c), STEPS, stop, 3.0, method.empty)

    for k in (1, 2) if words is not None else ():
        z, t = sampled(known.tokens)
        words.requires_grad_(True)
        wanted = model.unet(z, t, known.tokens).sample.detach()
        (g,) = torch.autograd.grad(((model.unet(z, t, read(model, asked, words)).sample - wanted) ** 2).mean(), words)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        words = words.detach() - rate * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
    z, t = sampled(torch.cat([known.tokens, kept.tokens]))
    blank = method.empty.tokens.expand(2, -1, -1)
    told, empty = (model.unet(z[:2], t[:2], c).sample for c in (known.tokens, blank))
    said = model.embed(asked).tokens if words is None else read(model, asked, words)
    forget = ((model.unet(z[:2], t[:2], said).sample - (2 * empty - told)) ** 2).mean()
    torch.testing.assert_close(losses["forget"], forget, rtol=1e-6, atol=1e-12)
    texts = [pairs.texts[row] for row in batch["retain"]["row"]]
    moved = model.unet(z[2:], t[2:], model.embed(texts).tokens).sample
    torch.testing.assert_close(losses["retain"], ((moved - model.unet(z[2:], t[2:], kept.tokens).sample) ** 2).mean())


def read(model: Diffusion, captions: list[str], words: Tensor) -> Tensor:
    """What the text encoder says of each caption behind its own word (D,), put where the tokens' vectors come from."""
    ids = [model.token_ids([caption])[0] for caption in captions]
    tokenizer = model.pipe.tokenizer
    length, table = tokenizer.model_max_length, model.text_encoder.get_input_embeddings()
    rows = [[tokenizer.bos_token_id, 0, *own, tokenizer.eos_token_id] for own in ids]
    rows = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows]

    def put(_: nn.Module, __: object, found: Tensor) -> Tensor:
        return torch.cat([found[:, :1], words[:, None], found[:, 2:]], 1)

    handle = table.register_forward_hook(put)
    try:
        return model.text_encoder(torch.tensor(rows))[0]  # type: ignore[no-any-return]
    finally:
        handle.remove()


def test_a_batch_says_which_captions_its_embeddings_are_of(model: Diffusion, pairs: Pairs) -> None:
    batch = pairs.draw(torch.Generator().manual_seed(5))
    for side in ("forget", "retain", "anchor"):
        texts = [pairs.texts[row] for row in batch[side]["row"]]  # type: ignore[literal-required]
        torch.testing.assert_close(model.embed(texts).tokens, batch[side]["prompt"].tokens)  # type: ignore[literal-required]


def test_the_caption_is_refused_that_leaves_no_room(model: Diffusion, pairs: Pairs) -> None:
    adapter = instantiate(TARGETS, _convert_="all")(model)
    with pytest.raises(BadInput, match="are to stand before them"):
        AdvUnlearn(length=14).suits(model, adapter, pairs)
    AdvUnlearn().suits(model, adapter, pairs)


def test_the_denoiser_is_not_its_to_change(model: Diffusion) -> None:
    adapter = instantiate(composed("method=esd").adapter, _convert_="all")(model)
    with pytest.raises(BadInput, match=r"change adapter\.targets"):
        AdvUnlearn().check_part(model, adapter)
    with pytest.raises(BadInput, match="nothing to go by"):
        AdvUnlearn().check("patch", "weight", 5)
