"""The one entry point, and the only file that knows Hydra: compose, then unlearn, measure and record (or pretrain)."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come out of Hydra, and one line is made of them below
import diffusers
import hydra
import lightning as L
import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import fade
from benchmarks.benchmark import Benchmark
from benchmarks.record import Record
from benchmarks.report import run_table
from benchmarks.study import study
from fade.adapters import Adapter
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.files import content_hash
from fade.judges import Judge
from fade.unlearner import Unlearner, fit

OmegaConf.register_new_resolver("shipped", lambda name: str(Path(fade.__file__).parent / "weights" / name), replace=True)
WHERE = ("out", "output_dir", "cache_dir", "logger")  # where a run goes is no part of what it is


def pretrain(cfg: DictConfig) -> None:
    dataset = instantiate(cfg.dataset.source, _convert_="all")
    recipe = instantiate(cfg.pretrain, dataset=dataset, out=Path(cfg.out or f"pretrained/{cfg.dataset.name}"), _convert_="all")
    print(recipe.run())


def unlearn(cfg: DictConfig) -> None:
    """One run. Its folder is the record: a step whose file is there is not done again."""
    dataset = instantiate(cfg.dataset.source, _convert_="all")
    request = Request.check(dataset, cfg.target, cfg.surrogate)
    sparsity, method = instantiate(cfg.sparsity), instantiate(cfg.method)
    judges = {domain: Judge.load(folder) for domain, folder in cfg.dataset.judges.items()}
    benchmark = Benchmark(dataset, judges, instantiate(cfg.protocol, _convert_="all"), Path(cfg.cache_dir))
    for forget, surrogate in benchmark.check_captions(request):
        print(f"  {forget}  ->  {surrogate}")
    chosen = HydraConfig.get().runtime.choices["method"]
    config = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, [key for key in cfg if key not in WHERE]))
    name = f"{dataset.name}-{request.target}-{chosen}-{sparsity.kind}-{content_hash(config)[:8]}"
    record = Record(Path(cfg.out or Path(cfg.output_dir) / name), config)
    results = record.results
    if results is None:
        model = instantiate(cfg.model)

        def attach() -> Adapter:
            L.seed_everything(cfg.seed, verbose=False)
            return Adapter.attach(model.unet, **OmegaConf.to_container(cfg.adapter, resolve=True))

        def learn(adapter: Adapter) -> Unlearner:
            pairs = Pairs(dataset, request, **cfg.pairs, cache=Path(cfg.cache_dir))
            unlearner = Unlearner(
                model, adapter, pairs, method, sparsity, dict(cfg.weights), instantiate(cfg.optimizer.build),
                record.folder / "saliency.safetensors", **cfg.optimizer.schedule, seed=cfg.seed,
            )  # fmt: skip
            loggers = [instantiate(logger)(save_dir=record.folder) for logger in cfg.logger.values()]
            fit(unlearner, instantiate(cfg.trainer), record.folder / "checkpoints", cfg.checkpoint_every, loggers)
            return unlearner

        seeds = {"train": cfg.seed, "images": benchmark.protocol.seeds}
        about = {"method": chosen, "seeds": seeds, "overrides": list(HydraConfig.get().overrides.task)}
        results = study(record, model, benchmark, request, attach, learn, sparsity, about)
    print(f"\n{run_table(results)}\n{record.folder}/: comparison.png results.json predictions.csv adapter/ config.yaml\n")


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config")
def main(cfg: DictConfig) -> None:
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    tasks = {"unlearn": unlearn, "pretrain": pretrain}
    try:
        if cfg.task not in tasks:
            raise BadInput(f"task is {cfg.task!r}; choose one of {', '.join(tasks)}")
        tasks[cfg.task](cfg)
    except (BadInput, HydraException, OmegaConfBaseException, OSError) as error:
        complain(error)


def complain(error: BaseException) -> None:
    """Make one line of what the user can mend, and leave with 2 for usage, 1 for input; raise the rest again."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__  # what the constructor said
    if isinstance(error, BadInput):
        line, code = str(error), 1
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        line, code = f"the disk is full ({error.filename or error}); free some space and run the same command again", 1
    elif isinstance(error, MissingMandatoryValue):
        line, code = f"{str(error).splitlines()[0]}; give it on the command line (python run.py --help lists the options)", 2
    elif isinstance(error, (HydraException, OmegaConfBaseException)):
        line, code = f"{str(error).splitlines()[0]} (python run.py --help lists the options)", 2
    else:
        raise error
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def entry() -> None:
    try:
        main()
    except HydraException as error:  # a command line that does not compose
        complain(error)


if __name__ == "__main__":
    entry()
