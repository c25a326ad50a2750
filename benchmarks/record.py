"""A run's folder: claimed by one configuration, and holding its record."""

from __future__ import annotations

import csv
import gzip
import io
import os
import platform
import re
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from fade.data.dataset import SPLITS, Dataset
from fade.errors import BadInput
from fade.files import content_hash, read_json, whole, write_json, write_text
from fade.origin import LIBRARIES, origin
from fade.parallel import leads


class Record:
    """Claims `folder` for `config` (YAML text). Raises BadInput where the folder belongs to another configuration.

    run.json says who works there: the overrides of the run, host, process and time of the last start.
    """

    def __init__(self, folder: Path, config: str, overrides: Sequence[str] = ()) -> None:
        forget_peak_memory()
        self.folder, self.identity = folder, content_hash(config)
        claim = folder / "run.json"
        if claim.is_file():
            if read_json(claim)["identity"] != self.identity:
                raise BadInput(
                    f"{folder} holds a run with another configuration (see its config.yaml); choose another out=FOLDER"
                )
        elif leads() and folder.is_dir() and any(folder.iterdir()):
            raise BadInput(f"{folder} is not empty and is no run of this tool; choose another out=FOLDER")
        elif leads():
            write_text(folder / "config.yaml", config)
        if self.results is None and leads():
            (folder / "failed.json").unlink(missing_ok=True)
            write_json(claim, {"identity": self.identity, "overrides": list(overrides), "host": platform.node(),
                               "pid": os.getpid(), "started": time.time()})  # fmt: skip

    def keep_splits(self, dataset: Dataset) -> None:
        """Write splits.csv.gz: the split, cell and file of every image, as this run saw them."""
        path = self.folder / "splits.csv.gz"
        if path.is_file():
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["split", *dataset.domains, "file", "index"])
        for split in SPLITS:
            writer.writerows([split, *item.concepts, item.path or "", item.index] for item in dataset.items(split))
        with whole(path) as temporary:
            temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))

    @property
    def results(self) -> dict[str, Any] | None:
        """results.json, once the run is complete."""
        path = self.folder / "results.json"
        return read_json(path) if path.is_file() else None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, a failure leaves its last line in failed.json, for the ledger."""
        try:
            yield
        except Exception as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[-1]
            with suppress(OSError):  # a full disk: the line is on the screen at least
                write_json(self.folder / "failed.json", {"error": line, "kind": type(error).__name__, "at": time.time()})
            raise

    def finish(self, results: dict[str, Any]) -> dict[str, Any]:
        """Write results.json, with where it came from."""
        complete = {**results, "identity": self.identity, **provenance()}
        write_json(self.folder / "results.json", complete)
        return complete


def adapter_bytes(folder: Path) -> int:
    """What `kB` means in every table: the file that has to be shipped, without the card beside it."""
    return (folder / "adapter.safetensors").stat().st_size


def provenance() -> dict[str, Any]:
    return {**origin((*LIBRARIES, "timm", "torchmetrics")), "machine": machine()}


def machine() -> str:
    """Processor, cores, and GPU where there is one; no host name."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    gpu = f", {torch.cuda.device_count()} × {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores{gpu}"


def forget_peak_memory() -> None:
    """Begin to count anew: several runs of a sweep share one process. Where that cannot be, the process's peak is all runs'."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux, and only where it may be written
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Of the GPU where there is one, else of this process, since it was last forgotten."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
