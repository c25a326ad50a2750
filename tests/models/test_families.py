"""Every verb on every family, beside a loop of the pipeline's own arithmetic written out; then what stands on verbs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import shake
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from families import CAPTIONS, LENGTH, TINY, tiny
from torch import Tensor

from fade.adapters.export import export
from fade.adapters.gate import Gate
from fade.adapters.lora import Lora
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.adapters.text import TextEdit
from fade.errors import BadInput
from fade.models import Diffusion, Noise, Sampling
from fade.models.embedding import Embedding
from fade.models.flux import packed, unpacked
from fade.models.processes import Diffusing
from fade.sparsity import Neuron, Sparsity, Weight
from fade.tensors import tensors_hash

FLOWS = ("sd3", "flux", "sana")
MODELS: dict[str, Diffusion] = {}
DRAWN: dict[str, Tensor] = {}
NOISE = [Noise(4), Noise(5)]
ASKED = CAPTIONS[:2]


@pytest.fixture(params=TINY)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str) -> Iterator[Diffusion]:
    """Built once a session; each test leaves it as it found it, which is tested here too."""
    found = MODELS.setdefault(family, tiny(family))
    before = tensors_hash(found.network.state_dict())
    yield found
    assert tensors_hash(found.network.state_dict()) == before


def called(model: Diffusion, latents: Tensor, **given: Any) -> Any:
    """The stock pipeline's own call, by words."""
    given = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 32, "width": 32, "output_type": "pt"} | given
    more = {"max_sequence_length": LENGTH} if hasattr(model, "text_length") else {}
    more |= {"use_resolution_binning": False} if model.title == "Sana" else {}
    return model.pipe(ASKED, latents=latents, **more, **given).images


@torch.no_grad()
def drawn(model: Diffusion) -> Tensor:
    """What the model itself draws, once a session."""
    if model.title not in DRAWN:
        DRAWN[model.title] = model.generate(ASKED, NOISE)
    return DRAWN[model.title]


def starts(model: Diffusion) -> Tensor:
    return torch.cat([model.latent(noise) for noise in NOISE])


@torch.no_grad()
def test_generate_draws_what_the_stock_call_draws(family: str, model: Diffusion) -> None:
    latents = packed(starts(model)) if family == "flux" else starts(model)
    torch.testing.assert_close(model.generate(ASKED, NOISE), called(model, latents), rtol=0, atol=2e-6)
    assert model.generate(ASKED, NOISE, Sampling(size=64, steps=1)).shape == (2, 3, 64, 64)


