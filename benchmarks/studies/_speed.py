"""What benchmarks/studies/speed.py times: each part returns its rows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.measure.answers import answers, generate
from benchmarks.studies._clock import Row, counted, in_turn, rows_of, timed
from fade.adapters.lora import Lora
from fade.adapters.stored import Stored
from fade.data.canvas.dataset import Canvas
from fade.data.dataset import Dataset
from fade.data.pairs import Batch, Example, Request
from fade.errors import BadInput
from fade.files import shipped
from fade.methods.fade import Fade
from fade.models import Diffusion, Noise, Sampling
from fade.models.stable_diffusion import StableDiffusion
from fade.pretrain.diffusion import make_tokenizer
from fade.sparsity import Dense, Neuron, Sparsity, Weight
from fade.tensors import tensors_hash
from fade.timesteps import Uniform
from fade.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
RANK, BATCH, RATE, CLIP = 8, 16, 4e-3, 1.0  # the embedded default's
QUIET = {"max_epochs": -1, "accelerator": "cpu", "devices": 1, "gradient_clip_val": CLIP, "enable_progress_bar": False}
UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}  # the rest is diffusers' default
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


# --- models -----------------------------------------------------------------------------------------------------------


def embedded() -> StableDiffusion:
    return StableDiffusion.load(shipped("canvas/pipeline"), 15, 4.0)


def canvas(train: int = 6) -> Dataset:
    """Sixteen cells of the grid: cost does not ask what they show. train: images a cell."""
    styles, objects = (
        ["photo", "ink_sketch", "oil_paint", "neon_glow"],
        ["house_cat", "sea_fish", "city_car", "city_bus"],
    )
    return Canvas("A {object} image in {style} style.", {}, {}, {}, train, 3, 3, 0, styles=styles, objects=objects)


def filled(make: Callable[[], nn.Module]) -> nn.Module:
    """A module with small random weights, without the time of its own initialisation."""
    with torch.device("meta"):
        made = make()
    made = made.to_empty(device="cpu")
    for tensor in [*made.parameters(), *made.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(-0.02, 0.02)
        else:
            tensor.data.copy_(torch.arange(tensor.numel()).view_as(tensor))  # the text encoder's positions
    return made


def large() -> StableDiffusion:
    """Random weights, at 128 px: 4.3 GB."""
    words = make_tokenizer(["A cat image in neon style."], 77)
    text = CLIPTextConfig(vocab_size=49408, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, **TEXT)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    pipe = StableDiffusionPipeline(
        vae=filled(lambda: AutoencoderKL(**VAE)),
        text_encoder=filled(lambda: CLIPTextModel(text)),
        tokenizer=words,
        scheduler=PNDMScheduler(**betas, skip_prk_steps=True, steps_offset=1),
        unet=filled(lambda: UNet2DConditionModel(**UNET)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return StableDiffusion(pipe, steps=2, guidance=9.0, size=128)


def example(model: Diffusion, n: int) -> Example:
    """Random latents, noise and timesteps: cost does not ask what they show."""
    latents = torch.randn(n, *model.latent(Noise(0)).shape[1:])
    text = model.embed(["a cat"]).expand(n)
    t = torch.randint(0, model.train_steps, (n,))
    rows = {"concept": torch.zeros(text.tokens.shape[:2], dtype=torch.bool), "end": torch.zeros(n, dtype=torch.long)}
    return Example(latents=latents, noise=torch.randn_like(latents), t=t, prompt=text, surrogate=text, **rows)  # type: ignore[typeddict-item]


def forward_of(model: Diffusion, n: int) -> Callable[[], object]:
    given = example(model, n)
    return torch.no_grad()(lambda: model.predict(given["latents"], given["t"], given["prompt"]))


def put_on(model: Diffusion, rank: int, sparsity: Sparsity, name: str, frozen: bool) -> Lora:
    """A low-rank change of random values."""
    adapter = Lora.attach(model, rank, rank, name=name)
    adapter.set_masks(sparsity({key: torch.rand_like(weight) for key, weight in adapter.weights().items()}))
    for parameter in adapter.parameters():
        parameter.data.normal_(std=0.01)
        parameter.requires_grad_(not frozen)
    return adapter


# --- a step -----------------------------------------------------------------------------------------------------------


class Low(nn.Module):
    """The plainest low-rank layer there is."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base, self.on = base, True
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + linear(linear(x, self.a), self.b) if self.on else self.base(x)


