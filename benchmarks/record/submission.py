"""A results.json that is sent in: its fields, its hash, whether it says the same everywhere, and its track. Imports no
torch.

A track is what makes rows comparable: dataset, protocol, the protocol's version and the base's weights.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from benchmarks.record.format import COSTS, FORMAT, digest
from benchmarks.record.results import Run
from fade.checked import Count, NonNegative, Portion, Seed, Share, Word
from fade.errors import BadInput
from fade.files import read_json
from fade.metrics import about, usual
from fade.origin import LIBRARIES

TRACKS = "tracks.csv"
ROUNDING = 1e-9  # an interval's end may lie this far on the wrong side of the value


def _each_once(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("name each seed once")
    return seeds


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_each_once)]
Counts = Annotated[dict[str, Count], Field(min_length=1)]


class _Strict(BaseModel):
    """No other fields than these, no text for a number, no infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Measured(_Strict):
    """One metric; a distance may have no value, and says why."""

    n: Count
    value: float | None
    low: float | None = None
    high: float | None = None
    std: NonNegative | None = None
    why: Word | None = None
    of: list[Word] | None = None


Metrics = dict[str, Measured]


class Gates(_Strict):
    judge_accuracy: Annotated[dict[str, Portion], Field(min_length=1)]
    judge_stated: dict[str, Portion]
    images: Count
    reading: Word


class RunSeeds(_Strict):
    train: Seed
    images: Seeds


class Kept(_Strict):
    """Which part of the network was trained."""

    kind: Word
    p: Share
    density: Share


class Sampled(_Strict):
    """How the images were made."""

    sampler: Word
    steps: Count
    guidance: float
    size: Count
    precision: Word


class Submission(_Strict):
    """results.json of one target, as run.py writes it today."""

    format: Annotated[int, Field(ge=1, le=FORMAT)]
    dataset: Word
    target: Word
    domain: Word
    surrogate: Word
    within: Word | None = None
    protocol: Word
    protocol_version: Annotated[str, Field(pattern=r"^\d+-[0-9a-f]{12}$")]
    sampling: Sampled | None = None
    metrics: Metrics
    base: Metrics
    oracle: Metrics | None = None
    landed: Counts
    oracle_landed: Counts | None = None
    gates: Gates
    method: Word
    variant: str
    seeds: RunSeeds
    timesteps: Word
    overrides: list[Word]
    cost: dict[str, NonNegative]
    sparsity: Kept
    prediction: Word
    base_sha256: Hash
    base_answers: Word
    adapter_sha256: Hash
    identity: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    versions: dict[str, Word]
    git_commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    machine: Word
    sha256: Hash


@dataclass(frozen=True)
class Track:
    """Rows of one track and target may be compared. name: of the base, in words."""

    dataset: str
    protocol: str
    version: str
    base_sha256: str
    name: str

    def holds(self, results: dict[str, Any]) -> bool:
        own = (self.dataset, self.protocol, self.version, self.base_sha256)
        return own == tuple(results[key] for key in ("dataset", "protocol", "protocol_version", "base_sha256"))


def read_tracks(folder: Path) -> list[Track]:
    """Of the board's folder. Raises BadInput where it has none."""
    path = folder / TRACKS
    if not path.is_file():
        raise BadInput(
            f"no {path}, which names the protocols and bases of the board; name the board's folder (--board)"
        )
    with path.open(encoding="utf-8", newline="") as file:
        return [Track(**row) for row in csv.DictReader(file)]


def problems(results: Any, tracks: Sequence[Track]) -> list[str]:
    """One line for each thing that is missing or wrong; none for a submission that the board takes."""
    if not isinstance(results, dict):
        return ["no JSON object; send the results.json of a run"]
    if results.get("kind") == "sequence":
        return ["of a sequence of requests; the board takes runs of one target"]
    if results.get("method") == "scored":
        return [
            "of images that others made (task=score), which name no base and no seeds; the board takes runs of run.py"
        ]
    try:
        Submission.model_validate(results)
    except ValidationError as error:
        return [_line(found) for found in error.errors()]
    return [*_unlike(results), *_off_track(results, tracks)]


def _line(found: Any) -> str:
    """A field's error as one line: which, what is there, what must be."""
    where = ".".join(map(str, found["loc"]))
    if found["type"] == "missing":
        return f"no {where}; send the file as run.py of this version wrote it"
    if found["type"] == "extra_forbidden":
        return f"{where} is no field of results.json; send the file as run.py wrote it"
    said = re.sub(r"^Value error, |^\w+ should", lambda match: "" if "error" in match[0] else "it must", found["msg"])
    value = repr(found["input"])
    return f"{where} is {value if len(value) <= 60 else value[:57] + '...'}; {said}"


