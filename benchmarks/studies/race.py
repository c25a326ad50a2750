r"""A run of FADE beside its authors' own library: trained on the same images and captions, measured by one meter.

python -m benchmarks.studies.race outputs/RUN --peer FOLDER --steps 25 50 100 --out outputs/race

FOLDER: where vision-unlearning 1.0.0 lies, with what it imports and is not here:
pip install --no-deps --target FOLDER vision-unlearning==1.0.0 datasets dill multiprocess pandas pytz python-dateutil \
  six tzdata

Its self-distillation with a dense LoRA is trained by its own train(), on this environment's torch and diffusers, with
the run's images, batch, rank and loss weights. Seconds are of the wall: leave the machine to the race.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import nn

from benchmarks.measure.target import Answers, TargetMeter
from benchmarks.record.results import Run, read
from benchmarks.report.tables import Table
from benchmarks.runs.reopened import config_of, together
from fade.console import command, doing, one_line
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput, at_least
from fade.files import write_json
from fade.models import Diffusion
from fade.published import filled

PACKAGE = "vision_unlearning"
NUMBERS = ("ua", "ua_template", "ua_synonym", "ua_description", "ira", "cra", "ira_near")
READ = ("pairs", "model", "method", "adapter", "optimizer")
UNUSED = (
    "image_similarity_measures",
    "dadapy",
    "clip",
    "lpips",
    "piq",
    "tensorboard",
    "matplotlib",
    "seaborn",
    "sklearn",
)


class Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that theirs imports and its training never calls."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = name.split(".")[0] in UNUSED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return MagicMock(__path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class Trained(Exception):
    """Raised where theirs would write its result."""


def written(pairs: Pairs, size: int, out: Path) -> Path:
    """The images of either side as files, and the table of them and their captions that theirs reads."""
    rows: dict[str, list[dict[str, str]]] = {}
    domains = list(pairs.dataset.domains)
    for side, items in pairs.choose().items():
        (out / side).mkdir(parents=True, exist_ok=True)
        rows[side] = []
        for k, item in enumerate(items):
            path = out / side / f"{k:04}.png"
            pairs.dataset.image(item, size).save(path)
            told = pairs.told(dict(zip(domains, item.concepts, strict=True)), "name")[0]
            rows[side].append({"image": str(path), "text": told.text, "overwrite": told.surrogate})
    table = out / "images.json"
    write_json(table, rows)
    return table


def their_class(tokenizer: str) -> Any:
    """Their trainer without a tracker, on the CPU where there is no GPU, and with a tokenizer of any class."""
    import vision_unlearning.unlearner.lora as lora
    from accelerate import Accelerator
    from transformers import AutoTokenizer
    from vision_unlearning.unlearner.fade import UnlearnerLoraDistillation

    class Peer(UnlearnerLoraDistillation):  # type: ignore[misc]
        def _get_accelerator(self) -> Accelerator:
            return Accelerator(cpu=not torch.cuda.is_available())

        def _save_lora_layers(self) -> None:
            raise Trained

        def _prepare_dataloaders(self) -> Any:
            self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
            return super()._prepare_dataloaders()

    lora.CLIPTokenizer = MagicMock()
    if not torch.cuda.is_available():  # which it asks in every step
        torch.cuda.synchronize = torch.cuda.reset_peak_memory_stats = lambda *_: None
    return Peer


def their_settings(config: dict[str, Any], size: int, table: Path, steps: int, out: Path) -> dict[str, Any]:
    """The run's own in their words; both rates fall along a cosine behind a warm-up."""
    from vision_unlearning.utils.gradient_weighting import GradientWeightingMethodSimple

    terms, rank = config["method"]["terms"], config["adapter"]["rank"]
    return {
        "model_name_or_path": config["model"]["path"],
        "dataset_forget_name": "",
        "dataset_retain_name": "",
        "json_metafile": str(table),
        "cache_dir": str(out / "datasets"),
        "output_dir": str(out / "peer"),
        "resolution": size,
        "center_crop": True,
        "per_device_train_batch_size": config["pairs"]["batch"],
        "gradient_accumulation_steps": 1,
        "learning_rate": config["optimizer"]["build"]["lr"],
        "lr_warmup_steps": config["optimizer"]["schedule"]["warmup"],
        "max_train_steps": steps,
        "lora_r": rank,
        "lora_alpha": rank,
        "gradient_weighting_method": GradientWeightingMethodSimple(
            forget_weight=terms["forget"], retain_weight=terms["retain"]
        ),
        "is_lora_negated": False,
        "checkpointing_steps": 10**6,
        "seed": config["seed"],
    }


