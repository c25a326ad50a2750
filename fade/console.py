"""What a person at the terminal sees: a line for every stage, one every ten seconds, and one when it is stopped.

Ctrl-C and SIGTERM raise `Stopped` in the main thread of a command, wherever it is; files are written whole or not at
all (fade.files), so that nothing else is needed. A process that others lead (submitit's tasks, a notebook, a test)
keeps its own handlers.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fade.errors import BadInput

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)
T = TypeVar("T")
EVERY_S = 10.0
REPEAT_S = 1.0  # a signal that comes twice within this time (a terminal's and its parent's) is one


# Warnings of libraries in training that a user can do nothing about: what they say, and why it is nothing here.
IDLE = {
    r".*isinstance\(treespec, LeafSpec\).* is deprecated": "Lightning calls torch so; theirs to mend",
    r"Found \d+ module\(s\) in eval mode at the start of training": "frozen; the adapter alone is trained",
    r"The number of training batches \(\d+\) is smaller than the logging interval": "the last step is logged anyway",
    r"You're resuming from a checkpoint that ended before the epoch": "a step draws by its number",
    r"Checkpoint directory .* exists and is not empty": "it is where the run goes on from",
    r".*configure_optimizers` returned `None`": "a closed form takes no step",
    r"The `srun` command is available on your system but is not used": "launcher=slurm is for that",
    r"The 'train_dataloader' does not have many workers": "the loader only counts; the latents are in memory",
}


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; args[0] is the signal. No KeyboardInterrupt: Lightning makes exit(1) of that, silently."""


class _State:
    """Of this process: where it is, what becomes of the work when it is stopped, and how far a stop has come."""

    part = place = then = line = ""
    raising = said = False
    stopped = 0.0
    bar: Progress | None = None  # the one that is on the screen


def listen() -> None:
    """From here on Ctrl-C and SIGTERM end this command with one line. Handlers that somebody else has set stay."""
    if threading.current_thread() is threading.main_thread():
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == default:
                signal.signal(number, _stop)


def _stop(number: int, _: Any) -> None:
    """The first time: raise, so that what is open is closed. Again, or during imports: leave at once."""
    now = time.monotonic()
    if not _State.stopped and _State.raising:
        _State.stopped = now
        raise Stopped(number)
    if now - _State.stopped > REPEAT_S:
        say_stopped()
        os._exit(128 + number)


def _follows() -> bool:
    """Whether this is one of several processes, and not their first."""
    return any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK"))


def say_stopped() -> None:
    """The line; once, and of a run of several processes by its first."""
    _no_bar()
    if not _State.said and not _follows():
        where = " ".join(text for text in (_State.part, _State.place) if text)
        print("stopped" + (f" {where}" if where else "") + (f"; {_State.then}" if _State.then else ""), file=sys.stderr)
    _State.said = True


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Lightning's notes and the warnings of IDLE are not shown; all others are."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its import sets another, whenever that comes
    with warnings.catch_warnings():
        for message in IDLE:
            warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def stoppable(then: str = "") -> Iterator[None]:
    """Inside, a stop is raised, and ends here: one line with `then`, what becomes of the work, exit code 130 or 143."""
    _State.part = _State.place = ""
    _State.then, _State.said, _State.stopped, _State.raising = then, False, 0.0, True
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        say_stopped()
        sys.exit(128 + (stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT))
    finally:
        _State.raising = False
        _no_bar()


def command(main: Callable[[], int | None]) -> None:
    """Run a command's `main`, whose return value is the exit code; a stop is one line."""
    listen()
    with stoppable():
        sys.exit(main())


@contextmanager
def one_line(out: Path | str | None = None) -> Iterator[None]:
    """Inside, bad input ends the command with one line and code 1; where it writes to `out`, a full disk does too."""
    try:
        yield
    except BadInput as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:  # a full disk, a folder that may not be written
        if out is None:
            raise
        raise SystemExit(f"error: cannot write {error.filename or out}: {error.strerror}") from None


