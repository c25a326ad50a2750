"""What of a composed configuration can be refused without torch, and so at once: plain values, folders, names."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fade.checked import Count, NonNegative, Positive, Rate, Seed, Share, Whole, Word, check, hints, located
from fade.errors import BadInput

if TYPE_CHECKING:
    from fade.data.dataset import Dataset

DRAWN = "fade.data.canvas.dataset.Canvas"  # it reads no file to know its names
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
    "attack.haste": Share,
    "attack.cells": Count,
    "attack.never": bool,
    "attack.judge_images": Count,
    "attack.seeds": Annotated[list[Seed], Field(min_length=1)],
    "again": Literal["careful"] | None,
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


def check_rules(config: Mapping[str, Any], dataset: Callable[[], Dataset]) -> None:
    """Raises BadInput for a plain value that the run could not use, for a folder that cannot be one, for a concept
    that a dataset without files does not have, and where it is not said what a task is to be done on. config: plain
    values, none missing."""
    check_plain(config)
    check_needed(config)
    check_asked(config)
    for key in ("output_dir", "cache_dir", "out"):
        if config[key] is not None:
            check_folder(key, Path(config[key]))
    one = config["task"] in ("unlearn", "plan") and not config.get("sequence")
    if one and config["dataset"].get("_target_") == DRAWN:
        check_node(config["dataset"], "dataset")
        dataset().resolved(config["target"], config["surrogate"], config["within"])


def check_plain(node: Mapping[str, Any], where: str = "") -> None:
    """Every value that has a rule."""
    for key, value in node.items():
        name = f"{where}.{key}".lstrip(".")
        if name in RULES:
            check(name, value, RULES[name])
        elif isinstance(value, Mapping):
            check_plain(value, name)


def check_needed(config: Mapping[str, Any]) -> None:
    """Raises BadInput for a task that is not told on what."""
    if config["task"] == "score" and config["answers"] is None:
        raise BadInput("task=score needs answers=DIR, the folder of the images")
    if config["task"] == "attack" and config["run"] is None and config["base"] is None:
        raise BadInput(
            "task=attack needs run=FOLDER, a finished run or an adapter; or model.path=FOLDER base=FOLDER, a "
            "checkpoint and the pipeline that it was made from"
        )


def check_asked(config: Mapping[str, Any]) -> None:
    """Raises BadInput for a question that a model has to answer about one target, where there is no model or several
    targets."""
    where = "a sequence" if config.get("sequence") else "task=score" if config["task"] == "score" else None
    oracle = config.get("oracle")
    one = oracle is not None and not list(Path(oracle).glob("*/tiers.json"))  # a folder of several has none for most
    tiers = config.get("protocol", {}).get("tiers")
    asked = {"oracle": one, "protocol.tiers": tiers, "again": config.get("again")}
    asked |= {"within": config.get("within")} if config.get("sequence") else {}
    for key in (key for key, value in asked.items() if where and value):
        raise BadInput(f"{key} asks a model about one target, which {where} does not; leave {key} away")


def check_node(
    node: Mapping[str, Any], where: str = "", called: Mapping[str, Callable[..., Any]] | None = None
) -> None:
    """Every value against the signature that it is passed to, or a rule; what has neither must be finite at least.
    called: of nodes without a _target_."""
    receiver = located(node["_target_"]) if "_target_" in node else (called or {}).get(where)
    known = hints(receiver) if receiver else {}
    for key, value in node.items():
        name = f"{where}.{key}".lstrip(".")
        hint = RULES.get(name, RULES.get(f"{where}.*", known.get(key)))
        if isinstance(value, Mapping) and ("_target_" in value or hint is None):
            check_node(value, name, called)
        elif hint is not None:
            check(name, value, hint)
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{name} is {value}; it must be a number")


def check_folder(key: str, folder: Path) -> None:
    """Raises BadInput for what is no folder, and where none can be made."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise BadInput(f"{key} is {str(folder)!r}, and {nearest} is no folder; name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInput(f"{key} is {str(folder)!r}, and {nearest} cannot be written to; name another")
