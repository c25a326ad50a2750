"""Sweeps on a real Slurm of one node: requeued, preempted, timed out and killed runs end as undisturbed ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from command import ROOT
from command import SMALL as PART
from slurm_cluster import Cluster, missing

import fade
from benchmarks.record.sweep import ledger
from fade.models.stable_diffusion import StableDiffusion

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
SMALL = [
    *PART,
    "protocol.seeds=[188]",
    "pairs.forget=16",
    "pairs.retain=64",
    "model.steps=4",
    "checkpoint_every=1",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "device=cpu",
]
SLURM = ["launcher=slurm", "launcher.gpus=null", "launcher.cpus=1", "launcher.memory_gb=2", "launcher.minutes=10"]
SIX = ["target=neon_glow,house_cat", "sparsity.p=0.05,0.1,0.2", "trainer.max_steps=24"]
T = TypeVar("T")


def seconds_a_step() -> float:
    """About what a training step takes here: a step is three passes forward and one backward of 32 latents."""
    model = StableDiffusion.load(str(Path(fade.__file__).parent / "shipped" / "canvas" / "pipeline"), 4, 3.0)
    side, channels = model.unet.config.sample_size, model.unet.config.in_channels
    z, text = torch.randn(32, channels, side, side), model.embed(["A cat image in neon style."] * 32)
    began = time.monotonic()
    with torch.no_grad():
        for _ in range(4):
            model.predict(z, torch.full((32,), 500), text)
    return time.monotonic() - began


class Place:
    """Where one sweep works: its folders, its drivers, and what its runs are doing."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster, self.out = folder, cluster, folder / "outputs"
        self.env = {**cluster.env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """The driver of a sweep."""
        where = [f"output_dir={self.out}", f"cache_dir={self.folder / 'cache'}"]
        where += [f"launcher.folder={self.folder / 'slurm'}"] if "launcher=slurm" in overrides else []
        command = [sys.executable, "run.py", "-m", *SMALL, *where, *overrides]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def training(self) -> dict[str, Path]:
        """Task -> folder, of the runs that have made three steps and some since their last start, and work on."""
        found = {}
        for claim in self.out.glob("*/run.json"):
            log = claim.parent / "metrics.jsonl"
            if (claim.parent / "adapter").exists() or not log.is_file() or log.stat().st_mtime < claim.stat().st_mtime:
                continue
            task = task_of(json.loads(claim.read_text())["pid"])
            if task and len(log.read_text().splitlines()) >= 3:
                found[task] = claim.parent
        return found

    def results(self) -> dict[str, dict[str, Any]]:
        return {path.parent.name: json.loads(path.read_text()) for path in self.out.glob("*/results.json")}


def task_of(pid: int) -> str | None:
    """The Slurm task that a process is of; None for a dead one."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return None
    env = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    array = env.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{env['SLURM_ARRAY_TASK_ID']}" if array else env.get("SLURM_JOB_ID")


def until(look: Callable[[], T], seconds: float, what: str) -> T:
    """Look until there is something to see; the seconds allow for a machine that has much else to do."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def said(driver: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = driver.communicate(timeout=1200)
    return driver.returncode, out + err


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    keys = ("metrics", "base", "landed", "gates", "adapter_sha256", "base_sha256", "sparsity")
    cost = ("steps", "teacher_passes")
    return all(found[k] == wanted[k] for k in keys) and all(found["cost"][k] == wanted["cost"][k] for k in cost)


def steps_of(run: Path) -> dict[int, float]:
    """Step -> loss, as metrics.jsonl has them. No step may stand there twice."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)), steps
    return {line["step"]: line["loss/total"] for line in lines}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fade", dir="/tmp") as name:  # short: a socket lies in it
        yield Path(name)


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    with Cluster(folder / "slurm") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def long_run(cluster: Cluster) -> list[str]:
    """Of so many steps that three waits of at most 30 s, Slurm's own clock, pass in the training."""
    return ["target=sea_fish", f"trainer.max_steps={round(95 / seconds_a_step())}"]


@pytest.fixture(scope="module")
def undisturbed(
    folder: Path, cluster: Cluster, long_run: list[str]
) -> Iterator[Callable[[], dict[str, dict[str, Any]]]]:
    """The same runs without Slurm, in the background; call it for their results."""
    place = Place(folder / "undisturbed", cluster)
    drivers = [place.start(*SIX), place.start(*long_run)]

    def results() -> dict[str, dict[str, Any]]:
        while drivers:
            code, text = said(drivers.pop())
            assert code == 0, text
        return place.results()

    yield results
    for driver in drivers:
        driver.kill()


@pytest.fixture(scope="module", autouse=True)
def limited(folder: Path, cluster: Cluster, long_run: list[str]) -> tuple[Place, subprocess.Popen[str]]:
    """The run that will hit its time limit, where no preemption meets it: begun with the sweep, for it waits a lot."""
    place = Place(folder / "limited", cluster)
    return place, place.start(
        *long_run, *SLURM, "launcher.partition=calm", "launcher.restarts=3", "hydra.launcher.signal_delay_s=180"
    )


class Limiter(threading.Thread):
    """Three times: waits until the run trains, and shortens its time limit, so that nobody waits for ten minutes.

    Slurm finds by itself, within 30 s, that the limit is near, and warns the task; submitit queues it again.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(daemon=True)
        self.place, self.steps, self.wrong = place, list[int](), ""
        self.start()

    def run(self) -> None:
        try:
            started = 0.0
            for hit in range(1, 4):
                task, started = until(lambda: self.begun(started), 600, f"training after {hit - 1} time limits")  # noqa: B023
                elapsed = time.time() - started
                self.limit(task, int(elapsed) // 60 + 3)
                until(lambda: self.restarts(task) == hit, 200, f"time limit {hit}")  # noqa: B023 - called at once
                self.limit(task, 10)
                (log,) = self.place.out.glob("*/metrics.jsonl")
                self.steps.append(len(log.read_text().splitlines()))
        except (AssertionError, subprocess.CalledProcessError) as error:
            self.wrong = f"{error} {getattr(error, 'stderr', '')}"

    def begun(self, last: float) -> tuple[str, float] | None:
        """The task, and when its process started, if that is another than the one that was stopped last."""
        for task, run in self.place.training().items():
            if (started := float(json.loads((run / "run.json").read_text())["started"])) > last:
                return task, started
        return None

    def limit(self, task: str, minutes: int) -> None:
        self.place.cluster.do("scontrol", "update", f"JobId={task}", f"TimeLimit={minutes}")

    def restarts(self, task: str) -> int:
        return int(self.place.cluster.jobs()[task]["Restarts"])


@pytest.fixture(scope="module", autouse=True)
def limiter(limited: tuple[Place, subprocess.Popen[str]]) -> Limiter:
    return Limiter(limited[0])


def test_a_sweep_killed_requeued_and_preempted_ends_as_an_undisturbed_one(
    folder: Path, cluster: Cluster, undisturbed: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    place = Place(folder / "sweep", cluster)
    driver = place.start(*SIX, *SLURM, "launcher.parallel=2")
    met: set[str] = set()

    def another() -> tuple[str, Path]:
        task, run = until(
            lambda: next(((t, f) for t, f in place.training().items() if t not in met), None), 600, "a run in training"
        )
        met.add(task)
        return task, run

    _, killed = another()
    os.kill(json.loads((killed / "run.json").read_text())["pid"], signal.SIGKILL)
    requeued, _ = another()
    cluster.do("scontrol", "requeue", requeued)
    _, held = another()
    os.kill(json.loads((held / "run.json").read_text())["pid"], signal.SIGSTOP)  # it may not end before it is preempted
    cluster.do("sbatch", "-p", "urgent", "-c", "2", "-o", str(folder / "urgent.txt"), "--wrap", "echo done")
    array = requeued.split("_")[0]
    preempted = rf"preempted JobId={array}_\d+.* has been requeued"
    until(lambda: re.search(preempted, (cluster.folder / "ctld.log").read_text()), 300, "a preemption")
    until(lambda: not cluster.do("squeue", "-h", "-j", array).strip(), 900, "the end of the array")
    code, text = said(driver)
    assert code == 1 and "the same command" in text.splitlines()[-1], text

    tasks = {name: job for name, job in cluster.jobs().items() if name.startswith(f"{array}_")}
    assert sorted(tasks) == [f"{array}_{i}" for i in range(6)] and tasks[requeued]["Restarts"] != "0"
    assert (folder / "urgent.txt").read_text() == "done\n"
    states = {entry.name: entry.state for entry in ledger(place.out)}
    assert states.pop(killed.name) == "stopped" and list(states.values()) == ["finished"] * 5, states

    before = {path: path.stat().st_mtime_ns for path in place.out.glob("*/results.json")}
    code, text = said(place.start(*SIX))  # the same sweep again: the dead run alone is left
    assert code == 0, text
    assert before.items() <= {path: path.stat().st_mtime_ns for path in place.out.glob("*/results.json")}.items()
    wanted, found = undisturbed(), place.results()
    assert len(found) == 6 and found.keys() <= wanted.keys()
    for name, results in found.items():
        assert same(results, wanted[name]), name
        assert steps_of(place.out / name) == steps_of(folder / "undisturbed" / "outputs" / name)


def test_a_time_limit_hit_three_times(
    folder: Path,
    limited: tuple[Place, subprocess.Popen[str]],
    limiter: Limiter,
    undisturbed: Callable[[], dict[str, dict[str, Any]]],
) -> None:
    place, driver = limited
    limiter.join(timeout=1200)
    assert not limiter.wrong, limiter.wrong
    code, text = said(driver)
    assert code == 0, text
    assert limiter.steps == sorted(set(limiter.steps)) and len(limiter.steps) == 3  # each time further on
    ((name, found),) = place.results().items()
    assert same(found, undisturbed()[name])
    assert steps_of(place.out / name) == steps_of(folder / "undisturbed" / "outputs" / name)
