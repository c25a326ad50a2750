"""Pretraining on a grid whose captions come in tiers, with scenes of two objects, and judges that teach nobody.

The judges that teach the autoencoder (`teachers/`) are not those that judge (`judges/`), which
are of another architecture and seed; captions are drawn over all tiers; `without` leaves one concept out of all of it.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor

from fade.checked import Count, Portion, Seed, Side
from fade.data.canvas.dataset import Canvas
from fade.data.canvas.halves import halves
from fade.errors import BadInput
from fade.files import atomic
from fade.judges import Judge, accuracy
from fade.pretrain.autoencoder import (
    AutoencoderSettings,
    autoencoder_loss,
    check_reconstructions,
    encoded,
    make_autoencoder,
    show_reconstructions,
)
from fade.pretrain.captions import Captions, check_lengths, tiered_loss
from fade.pretrain.diffusion import DiffusionSettings, fresh_pipeline, make_tokenizer, tokenise
from fade.pretrain.judge import JudgeSettings, judge_loss
from fade.pretrain.stage import Loss, Stage
from fade.pretrain.tiered_diffusion import TieredDiffusion

log = logging.getLogger(__name__)


class TieredPretraining(TieredDiffusion):
    """As `TieredDiffusion`, a Stable Diffusion, and the whole recipe: judges and autoencoder first. verdict: the judges
    that judge, and nothing else. decoder: how it goes on once its latents stand. warm: a folder of an autoencoder to
    begin from. With `without`, U-Net and text encoder alone are trained; the judges and the autoencoder are those of
    `base`."""

    stages = ("judge", "autoencoder", "diffusion")

    def __init__(
        self,
        dataset: Canvas,
        out: Path,
        size: Side,
        judge: JudgeSettings,
        verdict: JudgeSettings,
        autoencoder: AutoencoderSettings,
        decoder: AutoencoderSettings,
        diffusion: DiffusionSettings,
        shares: dict[str, float],
        scenes: Portion,
        seed: Seed = 0,
        look_every: Count = 1000,
        workers: Count = 2,
        accelerator: str = "auto",
        devices: Count = 1,
        warm: str | None = None,
        start: str | None = None,
        without: str | None = None,
        base: str | None = None,
    ) -> None:
        shared = (shares, scenes, seed, look_every, workers, accelerator, devices, start, without, base)
        super().__init__(dataset, out, size, diffusion, *shared)
        self.judge, self.autoencoder, self.verdict, self.decoder = judge, autoencoder, verdict, decoder
        self.warm = warm

    def check_base(self) -> None:
        """Of a model that leaves a concept out; else it makes its own."""
        if self.without is not None:
            super().check_base()

    def train(self) -> dict[str, Judge]:
        """The stages that are asked for; the judges that judge."""
        if self.without is not None:
            return super().train()
        return self.train_whole() if self.start is None else self.train_on(self.start)

    def train_whole(self) -> dict[str, Judge]:
        teachers = {domain: self.reader("judge", domain) for domain in self.dataset.domains}
        vae = self.train_autoencoder(teachers)
        judges = {domain: self.reader("verdict", domain) for domain in self.dataset.domains}
        pipe = self.train_diffusion(vae, judges)
        self.finished(pipe, self.sharpen(vae, teachers, judges))
        return judges

    def train_on(self, start: Path) -> dict[str, Judge]:
        """U-Net, text encoder and decoder on from those of `start`; its judges, and teachers of its own."""
        judges, vae = self.stand(start)
        for domain, judge in judges.items():
            judge.save(self.out / "judges" / domain)
        pipe = self.train_diffusion(vae, judges)
        teachers = {domain: self.reader("judge", domain) for domain in self.dataset.domains}
        self.finished(pipe, self.sharpen(vae, teachers, judges))
        return judges

    def remembered(self) -> dict[str, Any]:
        return {**super().remembered(), "verdict": asdict(self.verdict)}

    def reader(self, kind: str, domain: str) -> Judge:
        """A judge of one domain: of `kind` "judge" it teaches the autoencoder, of `kind` "verdict" it judges."""
        s: JudgeSettings = getattr(self, kind)
        folder, name = self.out / {"judge": "teachers", "verdict": "judges"}[kind] / domain, f"{kind}-{domain}"
        if self.done(name):
            return Judge.load(folder)
        seed = self.seed + {"judge": 0, "verdict": 1000}[kind]
        torch.manual_seed(seed)
        judge = Judge(s.architecture, domain, self.dataset.domains[domain], s.size)
        stage = Stage(name, judge, judge_loss(judge, *self.lessons("judge", domain), s, False), s, seed)
        self.fit(stage)
        test, items = self.images("test")
        judge.accuracy = accuracy(judge, test, self.dataset.labels(items, domain))
        two = accuracy(judge, *self.two("test", domain))
        log.info(
            "%s: %.2f %% of %d held-out images, %.2f %% of the scenes of two objects",
            name,
            100 * judge.accuracy,
            len(items),
            100 * two,
        )
        judge.save(folder)
        self.finish(name, stage)
        return judge

    def lessons(self, split: str, domain: str) -> tuple[Tensor, Tensor]:
        images, items = self.images(split)
        more, truth = self.two(split, domain)
        return torch.cat([images, more]), torch.cat([self.dataset.labels(items, domain), truth])

    def two(self, split: str, domain: str) -> tuple[Tensor, Tensor]:
        """Images and classes of the scenes of two: whole ones for the style, their halves for the objects."""
        images, items = self.images(f"{split}-pairs")
        labels = self.dataset.domains[domain]
        if domain == "style":
            return images, torch.tensor([labels.index(item.concepts[0]) for item in items])
        truth = [labels.index(item.concepts[k]) for k in (1, 2) for item in items]
        return torch.cat(halves(images)), torch.tensor(truth)

    def begin(self) -> AutoencoderKL:
        """A fresh autoencoder, or the one of the folder `warm`."""
        s = self.autoencoder
        if self.warm is None:
            return make_autoencoder(s, self.size)
        vae = AutoencoderKL.from_pretrained(self.warm, torch_dtype=torch.float32)
        if list(vae.config.block_out_channels) != s.widths or vae.config.latent_channels != s.channels:
            raise BadInput(
                f"pretrain.warm={self.warm} has other widths or channels than pretrain.autoencoder; give its own"
            )
        return vae

    def train_autoencoder(self, judges: dict[str, Judge]) -> AutoencoderKL:
        folder, s = self.state / "vae", self.autoencoder
        if self.done("autoencoder"):
            return AutoencoderKL.from_pretrained(folder).eval()
        torch.manual_seed(self.seed + 1)
        vae = self.begin()
        trained = self.taught(vae, "autoencoder", s, judges)
        images, _ = self.images("train")
        vae.register_to_config(scaling_factor=1 / encoded(vae, images[::24]).std().item())
        return self.passed(vae, folder, trained, {domain: self.reader("verdict", domain) for domain in judges})

    def sharpen(self, vae: AutoencoderKL, teachers: dict[str, Judge], judges: dict[str, Judge]) -> AutoencoderKL:
        """The decoder alone goes on: the latents stay as they are, and with them U-Net and text encoder."""
        folder, s = self.state / "sharp", self.decoder
        if self.done("decoder"):
            return AutoencoderKL.from_pretrained(folder).eval()
        vae.requires_grad_(False)
        for part in (vae.decoder, vae.post_quant_conv):
            part.requires_grad_(True)
        return self.passed(vae, folder, self.taught(vae, "decoder", s, teachers), judges)

    def taught(self, vae: AutoencoderKL, name: str, s: AutoencoderSettings, judges: dict[str, Judge]) -> Stage:
        """The stage of this name, trained: what is wanted of the autoencoder is what the judges see, and the pixels."""
        images = torch.cat([self.images("train")[0], self.images("train-pairs")[0]])
        test, _ = self.images("test")
        for judge in judges.values():
            judge.requires_grad_(False)

        look = partial(
            show_reconstructions, self.out / "sheets" / f"{name}.png", vae, test[:: len(test) // 48][:48], 16
        )
        loss = autoencoder_loss(vae, list(judges.values()), images, s, False)
        stage = Stage(name, vae, loss, s, self.seed + 1, look)
        self.fit(stage)
        look()
        return stage

    def passed(self, vae: AutoencoderKL, folder: Path, trained: Stage, judges: dict[str, Judge]) -> AutoencoderKL:
        """The autoencoder, kept, where the judges that taught it nothing read in reconstructions what they read in the
        originals. Raises BadInput where they do not."""
        test, items = self.images("test")
        truth = {domain: self.dataset.labels(items, domain) for domain in judges}
        check_reconstructions(trained.name, vae, getattr(self, trained.name), judges, test, truth)
        with atomic(folder) as temporary:
            vae.save_pretrained(temporary)
        self.finish(trained.name, trained)
        return vae

    # U-Net and text encoder

    def fresh(self, vae: AutoencoderKL, texts: list[str], latents: Tensor) -> StableDiffusionPipeline:
        torch.manual_seed(self.seed + 2)
        return fresh_pipeline(vae, make_tokenizer(texts, self.diffusion.max_length), latents, self.diffusion)

    def tokens(self, pipe: StableDiffusionPipeline, texts: list[str]) -> Tensor:
        check_lengths(pipe.tokenizer, texts)
        return tokenise(pipe.tokenizer, texts)

    def loss(
        self, pipe: StableDiffusionPipeline, latents: Tensor, owner: Tensor, chance: Tensor, captions: Captions
    ) -> Loss:
        return tiered_loss(pipe, latents, owner, chance, captions, self.diffusion)
