"""What a run says while it works: metrics.jsonl on disk is the record; W&B mirrors it, and may fail without harm."""

from __future__ import annotations

import json
import logging
import math
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from fade.files import write_json, write_text
from fade.saliency import Saliency
from fade.training.beside import before_after
from fade.training.ranks import leads

log = logging.getLogger(__name__)


def wandb(save_dir: Path, offline: bool, **settings: Any) -> WandbLogger:
    """Lightning's WandbLogger; WANDB_MODE, where it is set, goes before `offline`. settings: wandb.init's."""
    mode = os.environ.get("WANDB_MODE")
    save_dir.mkdir(parents=True, exist_ok=True)
    return WandbLogger(save_dir=save_dir, offline=mode == "offline" if mode else offline, **settings)


def layers(saliency: Saliency, masks: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """What stage one found in each masked layer: its mean score, its share of all scores (none where the method does
    not locate), and the kept fraction."""
    total = sum(float(scores.sum()) for scores in saliency.values()) or 1.0
    scored = {name: {"saliency": float(s.mean()), "share": float(s.sum()) / total} for name, s in saliency.items()}
    none = {"saliency": None, "share": None}
    return [
        {"layer": name, **scored.get(name, none), "density": float(mask.float().mean())} for name, mask in masks.items()
    ]


def step_of(line: str) -> int | None:
    """The step of a line of metrics.jsonl; None where it was cut short, or harmed."""
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["step"])
    return None


class JsonLines(Logger):
    """One line of JSON for each time something is logged: {"step": ..., "loss/forget": ...}, appended and flushed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def go_on_from(self, step: int) -> None:
        """Drop what was said from this step on, and a line that a kill cut short: a resumed run says it again."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        said = {number: line for line in lines if (number := step_of(line)) is not None and number < step}
        kept = list(said.values())  # no step twice
        if kept != lines:
            write_text(self.path, "".join(f"{line}\n" for line in kept))

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **settings: Any) -> None:
        """Nothing: config.yaml lies beside."""

    @rank_zero_only
    def log_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write NAME.json beside."""
        write_json(self.path.with_name(f"{name}.json"), rows)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        values = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


class Mirror(Logger):
    """A W&B logger that is made when first needed; its first failure is one warning, and then it is silent."""

    def __init__(self, make: Callable[[], WandbLogger]) -> None:
        super().__init__()
        self._make, self._logger, self.broken = make, None, False

    def _try(self, act: Callable[[WandbLogger], Any]) -> None:
        if self.broken or not leads():
            return
        try:
            self._logger = self._logger or self._make()
            act(self._logger)
        except Exception as error:  # no network, no key, a dead service: whatever it is, the run goes on
            self.broken = True
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("warning: W&B is out (%s); the run goes on, and its folder holds everything", line)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **settings: Any) -> None:
        self._try(lambda logger: logger.log_hyperparams(params))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._try(lambda logger: logger.log_metrics(metrics, step))

    def log_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        """A table. The rows have the same keys."""
        columns, data = list(rows[0]) if rows else [], [list(row.values()) for row in rows]
        self._try(lambda logger: logger.log_table(name, columns=columns, data=data))

    def finish(self, results: dict[str, Any], folder: Path) -> None:
        """Every metric with its interval as the run's summary, the picture, and adapter and record as one artifact."""
        self._try(lambda logger: _finish(logger, results, folder))


def _finish(logger: WandbLogger, results: dict[str, Any], folder: Path) -> None:
    flat = {
        f"{side}/{name}/{key}": value
        for side in ("metrics", "base")
        for name, metric in results[side].items()
        for key, value in metric.items()
        if isinstance(value, (int, float))
    }
    run = logger.experiment
    run.summary.update({**flat, **{f"cost/{key}": value for key, value in results["cost"].items()}})
    logger.log_image("before and after", [str(folder / "comparison.png")])
    if sheets := before_after(results, folder):
        logger.log_image(
            "before beside after", [sheet for _, sheet in sheets], caption=[caption for caption, _ in sheets]
        )
    name = f"{results['dataset']}-{results['target']}-{results['method']}"
    for path in (folder / "adapter", folder / "results.json"):
        if path.exists():
            run.log_artifact(str(path), name=f"{name}-{path.stem}", type="adapter" if path.is_dir() else "results")
    run.finish()