def bare(model: Diffusion, batch: int, rank: int) -> Callable[[], None]:
    """The step's work alone: teacher, student, backward, clipping, AdamW; no Lightning, no PEFT, no masks."""
    names = [name for name, m in model.network.named_modules() if isinstance(m, nn.Linear)]
    lows = []
    for name in [name for name in names if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))]:
        parent, _, leaf = name.rpartition(".")
        lows.append(Low(model.network.get_submodule(name), rank))
        setattr(model.network.get_submodule(parent), leaf, lows[-1])
    parameters = [p for low in lows for p in (low.a, low.b)]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    given = example(model, 2 * batch)

    def predicted(on: bool) -> Tensor:
        for low in lows:
            low.on = on
        return model.predict(given["latents"], given["t"], given["prompt"])

    def step() -> None:
        with torch.no_grad():
            wanted = predicted(False)
        made = predicted(True)
        loss = 0.3 * mse_loss(made[:batch], wanted[:batch]) + mse_loss(made[batch:], wanted[batch:])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


class Lap(Callback):
    """The bare step after each of ours, so that both meet the same machine; the first rounds warm up."""

    def __init__(self, step: Callable[[], None], warm: int = 2) -> None:
        self.step, self.warm, self.mark = step, warm, 0.0
        self.taken: dict[str, list[float]] = {"a bare loop": [], "ours, through Lightning": []}

    def on_train_start(self, *_: Any) -> None:
        self.mark = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        ours, theirs = time.process_time() - self.mark, timed(self.step)
        self.warm -= 1
        if self.warm < 0:
            for values, value in zip(self.taken.values(), (theirs, ours), strict=True):
                values.append(value)
        self.mark = time.process_time()


def step_rows(repeats: int) -> list[Row]:
    model, other, dataset = embedded(), embedded(), canvas()
    lap = Lap(bare(other, BATCH, RANK))
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(dataset, Path(folder), lap, repeats + lap.warm)
        adapter = recipe.attach(model)
        recipe.train(model, adapter, recipe.step(Request.of(dataset, "neon_glow", None)), Path(folder))
    counts = {"a bare loop": counted(other.network, lap.step)}
    trained = put_on(embedded(), RANK, Neuron(0.1), "fade", frozen=False)
    counts["ours, through Lightning"] = counted(trained.model.network, stepping(trained, BATCH))
    return [replace(row, counts=counts[row.what]) for row in rows_of("a training step", lap.taken)]


def recipe_of(dataset: Dataset, folder: Path, lap: Callback, steps: int) -> Recipe:
    """FADE's on the embedded default, of few images: a step does not ask how many there are."""

    def trainer(callbacks: list[Callback], **given: Any) -> L.Trainer:
        return L.Trainer(callbacks=[*callbacks, lap], **QUIET, **given)

    return Recipe(
        dataset=dataset,
        method=Fade(),
        sparsity=Neuron(0.1),
        timesteps=Uniform(),
        adapter=Lora,
        settings={"rank": RANK, "alpha": RANK},
        optimizer=partial(torch.optim.AdamW, lr=RATE),
        trainer=trainer,
        steps=steps,
        pairs={"forget": 16, "retain": 64, "batch": BATCH},
        cache=folder,
        schedule={"locate_batch": 16, "warmup": 5, "cosine": True},
        checkpoint_every=steps + 1,
    )


def stepping(adapter: Lora, batch: int) -> Callable[[], None]:
    """A step of FADE without Lightning."""
    model, optimizer = adapter.model, torch.optim.AdamW(adapter.parameters(), lr=1e-4)
    given = Batch(forget=example(model, batch), retain=example(model, batch), anchor=example(model, 1))

    def step() -> None:
        losses = Fade().losses(model, adapter, given)
        (0.3 * losses["forget"] + losses["retain"]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


# --- images -----------------------------------------------------------------------------------------------------------


def answer_rows(repeats: int, images: int = 16, steps: int = 8) -> list[Row]:
    """Made, and made and written, against the passes of the U-Net alone that they need."""
    model, dataset = embedded(), canvas()
    prompts = [dataset.caption(cell) for cell in dataset.cells()]
    wanted = answers(dataset, prompts, [188], "seed")[:images]
    passes, sampling = forward_of(model, 2 * images), Sampling(steps=steps)

    def written() -> None:
        with tempfile.TemporaryDirectory() as folder:
            generate(model, wanted, Path(folder), images, sampling)

    arms: dict[str, Callable[[], object]] = {
        f"the {steps} passes alone": lambda: [passes() for _ in range(steps)],
        "images": lambda: model.generate([a.prompt for a in wanted], [a.noise for a in wanted], sampling),
        "images as files": written,
    }
    return in_turn(f"{images} images at {steps} steps", arms, repeats)


# --- starting ---------------------------------------------------------------------------------------------------------

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "fade --help": ["-m", "fade", "--help"],
    "fade info DIR": ["-m", "fade", "info", "."],
    "run.py --help": ["run.py", "--help"],
    "run.py --cfg job": ["run.py", "--cfg", "job"],
    "run.py targt=cat": ["run.py", "targt=cat"],
    "import fade.api": ["-c", "import fade.api"],
}


