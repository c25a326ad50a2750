"""What the demo's page does, without the page: pictures before and after, a strip over scales, a training, attacks.

Adapters are read, never written to; a folder is not locked, and what is trained here stays in memory until it is saved.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from fade.adapters.stored import Stored
from fade.api import RETAIN, TEMPLATES, Handle, diffusion_of, unlearn
from fade.attacks.call import attack
from fade.checked import Seed, check
from fade.console import doing, latest, place
from fade.data.dataset import Dataset
from fade.demo.filled import Training, sentences
from fade.errors import BadInput
from fade.judges import Judge
from fade.metrics import cell_text
from fade.models import Noise

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
LOOK = 10  # steps between two previews: one picture costs about as much as two steps
LOOK_S = 0.5  # between two looks at work that goes on


class Cancelled(Exception):
    """The training was stopped from the page."""


@dataclass(frozen=True)
class Progress:
    """How far a training is. losses: one a step. preview: the concept as it is drawn now. says: in words, with the time
    left. label: once it is done."""

    losses: tuple[float, ...]
    preview: Image.Image | None = None
    says: str = ""
    label: str | None = None


class Studio:
    """One pipeline and the adapters that were given for it; none is on between two calls.

    steps, guidance: of every picture. judges: that report on attacks. dataset: whose captions attacks ask with, where
    an adapter's card has none.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        steps: int,
        guidance: float,
        judges: Sequence[Judge] = (),
        dataset: Dataset | None = None,
    ) -> None:
        self.model = diffusion_of(pipe)
        self.model.pipe.set_progress_bar_config(disable=True)
        self.model.steps, self.model.guidance, self.judges = steps, guidance, list(judges)
        self.dataset = dataset
        self.handles: dict[str, Handle] = {}
        self.cancelled = threading.Event()

    # adapters

    def add(self, folder: str) -> str:
        """Read an adapter's folder, or a finished run's; its label. Raises BadInput where it is none, or was made for
        another base."""
        if not folder.strip():
            raise BadInput("no folder was named; give an adapter's folder, or a finished run's")
        path = Path(folder.strip()).expanduser()
        inner = path / "adapter"
        handle = Handle(self.model, Stored.read(inner if (inner / "adapter.json").is_file() else path))
        with handle:  # whether it fits
            return self._keep(handle)

    def _keep(self, handle: Handle) -> str:
        target = f"without {handle.card.get('target')}"
        label, n = target, 2
        while label in self.handles:
            label, n = f"{target} ({n})", n + 1
        self.handles[label] = handle
        return label

    def save(self, label: str, folder: str) -> str:
        """Write an adapter to a new folder, and say so. Raises BadInput for one that exists."""
        if not folder.strip():
            raise BadInput("no folder was named to save the adapter in")
        path = Path(folder.strip()).expanduser()
        if path.exists():
            raise BadInput(f"{path} exists already; name a new folder")
        self.chosen([label])[0].save(path)
        return f"{path}: adapter.safetensors and its card"

    def chosen(self, labels: Sequence[str]) -> list[Handle]:
        """Raises BadInput for none, and for one that is not there."""
        if not labels:
            raise BadInput("no adapter is chosen; add a folder, or unlearn something")
        if unknown := [label for label in labels if label not in self.handles]:
            raise BadInput(f"there is no adapter {unknown[0]!r}; choose one of {', '.join(self.handles) or 'none'}")
        return [self.handles[label] for label in labels]

    @contextmanager
    def wearing(self, handles: Sequence[Handle], scale: float = 1.0, merged: bool = False) -> Iterator[None]:
        """Inside, these are on, each at this scale; merged: written into the weights."""
        with ExitStack() as stack:
            for handle in handles:
                handle.scale = scale
                stack.enter_context(handle)
            if merged:
                for handle in handles:
                    handle.merge()
            yield

    # pictures

    def picture(self, prompt: str, seed: int) -> Image.Image:
        """Raises BadInput for a prompt that is empty or too long, and for no seed."""
        if not prompt.strip():
            raise BadInput("the prompt is empty; say what is to be drawn")
        check("seed", seed, Seed)
        self.model.check_prompts([prompt])
        made = self.model.generate([prompt], [Noise(seed)])[0]
        return Image.fromarray((made * 255).round().byte().permute(1, 2, 0).numpy())

    def before_after(
        self, prompt: str, seed: int, labels: Sequence[str], scale: float, on: bool, merged: bool
    ) -> tuple[Image.Image, Image.Image]:
        """The same noise through the untouched pipeline, and with the adapters; with them off, or none, both are the
        same."""
        handles = self.chosen(labels) if on and labels else []
        before = self.picture(prompt, seed)
        with self.wearing(handles, scale, merged):
            return before, self.picture(prompt, seed)

    def strip(self, prompt: str, seed: int, labels: Sequence[str]) -> list[tuple[Image.Image, str]]:
        """The same noise at every one of SCALES."""
        handles, made = self.chosen(labels), []
        for scale in SCALES:
            with self.wearing(handles, scale):
                made.append((self.picture(prompt, seed), f"scale {scale:g}"))
        return made

    # training

    def train(self, asked: Training, prompt: str, seed: int) -> Iterator[Progress]:
        """Train an adapter, a Progress a step; the last has its label. Raises Cancelled where `cancelled` is set, and
        where the reader goes away it ends too; BadInput as `fade.unlearn` does."""
        before = self.picture(prompt, seed)
        news: SimpleQueue[Progress | Handle | Exception] = SimpleQueue()
        self.cancelled.clear()
        last = Progress((), before)
        worker = threading.Thread(target=self._work, args=(asked, prompt, seed, before, news), daemon=True)
        yield last
        worker.start()
        try:
            while not isinstance(item := _next(news, last), Handle):
                if isinstance(item, Exception):
                    raise item
                yield (last := item)
            yield replace(last, label=self._keep(item))
        finally:
            self.cancelled.set()
            worker.join()

    def _work(
        self,
        asked: Training,
        prompt: str,
        seed: int,
        preview: Image.Image,
        news: SimpleQueue[Progress | Handle | Exception],
    ) -> None:
        """In a thread of its own: the training, which tells `news` every step and then the adapter or what ended it.
        preview: until there is a newer one."""
        doing(f"unlearning {asked.concept}")
        losses: list[float] = []

        def watch(step: int, loss: float) -> None:
            nonlocal preview
            losses.append(loss)
            if step % LOOK == 0 or step == asked.steps:
                preview = self.picture(prompt, seed)
            news.put(Progress(tuple(losses), preview, latest()))

        def stop(*_: Any) -> None:
            if self.cancelled.is_set():
                raise Cancelled(f"stopped {place()}; nothing was kept")

        # each step of drawing, of stage one and of training asks the network
        hook = self.model.network.register_forward_pre_hook(stop)
        how: dict[str, Any] = {"templates": asked.templates, "retain": asked.retain, "steps": asked.steps}
        try:
            pipe = self.model.pipe
            news.put(unlearn(pipe, asked.concept, asked.surrogate, watch=watch, **how, **asked.options))
        except Exception as error:  # to the reader's thread, which raises it
            news.put(error)
        finally:
            hook.remove()

    # attacks

    def attacks(
        self, label: str, attacks: Sequence[str], images: int
    ) -> Iterator[str | tuple[list[list[str]], list[Image.Image]]]:
        """How far it is, in words, and at last rows (attack, what came back from the adapter, from the base, with the
        optimiser off) as text, and what was drawn. Raises BadInput where no judge knows the concept, and as
        `fade.attack` does."""
        (handle,) = self.chosen([label] if label else [])
        concept, surrogate = str(handle.card.get("target")), str(handle.card.get("surrogate"))
        judge = next((judge for judge in self.judges if concept in judge.labels), None)
        if judge is None:
            known = ", ".join(name for judge in self.judges for name in judge.labels) or "none"
            raise BadInput(f"no judge knows {concept!r}, so nobody can say whether it came back; they know: {known}")
        if not attacks:
            raise BadInput("no attack is chosen")
        asked, kept = sentences(self.dataset, concept) if self.dataset else (TEMPLATES, RETAIN)
        own, model = handle.card.get("settings", {}), self.model
        doing(f"attacking what is {label}")
        with tempfile.TemporaryDirectory() as folder, self.wearing([handle]), ThreadPoolExecutor(1) as pool:
            work = pool.submit(
                attack,
                model.pipe,
                concept,
                surrogate,
                judge,
                list(attacks),
                templates=own.get("templates") or asked,
                retain=own.get("retain") or kept,
                images=images,
                sampling_steps=model.steps,
                guidance=model.guidance,
                folder=folder,
            )
            while not wait([work], LOOK_S).done:
                yield latest()
            yield [said(row) for row in work.result()], [opened(path) for path in sorted(Path(folder).glob("*.png"))]


def _next(news: SimpleQueue[Progress | Handle | Exception], last: Progress) -> Progress | Handle | Exception:
    """What the worker tells next, or the last again with what the work says of itself by now."""
    try:
        return news.get(timeout=LOOK_S)
    except Empty:
        return replace(last, says=latest())


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def said(row: dict[str, Any]) -> list[str]:
    """One attack's result as the page's table has it."""
    if "refused" in row:
        return [row["attack"], row["refused"], "", ""]
    return [row["attack"], *(cell_text(row[key]) for key in ("success", "base", "off"))]


def lines(text: str) -> list[str]:
    """What stands in a box, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]
