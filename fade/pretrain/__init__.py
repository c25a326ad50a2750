"""Trains a small text-to-image pipeline and its judges from scratch, for any dataset of the suite.

Judges, then the autoencoder (which they help to teach), then text encoder and U-Net together. Each stage writes its
state every minute and goes on from it; a stage that is done is not done again, and may be made longer.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor
from torch.nn.functional import one_hot

from fade.checked import Count, Seed, Side
from fade.data.dataset import Dataset, Item
from fade.files import atomic, write_json
from fade.judges import Judge, accuracy
from fade.pretrain.autoencoder import (
    AutoencoderSettings,
    autoencoder_loss,
    check_reconstructions,
    encoded,
    make_autoencoder,
    show_reconstructions,
)
from fade.pretrain.diffusion import DiffusionSettings, diffusion_loss, fresh_pipeline, make_tokenizer, tokenise
from fade.pretrain.images import sheet
from fade.pretrain.judge import JudgeSettings, judge_loss
from fade.pretrain.stage import Stage
from fade.pretrain.staged import Staged

log = logging.getLogger(__name__)
STAGES = ("judge", "autoencoder", "diffusion")  # in their order: each needs what the ones before it left


class Pretraining(Staged):
    """The whole recipe, of any dataset; as `Staged`.

    Writes `out/judges/<domain>/`, `out/pipeline/` (fp16, stock diffusers), `out/numbers.json` and contact sheets.
    Raises BadInput where a stage misses the accuracy that the next one needs.
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
        super().__init__(dataset, out, size, diffusion, seed, look_every, workers, accelerator, devices, flip)
        self.judge, self.autoencoder = judge, autoencoder

    def run(self) -> dict[str, Any]:
        """Do the stages that are not done, and measure what came out of them."""
        self.claim()
        judges = {domain: self.train_judge(domain) for domain in self.dataset.domains}
        vae = self.train_autoencoder(judges)
        pipe = self.train_diffusion(vae, judges)
        found = {**self.measure(pipe, judges), "training_s": self.seconds()}
        write_json(self.out / "numbers.json", found)
        return found

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
        test, items = self.images("test")
        torch.manual_seed(self.seed + 1)
        vae = make_autoencoder(s, self.size)
        for judge in judges.values():
            judge.requires_grad_(False)
        loss = autoencoder_loss(vae, list(judges.values()), images, s, self.flip)
        chosen = test[torch.linspace(0, len(test) - 1, min(36, len(test))).long()]
        look = partial(show_reconstructions, self.out / "sheets" / "autoencoder.png", vae, chosen, 12)
        stage = Stage("autoencoder", vae, loss, s, self.seed + 1, look)
        self.fit(stage)
        look()
        vae.register_to_config(scaling_factor=1 / encoded(vae, images[::16]).std().item())
        truth = {domain: self.judged(items, domain) for domain in judges}
        check_reconstructions("autoencoder", vae, s, judges, test, truth)
        with atomic(folder) as temporary:
            vae.save_pretrained(temporary)
        self.finish("autoencoder", stage)
        return vae

    def train_diffusion(self, vae: AutoencoderKL, judges: dict[str, Judge]) -> StableDiffusionPipeline:
        folder = self.out / "pipeline"
        if self.done("diffusion"):
            return self.load(folder)
        latents, items = self.latents(vae)
        captions, owner = self.captions(items)
        tokenizer = make_tokenizer([text for group in captions for text in group], self.diffusion.max_length)
        torch.manual_seed(self.seed + 2)
        pipe = fresh_pipeline(vae, tokenizer, latents, self.diffusion)
        tokens = torch.stack([tokenise(tokenizer, group) for group in captions])
        loss = diffusion_loss(pipe, latents, tokens, owner, self.diffusion)
        stage = self.fit_diffusion(pipe, loss, partial(self.show_grid, pipe, judges))
        vae.register_to_config(_name_or_path="")  # else the folder of this machine is written into the weights
        with atomic(folder) as temporary:
            pipe.to("cpu", torch.float16).save_pretrained(temporary)
        self.finish("diffusion", stage)
        return self.load(folder)

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

    def captions(self, items: list[Item]) -> tuple[list[list[str]], Tensor]:
        """For each cell its caption, the empty one, and the partial ones; and the cell index (N,) of each item."""
        cells = self.dataset.cells()
        texts = [[self.dataset.caption(cell), "", *self.dataset.partial_captions(cell)] for cell in cells]
        place = {tuple(cell.values()): i for i, cell in enumerate(cells)}
        return texts, torch.tensor([place[item.concepts] for item in items])

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