def started(command: list[str], whole: bool = False) -> float:
    """CPU seconds of a Python that runs a command; what it says is dropped. Raises BadInput, where it is to do all of
    its work, for one that failed."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if whole and status:
        raise BadInput(f"{' '.join(command)} failed; run it alone to see why")
    process.returncode = 0
    return used.ru_utime + used.ru_stime


def start_rows(repeats: int) -> list[Row]:
    taken: dict[str, list[float]] = {what: [] for what in COMMANDS}
    for number in range(repeats + 1):
        for what, command in COMMANDS.items():
            found = started(command)
            if number:
                taken[what].append(found)
    return rows_of("starting", taken)


# --- adapters ---------------------------------------------------------------------------------------------------------


def adapter_rows(model: Diffusion, size: str, rank: int, repeats: int) -> list[Row]:
    """What is done with a finished adapter, round by round, against a pass of one sample."""
    adapter = put_on(model, rank, Neuron(0.1), "fade", frozen=True)
    stored = Stored.of(adapter, {})
    adapter.detach()
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        stored.write(Path(folder) / "a")
        for _ in range(repeats + 1):
            for what, act in life(model, Path(folder) / "a", forward_of(model, 1)):
                taken.setdefault(what, []).append(timed(act))
        file = (Path(folder) / "a" / "adapter.safetensors").stat().st_size
    part, base = f"an adapter, {size}", sum(p.numel() * p.element_size() for p in model.parameters())
    rows = rows_of(part, {what: values[1:] for what, values in taken.items()})
    anew = timed(lambda: tensors_hash(model.network.state_dict()))
    forward = rows[0].ms / 1000
    hashing = Row.of_times(part, "the U-Net hashed anew", [anew], [forward], rows[0].what)
    return [replace(rows[0], counts={"bytes of base": base, "bytes of adapter": file}), *rows[1:], hashing]


def life(model: Diffusion, folder: Path, forward: Callable[[], object]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each act in its order; what one leaves is what the next begins with."""
    held: dict[str, Any] = {}
    yield "a pass of the U-Net, one sample", forward
    yield "read", lambda: held.update(stored=Stored.read(folder))
    yield "the base's hash, remembered", model.sha256
    yield "attach", lambda: held.update(on=held["stored"].attach(model))
    yield "the first pass with it", forward
    yield "merge", lambda: held["on"].merge()
    yield "unmerge", lambda: held["on"].unmerge()
    yield "save", lambda: Stored.of(held["on"], {}).write(folder.with_name("b"))
    yield "detach", lambda: held["on"].detach()


# --- what grows -------------------------------------------------------------------------------------------------------


def training_rows(repeats: int, batch: int = 8) -> list[Row]:
    """A step by rank, kept part, masks, and frozen adapters below."""

    def arm(rank: int, sparsity: Sparsity, below: int = 0) -> Callable[[], None]:
        model = embedded()
        for k in range(below):
            put_on(model, RANK, Neuron(0.1), f"below{k}", frozen=True)
        return stepping(put_on(model, rank, sparsity, "fade", frozen=False), batch)

    arms: dict[str, Callable[[], object]] = {"rank 8, neurons, p 0.1": arm(RANK, Neuron(0.1))}
    arms |= {f"rank {rank}": arm(rank, Neuron(0.1)) for rank in (1, 64)}
    arms |= {"p 0.5": arm(RANK, Neuron(0.5)), "dense": arm(RANK, Dense()), "weights, p 0.1": arm(RANK, Weight(0.1))}
    arms |= {f"{below} frozen below": arm(RANK, Neuron(0.1), below) for below in (1, 4, 19)}
    return in_turn("a step, without Lightning", arms, repeats)


def forward_rows(repeats: int, samples: int = 16) -> list[Row]:
    """A pass without gradient by how many adapters are on."""

    def arm(on: int, merged: bool = False) -> Callable[[], object]:
        model = embedded()
        for k in range(on):
            adapter = put_on(model, RANK, Neuron(0.1), f"on{k}", frozen=True)
            if merged:
                adapter.merge()
        return forward_of(model, samples)

    arms = {"no adapter": arm(0), "1 merged": arm(1, merged=True)}
    return in_turn("a pass without gradient", arms | {f"{on} attached": arm(on) for on in (1, 2, 5, 20)}, repeats)
