"""Trains a small text-to-image pipeline and its judges from scratch, for any dataset of the suite.

Judges, then the autoencoder (which they help to teach), then text encoder and U-Net together. Each stage writes its
state every minute and goes on from it; a stage that is done is not done again, and may be made longer.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot
from transformers import CLIPTokenizer

from fade.checked import Count, Seed, Side
from fade.console import doing
from fade.data.dataset import SPLITS, Dataset, Item
from fade.errors import BadInput
from fade.files import atomic, content_hash, read_json, unharmed, write_json
from fade.judges import Judge, accuracy
from fade.pretrain.autoencoder import AutoencoderSettings, autoencoder_loss, make_autoencoder
from fade.pretrain.diffusion import (
    DiffusionSettings,
    diffusion_loss,
    load_pipeline,
    make_pipeline,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    tokenise,
)
from fade.pretrain.images import load_images, sheet
from fade.pretrain.judge import JudgeSettings, judge_loss
from fade.pretrain.stage import Loss, Schedule, Stage, train
from fade.tensors import read_tensors, write_tensors

log = logging.getLogger(__name__)
STAGES = ("judge", "autoencoder", "diffusion")  # in their order: each needs what the ones before it left


class Pretraining:
    """The whole recipe. look_every: steps between two looks at what a stage makes. accelerator, devices: Lightning's.

    Writes `out/judges/<domain>/`, `out/pipeline/` (fp16, stock diffusers), `out/numbers.json` and contact sheets, and
    `out/recipe.json`: what was asked for, and of which images. Raises BadInput where a stage misses the accuracy that
    the next one needs, and where `out` holds another recipe, or one of other images. stages: in their order.
    """

    stages: tuple[str, ...] = STAGES

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        size: Side,
        judge: JudgeSettings,
        autoencoder: AutoencoderSettings,
        diffusion: DiffusionSettings,
        seed: Seed = 0,
        flip: bool = False,
        look_every: Count = 1000,
        workers: Count = 2,
        accelerator: str = "auto",
        devices: Count = 1,
    ) -> None:
        self.dataset, self.out, self.size, self.seed, self.flip = dataset, out, size, seed, flip
        self.judge, self.autoencoder, self.diffusion = judge, autoencoder, diffusion
        self.look_every, self.workers, self.accelerator, self.devices = look_every, workers, accelerator, devices
        self.state = out / "state"

    def run(self) -> dict[str, Any]:
        """Do the stages that are not done, and measure what came out of them."""
        self.claim()
        judges = {domain: self.train_judge(domain) for domain in self.dataset.domains}
        vae = self.train_autoencoder(judges)
        pipe = self.train_diffusion(vae, judges)
        found = {**self.measure(pipe, judges), "training_s": self.seconds()}
        write_json(self.out / "numbers.json", found)
        return found

    # what the folder holds

    def claim(self) -> None:
        """Write the recipe into the folder, or take up the one that is there, made longer where asked for."""
        path, images = self.out / "recipe.json", images_of(self.dataset)
        common = {key: getattr(self.dataset, key) for key in ("template", "domains")}
        common = {
            "dataset": self.dataset.name,
            **common,
            **{key: getattr(self, key) for key in ("size", "seed", "flip")},
        }
        if path.is_file():
            before = read_json(path)
            if before.get("images", images) != images:
                raise BadInput(f"{self.out} was made of other images (see recipe.json); choose another out=FOLDER")
            for key, value in common.items():
                self.same(key, before.get(key) == value)
            for stage in self.stages:
                self.take_up(stage, before.get(stage))
        write_json(path, {**common, "images": images, **{stage: asdict(getattr(self, stage)) for stage in self.stages}})

    def same(self, key: str, unchanged: bool) -> None:
        if not unchanged:
            raise BadInput(f"{self.out} was begun with another {key} (see recipe.json); choose another out=FOLDER")

    def take_up(self, stage: str, before: dict[str, Any] | None) -> None:
        """Go on from what a stage was asked for before. With more steps its rate falls to zero where it was to end, and
        begins again there; a stage whose successor is done already must stay as it is."""
        asked: Schedule = getattr(self, stage)
        given, before = asdict(asked), before or {}
        free = ("steps", "restarts", "sampling_steps", "guidance", "gate")
        other = [key for key in given if key not in free and before.get(key) != given[key]]
        self.same(".".join(["pretrain", stage, *other[:1]]), not other)
        self.check_steps(stage, asked.steps, before["steps"])
        longer = asked.steps > before["steps"]
        restarts = [*before["restarts"], before["steps"]] if longer else before["restarts"]
        setattr(self, stage, replace(asked, restarts=sorted({*restarts, *asked.restarts})))

    def check_steps(self, stage: str, steps: int, before: int) -> None:
        if steps < before:
            raise BadInput(
                f"pretrain.{stage}.steps is {steps}, and {self.out} was begun with {before}; give as "
                "many or more, or choose another out=FOLDER"
            )
        later = self.stages[self.stages.index(stage) + 1 :]
        if steps > before and any(self.done(name) for name in later):
            raise BadInput(
                f"pretrain.{stage}.steps is more than {before}, with which {later[0]} was made already; "
                f"choose another out=FOLDER, or delete {self.state / later[0]}* and what follows it"
            )

    def done(self, stage: str) -> bool:
        """Whether the stage has left what the next one needs, at the steps that are asked for now."""
        path = self.state / f"{stage}.json"
        return path.is_file() and read_json(path)["steps"] >= getattr(self, stage.split("-")[0]).steps

    def finish(self, stage: str, trained: Stage) -> None:
        write_json(self.state / f"{stage}.json", {"steps": trained.schedule.steps, "seconds": round(trained.seconds)})

    def seconds(self) -> dict[str, float]:
        """Seconds of training in each stage, over all the sessions it took."""
        return {path.stem: read_json(path)["seconds"] for path in sorted(self.state.glob("*.json"))}

    def fit(self, stage: Stage) -> None:
        train(stage, self.state / f"{stage.name}.ckpt", self.look_every, self.accelerator, self.devices)

    def images(self, split: str) -> tuple[Tensor, list[Item]]:
        return load_images(self.dataset, split, self.size, self.state / "images", self.workers)

    # the three stages

    def train_judge(self, domain: str) -> Judge:
        folder, name, s = self.out / "judges" / domain, f"judge-{domain}", self.judge
        if self.done(name):
            return Judge.load(folder)
        images, items = self.images("judge")
        torch.manual_seed(self.seed)
        judge = Judge(s.architecture, domain, self.dataset.domains[domain], s.size, multilabel=self.dataset.multilabel)
        stage = Stage(name, judge, judge_loss(judge, images, self.judged(items, domain), s, self.flip), s, self.seed)
        self.fit(stage)
        test, test_items = self.images("test")
        judge.accuracy = accuracy(judge, test, self.judged(test_items, domain))
        said = "mean average precision" if judge.multilabel else "right"
        log.info("%s judge: %.2f %% %s on %d held-out images", domain, 100 * judge.accuracy, said, len(test_items))
        judge.save(folder)
        self.finish(name, stage)
        return judge

    def judged(self, items: list[Item], domain: str) -> Tensor:
        """What a judge should say of the items: class indices (N,), or a table (N, labels) where labels overlap."""
        return self.dataset.shown(items, domain) if self.dataset.multilabel else self.dataset.labels(items, domain)

    def train_autoencoder(self, judges: dict[str, Judge]) -> AutoencoderKL:
        folder, s = self.state / "vae", self.autoencoder
        if self.done("autoencoder"):
            return AutoencoderKL.from_pretrained(folder).eval()
        images, _ = self.images("train")
        test, _ = self.images("test")
        torch.manual_seed(self.seed + 1)
        vae = make_autoencoder(s, self.size)
        for judge in judges.values():
            judge.requires_grad_(False)
        loss = autoencoder_loss(vae, list(judges.values()), images, s, self.flip)
        chosen = test[torch.linspace(0, len(test) - 1, min(36, len(test))).long()]
        look = partial(self.show_reconstructions, "autoencoder", vae, chosen, 12)
        stage = Stage("autoencoder", vae, loss, s, self.seed + 1, look)
        self.fit(stage)
        look()
        vae.register_to_config(scaling_factor=1 / encoded(vae, images[::16]).std().item())
        self.check_reconstructions("autoencoder", vae, judges)
        with atomic(folder) as temporary:
            vae.save_pretrained(temporary)
        self.finish("autoencoder", stage)
        return vae

    @torch.no_grad()
    def show_reconstructions(self, stage: str, vae: AutoencoderKL, images: Tensor, columns: int) -> None:
        """A line and a contact sheet: images (N, 3, H, W) uint8, each beside what is made of it."""
        chosen = images.to(vae.device).float() / 127.5 - 1
        rebuilt = vae(chosen).sample
        error = mse_loss(rebuilt.clamp(-1, 1), chosen).item()
        log.info("%s: %.2f dB on held-out images", stage, 10 * math.log10(4 / error))
        pairs = torch.stack([chosen, rebuilt], 1).flatten(0, 1)
        sheet((pairs / 2 + 0.5).float().cpu(), self.out / "sheets" / f"{stage}.png", columns)

    @torch.no_grad()
    def check_reconstructions(self, stage: str, vae: AutoencoderKL, judges: dict[str, Judge]) -> None:
        """The gate: the judges read in reconstructions what they read in the originals."""
        s, (test, items) = getattr(self, stage), self.images("test")
        rebuilt = torch.cat([vae(x.float() / 127.5 - 1).sample.clamp(-1, 1) / 2 + 0.5 for x in test.split(64)])
        for domain, judge in judges.items():
            kept = accuracy(judge.cpu(), rebuilt, self.judged(items, domain))
            said = "%s: the %s judge reads %.2f %% of the reconstructions (%.2f %% of the originals)"
            log.info(said, stage, domain, 100 * kept, 100 * (judge.accuracy or 0))
            if kept < s.gate * (judge.accuracy or 1):
                raise BadInput(
                    f"{stage}: only {kept:.1%} of the reconstructions keep their {domain}; train it longer with "
                    f"pretrain.{stage}.steps (it is {s.steps}), or lower pretrain.{stage}.gate ({s.gate})"
                )

    def train_diffusion(self, vae: AutoencoderKL, judges: dict[str, Judge]) -> DiffusionPipeline:
        folder = self.out / "pipeline"
        if self.done("diffusion"):
            return self.load(folder)
        latents, items = self.latents(vae)
        pipe, loss = self.fresh(vae, latents, *self.captions(items))
        stage = self.fit_diffusion(pipe, loss, partial(self.show_grid, pipe, judges))
        vae.register_to_config(_name_or_path="")  # else the folder of this machine is written into the weights
        with atomic(folder) as temporary:
            pipe.to("cpu", torch.float16).save_pretrained(temporary)
        self.finish("diffusion", stage)
        return self.load(folder)

    def load(self, folder: Path) -> DiffusionPipeline:
        return load_pipeline(folder)

    def fresh(
        self, vae: AutoencoderKL, latents: Tensor, captions: list[list[str]], owner: Tensor
    ) -> tuple[DiffusionPipeline, Loss]:
        """A fresh pipeline, and what is lowered over its `trained` parts. captions, owner: as `captions` gives them."""
        tokenizer = make_tokenizer([text for group in captions for text in group], self.diffusion.max_length)
        pipe = self.untrained(vae, tokenizer, latents)
        tokens = torch.stack([tokenise(tokenizer, group) for group in captions])
        return pipe, diffusion_loss(pipe, latents, tokens, owner, self.diffusion)

    def untrained(self, vae: AutoencoderKL, tokenizer: CLIPTokenizer, latents: Tensor) -> StableDiffusionPipeline:
        """A fresh text encoder and U-Net, of latents (N, C, h, w), around the autoencoder."""
        torch.manual_seed(self.seed + 2)
        text_encoder = make_text_encoder(tokenizer, self.diffusion)
        unet = make_unet(self.diffusion, latents.shape[1], latents.shape[-1])
        return make_pipeline(vae, text_encoder, tokenizer, unet, make_scheduler())

    def trained(self, pipe: DiffusionPipeline) -> nn.ModuleDict:
        """The parts that learn, all but the autoencoder, by their names in the pipeline; what denoises is first."""
        return nn.ModuleDict({"unet": pipe.unet, "text_encoder": pipe.text_encoder})

    def write_attention_out(self, pipe: DiffusionPipeline) -> None:
        """PyTorch's fused attention in bfloat16 takes half of a step on a CPU; written out it takes a tenth."""
        pipe.unet.set_attn_processor(AttnProcessor())
        pipe.text_encoder.set_attn_implementation("eager")

    def fit_diffusion(self, pipe: DiffusionPipeline, loss: Loss, look: Callable[[], None]) -> Stage:
        if self.diffusion.precision.startswith("bf16"):
            self.write_attention_out(pipe)
        stage = Stage("diffusion", self.trained(pipe), loss, self.diffusion, self.seed + 2, look)
        self.fit(stage)
        return stage

    def show_grid(self, pipe: DiffusionPipeline, judges: dict[str, Judge]) -> None:
        """A line and a contact sheet: an image of every cell, and how many of them the judges read rightly."""
        pipe.to(next(self.trained(pipe).parameters()).device)
        made, cells = self.grid(pipe, seeds=[0])
        log.info(
            "diffusion: %s on the grid", ", ".join(f"{d} {100 * v:.1f} %" for d, v in self.read(judges, made, cells))
        )
        self.sheet_of(made)

    def read(self, judges: dict[str, Judge], made: Tensor, cells: list[dict[str, str]]) -> list[tuple[str, float]]:
        """Each domain, with the share of the images in which its judge reads what the cell says."""
        return [(d, accuracy(judge.cpu(), made, self.truth(cells, d))) for d, judge in judges.items()]

    def sheet_of(self, made: Tensor) -> None:
        sheet(made, self.out / "sheets" / "grid.png", len(list(self.dataset.domains.values())[-1]))

    def latents(self, vae: AutoencoderKL) -> tuple[Tensor, list[Item]]:
        """Scaled latents (N, C, h, w) of the train split, encoded once; mirrored copies follow where `flip` is set."""
        images, items = self.images("train")
        if not self.flip:
            return self.encoded_once(vae, images), items
        return self.encoded_once(vae, images, images.flip(-1)), items * 2

    def encoded_once(self, vae: AutoencoderKL, *groups: Tensor) -> Tensor:
        """Scaled latents of all the images, from the file if they are there."""
        path = self.state / "latents.safetensors"
        found = unharmed(path, read_tensors)
        if found is None:
            doing(f"encoding {sum(map(len, groups))} images")
            found = {"latents": torch.cat([encoded(vae, x) for x in groups]) * vae.config.scaling_factor}, {}
            write_tensors(path, found[0])
        return found[0]["latents"]

    def captions(self, items: list[Item]) -> tuple[list[list[str]], Tensor]:
        """For each cell its caption, the empty one, and the partial ones; and the cell index (N,) of each item."""
        cells = self.dataset.cells()
        texts = [[self.dataset.caption(cell), "", *self.dataset.partial_captions(cell)] for cell in cells]
        place = {tuple(cell.values()): i for i, cell in enumerate(cells)}
        return texts, torch.tensor([place[item.concepts] for item in items])

    # what came out

    def truth(self, cells: list[dict[str, str]], domain: str) -> Tensor:
        labels = self.dataset.domains[domain]
        classes = torch.tensor([labels.index(cell[domain]) for cell in cells])
        return one_hot(classes, len(labels)) if self.dataset.multilabel else classes

    def grid(self, pipe: DiffusionPipeline, seeds: list[int]) -> tuple[Tensor, list[dict[str, str]]]:
        """Images (N, 3, H, W) in [0, 1], on the CPU, of every cell for every seed."""
        cells = self.dataset.cells()
        texts = [self.dataset.caption(cell) for cell in cells]
        side = self.size // pipe.vae_scale_factor
        shape = (1, pipe.vae.config.latent_channels, side, side)
        made = []
        for seed in seeds:
            latent = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(pipe.device)
            made.append(self.draw(pipe, texts, latent.expand(len(texts), -1, -1, -1), 36))
        return torch.cat(made), cells * len(seeds)

    def sampling(self) -> dict[str, Any]:
        """What the pipeline's call is given beside texts and latents."""
        return {"num_inference_steps": self.diffusion.sampling_steps, "guidance_scale": self.diffusion.guidance}

    def draw(self, pipe: DiffusionPipeline, texts: list[str], latents: Tensor, batch: int) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the CPU, one a text, each from its latent (N, C, h, w)."""
        parts = (slice(start, start + batch) for start in range(0, len(texts), batch))
        made = [pipe(texts[part], latents=latents[part], output_type="pt", **self.sampling()).images for part in parts]
        return torch.cat([images.float().cpu() for images in made])

    def measure(self, pipe: DiffusionPipeline, judges: dict[str, Judge]) -> dict[str, Any]:
        """The numbers of the shipped weights: judge accuracies, grid accuracies over five seeds, images per second."""
        self.grid(pipe, seeds=[99])
        began = time.monotonic()
        made, cells = self.grid(pipe, seeds=list(range(5)))
        speed = len(cells) / (time.monotonic() - began)
        self.sheet_of(made[: len(self.dataset.cells())])
        return {
            "judges": {d: j.accuracy for d, j in judges.items()},
            "grid": dict(self.read(judges, made, cells)),
            "grid_images": len(cells),
            "images_per_s": speed,
            "parameters": sum(p.numel() for m in (*self.trained(pipe).values(), pipe.vae) for p in m.parameters()),
        }


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The posteriors' modes (N, C, h, w), not scaled, of images (N, 3, H, W) uint8."""
    return torch.cat([vae.encode(x.float() / 127.5 - 1).latent_dist.mode() for x in images.split(64)])


def images_of(dataset: Dataset) -> str:
    """Changes with the images that a dataset holds: their cells, names and sizes, wherever the folder lies."""
    found = [
        (split, item.concepts, item.index, item.row, *((item.path.name, item.path.stat().st_size) if item.path else ()))
        for split in SPLITS
        for item in dataset.items(split)
    ]
    return content_hash(found)


def check_images(folder: Path, dataset: Dataset) -> None:
    """Raises BadInput where `folder` was pretrained on other images than the dataset's, under the same name."""
    recipe = folder / "recipe.json"
    made_of = read_json(recipe).get("images") if recipe.is_file() else None
    if made_of is not None and made_of != images_of(dataset):
        raise BadInput(
            f"{folder} was made of other images than {dataset.name} has now (recipe.json); run task=pretrain "
            "again with another out=FOLDER, or keep the two apart with dataset.name=NAME"
        )
