"""The one entry point, and the only file that knows Hydra: compose, then unlearn, score, plan or pretrain."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fade.console import doing, listen, stoppable, within

if __name__ == "__main__":
    listen()  # before the imports, which take seconds
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come out of Hydra, and one line is made of them below
import diffusers
import hydra
import lightning as L
import transformers
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

import fade
from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.folder import Record, saliency_file
from benchmarks.record.results import Run
from benchmarks.record.sequences import SequenceRun
from benchmarks.record.sweep import expect, fail
from benchmarks.runs.options import check_options, located, processes
from benchmarks.runs.plan import jobs, plan
from benchmarks.runs.reopened import benchmark
from benchmarks.runs.sequence import Continual, check_requests, check_revoked
from benchmarks.runs.single import score, study
from benchmarks.runs.usage import CONF, Misused, Told, check, complain
from benchmarks.runs.verdict import Below, check_limits, end
from fade.adapters import Adapter
from fade.data.dataset import Dataset
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.files import content_hash
from fade.models import Diffusion
from fade.strategies import Step
from fade.training.logs import JsonLines, Mirror
from fade.training.ranks import check_world
from fade.training.unlearner import Unlearner, fit

OmegaConf.register_new_resolver(
    "shipped", lambda name: str(Path(fade.__file__).parent / "shipped" / name), replace=True
)
OmegaConf.register_new_resolver("joined", lambda names: ",".join(located(names)), replace=True)  # a sweep's targets
# where a run goes, and what is asked of its end, is no part of what it is
WHERE = ("out", "output_dir", "cache_dir", "logger", "device", "launcher", "fail_under")


def choice(group: str) -> str:
    return str(HydraConfig.get().runtime.choices[group])


def given(cfg: Any) -> Any:
    """Plain values; what is missing is left out."""
    if not isinstance(cfg, DictConfig):
        return OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg
    found = {}
    for key in cfg:
        with suppress(InterpolationToMissingValueError, MissingMandatoryValue):
            found[str(key)] = given(cfg[key])
    return found


def dataset_of(cfg: DictConfig) -> Dataset:
    dataset = instantiate(cfg.dataset, _convert_="all")
    print(dataset.summary())
    return dataset


def benchmark_of(cfg: DictConfig, dataset: Dataset) -> Benchmark:
    needed: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True, throw_on_missing=True) for key in ("judges", "protocol")
    }
    return benchmark(needed, dataset, Path(cfg.cache_dir), cfg.device)


def model_of(cfg: DictConfig) -> Diffusion:
    doing("loading the pipeline and hashing its weights")
    return instantiate(cfg.model)


def pretrain_task(cfg: DictConfig) -> None:
    out = Path(cfg.out or f"pretrained/{cfg.dataset.name}")
    print(instantiate(cfg.pretrain, dataset=dataset_of(cfg), out=out, _convert_="all").run())


def score_task(cfg: DictConfig) -> None:
    """Score images that lie on disk; no model is loaded."""
    if cfg.answers is None:
        raise BadInput("task=score needs answers=DIR, the folder of the images")
    benchmark = benchmark_of(cfg, dataset_of(cfg))
    request = Request.of(benchmark.dataset, cfg.target, cfg.surrogate)
    record = recorded(cfg, f"{benchmark.dataset.name}-{request.target}-scored")
    base = Path(cfg.base_answers) if cfg.base_answers else None
    done = record.results
    results = done or score(record, benchmark, request, Path(cfg.answers), base)
    end(Run(record.folder, results), cfg.fail_under, done is not None)


def recorded(cfg: DictConfig, name: str) -> Record:
    config = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, [key for key in cfg if key not in WHERE]))
    folder = Path(cfg.out or Path(cfg.output_dir) / f"{name}-{content_hash(config)[:8]}")
    return Record(folder, config, list(HydraConfig.get().overrides.task), Path(cfg.cache_dir))


def loggers_of(cfg: DictConfig, folder: Path) -> list[Any]:
    """metrics.jsonl always; W&B as a mirror; Lightning's CSV where asked."""
    makes = {name: partial(instantiate(logger), save_dir=folder) for name, logger in cfg.logger.items()}
    return [
        JsonLines(folder / "metrics.jsonl"),
        *(Mirror(make) if name == "wandb" else make() for name, make in makes.items()),
    ]


