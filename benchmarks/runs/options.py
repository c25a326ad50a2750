"""All values of a composed configuration, checked before any work: by the signatures they go to, and devices."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.runs.rules import check_asked, check_folder, check_node
from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.models.quantization import check_packing
from fade.training.unlearner import Unlearner

CALLED: dict[str, Callable[..., Any]] = {"pairs": Pairs, "optimizer.schedule": Unlearner}  # nodes without a _target_


def check_options(config: Mapping[str, Any]) -> None:
    """Raises BadInput for the first value that the run could not use. `config`: plain values, none missing."""
    check_node(config, called=CALLED)
    check_asked(config)
    check_device(str(config["device"]))
    check_devices(config["trainer"]["accelerator"], config["trainer"]["devices"])
    check_quantization(config)
    for key in ("output_dir", "cache_dir", "out"):
        if config[key] is not None:
            check_folder(key, Path(config[key]))


def check_quantization(config: Mapping[str, Any]) -> None:
    """Packed weights, of a task that reads them: not without what packs them, nor on a CPU."""
    if not config["model"].get("quantization") or config["task"] in ("plan", "score", "pretrain"):
        return
    check_packing()
    for key, value in (("device", config["device"]), ("trainer.accelerator", config["trainer"]["accelerator"])):
        if value == "cpu":
            raise BadInput(f"{key} is cpu, and weights in 4 bits need a GPU; leave {key} away, or model.quantization")


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
