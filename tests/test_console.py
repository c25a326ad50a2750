"""Ctrl-C and SIGTERM: one line that says where, the exit code of the signal, and nothing half-written."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from command import ROOT, SHORT, SMALL
from torch import nn

from fade import console
from fade.console import Shown, Stage, Stopped, doing, listen, quiet, stoppable, within


@pytest.fixture
def heard() -> Iterator[None]:
    """Our handlers in this process, and the test runner's back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_is_one_line_that_says_where_and_what_becomes_of_it(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, stoppable("the same command goes on"):
        within("in request 2 of 3,")
        for batch in Shown([1, 2, 3], "locating", "in batch"):
            if batch == 3:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)  # a terminal's and its parent's: one stop
    assert ended.value.code == code
    assert capsys.readouterr().err == "stopped in request 2 of 3, in batch 2 of 3; the same command goes on\n"


@pytest.mark.usefixtures("heard")
def test_a_stop_goes_through_lightning_and_through_whatever_catches_exceptions(tmp_path: Path) -> None:
    """Lightning makes exit(1) of a KeyboardInterrupt, without a word; wandb and Hydra catch Exception."""

    class Stops(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            os.kill(os.getpid(), signal.SIGTERM)
            return self.weight.sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with pytest.raises(SystemExit) as ended, stoppable():
        try:
            trainer.fit(Stops(), torch.utils.data.DataLoader(torch.zeros(4, 1)))
        except Exception:
            pytest.fail("an Exception is caught on the way")
    assert ended.value.code == 143


def test_handlers_of_others_stay() -> None:
    """submitit's tasks are told by SIGTERM and SIGUSR2 of a preemption, and put themselves back into the queue."""
    before = signal.getsignal(signal.SIGTERM)

    def theirs(number: int, frame: object) -> None:
        """submitit's."""

    signal.signal(signal.SIGTERM, theirs)
    try:
        listen()
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_listening_from_another_thread_is_no_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stage_says_its_start_what_is_left_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stage = Stage("images", 4, "while making images", first=1)
        stage.done(2)
        stage.said -= console.EVERY_S
        stage.began = time.monotonic() - 2
        stage.done(3)
        stage.done(4, ", loss 0.5")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "images: 3 to do" and lines[1] == "images: 3/4, 1.0 a second, 1 s left"
    assert lines[2].startswith("images: 4/4, loss 0.5, ") and len(lines) == 3 and console.latest() == lines[2]
    slow = Stage("attacks", 3, "while attacking")
    slow.began -= 40
    slow.one()
    assert console.latest() == "attacks: 1/3, 40 s each, 80 s left"  # known, though no line was due


def test_only_the_first_of_several_processes_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as ended, stoppable():
        doing("nothing")
        raise Stopped(signal.SIGINT)
    assert ended.value.code == 130 and capsys.readouterr().err == ""


def test_idle_warnings_are_not_shown_and_others_are() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn(
                "Found 525 module(s) in eval mode at the start of training. This may", UserWarning, stacklevel=1
            )
            warnings.warn("the loss is odd", UserWarning, stacklevel=1)
    assert [str(w.message) for w in shown] == ["the loss is odd"]


def ended(started: subprocess.Popen[str], said: str, number: int) -> tuple[int, list[str]]:
    """Send the signal once `said` has been said on stderr; the exit code and the lines after it."""
    assert started.stderr is not None
    for line in started.stderr:
        if said in line:
            break
    time.sleep(0.3)
    started.send_signal(number)
    _, rest = started.communicate(timeout=120)
    return started.returncode, rest.splitlines()


@pytest.mark.processes
def test_a_real_process_stops_with_one_line_wherever_it_is(tmp_path: Path) -> None:
    where = [
        f"output_dir={tmp_path}/outputs",
        f"cache_dir={tmp_path}/cache",
        "trainer.max_steps=100",
        "checkpoint_every=1",
    ]

    def start(*overrides: str) -> subprocess.Popen[str]:
        long = ("trainer.max_steps", "model.steps")
        short = [given for given in SHORT if not given.startswith(long)]
        command = [sys.executable, "run.py", *overrides, *SMALL, *short, *where]
        return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    code, lines = ended(start("target=neon_glow"), "distil: ", signal.SIGINT)
    assert code == 130 and lines[-1].startswith("stopped at step ") and "Traceback" not in "".join(lines)
    code, lines = ended(start("-m", "target=neon_glow,house_cat"), "distil: ", signal.SIGTERM)
    assert code == 143 and lines[-1].startswith("stopped in run 1 of the sweep, at step ") and len(lines) == 1
    code, lines = ended(start("target=neon_glow"), "images: 16 to do", signal.SIGTERM)
    assert code == 143 and lines[-1].startswith("stopped while making images ")
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("results.json"))


def interrupted(command: list[str], module: str) -> str:
    """What a command says when Ctrl-C comes as soon as it has imported a module and gone on to another."""
    started = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, text=True, stderr=subprocess.PIPE
    )
    assert started.stderr is not None
    next(line for line in started.stderr if line.split("|")[-1].strip() == module)
    next(started.stderr)
    started.send_signal(signal.SIGINT)
    said = [line for line in started.stderr if not line.startswith("import time:")]
    assert started.wait(60) == 130
    return "".join(said)


@pytest.mark.processes
@pytest.mark.parametrize("command", ["benchmarks.report .", "benchmarks.studies.compare .", "fade info ."])
def test_the_other_commands_stop_with_one_line_too_in_their_imports(command: str) -> None:
    assert interrupted(["-m", *command.split()], "fade.console") == "stopped\n"


@pytest.mark.processes
@pytest.mark.parametrize(("module", "more"), [("omegaconf", ""), ("torch", "; the same command goes on")])
def test_a_run_stops_with_one_line_in_its_imports(module: str, more: str, tmp_path: Path) -> None:
    command = ["run.py", "target=neon_glow", f"output_dir={tmp_path}", f"cache_dir={tmp_path}"]
    assert interrupted(command, module) == f"stopped{more}\n"


class Terminal(io.StringIO):
    """A stream that a person watches."""

    def isatty(self) -> bool:
        return True


def test_at_a_terminal_a_stage_is_a_bar_between_its_first_line_and_its_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(console, "EVERY_S", -1.0)  # every part would be a line
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    stage = Stage("images", 3, "while making images")
    stage.done(1)
    unfinished = Stage("distil", 5, "at step")  # its bar takes the place of the other
    assert stage._bar and not stage._bar.live.is_started
    stage.done(2)
    unfinished.done(4, ", loss 0.5")
    assert unfinished._bar
    unfinished._bar.refresh()
    unfinished.done(5)
    assert console._State.bar is None and not unfinished._bar.live.is_started
    assert all(text in screen.getvalue() for text in ("images", "distil, loss 0.5", "4/5"))
    stage.done(2)  # the stage around it has the screen again
    assert stage._bar and stage._bar.live.is_started and console._State.bar is stage._bar
    stage.done(3)
    assert console._State.bar is None
    said = ["images: 3 to do", "distil: 5 to do", "distil: 5/5", "images: 3/3"]
    assert [line.partition(",")[0] for line in caplog.messages] == said