@dataclass
class Parts:
    """What a run is composed of, checked before any work."""

    cfg: DictConfig

    def __post_init__(self) -> None:
        cfg = self.cfg
        self.dataset, self.name = dataset_of(cfg), choice("method")
        self.sparsity, self.method, self.timesteps = (
            instantiate(part) for part in (cfg.sparsity, cfg.method, cfg.timesteps)
        )
        self.attached = instantiate(cfg.adapter, _convert_="all")
        if self.method.terms and cfg.optimizer.build.lr is None:
            raise BadInput(
                f"no known rate for method={self.name} on model={choice('model')} (conf/tuned); give "
                "optimizer.build.lr=NUMBER and trainer.max_steps=NUMBER"
            )
        kind = self.attached.func.__self__.kind
        self.method.check(kind, self.sparsity.kind, cfg.trainer.max_steps, self.timesteps.kind)
        self.benchmark = benchmark_of(cfg, self.dataset)
        seeds = {"train": cfg.seed, "images": self.benchmark.protocol.seeds}
        self.about = {
            "method": self.name,
            "variant": self.method.variant,
            "seeds": seeds,
            "timesteps": self.timesteps.kind,
            "overrides": list(HydraConfig.get().overrides.task),
        }

    def attach(self, model: Diffusion, name: str = "fade") -> Adapter:
        L.seed_everything(self.cfg.seed, verbose=False)
        return self.attached(model, name=name)

    def made(self, model: Diffusion, adapter: Adapter, step: Step, saliency: Path) -> Unlearner:
        cfg = self.cfg
        pairs = Pairs(
            self.dataset, step.requests, **cfg.pairs, cache=Path(cfg.cache_dir), gone=step.gone, guard=step.guard
        )
        return Unlearner(
            model,
            adapter,
            pairs,
            step.method,
            step.sparsity,
            instantiate(cfg.optimizer.build),
            self.timesteps,
            saliency,
            **cfg.optimizer.schedule,
            seed=cfg.seed,
        )

    def try_on(self, model: Diffusion, steps: list[Step]) -> None:
        """Refuses, before any work, what does not go together."""
        self.benchmark.suits(model)
        adapter = self.attach(model)
        for step in steps:
            check_world(
                processes(given(self.cfg.trainer)), self.cfg.pairs.batch, step.method.combines, step.method.passes
            )
            self.made(model, adapter, step, Path()).pairs.check(model)
        adapter.detach()

    def learn(
        self,
        model: Diffusion,
        adapter: Adapter,
        folder: Path,
        step: Step,
        saliency: Path,
        loggers: list[Any],
        steps: int | None = None,
    ) -> Unlearner:
        unlearner = self.made(model, adapter, step, saliency)
        trainer = instantiate(
            self.cfg.trainer, max_steps=step.times * (self.cfg.trainer.max_steps if steps is None else steps)
        )
        fit(unlearner, trainer, folder / "checkpoints", self.cfg.checkpoint_every, loggers)
        return unlearner


def unlearn_task(cfg: DictConfig) -> None:
    """One run, the plan of one, or a sequence. Its folder is the record: a step whose file is there is done."""
    parts = Parts(cfg)
    if cfg.get("sequence"):
        sequence_task(cfg, parts)
        return
    request = Request.of(parts.dataset, cfg.target, cfg.surrogate)
    captions = parts.benchmark.check_captions(request)
    name = f"{parts.dataset.name}-{request.target}-{parts.name}-{parts.sparsity.kind}"
    record = None if cfg.task == "plan" else recorded(cfg, name)
    loggers = [] if record is None else loggers_of(cfg, record.folder)
    step = Step([request], [], parts.method, parts.sparsity)

    def learn(model: Diffusion, adapter: Adapter, folder: Path, steps: int | None = None) -> Unlearner:
        return parts.learn(model, adapter, folder, step, saliency_file(given(cfg), model.sha256()), loggers, steps)

    if record is None:
        model, swept = model_of(cfg), dict(HydraConfig.get().sweeper.params or {})
        parts.try_on(model, [step])
        print(plan(model, parts.benchmark, parts.attach, learn, cfg.trainer.max_steps, jobs(swept)))
        return
    done = results = record.results
    if results is None:
        print("\n".join(f"  {forget}  ->  {surrogate}" for forget, surrogate in captions))
        with record.kept():
            model = model_of(cfg)
            parts.try_on(model, [step])
            results = study(record, model, parts.benchmark, request, parts.attach, learn, parts.sparsity, parts.about)
        if results is None:
            return  # this process helped rank zero, which says what came of it
        for mirror in (logger for logger in loggers if isinstance(logger, Mirror)):
            mirror.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
            mirror.finish(results, record.folder)
    end(Run(record.folder, results), cfg.fail_under, done is not None)


