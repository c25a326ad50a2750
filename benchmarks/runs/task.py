"""What a command line asks for, and the parts of it: dataset, benchmark, model, recipe, record. Hydra is run.py's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.folder import Record, saliency_file
from benchmarks.runs.options import processes
from fade.checked import located
from fade.console import doing, without_bars
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import content_hash
from fade.judges import Judge
from fade.models import Diffusion
from fade.pretrain.staged import check_images
from fade.published import settings
from fade.training.logs import JsonLines, Mirror
from fade.training.recipe import Recipe


@dataclass(frozen=True)
class Task:
    """config: plain values, what is missing left out. text: of config.yaml, what makes a run what it is. chosen: the
    option of each group. overrides: of the command line. swept: what a sweep varies, as it was written.

    make(key, **given): the object that a part of the configuration describes, anew each time. values(key): a part's
    plain values; the caller is told where one is missing. of(config): the task of another configuration.
    """

    config: dict[str, Any]
    text: str
    chosen: dict[str, str]
    overrides: list[str]
    swept: dict[str, Any]
    make: Callable[..., Any]
    values: Callable[[str], Any]
    of: Callable[[dict[str, Any]], Task]

    @property
    def cache(self) -> Path:
        return Path(self.config["cache_dir"])

    def dataset(self) -> Dataset:
        dataset = self.make("dataset")
        print(dataset.summary())
        return dataset

    def request(self, dataset: Dataset) -> Request:
        config = self.config
        return Request.of(dataset, config["target"], config["surrogate"], config["within"])

    def benchmark(self, dataset: Dataset, request: Request | None = None) -> Benchmark:
        """The judges, of those that the dataset names, and the protocol, ready to measure on a device. request: of a
        run that has one; a sequence asks every concept alike."""
        specs = self.values("judges")
        for folder in {Path(spec).parent.parent for spec in specs.values() if isinstance(spec, str)}:
            check_images(folder, dataset)
        judges = {
            domain: Judge.load(spec)
            if isinstance(spec, str)
            else self.make(f"judges.{domain}", domain=domain, labels=labels)
            for domain, labels in dataset.whole.items()
            if (spec := specs.get(domain)) is not None
        }
        device = self.config["device"]
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return Benchmark(dataset, judges, self.make("protocol"), self.cache, kind, request)

    def model(self) -> Diffusion:
        doing("loading the pipeline and hashing its weights")
        without_bars()
        return self.make("model")

    def recipe(self, dataset: Dataset) -> Recipe:
        """Raises BadInput for parts that do not go together, and where a method's rate is not known."""
        config, adapter, optimizer = self.config, self.values("adapter"), self.config["optimizer"]
        method, sparsity, timesteps = (self.make(key) for key in ("method", "sparsity", "timesteps"))
        method.check_family(located(config["model"]["_target_"].removesuffix(".load")))
        if method.terms and optimizer["build"]["lr"] is None:
            raise BadInput(
                f"no known rate for method={self.chosen['method']} on model={self.chosen['model']} (conf/tuned); give "
                "optimizer.build.lr=NUMBER and trainer.max_steps=NUMBER"
            )
        return Recipe(
            dataset,
            method,
            sparsity,
            timesteps,
            located(adapter["_target_"].removesuffix(".attach")),
            settings(adapter),
            self.make("optimizer.build"),
            lambda **given: self.make("trainer")(**given),  # a strategy of processes is good for one training
            config["trainer"]["max_steps"],
            config["pairs"],
            self.cache,
            optimizer["schedule"],
            config["seed"],
            config["checkpoint_every"],
            processes(config["trainer"]),
        )

    def about(self, recipe: Recipe, benchmark: Benchmark) -> dict[str, Any]:
        """What every record of the run says of it."""
        return {
            "method": self.chosen["method"],
            "variant": recipe.method.variant,
            "seeds": {"train": recipe.seed, "images": benchmark.protocol.seeds},
            "timesteps": recipe.timesteps.kind,
            "overrides": self.overrides,
        }

    def record(self, name: str) -> Record:
        config = self.config
        folder = Path(config["out"] or Path(config["output_dir"]) / f"{name}-{content_hash(self.text)[:8]}")
        return Record(folder, self.text, self.overrides, self.cache)

    def saliency(self, model: Diffusion) -> Path:
        """The file of stage one, which runs share that differ in nothing it depends on."""
        return saliency_file(self.config, model.sha256())

    def loggers(self, folder: Path) -> list[Any]:
        """metrics.jsonl always; W&B as a mirror; Lightning's CSV where asked."""
        makes = {name: self._logger(name, folder) for name in self.config["logger"]}
        mirrors = [Mirror(make) if name == "wandb" else make() for name, make in makes.items()]
        return [JsonLines(folder / "metrics.jsonl"), *mirrors]

    def _logger(self, name: str, folder: Path) -> Callable[[], Any]:
        made = self.make(f"logger.{name}")
        return lambda: made(save_dir=folder)
