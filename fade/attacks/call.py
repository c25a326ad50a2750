"""`fade.attack`: a stock pipeline in, the rows of a robustness table out; without Hydra and without a dataset."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from fade.adapters.export import by_part
from fade.api import RETAIN, TEMPLATES, diffusion_of, sampled_as, without
from fade.attacks import Attack, Counter, Scene
from fade.attacks.meter import Meter, Subject
from fade.attacks.probe import Probe
from fade.attacks.suite import check_float, suite
from fade.checked import Count, Seed, Word, Words, checked
from fade.data.generated import Generated
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import content_hash
from fade.judges import Judge
from fade.models import Diffusion, Sampling
from fade.models.ledger import ledger, plain
from fade.published import attacks_of, made

OWN, FRESH = [1, 2, 3], [188, 288, 588, 688, 888]  # seeds of the attacker and of the report


@checked
def attack(
    pipe: DiffusionPipeline,
    concept: Word,
    surrogate: Word,
    judge: Judge,
    attacks: str | Sequence[str] = "light",
    *,
    base: DiffusionPipeline | None = None,
    oracle: DiffusionPipeline | None = None,
    templates: Words = TEMPLATES,
    retain: Words = RETAIN,
    images: Count | None = None,
    examples: Count = 6,
    sampling_steps: Count = 30,
    guidance: float = 7.5,
    seed: Seed = 0,
    folder: Path | str | None = None,
    cache: Path | str | None = None,
) -> list[dict[str, Any]]:
    """Try to bring `concept` back on a pipeline that forgot it; one result an attack (docs/attacks.md), that without an
    attack first. The pipeline is left as it was.

    judge: reports; its labels have the concept. attacks: a suite or names of conf/attack. base: the pipeline before
    unlearning; None: this one without the adapters that are on it. oracle: one that never saw the concept. images: for
    the report; None: the suite's. examples: of each caption, drawn by the base, which the attacker learns from. folder:
    for NAME.json and NAME.png. cache: what is measured there is not measured again.

    Raises BadInput for a judge that does not know the concept, for unknown attacks, and where there is no base.
    """
    if concept not in judge.labels:
        raise BadInput(f"the judge does not know {concept!r}; its labels are {', '.join(judge.labels[:8])}")
    given = attacks_of([attacks] if isinstance(attacks, str) else attacks)
    named: dict[str, Attack] = {n: made(part) for n, part in given.items() if isinstance(part, dict)}
    model, before = diffusion_of(pipe), before_of(pipe, base)
    check_float(model)
    dataset = Generated(concept, surrogate, templates, without(retain, concept), examples, seed)
    request = Request.of(dataset, concept, surrogate)
    model.check_prompts([dataset.caption(cell) for cell in dataset.cells()])
    never = None if oracle is None else diffusion_of(oracle)
    identity = content_hash([model.sha256(), *(handle.card["sha256"] for handle in model.handles)])
    with tempfile.TemporaryDirectory() as temporary, sampled([model, before, never], sampling_steps, guidance):
        where = Path(cache or temporary)
        dataset.make(before)
        cells = [cell for cell in dataset.cells() if request.concerns(cell)]
        scene = Scene(model, before, dataset, request, cells, dataset.caption, Sampling(), Counter(), seed)
        probe = Probe.of(before, dataset, "concept", len(dataset.items("train")), where)
        counts = images or given.get("images", 40), given.get("tries", 8)
        meter = Meter(scene, {"concept": judge}, probe, *counts, OWN, FRESH, where, given.get("haste", 1.0))
        with merged(model):
            return suite(
                meter,
                named,
                Subject("attacked", model, identity),
                Subject("base", before, before.sha256()),
                None if never is None else Subject("oracle", never, never.sha256()),
                None if folder is None else Path(folder),
            )


def before_of(pipe: DiffusionPipeline, base: DiffusionPipeline | None) -> Diffusion:
    """The model before unlearning: the base, or the pipeline with a network of its own, and with text encoders of their
    own where they are changed, as they were before its adapters.

    Raises BadInput where nothing is on the pipeline and no base is given.
    """
    if base is not None:
        return diffusion_of(base)
    model = diffusion_of(pipe)
    if not model.handles:
        raise BadInput("no adapter is on this pipeline; give base=, the pipeline that it was made from")
    network, original = model.network, ledger(model.network).original
    weights = {plain(n): value for n, value in network.state_dict().items() if ".lora_" not in n}
    own = type(network).from_config(network.config)
    own.load_state_dict({name: original.get(name, value) for name, value in weights.items()})
    own.to(network.device, network.dtype)
    parts = {model.denoiser: own}
    for part, values in by_part(original, type(model)).items():
        if part in model.encoders:
            parts[part] = deepcopy(getattr(model, part))
            parts[part].load_state_dict(values, strict=False)
    return diffusion_of(type(pipe)(**{**pipe.components, **parts}))


@contextmanager
def sampled(models: Sequence[Diffusion | None], steps: int, guidance: float) -> Iterator[None]:
    """Inside, all of them sample so."""
    with ExitStack() as stack:
        for model in models:
            if model is not None:
                stack.enter_context(sampled_as(model, steps, guidance))
        yield


@contextmanager
def merged(model: Diffusion) -> Iterator[None]:
    """Inside, what can be merged is, so that the weights are what they do."""
    adapters = [handle.adapter for handle in model.handles if handle.adapter is not None]
    apart = [a for a in adapters if a.writable and not getattr(a, "merged", True)]
    for adapter in apart:
        adapter.merge()
    try:
        yield
    finally:
        for adapter in reversed(apart):
            adapter.unmerge()
