"""A stock diffusers pipeline in, an adapter out: `unlearn` and `load`, without Hydra and without a dataset."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning as L
import torch
from diffusers import DiffusionPipeline

from fade.adapters import Adapter, check_scale
from fade.adapters.export import export, export_factors
from fade.adapters.matrix import Matrix
from fade.adapters.stored import Stored
from fade.checked import Count, NonNegative, Positive, Rate, Seed, Share, Whole, Word, Words, checked
from fade.data.generated import Generated
from fade.data.pairs import Request
from fade.data.prompts import words
from fade.errors import BadInput
from fade.methods import Method
from fade.models import Diffusion
from fade.models.families import family_of
from fade.models.ledger import ledger
from fade.origin import origin
from fade.published import adapter_of, guidance_of, made, optimizer_of, published, sparsity_of
from fade.sparsity import Sparsity
from fade.training.recipe import Recipe
from fade.untouched import same_flags, untouched

TEMPLATES = ("{}", "a picture, {}", "{}, in detail", "an image with {}")
RETAIN = (
    "a photo of a dog",
    "a portrait of a woman",
    "a city street at night",
    "a bowl of fruit",
    "a mountain lake",
    "an oil painting of a ship",
    "a pencil drawing of a house",
    "a red car",
)


class Handle:
    """A change that belongs to one pipeline: on or off, scaled, merged, saved, exported.

    `with handle:` has it on inside and off outside. Several handles of one pipeline are attached, merged and removed in
    any order; when the last one is removed the pipeline is what it was, bit for bit.
    """

    def __init__(self, model: Diffusion, stored: Stored, force: bool = False) -> None:
        self.model, self.stored, self.force = model, stored, force
        self.adapter: Adapter | None = None
        self._scale = 1.0

    def __repr__(self) -> str:
        state = "off" if self.adapter is None else "on"
        return f"<adapter without {self.stored.about.get('target')}, {self.stored.about['kind']}, {state}>"

    @property
    def card(self) -> dict[str, Any]:
        """What adapter.json holds."""
        return self.stored.about

    def attach(self) -> Handle:
        """Put it on; nothing happens where it is on. Raises BadInput, the pipeline untouched, where it does not fit."""
        if self.adapter is None:
            with torch.inference_mode(False), same_flags(self.model):
                if not self.model.handles:
                    self.model.reads(self.card.get("text_length"))
                self.adapter = self.stored.attach(self.model, _free_name(self.model), self.force)
                self.model.handles.append(self)
                if self.model.text_length:
                    self.model.prompts.add(self.adapter)  # a call that reads another number of rows is refused
                self._apply_scale()
        return self

    def remove(self) -> None:
        """Take it off, unmerged first where it is merged."""
        if self.adapter is not None:
            with torch.inference_mode(False), same_flags(self.model):
                self.adapter.detach()
            self.model.prompts.remove(self.adapter)
            self.adapter = None
            self.model.handles.remove(self)

    def __enter__(self) -> Handle:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def scale(self) -> float:
        """1 as trained, 0 the untouched pipeline. Set to no number of a sensible size, it raises BadInput and stays."""
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        self._scale = check_scale(value)
        self._apply_scale()

    def _apply_scale(self) -> None:
        if self.adapter is not None and self.adapter.scale != self._scale:
            self.adapter.scale = self._scale

    def merge(self) -> None:
        """Write it into the weights: generation then costs what the base costs. Raises BadInput where it is off."""
        self._on().merge()

    def unmerge(self) -> None:
        self._on().unmerge()

    def _on(self) -> Adapter:
        if self.adapter is None:
            raise BadInput("the adapter is off; call attach() first, or use `with`")
        return self.adapter

    @checked
    def save(self, folder: Path | str) -> None:
        """adapter.safetensors, adapter.json and the card; as trained, whatever the scale is.

        An adapter that is there already is replaced; a folder that holds anything else is refused.
        """
        self.stored.write(folder)

    @checked
    def export(
        self, folder: Path | str, to: str = "diffusers", rank: Count | None = None, limit: NonNegative = 0.05
    ) -> float:
        """What tools without this package read, at the present scale; on or off: fade/adapters/export.py."""
        if to in ("diffusers", "peft") and self.card["kind"] != Matrix.kind:
            family, length = (self.card.get(key) for key in ("family", "text_length"))
            return export_factors(Path(folder), to, self.stored.factors(self._scale), rank, limit, family, length)
        was_on = self.adapter is not None
        try:
            return export(self.attach()._on(), folder, to, rank, limit)
        finally:
            if not was_on:
                self.remove()


@checked
def load(pipe: DiffusionPipeline, folder: Path | str, scale: float = 1.0, force: bool = False) -> Handle:
    """Attach a saved adapter. It stays on until `remove()`, also where the handle is not kept: `attached(pipe)` finds
    it.

    pipe: of any family, image to image and inpainting too. Raises BadInput, one line, the pipeline
    untouched: for files that are missing, damaged or newer, and for a pipeline other than the one the adapter was made
    for, unless `force`.
    """
    handle = Handle(diffusion_of(pipe), Stored.read(folder), force)
    handle.scale = scale
    return handle.attach()


@checked
def attached(pipe: DiffusionPipeline) -> list[Handle]:
    """The handles that are on a pipeline, in the order in which they were attached."""
    return list(diffusion_of(pipe).handles)


@checked
def unlearn(
    pipe: DiffusionPipeline,
    concept: Word,
    surrogate: Word,
    method: str | Method = "fade",
    *,
    templates: Words = TEMPLATES,
    retain: Words = RETAIN,
    images: Count = 16,
    sampling_steps: Count = 30,
    guidance: float | None = None,
    sparsity: str | Sparsity | None = None,
    p: Share | None = None,
    rank: Count | None = None,
    alpha: Positive | None = None,
    targets: Words | None = None,
    steps: Whole | None = None,
    batch: Count | None = None,
    lr: Rate | None = None,
    terms: dict[str, NonNegative] | None = None,
    seed: Seed = 0,
    watch: Callable[[int, float], None] | None = None,
) -> Handle:
    """Train an adapter that draws `surrogate` where `concept` is asked for; the adapter is off then.

    The pipeline is left as it was, whatever happens: a failure or Ctrl-C leaves no trace either.

    concept, surrogate: words for the {} of each template. retain: prompts that are to stay as they are. images: made by
    the pipeline for each caption. method: a file of conf/method, or a Method. p: kept fraction of the candidate
    weights. terms: weights of the loss terms, by name; the others keep the method's own. None, of anything: what the
    method published, and the model's own guidance, as in run.py (fade/published.py); training is in float32, or, of a
    low-rank change, on a base in bfloat16. watch: called after every step with its number and the loss, the adapter on;
    what it raises ends the training. Raises BadInput for words, templates, numbers or a method that cannot be
    used, for a pipeline in another precision, for one that carries another adapter (the new one would be right only on
    top of it), and where training ends in nan or in nothing.
    """
    model = diffusion_of(pipe)
    if not isinstance(pipe, model.pipeline):
        raise BadInput(
            f"pipe is a {type(pipe).__name__}; it must be a {model.pipeline.__name__}, which draws from words"
        )
    refuse_attached(model)
    if terms is not None and not terms:
        raise BadInput("terms is {}; name a loss term, or leave it out for the default")
    device, known = model.device, published(method, seed, model.preset)
    guidance = guidance_of(model.preset) if guidance is None else guidance
    how = copy(method) if isinstance(method, Method) else made(known["method"])
    how.terms = how.weighted(terms)
    kind, shape = adapter_of(how, known["adapter"], rank, alpha, targets)
    check_precision(model, kind)
    retain = without(retain, concept)
    dataset = Generated(concept, surrogate, templates, retain, images, seed)
    request = Request.of(dataset, concept, surrogate)
    model.check_prompts([dataset.caption(cell) for cell in dataset.cells()])
    with (
        torch.inference_mode(False),
        untouched(model),
        sampled_as(model, sampling_steps, guidance),
        torch.random.fork_rng(),
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as folder,
    ):
        model.requires_grad_(False).eval()  # gradients are on: inference_mode(False) overrides the caller's no_grad too
        warnings.filterwarnings("ignore", module=r"lightning\.")
        pairs = {
            "forget": images * len(templates),
            "retain": images * (len(dataset.cells()) - len(templates)),
            "batch": batch or known["pairs"]["batch"],
        }
        recipe = Recipe(
            dataset,
            how,
            sparsity_of(how, known["sparsity"], sparsity, p),
            made(known["timesteps"]),
            kind,
            shape,
            optimizer_of(how, known["optimizer"]["build"], lr),
            partial(_trainer, known["trainer"]["gradient_clip_val"], watch),
            (known["trainer"]["max_steps"] if steps is None else steps) if how.terms else 0,
            pairs,
            Path(folder),
            known["optimizer"]["schedule"],
            seed,
        )
        adapter = recipe.attach(model, _free_name(model))
        try:
            with adapter.off():
                dataset.make(model)
            adapter.teacher_passes = 0
            recipe.train(model, adapter, recipe.step(request), Path(folder))
            settings = {
                "templates": list(templates),
                "retain": list(retain),
                "images": images,
                "sampling_steps": sampling_steps,
                "guidance": guidance,
                "sparsity": recipe.sparsity.kind,
                "p": recipe.sparsity.p,
                "steps": recipe.steps,
                "batch": pairs["batch"],
                "optimizer": recipe.optimizer.keywords,
                "schedule": dict(recipe.schedule),
                "terms": dict(how.terms),
                "method": vars_of(how),
            }
            about = {
                **vars(request),
                "method": type(how).__name__,
                "variant": how.variant,
                "settings": settings,
                "seeds": {"train": seed},
                "density": adapter.density(),
                **origin(),
            }
            return Handle(model, Stored.of(adapter, about))
        finally:
            model.to(device)  # Lightning hands it back on the CPU
            adapter.detach()


def check_precision(model: Diffusion, kind: type[Adapter]) -> None:
    """Raises BadInput for a pipeline in which this kind of change cannot be trained: factors of their own are in single
    precision whatever the base is, weights themselves are not, and gradients in float16 vanish."""
    own, factors = model.network.dtype, kind.kind == "lora"
    if own != torch.float32 and not (factors and own == torch.bfloat16):
        raise BadInput(
            f"training needs float32 and the pipeline is {own}; load it with dtype=torch.float32 "
            "(the adapter then goes onto half precision too), or in bfloat16 for a low-rank change"
        )


def without(retain: Sequence[str], concept: str) -> list[str]:
    """The prompts to be kept. Raises BadInput for one that asks for the concept; of RETAIN such a one is left out."""
    asked = re.compile(rf"(?<!\w){re.escape(words(concept))}(?!\w)", re.IGNORECASE)
    shown = [prompt for prompt in retain if asked.search(prompt)]
    if shown and retain is not RETAIN:
        raise BadInput(f"retain has {shown[0]!r}, which asks for the concept {concept!r} itself; leave it out")
    return [prompt for prompt in retain if prompt not in shown]


def refuse_attached(model: Diffusion) -> None:
    """Raises BadInput where anything is on the pipeline, this package's or a stock LoRA."""
    network = model.network
    other = [*getattr(network, "peft_config", {}), *(writer.name for writer in ledger(network).writers)]
    other += [listener.name for listener, _ in model.prompts.listeners]
    if other:
        what = model.handles[0] if model.handles else f"the adapter {other[0]!r}"
        raise BadInput(
            f"{what} is on this pipeline, and what is trained now would be right only on top of it; remove it first"
        )
    if next(network.parameters()).is_inference():
        raise BadInput("the pipeline was loaded under torch.inference_mode() and cannot be trained on; load it outside")


