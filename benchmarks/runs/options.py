"""All values of a composed configuration, checked once and before any work: types and ranges, devices, folders."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from fade.checked import Count, NonNegative, Positive, Rate, Seed, Share, Whole, Word, check, hints
from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.published import located
from fade.training.unlearner import Unlearner

CALLED: dict[str, Callable[..., Any]] = {"pairs": Pairs, "optimizer.schedule": Unlearner}  # nodes without a _target_
RULES: dict[str, Any] = {  # what no signature of ours says
    "task": Word,
    "target": Word,
    "surrogate": Word | None,
    "within": Word | None,
    "answers": Word | None,
    "base_answers": Word | None,
    "oracle": Word | None,
    "run": Word | None,
    "base": Word | None,
    "attack.images": Count,
    "attack.tries": Count,
    "attack.cells": Count,
    "attack.never": bool,
    "attack.judge_images": Count,
    "attack.seeds": Annotated[list[Seed], Field(min_length=1)],
    "seed": Seed,
    "device": Word,
    "out": Word | None,
    "output_dir": Word,
    "cache_dir": Word,
    "checkpoint_every": Count,
    "runs": list[Word],
    "compose.seeds": Annotated[list[Seed], Field(min_length=1)] | None,
    "compose.rules": Annotated[list[Literal["sum", "ties"]], Field(min_length=1)],
    "compose.joint": Word | None,
    "compose.keep": Share,
    "compose.scale": Positive,
    "sequence.name": Word,
    "sequence.requests": Annotated[list[Word], Field(min_length=1)],
    "sequence.revoke": list[int],
    "dataset.name": Word,
    "trainer.max_steps": Whole,
    "trainer.accumulate_grad_batches": Count,
    "trainer.gradient_clip_val": Positive | None,
    "trainer.devices": Count | Literal[-1, "auto"] | Annotated[list[Whole], Field(min_length=1)],
    "strategy.keep": Share,
    "strategy.scale": Positive,
    "strategy.alpha": NonNegative,
    "strategy.bank": Count,
    "strategy.weight": NonNegative,
    "strategy.attention": NonNegative,
    "strategy.replay": NonNegative,
    "optimizer.build.lr": Rate | None,
    "optimizer.build.weight_decay": NonNegative,
    "optimizer.build.eps": Positive,
}


def check_options(config: Mapping[str, Any]) -> None:
    """Raises BadInput for the first value that the run could not use. `config`: plain values, none missing."""
    check_node(config)
    check_asked(config)
    check_device(str(config["device"]))
    check_devices(config["trainer"]["accelerator"], config["trainer"]["devices"])
    for key in ("output_dir", "cache_dir", "out"):
        if config[key] is not None:
            check_folder(key, Path(config[key]))


def check_asked(config: Mapping[str, Any]) -> None:
    """Raises BadInput for a question that a model has to answer about one target, where there is no model or several
    targets."""
    where = "a sequence" if config.get("sequence") else "task=score" if config["task"] == "score" else None
    oracle = config.get("oracle")
    one = oracle is not None and not list(Path(oracle).glob("*/tiers.json"))  # a folder of several has none for most
    asked = {"oracle": one, "protocol.tiers": config.get("protocol", {}).get("tiers")}
    asked |= {"within": config.get("within")} if config.get("sequence") else {}
    for key in (key for key, value in asked.items() if where and value):
        raise BadInput(f"{key} asks a model about one target, which {where} does not; leave {key} away")


def check_node(node: Mapping[str, Any], where: str = "") -> None:
    """Every value against the signature that it is passed to, or a rule; what has neither must be finite at least."""
    called = located(node["_target_"]) if "_target_" in node else CALLED.get(where)
    known = hints(called) if called else {}
    for key, value in node.items():
        name = f"{where}.{key}".lstrip(".")
        hint = RULES.get(name, RULES.get(f"{where}.*", known.get(key)))
        if isinstance(value, Mapping) and ("_target_" in value or hint is None):
            check_node(value, name)
        elif hint is not None:
            check(name, value, hint)
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{name} is {value}; it must be a number")


def check_device(device: str) -> None:
    """auto, cpu, mps, cuda or cuda:N, and there."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise BadInput(f"device is {device!r}; choose auto, cpu, cuda, cuda:N or mps")
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    kind, _, number = device.partition(":")
    if int(number or 0) >= there.get(kind, 1):
        raise BadInput(f"device is {device!r}, and this machine has {there[kind]} of its kind; choose auto or cpu")


def check_devices(accelerator: str, devices: int | str | list[int]) -> int:
    """How many processes that makes. Raises BadInput for what is not there, and for more devices than there are."""
    there = {
        "cpu": os.cpu_count() or 1,
        "gpu": torch.cuda.device_count(),
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    kind = accelerator if accelerator != "auto" else next((k for k in ("cuda", "mps") if there[k]), "cpu")
    if kind not in there:
        raise BadInput(f"trainer.accelerator is {accelerator!r}; choose auto, {', '.join(there)}")
    if not there[kind]:
        raise BadInput(f"trainer.accelerator is {accelerator!r}, and this machine has none; choose auto or cpu")
    asked = max(devices) + 1 if isinstance(devices, list) else devices if isinstance(devices, int) else 1
    if asked > there[kind]:
        what = "cores" if kind == "cpu" else "GPUs"
        raise BadInput(
            f"trainer.devices is {devices}, and this machine has {there[kind]} {what}; give that many at most"
        )
    if isinstance(devices, list):
        return len(devices)
    return devices if isinstance(devices, int) and devices > 0 else 1 if kind == "cpu" else there[kind]


def processes(trainer: Mapping[str, Any]) -> int:
    """How many train a run."""
    return check_devices(trainer["accelerator"], trainer["devices"]) * int(trainer.get("num_nodes", 1))


def check_folder(key: str, folder: Path) -> None:
    """Raises BadInput for what is no folder, and where none can be made."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise BadInput(f"{key} is {str(folder)!r}, and {nearest} is no folder; name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInput(f"{key} is {str(folder)!r}, and {nearest} cannot be written to; name another")
