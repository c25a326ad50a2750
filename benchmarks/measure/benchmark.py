"""Generate, judge, score, in this order and with their gates; the base model is measured the same way, once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from benchmarks.measure.answers import (
    Answer,
    answers,
    fingerprint,
    generate,
    read,
    read_chunks,
    refuse_gaps,
    refuse_strangers,
    seconds,
)
from benchmarks.measure.features import ClipScore, backbones
from benchmarks.measure.finer import finer
from benchmarks.measure.judging import check_accuracy, check_labels, look, predict
from benchmarks.measure.metrics import READINGS, Metric, frechet, kernel, landed, scores
from benchmarks.measure.predictions import Row, as_csv, read_rows, write_rows
from benchmarks.measure.real import CHUNK, RealImages
from benchmarks.measure.shared import made_of, take
from fade.checked import Count, Portion, Seed, Share, Word
from fade.claims import claimed, free
from fade.console import Stage
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.data.prompts import caption
from fade.errors import BadInput
from fade.files import content_hash, file_hash, read_json, unharmed, write_json
from fade.judges import Judge
from fade.models import Diffusion, Sampling
from fade.tensors import read_tensors, write_tensors

log = logging.getLogger(__name__)
SCORING = 1  # raised where this suite asks or reads otherwise than before under the same settings
_APART = ("name", "batch", "sampling", "backbones", "clip")  # of a protocol: what `version` leaves out, or says itself
_JUDGED = (
    "judged.json"  # beside predictions.csv: {"images": hash of all, "predictions": hash of the table, "seconds": ...}
)


@dataclass(frozen=True)
class Protocol:
    """How a model is measured.

    noise: benchmarks.measure.answers.NOISES. reading: benchmarks.measure.metrics.READINGS. prompt: the evaluation's
    template; None is the dataset's. photo_prompt: the template for the cells of the style that is none (Seed_Images).
    underscores: labels are said as they are spelt. share: part of the grid's cells that is measured, balanced over its
    concepts; whole_target: and all of the target's, whatever the share. suffix: png or jpg. fid: of
    benchmarks.measure.features; backbones: the files of those that are not shipped. clip: folder of a CLIP model for
    clip_score. tiers: in which the target is asked beyond `name` (benchmarks/measure/tiers.py), None: all that the
    dataset has; tier_seeds: of those images.
    """

    name: Word
    seeds: Annotated[list[Seed], Field(min_length=1)]
    noise: str = "seed"
    batch: Count = 36
    reading: str = "retained"
    judge_floor: Portion = 0.9
    share: Share = 1.0
    whole_target: bool = False
    prompt: str | None = None
    photo_prompt: str | None = None
    underscores: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    suffix: str = "png"
    fid: list[str] = field(default_factory=lambda: ["judge"])
    backbones: dict[str, str] = field(default_factory=dict)
    clip: str | None = None
    tiers: list[str] | None = None
    tier_seeds: Annotated[list[Seed], Field(min_length=1)] = field(default_factory=lambda: [1188, 1288, 1588])

    def __post_init__(self) -> None:
        steps, skip = self.sampling.steps, self.sampling.skip
        if self.noise == "steps" and steps is None:
            raise BadInput("protocol.noise=steps draws once a step, so it needs protocol.sampling.steps=NUMBER")
        if not 0 <= skip < (steps or 1):
            raise BadInput(
                f"protocol.sampling.skip is {skip}; it must be 0 or more and below protocol.sampling.steps ({steps})"
            )
        if self.reading not in READINGS:
            raise BadInput(f"protocol.reading is {self.reading!r}; choose one of {', '.join(READINGS)}")
        if self.whole_target and self.share < 1 and READINGS[self.reading].target_in_cra:
            raise BadInput(
                f"protocol.reading={self.reading} counts the target's cells in CRA, where all of them would weigh more "
                f"than {self.share:g} of the others; use protocol.whole_target=false, protocol.share=1 or "
                "protocol.reading=retained"
            )
        if self.suffix not in ("png", "jpg"):
            raise BadInput(f"protocol.suffix is {self.suffix!r}; choose png or jpg")
        for key, seeds in (("seeds", self.seeds), ("tier_seeds", self.tier_seeds)):
            if len(set(seeds)) < len(seeds) or not seeds:
                raise BadInput(f"protocol.{key} is {list(seeds)}; name each seed once")

    @property
    def shared(self) -> bool:
        """Whether the images of one seed begin with one latent, so that they are not independent."""
        return self.noise == "seed"


def has_bfloat16() -> bool:
    """Whether the GPU computes in it; torch would emulate it, at a fraction of single precision's speed."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass
