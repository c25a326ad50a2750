"""Trains a small text-to-image pipeline and its judges from scratch, for any dataset of the suite.

Judges, then the autoencoder (which they help to teach), then text encoder and U-Net together. Each stage writes its
state every minute and goes on from it; a stage that is done is not done again.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, one_hot
from torchvision.utils import make_grid
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fade.data.dataset import Dataset, Item
from fade.errors import BadInput
from fade.files import read_json, read_tensors, whole, write_json, write_tensors
from fade.judges import Judge, accuracy

log = logging.getLogger(__name__)
SAVE_EVERY_S = 60.0


# --- images -----------------------------------------------------------------------------------------------------------


def _chunk(dataset: Dataset, items: list[Item], size: int) -> Tensor:
    return dataset.images(items, size)


def load_images(dataset: Dataset, split: str, size: int, cache: Path, workers: int) -> tuple[Tensor, list[Item]]:
    """All images of a split as uint8 (N, 3, size, size), read once and kept in `cache`."""
    items = dataset.items(split)
    path = cache / f"{split}-{dataset.fingerprint(items, size)}.safetensors"
    if not path.is_file():
        log.info("reading %d images of the %s split at %d px", len(items), split, size)
        chunks = [items[i : i + 256] for i in range(0, len(items), 256)]
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:  # a fork hangs after torch ran
            parts = list(pool.map(_chunk, [dataset] * len(chunks), chunks, [size] * len(chunks)))
        write_tensors(path, {"images": torch.cat(parts)})
    return read_tensors(path)[0]["images"], items


def sheet(images: Tensor, path: Path, columns: int) -> None:
    """Write a contact sheet of images (N, 3, H, W) in [0, 1]."""
    grid = make_grid(images.clamp(0, 1), nrow=columns, padding=2, pad_value=1.0)
    with whole(path) as temporary:
        Image.fromarray((grid * 255).round().byte().permute(1, 2, 0).numpy()).save(temporary, format="png")


# --- one loop for the three trainings ---------------------------------------------------------------------------------


class Loop:
    """AdamW with warm-up and cosine decay, an exponential moving average, and a state file to resume from.

    At each step of `restarts` the warm-up and the cosine begin again (Loshchilov and Hutter 2017, SGDR). Step i draws
    all its randomness from (seed, i), so a training that was killed ends as one that was not.
    """

    def __init__(
        self,
        network: nn.Module,
        state: Path,
        steps: int,
        rate: float,
        ema: float,
        seed: int,
        restarts: Sequence[int] = (),
    ) -> None:
        self.network, self.state, self.steps, self.rate, self.seed, self.decay = network, state, steps, rate, seed, ema
        self.corners = [0, *restarts, steps]
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        if state.is_file():
            self._read()

    def _rate(self) -> float:
        leg = bisect_right(self.corners, self.step) - 1
        begin, end = self.corners[leg], self.corners[leg + 1]
        warm = min(1.0, (self.step - begin + 1) / 200)
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * (self.step - begin) / (end - begin)))

    def run(self, name: str, loss: Callable[[], Tensor], look: Callable[[], None], look_every_s: float) -> None:
        """Train to the last step; about every `look_every_s` seconds call `look` with the averaged weights in place."""
        began = saved = looked = said = time.monotonic()
        first, mean = self.step, 0.0
        while self.step < self.steps:
            before = time.monotonic()
            value = self._update(loss, name)
            self.seconds += time.monotonic() - before
            mean = value if self.step == first + 1 else 0.98 * mean + 0.02 * value
            now = time.monotonic()
            if now - said > 20 or self.step == self.steps:
                speed = (self.step - first) / (now - began)
                left = (self.steps - self.step) / speed / 60
                log.info(
                    "%s: step %d/%d, loss %.4f, %.1f steps/s, %.0f min left", name, self.step, self.steps, mean, speed, left
                )
                said = now
            if now - saved > SAVE_EVERY_S or self.step == self.steps:
                self._write()
                saved = now
            if now - looked > look_every_s and self.step < self.steps:
                self.with_average(look)
                looked = time.monotonic()

    def _update(self, loss: Callable[[], Tensor], name: str) -> float:
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.network.train()
        value = loss()
        if not torch.isfinite(value):
            raise RuntimeError(f"{name}: the loss is {value.item()} at step {self.step}; lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.decay, self.step / (self.step + 9))
        live = self.network.state_dict()
        floats = [key for key, tensor in live.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[key] for key in floats], [live[key].detach() for key in floats], 1 - keep)
        for key in live.keys() - floats:
            self.average[key].copy_(live[key])
        return value.item()

    def with_average(self, look: Callable[[], None]) -> None:
        """Call `look` while the network holds the averaged weights."""
        live = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()
        with torch.no_grad():
            look()
        self.network.load_state_dict(live)

    def _write(self) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in entry.items()}
        write_tensors(self.state, tensors, {"step": str(self.step), "seconds": str(self.seconds)})

    def _read(self) -> None:
        tensors, metadata = read_tensors(self.state)
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
        self.average = {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        log.info("going on from step %d of %d", self.step, self.steps)


def pick(n: int, batch: int) -> Tensor:
    return torch.randint(0, n, (batch,))


# --- the three stages -------------------------------------------------------------------------------------------------


class Pretraining:
    """The whole recipe; `judge`, `autoencoder` and `diffusion` are its settings, one dict for each stage (conf/pretrain).

    Writes `out/judges/<domain>/`, `out/pipeline/` (fp16, stock diffusers), `out/numbers.json` and contact sheets.
    Raises BadInput where a stage misses the accuracy that the next one needs.
    """

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        size: int,
        judge: dict[str, Any],
        autoencoder: dict[str, Any],
        diffusion: dict[str, Any],
        seed: int = 0,
        flip: bool = False,
        sheet_minutes: float = 4.0,
        workers: int = 2,
    ) -> None:
        self.dataset, self.out, self.size, self.seed, self.flip = dataset, out, size, seed, flip
        self.judge, self.autoencoder, self.diffusion = judge, autoencoder, diffusion
        self.look_every_s, self.workers = 60 * sheet_minutes, workers
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

    def claim(self) -> None:
        """Write the recipe into the folder. Raises BadInput where it holds another one: its stages would be mixed."""
        recipe = {"dataset": self.dataset.name, "template": self.dataset.template, "domains": self.dataset.domains,
                  "size": self.size, "seed": self.seed, "flip": self.flip, "judge": self.judge,
                  "autoencoder": self.autoencoder, "diffusion": self.diffusion}  # fmt: skip
        path = self.out / "recipe.json"
        if path.is_file() and read_json(path) != recipe:
            raise BadInput(
                f"{self.out} was begun with another recipe (see recipe.json); choose another out=FOLDER or delete it"
            )
        write_json(path, recipe)

    def seconds(self) -> dict[str, float]:
        """Seconds of training in each stage, over all the sessions it took."""
        files = sorted(self.state.glob("*.safetensors"))
        found = {file.stem: read_tensors(file)[1].get("seconds") for file in files}
        return {name: round(float(value)) for name, value in found.items() if value is not None}

    def images(self, split: str) -> tuple[Tensor, list[Item]]:
        return load_images(self.dataset, split, self.size, self.state / "images", self.workers)

    def train_judge(self, domain: str) -> Judge:
        folder = self.out / "judges" / domain
        if (folder / "judge.json").is_file():
            return Judge.load(folder)
        s = self.judge
        images, items = self.images("judge")
        truth = self.judged(items, domain)
        torch.manual_seed(self.seed)
        judge = Judge(s["architecture"], domain, self.dataset.domains[domain], s["size"], multilabel=self.dataset.multilabel)
        loop = Loop(judge, self.state / f"judge-{domain}.safetensors", s["steps"], s["rate"], s["ema"], self.seed)

        def loss() -> Tensor:
            index = pick(len(items), s["batch"])
            logits = judge(augment(images[index].float() / 255, self.flip))
            if judge.multilabel:
                return binary_cross_entropy_with_logits(logits, truth[index])
            return cross_entropy(logits, truth[index], label_smoothing=0.05)

        loop.run(f"{domain} judge", loss, lambda: None, math.inf)
        judge.load_state_dict(loop.average)
        judge.eval()
        test, test_items = self.images("test")
        judge.accuracy = accuracy(judge, test, self.judged(test_items, domain))
        said = "mean average precision" if judge.multilabel else "right"
        log.info("%s judge: %.2f %% %s on %d held-out images", domain, 100 * judge.accuracy, said, len(test_items))
        judge.save(folder)
        return judge

    def judged(self, items: list[Item], domain: str) -> Tensor:
        """What a judge should say of the items: class indices (N,), or a table (N, labels) where labels overlap."""
        return self.dataset.shown(items, domain) if self.dataset.multilabel else self.dataset.labels(items, domain)

    def train_autoencoder(self, judges: dict[str, Judge]) -> AutoencoderKL:
        folder = self.out / "state" / "vae"
        if (folder / "config.json").is_file():
            return AutoencoderKL.from_pretrained(folder).eval()
        s = self.autoencoder
        images, _ = self.images("train")
        test, test_items = self.images("test")
        torch.manual_seed(self.seed + 1)
        widths = tuple(s["widths"])
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=1,
            latent_channels=s["channels"],
            norm_num_groups=8,
            sample_size=self.size,
        )
        loop = Loop(vae, self.state / "vae.safetensors", s["steps"], s["rate"], s["ema"], self.seed + 1)
        for judge in judges.values():
            judge.requires_grad_(False)

        def loss() -> Tensor:
            x = images[pick(len(images), s["batch"])].float() / 127.5 - 1
            if self.flip:
                x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
            with torch.autocast("cpu", torch.bfloat16, enabled=s["bf16"]):
                posterior = vae.encode(x).latent_dist
                y = vae.decode(posterior.sample()).sample
                value = s["feature_weight"] * sum(map_distance(judge, x, y) for judge in judges.values())
            y = y.float()
            value = value + (y - x).abs().mean() + mse_loss(y, x) + edge_distance(y, x)
            return value + s["kl_weight"] * posterior.kl().float().mean() / posterior.mean[0].numel()

        def look() -> None:
            chosen = test[torch.linspace(0, len(test) - 1, 36).long()].float() / 127.5 - 1
            rebuilt = vae(chosen).sample
            error = mse_loss(rebuilt.clamp(-1, 1), chosen).item()
            log.info("autoencoder: %.2f dB on held-out images", 10 * math.log10(4 / error))
            pairs = torch.stack([chosen, rebuilt], 1).flatten(0, 1)
            sheet(pairs / 2 + 0.5, self.out / "sheets" / "autoencoder.png", 12)

        loop.run("autoencoder", loss, look, self.look_every_s)
        vae.load_state_dict(loop.average)
        vae.eval()
        with torch.no_grad():
            look()
            rebuilt = torch.cat([vae(x.float() / 127.5 - 1).sample.clamp(-1, 1) / 2 + 0.5 for x in test.split(64)])
            latents = torch.cat([vae.encode(x.float() / 127.5 - 1).latent_dist.mode() for x in images[::16].split(64)])
        vae.register_to_config(scaling_factor=1 / latents.std().item())
        for domain, judge in judges.items():
            kept = accuracy(judge, rebuilt, self.judged(test_items, domain))
            log.info("autoencoder: the %s judge reads %.2f %% of the reconstructions (%.2f %% of the originals)",
                     domain, 100 * kept, 100 * (judge.accuracy or 0))  # fmt: skip
            if kept < s["gate"] * (judge.accuracy or 1):
                raise BadInput(f"autoencoder: only {kept:.1%} of the reconstructions keep their {domain}; train it longer")
        with whole(folder) as temporary:
            vae.save_pretrained(temporary)
        return vae

    def train_diffusion(self, vae: AutoencoderKL, judges: dict[str, Judge]) -> StableDiffusionPipeline:
        folder = self.out / "pipeline"
        if (folder / "model_index.json").is_file():
            return load_pipeline(folder)
        s = self.diffusion
        latents, items = self.latents(vae)
        captions, owner = self.captions(items)
        torch.manual_seed(self.seed + 2)
        tokenizer = make_tokenizer([text for group in captions for text in group], s["max_length"])
        text_encoder = make_text_encoder(tokenizer, s)
        unet = make_unet(s, latents.shape[1], latents.shape[-1])
        scheduler = DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction",
            rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, steps_offset=1,
        )  # fmt: skip
        network = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
        pipe = make_pipeline(vae, text_encoder, tokenizer, unet, scheduler)
        loop = Loop(
            network, self.state / "diffusion.safetensors", s["steps"], s["rate"], s["ema"], self.seed + 2, s["restarts"]
        )
        tokens = torch.stack([tokenise(tokenizer, group) for group in captions])  # (cells, kinds, L)
        shares = torch.tensor([1 - s["empty"] - s["partial"] * (tokens.shape[1] - 2), s["empty"]]
                              + [s["partial"]] * (tokens.shape[1] - 2))  # fmt: skip

        def loss() -> Tensor:
            index = pick(len(latents), s["batch"])
            z = latents[index]
            kind = torch.multinomial(shares, len(z), replacement=True)
            t = (1000 * torch.rand(len(z)) ** s["time_power"]).long().clamp(max=999)
            noise = torch.randn_like(z)
            embedding = text_encoder(tokens[owner[index], kind])[0]
            guess = unet(scheduler.add_noise(z, noise, t), t, embedding).sample
            return mse_loss(guess, scheduler.get_velocity(z, noise, t))

        def look() -> None:
            made, cells = self.grid(pipe, seeds=[0])
            found = {d: accuracy(j, made, self.truth(cells, d)) for d, j in judges.items()}
            log.info("diffusion: " + ", ".join(f"{d} {100 * v:.1f} %" for d, v in found.items()) + " on the grid")
            sheet(made, self.out / "sheets" / "grid.png", len(list(self.dataset.domains.values())[-1]))

        loop.run("diffusion", loss, look, self.look_every_s)
        network.load_state_dict(loop.average)
        network.eval()
        vae.register_to_config(_name_or_path="")  # else the folder of this machine is written into the weights
        with whole(folder) as temporary:
            pipe.to(dtype=torch.float16).save_pretrained(temporary)
        return load_pipeline(folder)

    def latents(self, vae: AutoencoderKL) -> tuple[Tensor, list[Item]]:
        """Scaled latents (N, C, h, w) of the train split, encoded once; mirrored copies follow where `flip` is set."""
        path = self.state / "latents.safetensors"
        images, items = self.images("train")
        items = items * 2 if self.flip else items
        if not path.is_file():
            log.info("encoding %d images", len(items))
            both = [images, images.flip(-1)] if self.flip else [images]
            with torch.no_grad():
                encoded = [vae.encode(x.float() / 127.5 - 1).latent_dist.mode() for b in both for x in b.split(64)]
            write_tensors(path, {"latents": torch.cat(encoded) * vae.config.scaling_factor})
        return read_tensors(path)[0]["latents"], items

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

    def grid(self, pipe: StableDiffusionPipeline, seeds: list[int]) -> tuple[Tensor, list[dict[str, str]]]:
        """Images (N, 3, H, W) in [0, 1] of every cell for every seed."""
        cells = [cell for seed in seeds for cell in self.dataset.cells()]
        made = []
        for seed in seeds:
            shape = (1, pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
            latent = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            texts = [self.dataset.caption(cell) for cell in self.dataset.cells()]
            for start in range(0, len(texts), 36):
                prompts = texts[start : start + 36]
                made.append(pipe(prompts, latents=latent.expand(len(prompts), -1, -1, -1), output_type="pt",
                                 num_inference_steps=self.diffusion["sampling_steps"],
                                 guidance_scale=self.diffusion["guidance"]).images)  # fmt: skip
        return torch.cat(made), cells

    def measure(self, pipe: StableDiffusionPipeline, judges: dict[str, Judge]) -> dict[str, Any]:
        """The numbers of the shipped weights: judge accuracies, grid accuracies over five seeds, images per second."""
        self.grid(pipe, seeds=[99])
        began = time.monotonic()
        made, cells = self.grid(pipe, seeds=list(range(5)))
        speed = len(cells) / (time.monotonic() - began)
        sheet(made[: len(self.dataset.cells())], self.out / "sheets" / "grid.png", len(list(self.dataset.domains.values())[-1]))
        return {
            "judges": {d: j.accuracy for d, j in judges.items()},
            "grid": {d: accuracy(j, made, self.truth(cells, d)) for d, j in judges.items()},
            "grid_images": len(cells),
            "images_per_s": speed,
            "parameters": sum(p.numel() for m in (pipe.unet, pipe.vae, pipe.text_encoder) for p in m.parameters()),
        }


# --- parts ------------------------------------------------------------------------------------------------------------


def augment(x: Tensor, flip: bool) -> Tensor:
    """Small shifts and a little noise (and mirroring), so that a judge reads shapes and not single pixels."""
    if flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
    shift = torch.randint(-3, 4, (2,)).tolist()
    return x.roll(shift, (-2, -1)) + 0.05 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


def map_distance(judge: Judge, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of a judge's feature maps, each map scaled by its own size; x, y in [-1, 1]."""
    with torch.no_grad():
        wanted = judge.eval().maps(x / 2 + 0.5)[:3]
    made = judge.maps(y / 2 + 0.5)[:3]
    return sum((mse_loss(b, a) / (a.square().mean() + 1e-6) for a, b in zip(wanted, made, strict=True)), torch.zeros(()))


