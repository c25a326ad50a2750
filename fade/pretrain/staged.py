"""What every pretraining does: its folder is claimed and gone on with, and its last stage trains what draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from fade.checked import Count, Seed, Side
from fade.console import doing
from fade.data.dataset import SPLITS, Dataset, Item
from fade.errors import BadInput
from fade.files import content_hash, read_json, unharmed, write_json
from fade.pretrain.autoencoder import encoded
from fade.pretrain.diffusion import load_pipeline
from fade.pretrain.images import load_images
from fade.pretrain.stage import Loss, Schedule, Stage, train
from fade.tensors import read_tensors, write_tensors


class Staged:
    """look_every: steps between two looks at what a stage makes. accelerator, devices: Lightning's. flip: whether the
    images' mirrored copies are shown too. stages: in their order, each needs what the ones before it left.

    Writes `out/recipe.json`, what was asked for and of which images. Raises BadInput where `out` holds another recipe,
    or one of other images."""

    stages: tuple[str, ...] = ("diffusion",)

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        size: Side,
        diffusion: Any,
        seed: Seed,
        look_every: Count,
        workers: Count,
        accelerator: str,
        devices: Count,
        flip: bool = False,
    ) -> None:
        self.dataset, self.out, self.size, self.seed, self.flip = dataset, out, size, seed, flip
        self.diffusion = diffusion
        self.look_every, self.workers, self.accelerator, self.devices = look_every, workers, accelerator, devices
        self.state = out / "state"

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

    def encoded_once(self, vae: AutoencoderKL, *groups: Tensor) -> Tensor:
        """Scaled latents of all the images, from the file if they are there."""
        path = self.state / "latents.safetensors"
        found = unharmed(path, read_tensors)
        if found is None:
            doing(f"encoding {sum(map(len, groups))} images")
            found = {"latents": torch.cat([encoded(vae, x) for x in groups]) * vae.config.scaling_factor}, {}
            write_tensors(path, found[0])
        return found[0]["latents"]

    def load(self, folder: Path) -> DiffusionPipeline:
        return load_pipeline(folder)

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

    def sampling(self) -> dict[str, Any]:
        """What the pipeline's call is given beside texts and latents."""
        return {"num_inference_steps": self.diffusion.sampling_steps, "guidance_scale": self.diffusion.guidance}

    def draw(self, pipe: DiffusionPipeline, texts: list[str], latents: Tensor, batch: int) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on the CPU, one a text, each from its latent (N, C, h, w)."""
        parts = (slice(start, start + batch) for start in range(0, len(texts), batch))
        made = [pipe(texts[part], latents=latents[part], output_type="pt", **self.sampling()).images for part in parts]
        return torch.cat([images.float().cpu() for images in made])


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
