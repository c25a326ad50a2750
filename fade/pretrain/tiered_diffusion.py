"""What draws a grid whose captions come in tiers, with scenes of two objects: trained on latents that stand."""

from __future__ import annotations

import copy
import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import Tensor

from fade.checked import Count, Portion, Seed, Side
from fade.data.canvas.dataset import Canvas
from fade.data.dataset import Item
from fade.data.language import PAIR
from fade.data.prompts import find_domain
from fade.errors import BadInput
from fade.files import atomic, file_hash, read_json, write_json
from fade.judges import Judge
from fade.pretrain.asked import asked, right
from fade.pretrain.captions import Captions, Shown, chances, told
from fade.pretrain.images import sheet
from fade.pretrain.oracle import sign
from fade.pretrain.stage import Loss
from fade.pretrain.staged import Staged

log = logging.getLogger(__name__)


class TieredDiffusion(Staged, ABC):
    """As `Staged`: the last stage alone, around the autoencoder of `base`, a folder that pretraining has left, and read
    by its judges. Captions are drawn over all tiers; shares: how often one of each tier, beside `empty` and `partial`.
    scenes: the share of scenes of two objects among what is seen. start: a folder that pretraining has left, from
    whose weights it goes on; its judges and its latents stand. without: a concept that is never seen, in no image and
    in no caption.

    Writes `out/pipeline/` (fp16, stock diffusers), `out/numbers.json`, `out/tiers.json` and contact sheets.
    """

    dataset: Canvas
    network = "unet"  # the folder of what denoises, in a pipeline

    def __init__(
        self,
        dataset: Canvas,
        out: Path,
        size: Side,
        diffusion: Any,
        shares: dict[str, float],
        scenes: Portion,
        seed: Seed = 0,
        look_every: Count = 1000,
        workers: Count = 2,
        accelerator: str = "auto",
        devices: Count = 1,
        start: str | None = None,
        without: str | None = None,
        base: str | None = None,
    ) -> None:
        super().__init__(dataset, out, size, diffusion, seed, look_every, workers, accelerator, devices)
        self.shares, self.scenes, self.without = shares, scenes, without
        self.start, self.base = (None if folder is None else Path(folder) for folder in (start, base))
        self.check_shares()
        self.check_without()
        self.check_base()
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
        """Raises BadInput for a concept that is none, and for the style that is none."""
        if self.without is None:
            return
        find_domain(self.without, self.dataset.domains, "pretrain.without")
        if self.without == self.dataset.photo_style:
            raise BadInput(
                f"pretrain.without is {self.without!r}, the style that is none: every model has seen it; name another"
            )

    def check_base(self) -> None:
        """Raises BadInput where the autoencoder and the judges that it needs are missing."""
        self.standing()

    def standing(self) -> Path:
        """The folder whose autoencoder and judges it shares. Raises BadInput where it holds none."""
        if self.base is None or not (self.base / "pipeline" / "vae").is_dir():
            raise BadInput(
                f"{'this recipe' if self.without is None else 'pretrain.without'} needs pretrain.base=FOLDER, whose "
                f"autoencoder and judges it shares; {self.base} holds none: run task=pretrain out=FOLDER first"
            )
        return self.base

    def check_start(self) -> None:
        """Raises BadInput for weights to go on from that are missing, or that have seen what is to be left out."""
        if self.start is None:
            return
        if self.without is not None:
            raise BadInput("pretrain.without begins from nothing, pretrain.start from weights; leave one out")
        if not self.weights(self.start).is_file():
            raise BadInput(
                f"pretrain.start={self.start} holds no pipeline/{self.network}; name a folder that task=pretrain left"
            )

    def weights(self, folder: Path) -> Path:
        """The weights of what denoises that pretraining has left in a folder."""
        return folder / "pipeline" / self.network / "diffusion_pytorch_model.safetensors"

    def run(self) -> dict[str, Any]:
        """Do the stages that are not done, and measure what came out of them."""
        self.claim()
        judges = self.train()
        pipe = self.load(self.out / "pipeline")
        sign(self.out, pipe.vae)
        found = {**self.measure(pipe, judges), "training_s": self.seconds()}
        write_json(self.out / "numbers.json", found)
        return found

    def train(self) -> dict[str, Judge]:
        """On the latents of the base's autoencoder; the base's judges."""
        judges, vae = self.stand(self.standing())
        self.train_diffusion(vae, judges)
        return judges

    def remembered(self) -> dict[str, Any]:
        """What the folder remembers beside its recipe, in tiers.json: its language, and what it never saw."""
        language = self.dataset.language
        return {
            "sentences": language.sentences,
            "said": language.said,
            "without": self.without,
            "start": None if self.start is None else file_hash(self.weights(self.start)),
            "shares": self.shares,
            "scenes": self.scenes,
        }

    def claim(self) -> None:
        path, asked = self.out / "tiers.json", self.remembered()
        before = read_json(path) if path.is_file() else asked
        for key, value in asked.items():
            if before.get(key) != value:
                raise BadInput(f"{self.out} was begun with another {key} (see tiers.json); choose another out=FOLDER")
        super().claim()
        write_json(path, asked)

    def stand(self, folder: Path) -> tuple[dict[str, Judge], AutoencoderKL]:
        """The judges and the autoencoder that pretraining has left in a folder."""
        judges = {domain: Judge.load(folder / "judges" / domain) for domain in self.dataset.domains}
        return judges, AutoencoderKL.from_pretrained(folder / "pipeline" / "vae", torch_dtype=torch.float32).eval()

    def train_diffusion(self, vae: AutoencoderKL, judges: dict[str, Judge]) -> DiffusionPipeline:
        folder, s = self.out / "pipeline", self.diffusion
        if self.done("diffusion"):
            return self.load(folder)
        latents, items = self.every_latent(vae)
        shown = self.shown([item.concepts for item in items])
        place = {concepts: k for k, concepts in enumerate(shown)}
        texts, first, count, shares = told(self.dataset, shown, self.shares, s.partial, s.empty)
        pipe = self.begun(vae, sorted(set(texts)), latents)
        captions = Captions(self.tokens(pipe, texts), first, count, shares)

        def look() -> None:
            pipe.to(next(self.trained(pipe).parameters()).device)
            found, made = self.ask(pipe, judges, seeds=[0], images=64)
            log.info(
                "diffusion: style/object "
                + ", ".join(f"{k} {100 * v['style']:.0f}/{100 * v['object']:.0f}" for k, v in found.items())
            )
            sheet(made, self.out / "sheets" / "grid.png", 16)

        owner = torch.tensor([place[item.concepts] for item in items])
        two = torch.tensor([len(item.concepts) > len(self.dataset.domains) for item in items])
        stage = self.fit_diffusion(pipe, self.loss(pipe, latents, owner, chances(two, self.scenes), captions), look)
        self.finished(pipe, vae)
        self.finish("diffusion", stage)
        return self.load(folder)

    def begun(self, vae: AutoencoderKL, texts: list[str], latents: Tensor) -> DiffusionPipeline:
        """A fresh pipeline around the autoencoder, with a vocabulary of the texts; or that of `start`, with its own."""
        if self.start is None:
            return self.fresh(vae, texts, latents)
        pipe = self.load(self.start / "pipeline")
        pipe.vae = vae
        return pipe

    @abstractmethod
    def fresh(self, vae: AutoencoderKL, texts: list[str], latents: Tensor) -> DiffusionPipeline:
        """Untrained, of latents (N, C, h, w), around the autoencoder, with a vocabulary of the texts."""

    @abstractmethod
    def tokens(self, pipe: DiffusionPipeline, texts: list[str]) -> Tensor:
        """Token ids (M, ..., L), as `loss` wants them. Raises BadInput for a text that a tokenizer would cut."""

    @abstractmethod
    def loss(self, pipe: DiffusionPipeline, latents: Tensor, owner: Tensor, chance: Tensor, captions: Captions) -> Loss:
        """What is lowered. latents (N, C, h, w); owner (N,): the cell of each, of those that `captions` holds; chance
        (N,): how often each is drawn."""

    def finished(self, pipe: DiffusionPipeline, vae: AutoencoderKL) -> None:
        """Write the pipeline in float16, with this autoencoder."""
        trained = dict(self.trained(pipe).items())
        half = {name: copy.deepcopy(part).to("cpu", torch.float16) for name, part in {**trained, "vae": vae}.items()}
        for name in (self.network, "vae"):  # else the folder of this machine is written into the weights
            half[name].register_to_config(_name_or_path="")
        written = copy.copy(pipe)
        written.register_modules(**half)
        with atomic(self.out / "pipeline") as temporary:
            written.save_pretrained(temporary)

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

    @torch.no_grad()
    def ask(
        self, pipe: DiffusionPipeline, judges: dict[str, Judge], seeds: list[int], images: int | None = None
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

    def drawn(self, pipe: DiffusionPipeline, texts: list[str], seed: int) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the CPU; image k of a seed begins from the same noise in every tier."""
        generator = torch.Generator().manual_seed(seed)
        config = getattr(pipe, self.network).config
        shape = (len(texts), config.in_channels, config.sample_size, config.sample_size)
        noise = torch.randn(shape, generator=generator).to(pipe.device)
        return self.draw(pipe, texts, noise, 32)

    def measure(self, pipe: DiffusionPipeline, judges: dict[str, Judge]) -> dict[str, Any]:
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
            "parameters": sum(p.numel() for m in (*self.trained(pipe).values(), pipe.vae) for p in m.parameters()),
        }