def edge_distance(x: Tensor, y: Tensor) -> Tensor:
    """L1 distance of the horizontal and vertical differences of neighbouring pixels."""
    return sum(((x.diff(dim=d) - y.diff(dim=d)).abs().mean() for d in (-2, -1)), torch.zeros(()))


def make_tokenizer(texts: list[str], max_length: int) -> CLIPTokenizer:
    """A CLIPTokenizer whose vocabulary holds every word of the captions, and every byte for words it has never seen."""
    stock = CLIPTokenizer()._tokenizer
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer, trained.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
    trained.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=16_384, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(f"{c}</w>" for c in letters), *model["vocab"], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids (B, L)."""
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def make_text_encoder(tokenizer: CLIPTokenizer, s: dict[str, Any]) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=s["text_width"], intermediate_size=4 * s["text_width"],
        projection_dim=s["text_width"], num_hidden_layers=s["text_layers"], num_attention_heads=4,
        max_position_embeddings=s["max_length"], bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    encoder = CLIPTextModel(config)
    # With CLIP's own initialisation (std 0.02) the object words collapse onto one another and the model ignores them.
    nn.init.normal_(encoder.get_input_embeddings().weight, std=1.0)
    return encoder


def make_unet(s: dict[str, Any], channels: int, side: int) -> UNet2DConditionModel:
    widths = tuple(s["widths"])
    return UNet2DConditionModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths), up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        layers_per_block=s["layers"], cross_attention_dim=s["text_width"], attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def make_pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe
