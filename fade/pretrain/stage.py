"""One stage of pretraining: a network, a loss, and Lightning's loop around them."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fade import console
from fade.checked import Count, Portion, Positive
from fade.errors import BadInput, at_least
from fade.training.checkpoint import SafeCheckpoint

SAVE_EVERY_S = 60.0
WARM_UP = 200  # steps, at the start and after every restart
ENDLESS = 10**9  # batches of the one epoch that never ends

Loss = Callable[[torch.device], Tensor]  # of a device: one draw of it


@dataclass(kw_only=True)
class Schedule:
    """What every stage is trained with. rate: AdamW's, warmed up, then along a cosine to zero at `steps`; at each step
    of `restarts` warm-up and cosine begin again (SGDR, arXiv 1608.03983). ema: decay of the averaged weights, which are
    what the stage leaves. precision: Lightning's. Raises BadInput for restarts at which the rate would not fall to
    zero."""

    steps: Count
    batch: Count
    rate: Positive
    ema: Portion
    restarts: list[Count] = field(default_factory=list)
    precision: str = "32-true"

    def __post_init__(self) -> None:
        at_least(1, pretrain__steps=self.steps, pretrain__batch=self.batch)
        if sorted(set(self.restarts)) != list(self.restarts) or not all(
            0 < step < self.steps for step in self.restarts
        ):
            raise BadInput(
                f"pretrain restarts are {list(self.restarts)} of {self.steps} steps; they must rise, and lie before "
                "the last step, or the rate never falls to zero"
            )

    def factor(self, step: int) -> float:
        """The rate's factor at a step, in [0, 1]."""
        corners = [0, *self.restarts, max(self.steps, step + 1)]
        leg = bisect_right(corners, step) - 1
        begin, end = corners[leg], corners[leg + 1]
        return min(1.0, (step - begin + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * (step - begin) / (end - begin)))


class Stage(L.LightningModule):
    """Lowers `loss(device)` over the parameters of `network` that want a gradient; step i draws everything from (seed,
    i).

    look: called now and then, in evaluation mode, with the averaged weights in place. Both are functions so that the
    average, which is a copy of this module, holds no second copy of the images.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        loss: Loss,
        schedule: Schedule,
        seed: int,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.name, self.network, self.loss, self.look = name, network, loss, look
        self.schedule, self.seed, self.seconds = schedule, seed, 0.0

    def training_step(self, _: Tensor, __: int) -> Tensor:
        torch.manual_seed(self.seed * 1_000_003 + self.trainer.global_step + 7_919 * self.trainer.global_rank)
        value = self.loss(self.device)
        if not torch.isfinite(value):
            raise BadInput(
                f"{self.name}: the loss is {value.item()} at step {self.trainer.global_step}; lower its rate "
                f"({self.schedule.rate})"
            )
        return value

    def validation_step(self, _: Tensor, __: int) -> None:
        self.look()

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=self.schedule.rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)

    def on_train_batch_start(self, *_: Any) -> None:
        """The rate is a function of the step alone: a scheduler's state would remember how long the stage was to be."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.schedule.rate * self.schedule.factor(self.trainer.global_step)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Norm 1.0. Lightning itself refuses to clip for a fused optimizer in mixed precision."""
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(ENDLESS), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]


class Averaged(WeightAveraging):
    """Lightning's averaging with a decay that warms up: min(decay, n / (n + 9)) after n steps."""

    def __init__(self, decay: float) -> None:
        def average(averaged: Sequence[Tensor], live: Sequence[Tensor], n: Tensor | int) -> None:
            done = int(n) + 1
            if averaged[0].is_floating_point():
                torch._foreach_lerp_(list(averaged), list(live), 1 - min(decay, done / (done + 9)))
            else:
                for old, new in zip(averaged, live, strict=True):
                    old.copy_(new)

        super().__init__(multi_avg_fn=average)


class Progress(Callback):
    """Says where a stage is, and writes its state every minute and at its last step."""

    def __init__(self, state: Path) -> None:
        self.state, self.mean = state, math.nan
        self.saved = self.mark = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, stage: Any) -> None:
        self.saved = self.mark = time.monotonic()
        self.shown = console.Stage(stage.name, trainer.max_steps, f"in {stage.name}, at step", trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, stage: Any, outputs: Any, *_: Any) -> None:
        now, value = time.monotonic(), float(outputs["loss"])
        stage.seconds += now - self.mark
        self.mark = now
        self.mean = value if math.isnan(self.mean) else 0.98 * self.mean + 0.02 * value
        self.shown.done(trainer.global_step, f", loss {self.mean:.4f}")
        if trainer.global_step == trainer.max_steps or now - self.saved > SAVE_EVERY_S:
            trainer.save_checkpoint(self.state)
            self.saved = self.mark = time.monotonic()

    def on_save_checkpoint(self, trainer: L.Trainer, stage: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = stage.seconds

    def on_load_checkpoint(self, trainer: L.Trainer, stage: Any, checkpoint: dict[str, Any]) -> None:
        stage.seconds = checkpoint["seconds"]


def train(stage: Stage, state: Path, look_every: int, accelerator: str, devices: int) -> None:
    """Train to the schedule's last step, going on from `state` where it is there; `network` then holds the average."""
    averaged = Averaged(stage.schedule.ema)
    with console.quiet():
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=stage.schedule.precision,
            max_steps=stage.schedule.steps,  # type: ignore[arg-type]
            max_epochs=-1,
            val_check_interval=look_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[averaged, Progress(state)],
            plugins=[SafeCheckpoint()],
        )
        trainer.fit(stage, ckpt_path=state if state.is_file() else None)
    averaged.on_train_end(trainer, stage)  # Lightning leaves it out where no step was left to do
    stage.network.cpu().eval()


def pick(n: int, batch: int) -> Tensor:
    """Indices (batch,) of 0..n−1."""
    return torch.randint(0, n, (batch,))
