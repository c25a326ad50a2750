"""Several processes of one run (trainer=ddp): rank zero writes, the others read; each takes its rows of every batch."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from fade.data.pairs import Batch
from fade.errors import BadInput


def leads() -> bool:
    """Whether this is the run's rank zero, or its only process; known before the processes meet."""
    return rank_zero_only.rank == 0


def follow(trainer: L.Trainer) -> None:
    """The others wait here until rank zero says `lead`."""
    if not trainer.is_global_zero:
        trainer.strategy.barrier()


def lead(trainer: L.Trainer) -> None:
    if trainer.is_global_zero:
        trainer.strategy.barrier()


def end_group() -> None:
    """End the group after training: rank zero measures alone, and a metric that finds a group waits for the others."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_world(world: int, batch: int, combines: bool, passes: int = 0) -> None:
    """Raises BadInput where the mean of the processes' gradients would not be the joined batch's."""
    if batch % world:
        raise BadInput(f"pairs.batch is {batch}, which {world} processes cannot share; make it a multiple of {world}")
    if combines and world > 1:
        raise BadInput(
            "this method combines its terms' gradients, which is not done across processes; use trainer.devices=1"
        )
    if passes and world > 1:
        raise BadInput("this method takes inner passes, which is not done across processes; use trainer.devices=1")


def share(batch: Batch, trainer: L.Trainer) -> Batch:
    """This process's rows of a batch that all of them drew alike; what is drawn from now on (dropout) is its own."""
    rank, world = trainer.global_rank, trainer.world_size
    if rank:
        torch.manual_seed(torch.initial_seed() + rank * 7_919_000_003)
    sides = cast(dict[str, dict[str, Any]], batch)
    shares = {side: {name: rows[rank::world] for name, rows in example.items()} for side, example in sides.items()}
    return cast(Batch, shares)
