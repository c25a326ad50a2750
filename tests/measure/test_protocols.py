"""UnlearnCanvas's samplers in a few lines each, against the protocols that repeat them: noise bit for bit, images
closely.

What the few lines are of: mu_*/stable_diffusion/ldm/models/diffusion/ddim.py and
evaluation/sampling_unlearned_models/*.py of OPTML-Group/UnlearnCanvas at 920cfd1. Their torch.randn draws on the GPU,
here on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from configs import composed
from diffusers import DDIMScheduler, LMSDiscreteScheduler
from hydra.utils import instantiate
from torch import Tensor

from benchmarks.measure.answers import answers
from benchmarks.measure.benchmark import Protocol
from fade.data.canvas.dataset import Canvas
from fade.errors import BadInput
from fade.models import Diffusion, Noise, Sampling

STEPS = 10
PACES = ("fast", "balanced", "careful")
Made = Iterator[tuple[Tensor, Tensor]]  # x_T, image


@pytest.fixture
def canvas(model: Diffusion) -> Diffusion:
    """With Stable Diffusion's last step: alpha_0 stands before the lowest timestep."""
    model.pipe.scheduler = DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    return model


@torch.no_grad()
def decoded(model: Diffusion, z: Tensor) -> Tensor:
    return (model.vae.decode(z / model.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def guided(model: Diffusion, z: Tensor, t: Tensor, prompt: str, scale: float, negative: str = "") -> Tensor:
    without, given = model.unet(torch.cat([z, z]), t, model.embed([negative, prompt]).tokens).sample.chunk(2)
    return without + scale * (given - without)


def compvis(model: Diffusion, prompts: list[str], seed: int, scale: float, t_start: int | None) -> Made:
    """seed_everything once, then an image after the other; the forks that add t_start = -1 cut timesteps[:t_start]."""
    abar = model.pipe.scheduler.alphas_cumprod
    taken = (torch.arange(0, 1000, 1000 // STEPS) + 1)[:t_start]
    torch.manual_seed(seed)
    for prompt in prompts:
        first = x = torch.randn(1, 4, 8, 8)
        for i in reversed(range(len(taken))):
            e = guided(model, x, taken[i], prompt, scale)
            a, before = abar[taken[i]], abar[taken[i - 1]] if i else abar[0]
            x = (
                before.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt()
                + (1 - before).sqrt() * e
                + 0.0 * torch.randn(x.shape)
            )
        yield first, decoded(model, x)


def uce(model: Diffusion, prompts: list[str], seed: int, scale: float) -> Made:
    """torch.manual_seed for each image, and an LMS scheduler of its own."""
    scheduler = LMSDiscreteScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000)
    for prompt in prompts:
        first = torch.randn((1, 4, 8, 8), generator=torch.manual_seed(seed))
        scheduler.set_timesteps(STEPS)
        x = first * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            e = guided(model, scheduler.scale_model_input(x, t), t, prompt, scale)
            x = scheduler.step(e, t, x).prev_sample
        yield first, decoded(model, x)


def spm(model: Diffusion, prompts: list[str], seed: int, scale: float, negative: str) -> Made:
    """generator=torch.cuda.manual_seed(seed) is None: the noise is the global generator's, seeded for each image."""
    for prompt in prompts:
        torch.manual_seed(seed)
        first = torch.randn(1, 4, 8, 8)
        torch.manual_seed(seed)
        made = model.pipe(
            prompt, negative_prompt=negative, num_inference_steps=STEPS, guidance_scale=scale, output_type="pt"
        )
        yield first, made.images


def ours(name: str) -> Protocol:
    """The protocol of the yaml, but for what a small model on the CPU has less of."""
    given = [f"protocol.sampling.{one}" for one in ("steps=10", "size=32", "precision=null", "noise_device=cpu")]
    return instantiate(composed(f"protocol={name}", *given).protocol, _convert_="all")  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["esd", "ca", "diffusers", "spm"])
def test_a_protocol_repeats_its_samplers_noise_and_images(canvas: Diffusion, dataset: Canvas, name: str) -> None:
    protocol = ours(f"unlearncanvas_{name}")
    prompts = [dataset.caption(cell) for cell in dataset.cells()]
    wanted = answers(dataset, prompts, [188], protocol.noise, steps=STEPS - protocol.sampling.skip)[:3]
    made = {
        "esd": lambda: compvis(canvas, prompts[:3], 188, 9.0, -1),
        "ca": lambda: compvis(canvas, prompts[:3], 188, 9.0, None),
        "diffusers": lambda: uce(canvas, prompts[:3], 188, 9.0),
        "spm": lambda: spm(canvas, prompts[:3], 188, 7.5, protocol.sampling.negative),
    }[name]()
    for answer, (first, image) in zip(wanted, made, strict=True):
        assert torch.equal(canvas.latent(answer.noise), first)
        found = canvas.generate([answer.prompt], [answer.noise], protocol.sampling)
        torch.testing.assert_close(found, image, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("name", "draws", "highest"), [("esd", 100, 981), ("ca", 101, 991)])
def test_the_compvis_samplers_draws_and_highest_step(
    dataset: Canvas, model: Diffusion, name: str, draws: int, highest: int
) -> None:
    protocol = instantiate(composed(f"protocol=unlearncanvas_{name}").protocol, _convert_="all")
    sampling = protocol.sampling
    wanted = answers(dataset, [""] * 16, [188], protocol.noise, steps=sampling.steps - sampling.skip)
    assert [answer.noise.draw for answer in wanted[:3]] == [0, draws, 2 * draws]
    scheduler = model.scheduler(sampling.sampler, sampling.skip)
    scheduler.set_timesteps(sampling.steps)
    assert scheduler.timesteps[0] == highest and scheduler.timesteps[-1] == 1 and len(scheduler.timesteps) == draws - 1
    assert sampling.noise_device == "cuda" and sampling.guidance == 9.0 and sampling.precision == "float16"


@pytest.mark.parametrize(
    ("protocol", "found"),
    [
        ("default", "bfloat16"),
        ("balanced", "bfloat16"),
        ("unlearncanvas", "float16"),
        ("unlearncanvas_esd", "float16"),
        ("unlearncanvas_spm", None),
    ],
)
def test_stable_diffusions_images_are_made_in_bfloat16_where_no_script_says_otherwise(
    model: Diffusion, protocol: str, found: str | None
) -> None:
    cfg = composed("model=sd14", f"protocol={protocol}")
    model.precision = cfg.model.precision
    assert model.settled(instantiate(cfg.protocol, _convert_="all").sampling).precision == found


def test_draws_are_the_generators_in_any_order(model: Diffusion) -> None:
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(6)]
    assert all(torch.equal(model.latent(Noise(7, k)), drawn[k]) for k in (0, 4, 4, 2, 3, 5, 0))


def test_a_protocol_that_cannot_be_is_refused() -> None:
    for wrong, message in (
        ({"noise": "steps"}, "needs protocol.sampling.steps"),
        ({"sampling": Sampling(skip=1)}, "below protocol.sampling.steps"),
        ({"sampling": Sampling(skip=9, steps=9)}, "protocol.sampling.skip is 9"),
        ({"sampling": Sampling(skip=-1, steps=9)}, "protocol.sampling.skip is -1"),
    ):
        with pytest.raises(BadInput, match=message):
            Protocol("p", [1], **wrong)  # type: ignore[arg-type]


def test_fast_and_careful_ask_what_balanced_asks_with_other_steps() -> None:
    """The same images from the same noise, so that their verdicts may be laid beside each other, one by one."""
    made = {name: instantiate(composed(f"protocol={name}").protocol, _convert_="all") for name in PACES}
    steps = {name: protocol.sampling.steps for name, protocol in made.items()}
    assert steps["fast"] <= 8 < steps["careful"] and steps["balanced"] is None  # the model's own
    for name, protocol in made.items():
        assert protocol.name == name
        alike = {**vars(protocol), "name": "balanced", "sampling": Sampling()}
        assert alike == vars(made["balanced"])
        sampler = protocol.sampling.sampler
        assert replace(protocol.sampling, steps=None, sampler=None) == Sampling(), sampler
