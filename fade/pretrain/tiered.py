"""Pretraining on a grid whose captions come in tiers, with scenes of two objects, and judges that teach nobody.

As `Pretraining`, and: the judges that teach the autoencoder (`teachers/`) are not those that judge (`judges/`), which
are of another architecture and seed; captions are drawn over all tiers; `without` leaves one concept out of all of it.
"""

from __future__ import annotations

import copy
import logging
import time
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
from fade.data.dataset import Item
from fade.data.language import PAIR
from fade.data.prompts import find_domain
from fade.errors import BadInput
from fade.files import atomic, file_hash, read_json, write_json
from fade.judges import Judge, accuracy
from fade.pretrain import Pretraining, encoded
from fade.pretrain.asked import asked, right
from fade.pretrain.autoencoder import AutoencoderSettings, autoencoder_loss, make_autoencoder
from fade.pretrain.captions import Captions, Shown, chances, check_lengths, tiered_loss, told
from fade.pretrain.diffusion import DiffusionSettings, load_pipeline, make_pipeline, make_tokenizer, tokenise
from fade.pretrain.images import sheet
from fade.pretrain.judge import JudgeSettings, judge_loss
from fade.pretrain.oracle import sign
from fade.pretrain.stage import Stage

log = logging.getLogger(__name__)


def unet_of(folder: Path) -> Path:
    """The weights of the U-Net that pretraining has left in a folder."""
    return folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"