def theirs(config: dict[str, Any], size: int, table: Path, steps: int, out: Path) -> tuple[nn.Module, float]:
    """The U-Net as their train() leaves it, and the seconds that it took."""
    peer = their_class(f"{config['model']['path']}/tokenizer")(**their_settings(config, size, table, steps, out))
    began = time.monotonic()
    with suppress(Trained):
        peer.train()
    return peer._unet.eval().requires_grad_(False), time.monotonic() - began


def reached(meter: TargetMeter, model: Diffusion, unet: nn.Module, base: Answers, folder: Path) -> dict[str, Any]:
    """The metrics of the pipeline with that U-Net."""
    own = model.network
    model.unet = model.pipe.unet = unet
    try:
        return meter.results(meter.answers(model, folder), base)["metrics"]
    finally:
        model.unet = model.pipe.unet = own


def race(run: Run, steps: Sequence[int], out: Path) -> Table:
    """A row for the run, and one for theirs after each number of steps."""
    plain = config_of(run.folder)
    config = {**plain, **filled(plain, READ)}
    model, benchmark = together([run.folder], out / "cache")
    request = Request.of(benchmark.dataset, config["target"], config["surrogate"], config["within"])
    meter = TargetMeter(benchmark.of(request), request, config["pairs"]["seen"])
    meter.check(model)
    base = meter.base(model, model.sha256())
    table = written(Pairs(benchmark.dataset, request, **config["pairs"], cache=out / "cache"), model.size, out)
    ours = run.results["cost"]["train_s"]
    rows = [
        row(
            f"{config['method']['_target_'].rpartition('.')[2]}, {run.folder.name}",
            run.results["cost"]["steps"],
            ours,
            ours,
            run.metrics,
        )
    ]
    for n in steps:
        doing(f"their train(), {n} steps")
        unet, seconds = theirs(config, model.size, table, n, out)
        rows.append(row("vision-unlearning", n, seconds, ours, reached(meter, model, unet, base, out / f"theirs-{n}")))
    return Table.of(["who", "steps", "train s", "of the run's", *NUMBERS], rows)


def row(who: str, steps: int, seconds: float, ours: float, metrics: dict[str, Any]) -> list[str]:
    shares = [f"{100 * metrics[name]['value']:.1f}" if name in metrics else "–" for name in NUMBERS]
    return [who, str(steps), f"{seconds:.1f}", f"{seconds / ours:.2f}", *shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of method=fade, with a low-rank adapter")
    parser.add_argument("--peer", type=Path, required=True, help="the folder of vision-unlearning")
    parser.add_argument("--steps", type=int, nargs="+", default=[100], help="of theirs, a training each")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with one_line(given.out):
        for n in given.steps:
            at_least(1, steps=n)
        if not (given.peer / PACKAGE).is_dir():
            raise BadInput(f"{given.peer} holds no {PACKAGE}; --help says how to install it there")
        runs, problems = read([given.run])
        if len(runs) != 1:
            raise BadInput(
                f"{given.run} holds {len(runs)} finished runs; name one{''.join(f'; {p}' for p in problems)}"
            )
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
        sys.path.append(str(given.peer))
        sys.meta_path.append(Unused())
        table = race(runs[0], given.steps, given.out)
        table.write(given.out, "race")
        print(table.markdown())


if __name__ == "__main__":
    command(main)