class Small:
    """A device whose memory holds one pass of so many samples. failed: what its first refused one began from."""

    def __init__(self, model: Diffusion, samples: int) -> None:
        self.samples, self.passed, self.failed = samples, list[int](), list[weakref.ref[Tensor]]()
        self.held = list[bool]()
        self.handle = model.network.register_forward_pre_hook(self._pass, with_kwargs=True)

    def _pass(self, _: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        z = given[0] if given else named["hidden_states"]
        self.held += [old() is not None for old in self.failed]
        if len(z) > self.samples:
            self.failed.append(weakref.ref(z))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.passed.append(len(z))


@torch.no_grad()
def test_a_batch_that_memory_does_not_hold_is_made_in_parts(
    family: str, model: Diffusion, caplog: pytest.LogCaptureFixture
) -> None:
    passes = 1 if family == "flux" else 2  # of the network for one image at one time
    prompts, noise = [*ASKED, *ASKED, ASKED[0]], [Noise(k) for k in range(5)]
    once = Sampling(steps=1)
    whole, device = model.generate(prompts, noise, once), Small(model, 2 * passes)

    def told() -> list[Any]:
        return [record.args for record in caplog.records if record.name == "fade.models.sampling"]

    try:
        with caplog.at_level("WARNING", "fade.models.sampling"):
            made = model.generate(prompts, noise, once)
        torch.testing.assert_close(made, whole, rtol=0, atol=2e-5)
        assert device.passed == [2 * passes, 2 * passes, passes]
        assert told() == [(3,), (2,)] and not any(device.held)
        torch.testing.assert_close(model.generate(prompts[:3], noise[:3], once), whole[:3], rtol=0, atol=2e-5)
        assert len(told()) == 2 and device.passed[3:] == [2 * passes, passes]  # it is remembered
        device.samples = 0
        with pytest.raises(torch.OutOfMemoryError):
            model.generate(prompts, noise, once)
    finally:
        device.handle.remove()
        model.room.at_once = None


@torch.no_grad()
def test_large_images_are_decoded_one_at_a_time(model: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode, small = list[int](), model.vae._decode, Sampling(steps=1, size=32)
    monkeypatch.setattr(model.vae, "_decode", lambda z, *given: decoded.append(len(z)) or decode(z, *given))
    whole = model.generate(ASKED, NOISE, small)
    monkeypatch.setattr("fade.models.LARGE", 32)
    torch.testing.assert_close(model.generate(ASKED, NOISE, small), whole, rtol=0, atol=2e-5)
    assert decoded == [2, 1, 1] and not model.vae.use_slicing
    monkeypatch.setattr("fade.models.LARGE", 64)
    monkeypatch.setattr(model.vae, "use_slicing", True)  # as the pipeline's owner has it
    model.generate(ASKED, NOISE, small)
    assert decoded[3:] == [1, 1] and model.vae.use_slicing


@torch.no_grad()
def test_a_model_says_in_which_precision_its_images_are_made(model: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {kind: Sampling(steps=1, precision=kind) for kind in (None, "float32", "bfloat16")}
    single, half = (model.generate(ASKED, NOISE, asked[kind]) for kind in ("float32", "bfloat16"))
    assert torch.equal(model.generate(ASKED, NOISE, asked[None]), single) and not torch.equal(single, half)
    monkeypatch.setattr(model, "precision", "bfloat16")
    assert torch.equal(model.generate(ASKED, NOISE, asked[None]), half)
    assert torch.equal(model.generate(ASKED, NOISE, asked["float32"]), single)
    sampler = type(model.pipe.scheduler).__name__
    assert model.settled(asked["float32"]) == Sampling(steps=1, sampler=sampler)
    assert model.settled() == Sampling(sampler=sampler, precision="bfloat16")
    assert model.like(model.pipe).precision == "bfloat16"


@torch.no_grad()
def test_a_sampler_written_out_over_predict_is_the_pipelines(family: str, model: Diffusion) -> None:
    """SDXL's Euler over ε; the flows' over v, z' = z + (σ' − σ) v, by their own schedules."""
    z, e, empty = starts(model), model.embed(ASKED), model.negative().expand(2)

    def guided(z: Tensor, t: float) -> Tensor:
        time = torch.full((2,), t)
        if family == "flux":
            return model.guided(z, time[0], e, 3.0, empty)
        own, without = model.predict(z, time, e), model.predict(z, time, empty)
        return without + 3.0 * (own - without)

    if family == "sdxl":
        model.pipe.scheduler.set_timesteps(3)
        sigmas, times = model.pipe.scheduler.sigmas.tolist(), model.pipe.scheduler.timesteps.tolist()
        z = z * (sigmas[0] ** 2 + 1) ** 0.5
        for k in range(3):
            z = z + (sigmas[k + 1] - sigmas[k]) * guided(z / (sigmas[k] ** 2 + 1) ** 0.5, times[k])
    elif family == "sana":  # a second-order sampler: its steps are asked of it
        model.pipe.scheduler.set_timesteps(3)
        for t in model.pipe.scheduler.timesteps:
            z = model.pipe.scheduler.step(guided(z, float(t)), t, z).prev_sample
    else:
        sigmas = [*shifted(family), 0.0]
        for k in range(3):
            z = z + (sigmas[k + 1] - sigmas[k]) * guided(z, 1000 * sigmas[k])
    latents = packed(starts(model)) if family == "flux" else starts(model)
    wanted = called(model, latents, output_type="latent")
    wanted = unpacked(wanted, 8, 8) if family == "flux" else wanted
    torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-4)


def shifted(family: str) -> list[float]:
    """σ of three steps: SD 3's lie evenly between the ends and are shifted by 3; FLUX's are shifted by μ(16 tokens)."""
    if family == "flux":
        factor = math.exp(0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256))
        return [factor / (factor + 1 / u - 1) for u in (1.0, 2 / 3, 1 / 3)]
    least = 3 * 0.001 / (1 + 2 * 0.001)
    return [3 * u / (1 + 2 * u) for u in (1.0, (1 + least) / 2, least)]


@torch.no_grad()
def test_noise_is_mixed_in_as_the_network_was_trained(family: str, model: Diffusion) -> None:
    z, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([37, 501])
    found, target = model.noised(z, t, noise), model.target(z, t, noise)
    if family in FLOWS:
        s = (t / 1000)[:, None, None, None]
        wanted, goal = z - s * z + s * noise, noise - z
    else:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        kept = (1 - betas).cumprod(0)[t].float()[:, None, None, None]
        wanted, goal = kept.sqrt() * z + (1 - kept).sqrt() * noise, noise
        model.pipe.scheduler.set_timesteps(1000)
        assert model.pipe.scheduler.add_noise(z, noise, t.float()).std() > 1.2 * found.std()  # what is not asked
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(target, goal)
    drawn = model.process.draw(2000, generator=torch.Generator().manual_seed(0))
    assert (
        drawn.is_floating_point() == (family in FLOWS) and drawn.max() <= 1000 and abs(drawn.float().mean() - 500) < 30
    )


@torch.no_grad()
def test_latents_are_decoded_as_they_were_encoded(model: Diffusion) -> None:
    images, vae = torch.rand(2, 3, 32, 32), model.vae
    latents = model.encode(images)
    wanted = vae(images * 2 - 1).sample  # of the posterior's mode
    back = vae.decode(latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0)).sample
    torch.testing.assert_close(back, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_denoising_stops_where_it_is_told(family: str, model: Diffusion) -> None:
    """ESD's x_t: two of four steps, by hand for the flows; at guidance 1 the negative is not read."""
    e, empty = model.embed(ASKED), model.negative()
    torch.manual_seed(3)
    found, t = model.denoise_until(e, 4, 2, 3.0, empty)
    assert found.shape == (2, 4, 8, 8) and t.shape == (2,) and 0 < t[0] < 1000
    torch.manual_seed(3)
    other, _ = model.denoise_until(e, 4, 2, 1.0, empty)
    torch.manual_seed(3)
    again, _ = model.denoise_until(e, 4, 2, 1.0, empty.each(torch.zeros_like))
    assert torch.equal(other, again) and not torch.equal(other, found)
    if family in FLOWS:
        torch.manual_seed(3)
        z, sampler = torch.randn(2, 4, 8, 8), model.sampler(4, torch.zeros(1, 4, 8, 8))
        for k in range(2):
            v = model.guided(z, sampler.timesteps[k], e, 3.0, empty)
            z = z + (sampler.timesteps[k + 1] - sampler.timesteps[k]) / 1000 * v
        torch.testing.assert_close(found, z, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(t[0], sampler.timesteps[2])


def test_places_are_the_rows_of_the_words(family: str, model: Diffusion) -> None:
    """What a word's rows are is told by the encoder: with another word there, its row is the first that changes."""
    rows = {"sdxl": [5], "sd3": [5, LENGTH + 4], "flux": [4], "sana": [6]}[family]
    assert model.token_positions(CAPTIONS[0], "neon") == rows  # of Sana behind the instruction's space, a token here
    one, other = model.embed([CAPTIONS[0]]).tokens[0], model.embed(["A cat image in photo style."]).tokens[0]
    moved = (one - other).abs().amax(1) > 1e-6
    assert all(moved[row] for row in rows)
    if family != "flux":  # CLIP is causal
        assert not moved[: rows[0]].any()
    with pytest.raises(BadInput, match="shorten it"):
        model.check_prompts(["neon " * 40])


@torch.no_grad()
def test_what_is_beside_the_rows_counts(family: str, model: Diffusion) -> None:
    """Pooled vectors, Sana's mask, SDXL's sizes, FLUX's guidance: each moves the prediction."""
    e, z, t = model.embed(ASKED), starts(model), torch.tensor([300, 800])
    plain = model.predict(z, t, e)
    other = Embedding(e.tokens, e.pooled.flip(0)) if e.pooled is not None else replace(e, mask=e.mask.roll(3, 1))
    assert not torch.equal(model.predict(z, t, other), plain)
    if family == "sdxl":
        assert not model.negative().tokens.any() and model.embed([""]).tokens.any()
        wide = torch.cat([z, z], 3)
        halves = model.predict(wide, t, e)
        seen: list[Any] = []
        handle = model.unet.register_forward_pre_hook(
            lambda _, args, given: seen.append(given["added_cond_kwargs"]["time_ids"]), with_kwargs=True
        )
        model.predict(wide, t, e)
        handle.remove()
        assert halves.shape == wide.shape and seen[0].tolist() == [[32, 64, 0, 0, 32, 64]] * 2
    if family == "flux":
        assert not torch.equal(model.guided(z, t[0], e, 1.0, e[:1]), model.guided(z, t[0], e, 3.5, e[:1]))
        x = torch.randn(2, 4, 6, 8)
        assert torch.equal(unpacked(packed(x), 6, 8), x)
        assert torch.equal(packed(x), model.pipe._pack_latents(x, 2, 4, 6, 8))


@pytest.mark.parametrize("sparsity", [Neuron(0.2), Weight(0.2)], ids=lambda s: s.kind)
@torch.no_grad()
def test_an_adapter_comes_and_goes_to_the_bit(model: Diffusion, sparsity: Sparsity, tmp_path: Path) -> None:
    """Saved, read again, muted, merged, removed; and exported, which the stock loader draws the same images of."""
    clean = drawn(model)
    adapter = Lora.attach(model, rank=2, alpha=3, targets=model.attention_layers)
    adapter.set_masks(sparsity({n: torch.rand(w.shape) for n, w in adapter.weights().items()}))
    shake(adapter)
    adapter.settle()
    changed = model.generate(ASKED, NOISE)
    with adapter.off():
        assert torch.equal(model.generate(ASKED, NOISE), clean) and not torch.equal(changed, clean)
    Stored.of(adapter, {"target": "neon"}).write(tmp_path / "kept")
    export(adapter, tmp_path / "stock")
    adapter.merge()
    torch.testing.assert_close(model.generate(ASKED, NOISE), changed, rtol=0, atol=1e-5)
    adapter.detach()
    assert torch.equal(model.generate(ASKED, NOISE), clean)
    again = Stored.read(tmp_path / "kept").attach(model)
    assert torch.equal(model.generate(ASKED, NOISE), changed)
    again.detach()
    model.pipe.load_lora_weights(tmp_path / "stock")
    torch.testing.assert_close(model.generate(ASKED, NOISE), changed, rtol=0, atol=1e-5)
    model.pipe.unload_lora_weights()


@torch.no_grad()
def test_a_patch_comes_and_goes_to_the_bit(model: Diffusion, tmp_path: Path) -> None:
    clean = drawn(model)
    patch = Patch.attach(model)
    for weight in patch.parameters():
        weight += 0.1 * torch.randn(weight.shape)
    patch.settle()
    changed = model.generate(ASKED, NOISE)
    Stored.of(patch, {"target": "neon"}).write(tmp_path)
    patch.detach()
    assert torch.equal(model.generate(ASKED, NOISE), clean) and not torch.equal(changed, clean)
    again = Stored.read(tmp_path).attach(model)
    assert torch.equal(model.generate(ASKED, NOISE), changed)
    again.detach()


@torch.no_grad()
def test_the_stock_call_is_heard(family: str, model: Diffusion) -> None:
    """A gate asks what is prompted, whichever way it was said; with another prompt it is open less."""
    adapter = Lora.attach(model, rank=2, alpha=3, targets=model.attention_layers)
    shake(adapter)
    adapter.gate = Gate(("neon",))
    latents = packed(starts(model)) if family == "flux" else starts(model)
    torch.testing.assert_close(called(model, latents), model.generate(ASKED, NOISE), rtol=0, atol=2e-6)
    near, far = adapter.gate.strength(model, ["neon", "A fish image in mosaic style."]).tolist()
    assert near == 1 and far < near
    adapter.detach()


@torch.no_grad()
def test_a_text_edit_changes_both_of_sdxls_parts() -> None:
    model = MODELS.setdefault("sdxl", tiny("sdxl"))
    plain = model.embed(ASKED)
    edit = TextEdit.attach(model)
    edit.concept = "neon"
    found, drawn = model.embed(ASKED), model.generate(ASKED, NOISE)
    assert plain.pooled is not None and found.pooled is not None
    torch.testing.assert_close(found.pooled[:1], model.embed(["A cat image in  style."]).pooled)
    assert not torch.equal(found.tokens[0], plain.tokens[0])
    assert torch.equal(found.tokens[1], plain.tokens[1]) and torch.equal(found.pooled[1], plain.pooled[1])
    torch.testing.assert_close(called(model, starts(model)), drawn, rtol=0, atol=2e-6)
    edit.detach()
    assert torch.equal(model.embed(ASKED).tokens, plain.tokens)


def test_factors_are_in_single_precision_on_a_base_in_half() -> None:
    model = tiny("sd3")
    model.pipe.to(torch.bfloat16)
    adapter = Lora.attach(model, rank=2, alpha=3)
    shake(adapter)
    e, z = model.embed(ASKED), starts(model).bfloat16()
    model.predict(z, torch.tensor([300.0, 800.0]), e).square().mean().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in adapter.parameters())  # type: ignore[union-attr]
    assert {p.dtype for n, p in model.network.named_parameters() if ".lora_" not in n} == {torch.bfloat16}


def test_no_sampler_clips_latents() -> None:
    """A DPM++ says nothing of it in its settings, and DDIM would then keep latents between -1 and 1."""
    settings = DPMSolverMultistepScheduler(prediction_type="sample").config
    assert DDIMScheduler.from_config(settings).config.clip_sample
    process = Diffusing(settings)
    z = torch.full((1, 1, 1, 1), 5.0)
    for sampler in (process.sampler(2, z.device), process.adopted(DDIMScheduler)):
        sampler.set_timesteps(1)
        assert sampler.step(z, sampler.timesteps[0], z).prev_sample.item() > 4