def within(part: str, then: str = "") -> None:
    """Which part of the work the stages are of ("in request 3 of 10,"); `then`: what becomes of it, if that differs."""
    _State.part, _State.place, _State.then = part, "", then or _State.then


def at(place: str) -> None:
    """Where a stop would stop: "at step 3 of 30"."""
    _State.place = place


def without_bars() -> None:
    """Diffusers and transformers draw none of their own: what is done is said by stages."""
    import diffusers  # here, so that what needs no model is answered without them
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def place() -> str:
    """Where a stop would stop, for who stops the work elsewhere."""
    return _State.place


def latest() -> str:
    """The newest line of the work, whether it was shown or not, for who shows it elsewhere."""
    return _State.line


def doing(what: str) -> None:
    """A line before a stage that says nothing by itself."""
    _State.line = what
    log.info("%s", what)
    at(f"while {what}")


def ignore_stop() -> None:
    """For worker processes: a terminal's Ctrl-C reaches them too, and it is their leader who says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _bar(name: str, total: int, first: int) -> Progress | None:
    """A progress bar where a person is watching, and of several processes the first; it goes when it is full."""
    _no_bar()
    if _follows() or not sys.stderr.isatty():
        return None
    from rich import progress  # here, so that logs and --help do without it
    from rich.console import Console

    counted = (progress.MofNCompleteColumn(), progress.TimeElapsedColumn(), progress.TimeRemainingColumn())
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), *counted)
    _State.bar = progress.Progress(*columns, console=Console(file=sys.stderr), transient=True)
    _State.bar.add_task(name, total=total, completed=first)
    _State.bar.start()
    return _State.bar


def _no_bar() -> None:
    """Take the bar off the screen: it is full, another stage begins, or the command ends."""
    if _State.bar is not None:
        _State.bar.stop()
        _State.bar = None


class Stage:
    """Work of `total` parts: a line at the start, at most every ten seconds and at the end, and the place where a stop
    stops. At a terminal a bar between the first line and the last, in place of those between.

    name: of the lines, "images"; place: "while making images". first: how many were done before this process began.
    """

    def __init__(self, name: str, total: int, place: str, first: int = 0) -> None:
        self.name, self.total, self.place, self.first, self.number = name, total, place, first, first
        self.began = self.said = time.monotonic()
        _State.line = f"{name}: {total - first} to do"
        log.info("%s", _State.line)
        self._bar = _bar(name, total, first)
        self.done(first)

    def done(self, number: int, note: str = "", made: int | None = None) -> None:
        """`number` parts are done; `made`: by this process, if some of them were there already."""
        at(f"{self.place} {number} of {self.total}")
        self.number = number
        now, made = time.monotonic(), number - self.first if made is None else made
        self._draw(number, note)
        if not made:
            return
        speed = made / max(now - self.began, 1e-6)
        pace = f"{speed:.1f} a second" if speed > 0.1 else f"{1 / speed:.0f} s each"
        left = (self.total - number) / speed
        _State.line = f"{self.name}: {number}/{self.total}{note}, {pace}, {left:.0f} s left"
        if (self._bar is None and now - self.said > EVERY_S) or number == self.total:
            log.info("%s", _State.line)
            self.said = now

    def one(self, note: str = "") -> None:
        """One part more is done."""
        self.done(self.number + 1, note)

    def _draw(self, number: int, note: str) -> None:
        """The bar, if it is this stage's turn: a stage within this one had the screen until it was full."""
        if self._bar is not None and _State.bar is None and number < self.total:
            self._bar = _bar(self.name, self.total, number)
        if self._bar is not None and self._bar is _State.bar:
            self._bar.update(self._bar.task_ids[0], completed=number, description=f"{self.name}{note}")
            if number == self.total:
                _no_bar()


class Shown(list[T]):
    """A list that says, whenever it is read from end to end, how far the reader has come."""

    def __init__(self, items: list[T], name: str, place: str) -> None:
        super().__init__(items)
        self.name, self.place = name, place

    def __iter__(self) -> Iterator[T]:
        stage = Stage(self.name, len(self), self.place)
        for number, item in enumerate(super().__iter__(), 1):
            yield item
            stage.done(number)