def sequence_task(cfg: DictConfig, parts: Parts) -> None:
    """Requests one after another; the strategy says how each builds on the last."""
    requests = check_requests(parts.dataset, cfg.sequence.requests)
    check_revoked(cfg.sequence.revoke, len(requests))
    strategy = instantiate(cfg.strategy)
    strategy.check(parts.method)
    for request in requests:
        parts.benchmark.check_captions(request)
    record = recorded(cfg, f"{parts.dataset.name}-{cfg.sequence.name}-{parts.name}-{choice('strategy')}")

    def learn(model: Diffusion, adapter: Adapter, folder: Path, step: Step) -> Unlearner:
        return parts.learn(
            model, adapter, folder, step, folder / "saliency.safetensors", [JsonLines(folder / "metrics.jsonl")]
        )

    done = results = record.results
    if results is None:
        with record.kept():
            model = model_of(cfg)
            parts.try_on(
                model, [strategy.step(requests, k, parts.method, parts.sparsity, []) for k in range(len(requests))]
            )
            run = Continual(
                record, model, parts.benchmark, requests, strategy, parts.method, parts.sparsity, parts.attach, learn
            )
            results = run.run(list(cfg.sequence.revoke), {**parts.about, "strategy": choice("strategy")})
    end(SequenceRun(record.folder, results), cfg.fail_under, done is not None)


TASKS = {"unlearn": unlearn_task, "score": score_task, "plan": unlearn_task, "pretrain": pretrain_task}


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        if cfg.task not in TASKS:
            raise Misused(f"task is {cfg.task!r}; choose one of {', '.join(TASKS)}")
        if choice("launcher") != "local" and HydraConfig.get().mode == RunMode.RUN and cfg.task != "plan":
            raise Misused(
                f"launcher={choice('launcher')} starts the runs of a sweep and needs -m: python run.py -m ..."
            )
        check_options(given(cfg))
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            within(f"in run {HydraConfig.get().job.num + 1} of the sweep,")
        check_limits(cfg.fail_under)
        TASKS[cfg.task](cfg)
    except (BadInput, HydraException, OmegaConfBaseException, OSError) as error:
        code = complain(error, known)
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(code)
        if not isinstance(error, Below):
            fail(Path(cfg.output_dir), list(HydraConfig.get().overrides.task), str(error))
        raise Told(code) from None  # no exit: the other runs of a sweep go on


class Ledger(Callback):
    """Hydra's callback: the driver of a sweep writes what it asks for, so that a ledger can say what is missing."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.runtime.choices.launcher == "slurm":
            within("waiting for its job array,", "the array goes on without this process (scancel ends it)")
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
        expect(
            Path(config.output_dir),
            [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch],
        )


def known() -> dict[str, Any]:
    """The default configuration: which keys there are."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return dict(OmegaConf.to_container(compose("config"), resolve=False))  # type: ignore[arg-type]


def entry() -> None:
    with stoppable("the same command goes on"):
        try:
            check(sys.argv[1:])
            main()
        except Told as told:
            sys.exit(told.args[0])
        except Exception as error:  # a command line that does not compose, a task of a job array that died
            sys.exit(complain(error, known))


if __name__ == "__main__":
    entry()
