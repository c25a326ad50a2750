"""What several processes share is made by one of them, the others wait; a dead one's work is taken over."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ROOT

from fade import claims
from fade.claims import claimed, free, once
from fade.files import read_json, write_json

WORKER = """
import logging, os, sys, time
from pathlib import Path
from fade import claims
from fade.files import write_text
logging.basicConfig(level=logging.INFO, format="%(message)s")
claims.LOOK_S = 0.02
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

def make():
    with (folder / "makers").open("a") as makers:
        makers.write(f"{os.getpid()} ")
    time.sleep(seconds)
    write_text(folder / "shared", "made")

assert claims.once(folder / "shared", Path.read_text, make, "the base's images") == "made"
"""


class Workers:
    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder / "cache", list[subprocess.Popen[bytes]]()
        self.folder.mkdir()

    def start(self, seconds: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(self.folder), str(seconds)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.folder.parent / f"said{len(self.all)}").open("wb") as said:
            self.all.append(subprocess.Popen(command, env=env, stderr=said))
        return self.all[-1]

    def said(self, number: int) -> str:
        return (self.folder.parent / f"said{number}").read_text()

    def makers(self) -> list[int]:
        path = self.folder / "makers"
        return [int(pid) for pid in path.read_text().split()] if path.is_file() else []

    def until_made_by(self, number: int) -> None:
        end = time.monotonic() + 60
        while len(self.makers()) < number:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    found = Workers(tmp_path)
    yield found
    for worker in found.all:
        worker.kill()
        worker.wait()


@pytest.mark.processes
def test_one_makes_and_the_others_wait_for_it(workers: Workers) -> None:
    first = workers.start(3)  # the others have to come while it works
    workers.until_made_by(1)
    for _ in range(2):
        workers.start(0)
    assert [worker.wait(60) for worker in workers.all] == [0, 0, 0] and workers.makers() == [first.pid]
    for number in (1, 2):
        assert workers.said(number).startswith(f"waiting for the base's images: pid {first.pid} on ")
    assert sorted(path.name for path in workers.folder.iterdir()) == ["makers", "shared"]


@pytest.mark.processes
def test_a_killed_makers_work_is_taken_over_by_exactly_one(workers: Workers) -> None:
    first = workers.start(600)
    workers.until_made_by(1)
    others = [workers.start(0.5) for _ in range(3)]
    time.sleep(0.5)
    first.kill()
    assert first.wait(60) != 0 and [worker.wait(60) for worker in others] == [0, 0, 0]
    dead, maker = workers.makers()
    assert dead == first.pid and maker in {worker.pid for worker in others}
    assert "".join(map(workers.said, (1, 2, 3))).count("is gone; this process goes on") == 1
    assert sorted(path.name for path in workers.folder.iterdir()) == ["makers", "shared"]


def _elsewhere(path: Path) -> Path:
    """A claim of a process on another machine."""
    claim = path.with_name(f".{path.name}.claim0")
    claim.write_text(json.dumps({**claims.signature(), "host": "elsewhere", "pid": 7}))
    return claim


def test_another_machines_claim_holds_while_it_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LOOK_S", 0.01)
    monkeypatch.setattr(claims, "DEAD_S", 0.3)
    path = tmp_path / "shared"
    claim = _elsewhere(path)
    os.utime(claim, (0, 0))  # its clock is another
    ended = threading.Event()

    def touch() -> None:
        for k in range(20):
            os.utime(claim, (k, k))
            time.sleep(0.05)
        ended.set()

    threading.Thread(target=touch, daemon=True).start()
    assert not free(path)
    assert once(path, read_json, lambda: write_json(path, ended.is_set()), "it") is True
    assert free(path) and sorted(tmp_path.iterdir()) == [path]


def test_a_failed_makers_claim_is_free_at_once_and_its_own_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    path = tmp_path / "shared"
    with pytest.raises(ZeroDivisionError), claimed(path, "it"):
        (claim,) = tmp_path.iterdir()
        os.utime(claim, (0, 0))
        end = time.monotonic() + 10
        while claim.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert claim.stat().st_mtime > 0 and not free(path)
        raise ZeroDivisionError
    assert free(path) and not list(tmp_path.iterdir())


def test_who_sees_no_claim_where_there_is_one_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two come at the same time, or a network file system shows the folder as it was."""
    monkeypatch.setattr(claims, "LOOK_S", 0.01)
    path, last, stale, inside = tmp_path / "shared", claims._last, [-1], threading.Event()
    with claimed(path, "it"):
        monkeypatch.setattr(claims, "_last", lambda path: stale.pop() if stale else last(path))

        def other() -> None:
            with claimed(path, "it"):
                inside.set()

        threading.Thread(target=other, daemon=True).start()
        assert not inside.wait(0.3) and not stale
    assert inside.wait(10)


def test_a_harmed_file_is_made_again_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "shared.json"
    path.write_text("{")
    assert once(path, read_json, lambda: write_json(path, 1), "it") == 1
    assert [record.getMessage().count("shared.json") for record in caplog.records] == [1]
