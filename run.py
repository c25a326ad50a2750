"""The one entry point, and the only file that knows Hydra: compose, then do a task of benchmarks/runs/."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fade.console import listen, stoppable, within

if __name__ == "__main__":
    listen()  # before the imports
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come out of Hydra, and one line is made of them below
import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import get_method, get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from benchmarks.record.sweep import expect, fail
from benchmarks.runs.usage import CONF, Misused, Told, check, complain
from benchmarks.runs.verdict import Below, check_limits
from fade.errors import BadInput
from fade.files import shipped

if TYPE_CHECKING:
    from benchmarks.runs.task import Task

OmegaConf.register_new_resolver("shipped", shipped, replace=True)
OmegaConf.register_new_resolver("joined", lambda names: ",".join(get_object(names)), replace=True)  # a sweep's targets
ATTACK = ("run", "base", "attack")  # what task=attack alone reads
# where a run goes, and what is asked of its end, is no part of what it is
PLACES = ("out", "output_dir", "cache_dir", "logger", "device", "launcher")
WHERE = (*PLACES, "fail_under", "again", "runs", "compose", *ATTACK)

# imported when they are asked for: a wrong command line is answered at once
TASKS = {
    "unlearn": "benchmarks.runs.single.unlearn",
    "score": "benchmarks.runs.scored.scored",
    "plan": "benchmarks.runs.plan.planned",
    "pretrain": "benchmarks.runs.pretrain.pretrained",
    "attack": "benchmarks.runs.attack.attacked",
    "compose": "benchmarks.studies.compose.interfere",
}
SEQUENCE = "benchmarks.runs.sequence.sequence"


def given(cfg: Any) -> Any:
    """Plain values; what is missing is left out."""
    if not isinstance(cfg, DictConfig):
        return OmegaConf.to_container(cfg) if OmegaConf.is_config(cfg) else cfg
    found = {}
    for key in cfg:
        with suppress(InterpolationToMissingValueError, MissingMandatoryValue):
            found[str(key)] = given(cfg[key])
    return found


def task_of(cfg: DictConfig, chosen: Any = None, overrides: Sequence[str] = (), swept: Any = None) -> Task:
    """A configuration, composed or of a finished run, for those who do not know Hydra."""
    from benchmarks.runs.task import Task

    return Task(
        given(cfg),
        OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, [key for key in cfg if key not in WHERE])),
        {group: str(option) for group, option in (chosen or {}).items()},
        list(overrides),
        dict(swept or {}),
        lambda key, **more: instantiate(OmegaConf.select(cfg, key), _convert_="all", **more),
        lambda key: OmegaConf.to_container(OmegaConf.select(cfg, key), resolve=True, throw_on_missing=True),
        lambda config: task_of(OmegaConf.create(config)),
    )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    now = HydraConfig.get()
    single, launcher = now.mode == RunMode.RUN, now.runtime.choices["launcher"]
    try:
        if cfg.task not in TASKS:
            raise Misused(f"task is {cfg.task!r}; choose one of {', '.join(TASKS)}")
        if launcher != "local" and single and cfg.task != "plan":
            raise Misused(f"launcher={launcher} starts the runs of a sweep and needs -m: python run.py -m ...")
        get_method("benchmarks.runs.rules.check_rules")(given(cfg), lambda: instantiate(cfg.dataset, _convert_="all"))
        get_method("benchmarks.runs.options.check_options")(given(cfg))
        if not single:
            within(f"in run {now.job.num + 1} of the sweep,")
        check_limits(cfg.fail_under)
        task = task_of(cfg, now.runtime.choices, now.overrides.task, now.sweeper.params)
        get_method(SEQUENCE if cfg.get("sequence") and cfg.task == "unlearn" else TASKS[cfg.task])(task)
    except (BadInput, HydraException, OmegaConfBaseException, OSError) as error:
        code = complain(error, known)
        if single:
            sys.exit(code)
        if not isinstance(error, Below):
            fail(Path(cfg.output_dir), list(now.overrides.task), str(error))
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