def vars_of(method: Method) -> dict[str, Any]:
    """The method's own settings: its plain attributes."""
    return {"class": type(method).__name__} | {
        k: v for k, v in vars(method).items() if isinstance(v, (str, int, float))
    }


def diffusion_of(pipe: DiffusionPipeline) -> Diffusion:
    """The one Diffusion of a pipeline, on which all its handles act. Its progress bar and its flags stay as they are.

    Raises BadInput for a pipeline of no family that is known (fade/models/families.py).
    """
    if "_diffusion" not in vars(pipe):
        family = family_of(pipe)
        bar = dict(getattr(pipe, "_progress_bar_config", {}))
        with same_flags(*(getattr(pipe, part) for part in (family.denoiser, "vae", *family.encoders))):
            vars(pipe)["_diffusion"] = family(pipe, steps=50, guidance=7.5)
        pipe.set_progress_bar_config(**bar)
    found: Diffusion = vars(pipe)["_diffusion"]
    found.check_parts()
    if not found.handles:
        found.reads(None)
    return found


@contextmanager
def sampled_as(model: Diffusion, steps: int, guidance: float) -> Iterator[None]:
    """Inside, images are made in this many steps, without a progress bar."""
    own, bar = (model.steps, model.guidance), dict(getattr(model.pipe, "_progress_bar_config", {}))
    model.steps, model.guidance = steps, guidance
    model.pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        model.steps, model.guidance = own
        model.pipe.set_progress_bar_config(**bar)


def _free_name(model: Diffusion) -> str:
    """A name that no adapter of this U-Net has."""
    taken, n = set(getattr(model.network, "peft_config", {})), 1
    while f"fade{n}" in taken:
        n += 1
    return f"fade{n}"


class _Watched(L.Callback):
    """Tells `watch` the number of a step that is done, and its loss."""

    def __init__(self, watch: Callable[[int, float], None]) -> None:
        self.watch = watch

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        module.look()  # type: ignore[operator]  # an Unlearner; who watches waits for a GPU at each step
        self.watch(trainer.global_step, module.loss)  # type: ignore[arg-type]


def _trainer(
    clip: float | None, watch: Callable[[int, float], None] | None, callbacks: Sequence[L.Callback], **given: Any
) -> L.Trainer:
    """One device, no bars and no banner: a library call says nothing."""
    return L.Trainer(
        max_epochs=-1,
        devices=1,
        gradient_clip_val=clip,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, *([_Watched(watch)] if watch else [])],
        **given,
    )