class TieredPretraining(Pretraining):
    """verdict: the judges that judge, and nothing else. decoder: how it goes on once its latents stand. shares: how
    often a caption of each tier is drawn, beside `empty` and `partial`. warm: a folder of an autoencoder to begin from.
    scenes: the share of scenes of two objects among what U-Net and text encoder see. start: a folder that pretraining
    has left, from whose weights U-Net, text encoder and decoder go on; its judges and its latents stand. without: a
    concept that U-Net and text encoder never see, in no image and in no caption; the judges and the autoencoder are
    those of `base`, such a folder too."""

    dataset: Canvas

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
        super().__init__(
            dataset, out, size, judge, autoencoder, diffusion, seed, False, look_every, workers, accelerator, devices
        )
        self.verdict, self.decoder, self.shares, self.scenes = verdict, decoder, shares, scenes
        self.warm, self.without = warm, without
        self.start, self.base = (None if folder is None else Path(folder) for folder in (start, base))
        self.check_shares()
        self.check_without()
        self.check_start()

    def check_shares(self) -> None:
        for tier in self.shares:
            if tier not in self.dataset.language.tiers or tier == PAIR:
                known = ", ".join(t for t in self.dataset.language.tiers if t != PAIR)
                raise BadInput(f"pretrain.shares has the tier {tier!r}; the tiers of {self.dataset.name} are {known}")
        total = sum(self.shares.values()) + self.diffusion.empty + self.diffusion.partial * len(self.dataset.partials)
        if not abs(total - 1) < 1e-6:
            raise BadInput(
                f"pretrain.shares, diffusion.empty and diffusion.partial (once a domain) sum to {total:g}; make it 1"
            )

    def check_without(self) -> None:
        """Raises BadInput for a concept that is none, for the style that is none, and for a base that is missing."""
        if self.without is None:
            return
        find_domain(self.without, self.dataset.domains, "pretrain.without")
        if self.without == self.dataset.photo_style:
            raise BadInput(
                f"pretrain.without is {self.without!r}, the style that is none: every model has seen it; name another"
            )
        if self.base is None or not (self.base / "pipeline" / "vae").is_dir():
            raise BadInput(
                "pretrain.without needs pretrain.base=FOLDER, whose autoencoder and judges it shares; "
                f"{self.base} holds none: run task=pretrain out=FOLDER first"
            )

    def check_start(self) -> None:
        """Raises BadInput for weights to go on from that are missing, or that have seen what is to be left out."""
        if self.start is None:
            return
        if self.without is not None:
            raise BadInput("pretrain.without begins from nothing, pretrain.start from weights; leave one out")
        if not unet_of(self.start).is_file():
            raise BadInput(f"pretrain.start={self.start} holds no pipeline/unet; name a folder that task=pretrain left")

    def run(self) -> dict[str, Any]:
        self.claim()
        judges = self.train()
        pipe = load_pipeline(self.out / "pipeline")
        sign(self.out, pipe.vae)
        found = {**self.measure(pipe, judges), "training_s": self.seconds()}
        write_json(self.out / "numbers.json", found)
        return found

    def train(self) -> dict[str, Judge]:
        """The stages that are asked for; the judges that judge."""
        if self.base is not None and self.without is not None:
            return self.train_oracle(self.base)
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

    def train_oracle(self, base: Path) -> dict[str, Judge]:
        """U-Net and text encoder alone, on the latents of the base's autoencoder; the base's judges."""
        judges, vae = self.stand(base)
        self.train_diffusion(vae, judges)
        return judges

    def stand(self, folder: Path) -> tuple[dict[str, Judge], AutoencoderKL]:
        """The judges and the autoencoder that pretraining has left in a folder."""
        judges = {domain: Judge.load(folder / "judges" / domain) for domain in self.dataset.domains}
        return judges, AutoencoderKL.from_pretrained(folder / "pipeline" / "vae", torch_dtype=torch.float32).eval()

    def claim(self) -> None:
        """As before; the folder also remembers its language, its second judges and what it never saw."""
        path = self.out / "tiers.json"
        language = self.dataset.language
        asked = {
            "sentences": language.sentences,
            "said": language.said,
            "without": self.without,
            "start": None if self.start is None else file_hash(unet_of(self.start)),
            "shares": self.shares,
            "scenes": self.scenes,
            "verdict": asdict(self.verdict),
        }
        before = read_json(path) if path.is_file() else asked
        for key, value in asked.items():
            if before.get(key) != value:
                raise BadInput(f"{self.out} was begun with another {key} (see tiers.json); choose another out=FOLDER")
        super().claim()
        write_json(path, asked)

    # judges

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

    # autoencoder

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

        look = partial(self.show_reconstructions, name, vae, test[:: len(test) // 48][:48], 16)
        loss = autoencoder_loss(vae, list(judges.values()), images, s, False)
        stage = Stage(name, vae, loss, s, self.seed + 1, look)
        self.fit(stage)
        look()
        return stage

    def passed(self, vae: AutoencoderKL, folder: Path, trained: Stage, judges: dict[str, Judge]) -> AutoencoderKL:
        """The autoencoder, kept, where the judges that taught it nothing read in reconstructions what they read in the
        originals. Raises BadInput where they do not."""
        self.check_reconstructions(trained.name, vae, judges)
        with atomic(folder) as temporary:
            vae.save_pretrained(temporary)
        self.finish(trained.name, trained)
        return vae

    # U-Net and text encoder

    def train_diffusion(self, vae: AutoencoderKL, judges: dict[str, Judge]) -> StableDiffusionPipeline:
        folder, s = self.out / "pipeline", self.diffusion
        if self.done("diffusion"):
            return load_pipeline(folder)
        latents, items = self.every_latent(vae)
        shown = self.shown([item.concepts for item in items])
        place = {concepts: k for k, concepts in enumerate(shown)}
        texts, first, count, shares = told(self.dataset, shown, self.shares, s.partial, s.empty)
        pipe = self.begun(vae, sorted(set(texts)), latents)
        captions = Captions(tokenise(pipe.tokenizer, texts), first, count, shares)

        def look() -> None:
            pipe.to(pipe.unet.device)
            found, made = self.ask(pipe, judges, seeds=[0], images=64)
            log.info(
                "diffusion: style/object "
                + ", ".join(f"{k} {100 * v['style']:.0f}/{100 * v['object']:.0f}" for k, v in found.items())
            )
            sheet(made, self.out / "sheets" / "grid.png", 16)

        owner = torch.tensor([place[item.concepts] for item in items])
        two = torch.tensor([len(item.concepts) > len(self.dataset.domains) for item in items])
        loss = tiered_loss(pipe, latents, owner, chances(two, self.scenes), captions, s)
        stage = self.fit_diffusion(pipe, loss, look)
        self.finished(pipe, vae)
        self.finish("diffusion", stage)
        return load_pipeline(folder)

    def begun(self, vae: AutoencoderKL, texts: list[str], latents: Tensor) -> StableDiffusionPipeline:
        """A fresh text encoder and U-Net around the autoencoder, with a vocabulary of the texts; or those of `start`,
        with its own. Raises BadInput for a text that the tokenizer would cut."""
        if self.start is None:
            tokenizer = make_tokenizer(texts, self.diffusion.max_length)
            pipe = self.untrained(vae, tokenizer, latents)
        else:
            pipe = load_pipeline(self.start / "pipeline")
            pipe.vae = vae
        check_lengths(pipe.tokenizer, texts)
        return pipe

    def finished(self, pipe: StableDiffusionPipeline, vae: AutoencoderKL) -> None:
        """Write the pipeline in float16, with this autoencoder."""
        parts = [copy.deepcopy(part).to("cpu", torch.float16) for part in (vae, pipe.text_encoder, pipe.unet)]
        for part in (parts[0], parts[2]):  # else the folder of this machine is written into the weights
            part.register_to_config(_name_or_path="")
        half = make_pipeline(parts[0], parts[1], pipe.tokenizer, parts[2], pipe.scheduler)
        with atomic(self.out / "pipeline") as temporary:
            half.save_pretrained(temporary)

    def every_latent(self, vae: AutoencoderKL) -> tuple[Tensor, list[Item]]:
        """Scaled latents (N, C, h, w) of the train split and of its scenes of two, encoded once; those of `without`
        left out."""
        (single, items), (two, more) = (self.images(split) for split in ("train", "train-pairs"))
        latents, items = self.encoded_once(vae, torch.cat([single, two])), [*items, *more]
        kept = [k for k, item in enumerate(items) if self.without not in item.concepts]
        return latents[torch.tensor(kept)], [items[k] for k in kept]

    def shown(self, cells: list[Shown]) -> list[Shown]:
        """Each cell once, in order, those of `without` left out."""
        return sorted({cell for cell in cells if self.without not in cell})

    # what came out

    @torch.no_grad()
    def ask(
        self, pipe: StableDiffusionPipeline, judges: dict[str, Judge], seeds: list[int], images: int | None = None
    ) -> tuple[dict[str, dict[str, float]], Tensor]:
        """For each tier the judges' accuracies on what is drawn, captions in turn; and the drawings, the first
        seed's."""
        found, made = {}, []
        for tier in self.dataset.language.tiers:
            cells, drawn = asked(self.dataset, self.without, tier, images), []
            for seed in seeds:
                texts = [
                    (group := self.dataset.language.captions(c, tier))[(k + seed) % len(group)]
                    for k, c in enumerate(cells)
                ]
                drawn.append(self.drawn(pipe, texts, seed))
            found[tier] = right(judges, torch.cat(drawn), cells * len(seeds))
            made.append(drawn[0])
        return found, torch.cat(made)

    def drawn(self, pipe: StableDiffusionPipeline, texts: list[str], seed: int) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the CPU; image k of a seed begins from the same noise in every tier."""
        generator = torch.Generator().manual_seed(seed)
        side = pipe.unet.config.sample_size
        noise = torch.randn(len(texts), pipe.unet.config.in_channels, side, side, generator=generator).to(pipe.device)
        return self.draw(pipe, texts, noise, 32)

    def measure(self, pipe: StableDiffusionPipeline, judges: dict[str, Judge]) -> dict[str, Any]:
        """The numbers of the shipped weights: the judges' accuracies, those of each tier over two seeds, images a
        second."""
        self.drawn(pipe, [""] * 32, 0)
        began = time.monotonic()
        self.drawn(pipe, [self.dataset.caption(cell) for cell in self.dataset.cells()[:128]], 0)
        speed = 128 / (time.monotonic() - began)
        found, made = self.ask(pipe, judges, seeds=[0, 1])
        sheet(made, self.out / "sheets" / "grid.png", 16)
        return {
            "judges": {domain: judge.accuracy for domain, judge in judges.items()},
            "tiers": found,
            "images_per_s": speed,
            "parameters": sum(p.numel() for m in (pipe.unet, pipe.vae, pipe.text_encoder) for p in m.parameters()),
        }