def _unlike(results: dict[str, Any]) -> Iterator[str]:
    """Where a complete file contradicts itself."""
    if results["sha256"] != digest(results):
        yield "sha256 is not that of the rest: something was changed after the run; send the file as run.py wrote it"
    for side in (side for side in ("metrics", "base", "oracle") if side in results):
        yield from (f"{side} has no {key}" for key in usual() if key not in results[side])
        for key, metric in results[side].items():
            if line := _odd(key, metric):
                yield f"{side}.{key} {line}"
    yield from (f"cost.{key} is no cost of this suite" for key in results["cost"] if key not in {*COSTS, "train_s"})
    yield from (f"no versions.{name}" for name in ("python", *LIBRARIES) if name not in results["versions"])
    yield from _landed_elsewhere(results)


def _odd(key: str, metric: dict[str, Any]) -> str:
    """What is wrong with one metric; nothing where nothing is."""
    known = about(key)
    if not known.says and not key.startswith(("fid_", "kid_", "clip_")):
        return "is no metric of fade/metrics.py"
    if metric["value"] is None:
        return "" if "why" in metric and not known.share else "has no value, and does not say why"
    if known.share and not {"low", "high"} <= metric.keys():
        return "" if key.startswith("clip_") else "has no interval"
    low, high = metric.get("low", metric["value"]), metric.get("high", metric["value"])
    if not low - ROUNDING <= metric["value"] <= high + ROUNDING:
        return f"is {metric['value']:g}, outside of its interval [{low:g}, {high:g}]"
    if known.share and not -ROUNDING <= low <= high <= 1 + ROUNDING:
        return f"is a share, and its interval [{low:g}, {high:g}] leaves [0, 1]"
    return ""


def _landed_elsewhere(results: dict[str, Any]) -> Iterator[str]:
    """Where UA is not what the judge is said to have read, if both are of the same images."""
    ua, landed = results["metrics"].get("ua"), results["landed"]
    images = sum(landed.values())
    if results.get("within") or not ua or ua["n"] != images or ua["value"] is None:
        return
    read = 1 - landed.get(results["target"], 0) / images
    if abs(read - ua["value"]) > 1e-6:
        yield f"metrics.ua is {ua['value']:g}, and landed says {read:g}"


def _off_track(results: dict[str, Any], tracks: Sequence[Track]) -> Iterator[str]:
    """Why no track holds it."""
    if any(track.holds(results) for track in tracks):
        return
    named = f"{results['dataset']}/{results['protocol']}"
    own = [track for track in tracks if f"{track.dataset}/{track.protocol}" == named]
    if not own:
        known = ", ".join(sorted({f"{track.dataset}/{track.protocol}" for track in tracks}))
        yield f"no track of {named}; the board has {known}; add a line to its {TRACKS}, or run under one of these"
    elif results["protocol_version"] not in {track.version for track in own}:
        versions = ", ".join(sorted({track.version for track in own}))
        yield (
            f"protocol_version is {results['protocol_version']}, and the board compares {versions} of {named}; "
            "run it with that version, without overrides of protocol, dataset or sampling"
        )
    else:
        yield f"base_sha256 {results['base_sha256'][:12]}… is none of the bases of {named}; add a line to its {TRACKS}"


@dataclass(frozen=True)
class Board:
    """The runs that a board shows, by the file they were sent as, their tracks, and a line for each file left out."""

    runs: dict[str, Run]
    tracks: list[Track]
    left_out: list[str]

    def track(self, run: Run) -> Track:
        return next(track for track in self.tracks if track.holds(run.results))

    def twin(self, results: dict[str, Any]) -> str | None:
        """The file of the board that holds the same configuration, or the same adapter under the same protocol."""
        for name, run in self.runs.items():
            if run.identity == results["identity"]:
                return name
            same = ("adapter_sha256", "target", "protocol_version", "base_sha256")
            if all(run.results[key] == results[key] for key in same):
                return name
        return None


def checked(path: Path, board: Board) -> tuple[dict[str, Any], list[str]]:
    """A submitted file, and one line for each thing that is wrong with it, beside what the board has already."""
    try:
        results = read_json(path)
    except (OSError, BadInput) as error:
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    lines = problems(results, board.tracks)
    twin = None if lines else board.twin(results)
    return results, [*lines, *([f"the board has it already, as {twin}"] if twin else [])]


def read_board(folder: Path) -> Board:
    """Every file of a board's folder that holds what it must, in the order of their names; none twice.

    Raises BadInput where there is no such folder.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}; name one that holds submitted results files (--board)")
    board = Board({}, read_tracks(folder), [])
    for path in sorted(folder.glob("*.json")):
        try:
            results, lines = checked(path, board)
        except BadInput as error:
            board.left_out.append(str(error))
            continue
        board.left_out.extend(f"{path.name}: {line}" for line in lines)
        if not lines:
            board.runs[path.name] = Run(folder, results)
    return board