class Measured:
    """One scored answer set: its predictions, its features (N, D) by backbone, the image side, and what it cost."""

    folder: Path
    rows: list[Row]
    features: dict[str, Tensor]
    size: int
    cost: dict[str, float] = field(default_factory=dict)


class Benchmark:
    """A dataset, its judges and a protocol. request: whose cells are all asked, with protocol.whole_target. Raises
    BadInput where a gate fails: for labels at once, for a judge's accuracy before the first image is made or scored."""

    def __init__(
        self,
        dataset: Dataset,
        judges: dict[str, Judge],
        protocol: Protocol,
        cache: Path,
        device: str = "cpu",
        request: Request | None = None,
    ) -> None:
        check_labels(judges, dataset)
        self.dataset, self.protocol, self.cache, self.device = dataset, protocol, cache, torch.device(device)
        self.judges = {domain: judges[domain].to(self.device) for domain in dataset.domains}
        self.backbones = backbones(list(protocol.fid), dict(protocol.backbones), self.judges, self.device)
        self.tests = RealImages(dataset, self.judges, self.backbones, cache)
        self.clip = ClipScore(protocol.clip, self.device) if protocol.clip else None
        prompts = [self.prompt(cell) for cell in dataset.cells()]
        self.wanted: list[Answer] = answers(
            dataset,
            prompts,
            list(protocol.seeds),
            protocol.noise,
            protocol.suffix,
            protocol.share,
            (protocol.sampling.steps or 0) - protocol.sampling.skip,
            request.concerns if request and protocol.whole_target else lambda _: False,
        )

    def of(self, request: Request) -> Benchmark:
        """The same, asked of another target."""
        return Benchmark(self.dataset, self.judges, self.protocol, self.cache, str(self.device), request)

    @cached_property
    def accuracies(self) -> dict[str, float]:
        """Each judge's, on this dataset's test images, whatever number it came with; kept in the cache."""
        return self.tests.accuracies(self._judged_at)

    def check_judges(self) -> None:
        """A gate before a training, without a look at the real images where the cache knows what the judges say of
        them, or where the judges came with enough; `measure` looks. Raises BadInput for a judge that is right too
        seldom."""
        floor = self.protocol.judge_floor
        stated = all((judge.accuracy or 0.0) >= floor for judge in self.judges.values())
        if not stated or self.tests.known(self._judged_at):
            check_accuracy(self.accuracies, floor)

    @property
    def _judged_at(self) -> int:
        """The side at which the judges see real images."""
        own = max(round(judge.size / judge.crop) for judge in self.judges.values())
        return self.protocol.sampling.size or own

    def version(self, model: Diffusion) -> str:
        """Of the protocol: another one where a run was asked, sampled or read otherwise, whatever the protocol is
        called, or by other judges."""
        p, data = self.protocol, self.dataset
        said = {key: value for key, value in vars(p).items() if key not in _APART}
        own = [model.steps, model.guidance, model.size, vars(model.settled(p.sampling)), bool(p.clip)]
        asked = [[self.prompt(cell) for cell in data.cells()], data.language and vars(data.language)]
        judges = {domain: judge.identity for domain, judge in self.judges.items()}
        return f"{SCORING}-{content_hash([data.name, asked, said, own, judges])}"

    def sampling(self, model: Diffusion) -> dict[str, Any]:
        """How the images are made, with nothing left to the model. precision: of autocast, or of the weights."""
        s = model.settled(self.protocol.sampling)
        return {
            "sampler": s.sampler,
            "steps": s.steps or model.steps,
            "guidance": model.guidance if s.guidance is None else s.guidance,
            "size": s.size or model.size,
            "precision": s.precision or str(model.network.dtype).removeprefix("torch."),
        }

    def prompt(self, cell: dict[str, str]) -> str:
        """The evaluation prompt of a cell: the dataset's caption, unless the protocol says otherwise."""
        p = self.protocol
        template = p.prompt or self.dataset.template
        if p.photo_prompt and cell.get("style") == self.dataset.photo_style:
            template = p.photo_prompt
        says = {label: label for label in cell.values()} if p.underscores else self.dataset.says
        return caption(template, cell, says)

    def check_captions(self, request: Request) -> list[tuple[str, str]]:
        """Forget captions beside their surrogates. Raises BadInput for one that the evaluation never asks."""
        asked = {self.prompt(cell) for cell in self.dataset.cells()}
        cells = [cell for cell in self.dataset.cells() if request.concerns(cell)]
        pairs = [(self.dataset.caption(cell), self.dataset.caption(request.overwritten(cell))) for cell in cells]
        for forget, _ in pairs:
            if forget not in asked:
                raise BadInput(
                    f"the forget caption {forget!r} is never asked in the evaluation; use one template for both"
                )
        return pairs

    def suits(self, model: Diffusion) -> None:
        """Raises BadInput, before any work, for an unknown sampler, for a precision that the GPU does not have, and for
        prompts that the tokenizer would cut."""
        sampling = model.settled(self.protocol.sampling)
        if self.protocol.sampling.sampler:
            model.scheduler(self.protocol.sampling.sampler)
        if sampling.precision == "bfloat16" and self.device.type == "cuda" and not has_bfloat16():
            raise BadInput(
                "this GPU has no bfloat16, in which images are to be made; give protocol.sampling.precision=float32 or "
                "float16, whose numbers belong in no table with bfloat16's"
            )
        model.check_prompts([answer.prompt for answer in self.wanted])

    def measure(self, model: Diffusion, folder: Path) -> Measured:
        """Images, predictions.csv and features in `folder`; what is there already, and as it was written, is not made
        again. The cost is that of all starts."""
        check_accuracy(self.accuracies, self.protocol.judge_floor)
        generate(model.to(self.device), self.wanted, folder / "images", self.protocol.batch, self.protocol.sampling)
        return self.judged(folder / "images", folder, {"generate_s": seconds(folder / "images")})

    def judged(self, images: Path, folder: Path, cost: dict[str, float] | None = None) -> Measured:
        """Score the images of one folder; the record goes to another: predictions.csv, features, and judged.json, which
        says of which images and which table. Raises BadInput for missing, extra or changed images."""
        check_accuracy(self.accuracies, self.protocol.judge_floor)
        refuse_strangers(self.wanted, images)
        refuse_gaps(self.wanted, images)
        table = folder / "predictions.csv"
        files = {name: folder / f"features-{name}.safetensors" for name in self.backbones}
        if not self._holds(images, table, files):
            self._judge(images, table, files)
        said = unharmed(folder / _JUDGED, read_json) or {}
        size = read(self.wanted[:1], images).shape[-1]
        features = {name: read_tensors(file)[0]["features"] for name, file in files.items()}
        return Measured(folder, read_rows(table), features, size, {**(cost or {}), "judge_s": said.get("seconds", 0.0)})

    def _holds(self, images: Path, table: Path, files: dict[str, Path]) -> bool:
        """Whether everything that `_judge` writes is there, as it was written, and of these images."""
        found = [unharmed(file, read_tensors) for file in files.values()]
        if not table.is_file() or any(one is None for one in found):
            return False
        judged = table.with_name(_JUDGED)
        if not judged.is_file():  # of an older version
            rows = unharmed(table, read_rows) or []
            return [row.get("file") for row in rows] == [answer.file for answer in self.wanted]
        said = unharmed(judged, read_json)
        if said is None:
            return False
        if said.get("predictions") != file_hash(table):
            log.warning("%s is not what was written there (its hash differs); it is made again", table)
            return False
        if said.get("images") != fingerprint(self.wanted, images):
            log.info("%s: images have changed since they were judged; they are judged again", images)
            return False
        return True

    def _judge(self, images: Path, table: Path, files: dict[str, Path]) -> None:
        """Read the answer set once, in chunks, and write what judges and backbones say."""
        began = time.monotonic()
        rows: list[Row] = []
        deep: dict[str, list[Tensor]] = {name: [] for name in self.backbones}
        stage = Stage("judging", len(self.wanted), "while judging images,")
        for part, pixels in read_chunks(self.wanted, images, CHUNK):
            looks = look(self.judges, pixels)
            found = predict(self.judges, part, looks)
            if self.clip:
                for row, score in zip(found, self.clip(pixels, [a.prompt for a in part]), strict=True):
                    row["clip_score"] = f"{score.item():.4f}"
            rows += found
            for name, backbone in self.backbones.items():
                deep[name].append(backbone(pixels, looks))
            stage.done(len(rows))
        for name, file in files.items():
            write_tensors(file, {"features": torch.cat(deep[name])})
        write_json(
            table.with_name(_JUDGED),
            {
                "images": fingerprint(self.wanted, images),
                "predictions": hashlib.sha256(as_csv(rows).encode()).hexdigest(),
                "seconds": time.monotonic() - began,
            },
        )
        write_rows(table, rows)  # last: it stands for all of them

    def measure_base(self, model: Diffusion, base_sha256: str) -> Measured:
        """The un-unlearned model, measured once for all runs of the same model, dataset, images and judges; its images
        are shared with runs that ask for others too. One process makes them, the others wait."""
        kin, own = self._base_names(model, base_sha256)
        folder = self.cache / f"{kin}-{own}"
        if self._whole(folder):
            return self.measure(model, folder)
        with claimed(self.cache / kin, "the base's images"):
            take(self.wanted, folder, sorted(self.cache.glob(f"{kin}-*")))
            return self.measure(model, folder)

    def base_busy(self, model: Diffusion, base_sha256: str) -> bool:
        """Whether `measure_base` would wait now for another process."""
        kin, own = self._base_names(model, base_sha256)
        return not self._whole(self.cache / f"{kin}-{own}") and not free(self.cache / kin)

    def _whole(self, folder: Path) -> bool:
        """Whether nothing is missing there; `measure` looks at what is."""
        return (folder / _JUDGED).is_file() and all((folder / "images" / a.file).is_file() for a in self.wanted)

    def _base_names(self, model: Diffusion, base_sha256: str) -> tuple[str, str]:
        """Of what all images of the model with this sampler share, and of this answer set and its judges."""
        kin = [base_sha256, vars(model.settled(self.protocol.sampling)), model.steps, model.guidance, model.size]
        asked = [(answer.file, made_of(answer)) for answer in self.wanted]
        judges = [judge.identity for judge in self.judges.values()]
        own = [asked, judges, list(self.backbones), self.protocol.clip]
        return f"base-{content_hash(kin)}", content_hash(own)

    def distances(self, measured: Measured, kept: Callable[[dict[str, str]], bool]) -> dict[str, Metric]:
        """Fréchet and kernel distances to the test images, over the cells that `kept` is true of, on both sides."""
        domains, found = list(self.dataset.domains), dict[str, Metric]()
        made = [kept(row) for row in measured.rows]
        for name, features in measured.features.items():
            real, cells = self.tests.features(name, measured.size)
            ours = real[[kept(dict(zip(domains, cell, strict=True))) for cell in cells]]
            theirs = features[made]
            try:
                found[f"fid_{name}"] = {"value": frechet(ours, theirs), "n": sum(made)}
            except ValueError as error:
                found[f"fid_{name}"] = {"value": None, "why": str(error), "n": sum(made)}
            found[f"kid_{name}"] = kernel(ours, theirs)
        return found

    def score(self, measured: Measured, request: Request) -> dict[str, Metric]:
        """Every metric of one answer set, the target's cells left out of the distances on both sides."""
        domains = list(self.dataset.domains)
        photo = self.dataset.photo_style
        reading, shared = self.protocol.reading, self.protocol.shared
        found = (
            finer(measured.rows, request, domains, shared)
            if request.within
            else scores(measured.rows, request.target, request.domain, domains, reading, photo, shared)
        )
        found |= self.distances(measured, lambda cell: not request.concerns(cell))
        keep_made = [not request.concerns(row) for row in measured.rows]
        if self.clip:
            kept = [float(row["clip_score"]) for row, keep in zip(measured.rows, keep_made, strict=True) if keep]
            found["clip_score"] = {"value": sum(kept) / len(kept), "n": len(kept)}
        return found

    def results(self, unlearned: Measured, base: Measured | None, request: Request) -> dict[str, Any]:
        """The measured part of results.json."""
        return {
            "format": 1,
            "dataset": self.dataset.name,
            "target": request.target,
            "domain": request.domain,
            "surrogate": request.surrogate,
            **({"within": request.within[1]} if request.within else {}),
            "protocol": self.protocol.name,
            "metrics": self.score(unlearned, request),
            "base": self.score(base, request) if base else {},
            "landed": landed(unlearned.rows, request),
            "gates": {
                "judge_accuracy": self.accuracies,
                "judge_stated": {
                    domain: judge.accuracy
                    for domain, judge in self.judges.items()
                    if judge.accuracy is not None and abs(judge.accuracy - self.accuracies[domain]) >= 0.0005
                },
                "images": len(self.wanted),
                "reading": self.protocol.reading,
            },
        }
