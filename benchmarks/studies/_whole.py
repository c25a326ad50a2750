"""What whole pieces of work cost: images the official way, a dataset, a sequence and a sweep as they grow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.measure.answers import Answer, answers, generate, read_chunks
from benchmarks.measure.judging import look
from benchmarks.studies._clock import Row, in_turn, rows_of, timed
from benchmarks.studies._speed import BATCH, RANK, canvas, embedded, put_on, started, stepping
from fade.adapters.stored import Stored
from fade.data.dataset import Dataset
from fade.data.pairs import Pairs, Request
from fade.files import shipped
from fade.judges import Judge
from fade.models import Diffusion, Sampling
from fade.sparsity import Neuron

Ways = dict[str, Callable[[], object]]
SWEPT = ("neon_glow", "city_car", "house_cat")
SMALL = (  # a closed form on a part of the grid: what is left is starting, reading, and 16 images twice
    "method=uce",
    "dataset.styles=[photo,ink_sketch,oil_paint,neon_glow]",
    "dataset.objects=[house_cat,sea_fish,city_car,city_bus]",
    "dataset.test=6",
    "protocol.seeds=[188]",
    "protocol.tiers=[]",
    "oracle=null",
)


# --- images, the official way -----------------------------------------------------------------------------------------


def official_rows(repeats: int, images: int = 16, few: int = 2, steps: int = 100) -> list[Row]:
    """An image made, written and judged. few: images in a round of the slow way."""
    model, dataset = embedded(), canvas()
    judges = {domain: Judge.load(shipped(f"canvas/judges/{domain}")) for domain in dataset.domains}
    wanted = answers(dataset, [dataset.caption(cell) for cell in dataset.cells()], [188], "seed")[:images]
    own = partial(together, model, judges, wanted)
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        f"a call a prompt, {steps} steps": (few, lambda: one_by_one(model, judges, wanted[:few], steps)),
        f"a batch of {images}, {steps} steps": (images, lambda: own(Sampling(steps=steps))),
        f"a batch of {images}, {model.steps} steps": (images, lambda: own(Sampling())),
    }
    taken: dict[str, list[float]] = {what: [] for what in ways}
    for number in range(repeats + 1):  # the first warms up
        for what, (n, act) in ways.items():
            found = timed(act) / n
            if number:
                taken[what].append(found)
    return rows_of("an image made, written and judged", taken)


def one_by_one(model: Diffusion, judges: dict[str, Judge], wanted: Sequence[Answer], steps: int) -> None:
    """As UnlearnCanvas's scripts: the pipeline's call for each prompt, a JPEG, which each judge reads alone."""
    with tempfile.TemporaryDirectory() as folder:
        for k, answer in enumerate(wanted):
            generator = torch.Generator().manual_seed(answer.seed)
            made = model.pipe(
                answer.prompt, num_inference_steps=steps, guidance_scale=model.guidance, generator=generator
            )
            made.images[0].save(Path(folder) / f"{k}.jpg")
        for domain, judge in judges.items():
            for k in range(len(wanted)):
                with Image.open(Path(folder) / f"{k}.jpg") as image:
                    look({domain: judge}, pil_to_tensor(image.convert("RGB"))[None])


def together(model: Diffusion, judges: dict[str, Judge], wanted: list[Answer], sampling: Sampling) -> None:
    """As a run does it."""
    with tempfile.TemporaryDirectory() as folder:
        generate(model, wanted, Path(folder), len(wanted), sampling)
        for _, pixels in read_chunks(wanted, Path(folder), len(wanted)):
            look(judges, pixels)


# --- what grows -------------------------------------------------------------------------------------------------------


def dataset_rows(repeats: int, sizes: Sequence[int] = (96, 384, 1536)) -> list[Row]:
    """Images of the training set, those of all cells alike: encoded once, before the clock runs; then read from the
    cache by each run, and drawn from at each step."""
    model, reading, drawing = embedded(), Ways(), Ways()
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            pairs = pairs_of(canvas(train=size // 16), size, Path(folder))
            pairs.prepare(model)
            reading[f"read, {size} images"] = partial(pairs.prepare, model)
            drawing[f"a batch of {size} images"] = partial(draws, pairs)
        return [*in_turn("a dataset's latents", reading, repeats), *in_turn("100 batches drawn", drawing, repeats)]


def pairs_of(dataset: Dataset, size: int, cache: Path) -> Pairs:
    """Every image of the training set on its side: a quarter of them shows the target."""
    request = Request.of(dataset, "neon_glow", None)
    return Pairs(dataset, request, size // 4, 3 * size // 4, BATCH, cache)


def draws(pairs: Pairs, batches: int = 100) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        pairs.draw(generator)


def sequence_rows(repeats: int, requests: Sequence[int] = (1, 5, 20), batch: int = 8) -> list[Row]:
    """Of request k, k - 1 adapters being on and merged, as a sequence has them: a step of its training, and its adapter
    put on and taken off."""
    trained, finished = Ways(), Ways()
    for k in requests:
        trained[f"request {k}"] = stepping(put_on(after(k - 1), RANK, Neuron(0.1), "now", frozen=False), batch)
        model = after(k - 1)
        stored = Stored.of(put_on(embedded(), RANK, Neuron(0.1), "now", frozen=True), {})
        finished[f"request {k}"] = partial(on_and_off, model, stored)
    steps = in_turn("a step in a sequence", trained, repeats)
    return [*steps, *in_turn("an adapter on and off in a sequence", finished, repeats)]


def after(met: int) -> Diffusion:
    """The model with the adapters of so many requests."""
    model = embedded()
    for k in range(met):
        put_on(model, RANK, Neuron(0.1), f"request{k}", frozen=True).merge()
    return model


def on_and_off(model: Diffusion, stored: Stored) -> None:
    adapter = stored.attach(model, "now")
    adapter.merge()
    adapter.detach()


def sweep_rows(repeats: int) -> list[Row]:
    """Three targets: runs of one process, and a process each, one after another; the base and the real images are in
    the cache, as for all but the first run of a sweep."""
    with tempfile.TemporaryDirectory() as folder:
        taken: dict[str, list[float]] = {"one process": [], "a process each": []}
        for number in range(repeats + 1):
            given = [*SMALL, f"cache_dir={folder}/cache"]
            jobs = [[f"target={target}", f"output_dir={folder}/jobs{number}"] for target in SWEPT]
            sweep = [f"target={','.join(SWEPT)}", f"output_dir={folder}/one{number}"]
            one = started(["run.py", "-m", *sweep, *given], whole=True)
            each = sum(started(["run.py", *job, *given], whole=True) for job in jobs)
            if number:
                taken["one process"].append(one)
                taken["a process each"].append(each)
        return rows_of("a sweep of three targets", taken)
