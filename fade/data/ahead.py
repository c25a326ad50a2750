"""Images read or drawn by other processes, while this one works on those before."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from fade.console import ignore_stop
from fade.data.dataset import Dataset, Item

FEW = 64  # images, for which no process is started
MOST = 16  # processes


class _Worker:
    """Of a process that reads: what it inherits with the fork, so that nothing is sent to it but items."""

    dataset: Dataset
    size: int


def read_ahead(
    dataset: Dataset, parts: Sequence[Sequence[Item]], size: int, processes: int | None = None
) -> Iterator[Tensor]:
    """`dataset.images` of each part, in order: (N, 3, size, size) uint8. processes: as many as torch has threads."""
    processes = min(processes or torch.get_num_threads(), MOST, len(parts))
    if processes < 2 or sum(map(len, parts)) < FEW:
        yield from (dataset.images(list(part), size) for part in parts)
        return
    pool = ProcessPoolExecutor(processes, get_context("fork"), _begin, (dataset, size, os.getpid()))
    pending = deque[Future[np.ndarray]]()
    try:
        for part in parts:
            pending.append(pool.submit(_read, list(part)))
            if len(pending) > 2 * processes:
                yield _tensor(pending.popleft())
        while pending:
            yield _tensor(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _tensor(made: Future[np.ndarray]) -> Tensor:
    return torch.from_numpy(made.result()).permute(0, 3, 1, 2).contiguous()


def _begin(dataset: Dataset, size: int, parent: int) -> None:
    """In a process that reads: its parent hears the signals, and it goes with its parent, however that ends."""
    ignore_stop()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _Worker.dataset, _Worker.size = dataset, size
    threading.Thread(target=_go_with, args=(parent,), daemon=True).start()


def _go_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _read(part: list[Item]) -> np.ndarray:
    """(N, size, size, 3) uint8; no tensor: torch's threads do not survive a fork."""
    return _Worker.dataset.arrays(part, _Worker.size)
