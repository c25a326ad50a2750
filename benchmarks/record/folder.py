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
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.record.claim import LOCK, Lock, claimed
from benchmarks.record.format import digest
from fade.claims import signature
from fade.data.dataset import SPLITS, Dataset
from fade.errors import BadInput
from fade.files import atomic, content_hash, leftovers, read_json, unharmed, without_folders, write_json, write_text
from fade.origin import LIBRARIES, origin
from fade.training.ranks import leads

# What stage one does not depend on. A key that is missing here costs time, for less is shared; one too many, truth.
NOT_STAGE_ONE = frozenset(
    {
        *(
            "task",
            "runs",
            "compose",
            "answers",
            "base_answers",
            "oracle",
            "out",
            "output_dir",
            "cache_dir",
            "fail_under",
            "again",
        ),
        *("device", "logger", "launcher", "checkpoint_every", "protocol", "judges", "pretrain", "strategy", "sequence"),
        *("method.terms", "sparsity", "adapter.rank", "adapter.alpha", "adapter.dropout", "optimizer.build"),
        *("optimizer.schedule.warmup", "optimizer.schedule.cosine", "trainer.max_steps", "trainer.max_epochs"),
        *("trainer.gradient_clip_val", "trainer.accumulate_grad_batches", "trainer.log_every_n_steps"),
        *("trainer.devices", "trainer.strategy", "trainer.use_distributed_sampler", "trainer.enable_progress_bar"),
        *("trainer.enable_model_summary", "run", "base", "attack"),
    }
)


class Record:
    """Claims `folder` for `config` (YAML text). Raises BadInput where the folder belongs to another configuration, or
    another process works there now; what a kill left half written there is removed, and what was lost of the claim is
    written again.

    run.json says who works there: the overrides of the run, host, process and time of the last start, and the cache.
    """

    def __init__(self, folder: Path, config: str, overrides: Sequence[str] = (), cache: Path | None = None) -> None:
        forget_peak_memory()
        self.folder, self.identity = folder, content_hash(config)
        self._check(config)
        if not leads() or (self._finished() and claimed(folder)):
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(folder)  # held for as long as this record is
        self._check(config)
        leftovers(folder)
        if self.results is not None:  # finished by another process just now, or it lost its run.json
            if not claimed(folder):
                self._claim(config, overrides, cache)
            self._release()
            return
        (folder / "results.json").unlink(missing_ok=True)
        (folder / "failed.json").unlink(missing_ok=True)
        self._claim(config, overrides, cache)

    def _claim(self, config: str, overrides: Sequence[str], cache: Path | None) -> None:
        if text_of(self.folder / "config.yaml") != config:
            write_text(self.folder / "config.yaml", config)
        where = {"cache": str(cache.absolute())} if cache else {}
        claim = {"identity": self.identity, "overrides": list(overrides), **signature(), **where}
        write_json(self.folder / "run.json", claim)

    def _release(self) -> None:
        (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release()

    def _finished(self) -> bool:
        with suppress(OSError, ValueError):
            return bool(read_json(self.folder / "results.json"))
        return False

    def _check(self, config: str) -> None:
        """Raises BadInput for another's folder. A run whose run.json is gone or harmed is known by its config.yaml."""
        known = claimed(self.folder).get("identity")
        if known not in (None, self.identity):
            raise BadInput(
                f"{self.folder} holds a run with another configuration (see its config.yaml); choose another out=FOLDER"
            )
        if known is None and leads() and visible(self.folder) and text_of(self.folder / "config.yaml") != config:
            raise BadInput(f"{self.folder} is not empty and is no run of this configuration; choose another out=FOLDER")

    def keep_splits(self, dataset: Dataset) -> None:
        """Write splits.csv.gz: split, cell and file of every image, as this run saw them; anew where it is harmed."""
        path = self.folder / "splits.csv.gz"
        with suppress(OSError, EOFError, zlib.error):
            if gzip.decompress(path.read_bytes()):
                return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["split", *dataset.domains, "file", "index"])
        for split in SPLITS:
            writer.writerows([split, *item.concepts, item.path or "", item.index] for item in dataset.items(split))
        with atomic(path) as temporary:
            temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))

    @property
    def results(self) -> dict[str, Any] | None:
        """results.json, once the run is complete; a harmed one is made again."""
        return unharmed(self.folder / "results.json", read_json)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, a failure leaves its last line in failed.json, for the ledger."""
        try:
            yield
        except Exception as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[-1]
            with suppress(OSError):  # a full disk: the line is on the screen at least
                write_json(
                    self.folder / "failed.json", {"error": line, "kind": type(error).__name__, "at": time.time()}
                )
            raise

    def finish(self, results: dict[str, Any]) -> dict[str, Any]:
        """Write results.json, with where it came from and the hash of it all."""
        complete = {**portable(results), "identity": self.identity, **provenance()}
        complete["sha256"] = digest(complete)
        write_json(self.folder / "results.json", complete)
        self._release()
        return complete


def adapter_bytes(folder: Path) -> int:
    """What `kB` means in every table: the file that has to be shipped, without the card beside it."""
    return (folder / "adapter.safetensors").stat().st_size


def visible(folder: Path) -> bool:
    """Whether anything lies in a folder, hidden names left out."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def text_of(path: Path) -> str | None:
    """A text file; None where it is not there, or no text."""
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    return None


def portable(about: dict[str, Any]) -> dict[str, Any]:
    """Without the folders of this machine in the overrides."""
    return about | {"overrides": [without_folders(override) for override in about.get("overrides", [])]}


def provenance() -> dict[str, Any]:
    return {**origin((*LIBRARIES, "timm", "torchmetrics")), "machine": machine()}


def machine() -> str:
    """Processor, cores, and GPU where there is one; no host name."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    gpu = f", {torch.cuda.device_count()} × {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores{gpu}"


def forget_peak_memory() -> None:
    """Begin to count anew: several runs of a sweep share one process. Where it cannot, the peak is all runs'."""
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


def saliency_file(config: dict[str, Any], base: str) -> Path:
    """Where the cache has what stage one finds; runs that differ only in what it does not depend on share the file.

    config: all of a run's, plain values. base: the model's hash.
    """
    dense = "Dense" in config["sparsity"]["_target_"]  # nothing is scored then
    parts = [base, dense, _without(config, NOT_STAGE_ONE)]
    return Path(config["cache_dir"]) / f"saliency-{content_hash(parts)}.safetensors"


def _without(config: dict[str, Any], names: Collection[str], where: str = "") -> dict[str, Any]:
    """The configuration without the parts of these dotted names."""
    return {
        key: _without(value, names, f"{where}{key}.") if isinstance(value, dict) else value
        for key, value in config.items()
        if f"{where}{key}" not in names
    }
