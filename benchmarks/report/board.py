"""The board as one HTML page: submitted runs in groups that may be compared, each beside the base and the model that
never saw the target. Every number stands as it was measured: no row changes another, and none is scaled by others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record.format import Metric
from benchmarks.record.results import Run
from benchmarks.record.submission import Board, Track
from benchmarks.report import tables
from benchmarks.report.page import template
from benchmarks.report.tables import DASH, NEVER, Cell, Table, measured, number
from fade.data.prompts import words
from fade.files import write_text
from fade.metrics import METRICS, about, harder, twins, usual

FILES = "files"  # the submitted files, below the page
_WHERE = ("out", "output_dir", "cache_dir", "logger", "device", "launcher")  # overrides that change no number


@dataclass(frozen=True)
class Entry:
    """A submitted run. file: what it was sent as."""

    file: str
    run: Run
    track: Track

    @property
    def name(self) -> str:
        """Of its place in the page."""
        return self.file.removesuffix(".json")

    @property
    def title(self) -> str:
        return f"{self.run.label}, {words(self.run.target)} forgotten, seed {self.run.seed}"

    @property
    def numbers(self) -> Table:
        """Every metric of it, of its base, and of the model that never saw the target."""
        models = {"this run": self.run.metrics, "base": self.run.base, NEVER: self.run.oracle}
        found = {key for metrics in models.values() for key in metrics}
        known = [*usual(), *harder(found), *twins(found)]
        keys = [*(key for key in known if key in found), *sorted(found - set(known))]
        rows = [
            [
                Cell(about(key).heading),
                *(measured(metrics.get(key), key) for metrics in models.values()),
                number(self.run.metrics.get(key, {}).get("n")),
                Cell(about(key).says),
            ]
            for key in keys
        ]
        return Table(["metric", *models, "images", "what it says"], rows, "All that was measured")

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it came about, and what it is known by."""
        run, versions = self.run, self.run.versions
        read = ", ".join(f"{words(label)} {n}" for label, n in run.landed.items())
        judges = ", ".join(f"{d} {100 * a:.2f} %" for d, a in run.judge_accuracy.items() if a is not None)
        return [
            ("Command", " ".join(["python run.py", *(o for o in run.overrides if o.partition("=")[0] not in _WHERE)])),
            ("What asked for the target is read as", read),
            ("Judges on held-out real images", judges),
            ("Seeds", f"training {run.seed}; images {', '.join(map(str, run.image_seeds))}"),
            ("Sparsity", f"{run.sparsity['kind']}, density {run.sparsity['density']:.3f}"),
            ("Protocol", f"{run.protocol}, version {self.track.version}"),
            ("Base", f"{self.track.name}, SHA-256 {run.base_sha256}"),
            ("Adapter", f"SHA-256 {run.results['adapter_sha256']}"),
            ("Configuration, commit", f"{run.identity}, {run.commit}"),
            ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
            ("Machine", run.machine),
        ]


@dataclass(frozen=True)
class Group:
    """What may be compared: one target of one track. beside: what they are and the metrics of the models from which
    nothing was removed. development: whether settings were chosen on this target."""

    track: Track
    target: str
    domain: str
    development: bool
    beside: list[tuple[str, Mapping[str, Metric]]]
    entries: list[Entry]


def entries_of(board: Board) -> list[Entry]:
    return [Entry(file, run, board.track(run)) for file, run in board.runs.items()]


def groups(entries: Sequence[Entry], development: Mapping[str, Collection[str]]) -> list[Group]:
    """By track, domain and target, each with its entries by name. development: of a dataset, the targets that settings
    were chosen on."""
    found: dict[tuple[str, ...], list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: (e.run.label, e.run.seed or 0)):
        track, run = entry.track, entry.run
        place = (track.dataset, track.protocol, track.version, track.name, run.domain, run.gone)
        found.setdefault(place, []).append(entry)
    return [
        Group(
            own[0].track,
            own[0].run.gone,
            own[0].run.domain,
            own[0].run.target in development.get(own[0].run.dataset, ()),
            [*models("base", [e.run.base for e in own]), *models(NEVER, [e.run.oracle for e in own])],
            own,
        )
        for _, own in sorted(found.items())
    ]


def models(name: str, measured_as: Sequence[Mapping[str, Metric]]) -> list[tuple[str, Mapping[str, Metric]]]:
    """A row for each way that a model beside the runs was measured: one, unless machines round differently."""
    ways: list[Mapping[str, Metric]] = []
    for metrics in measured_as:
        if metrics and shown(metrics) not in map(shown, ways):
            ways.append(metrics)
    return [(name if len(ways) == 1 else f"{name} ({k})", metrics) for k, metrics in enumerate(ways, 1)]


def shown(metrics: Mapping[str, Metric]) -> list[str]:
    """The usual metrics as a row shows them."""
    return [str(measured(metrics.get(key), key)) for key in usual()]


def bar(metric: Metric | None) -> tuple[float, float] | None:
    """Where a share's interval begins and how long it is, in percent; None where there is none."""
    if not metric or metric.get("value") is None or "low" not in metric:
        return None
    low, high = max(0.0, metric["low"]), min(1.0, metric["high"])
    return round(100 * low, 1), max(1.0, round(100 * (high - low), 1))


def page(board: Board, development: Mapping[str, Collection[str]]) -> str:
    """The whole document."""
    entries = entries_of(board)
    return template("board.html.j2").render(
        groups=groups(entries, development),
        entries=sorted(entries, key=lambda entry: entry.title),
        columns=[(key, METRICS[key]) for key in usual()],
        published=[tables.published(), tables.published_sequences()],
        left_out=board.left_out,
        measured=measured,
        bar=bar,
        words=words,
        dash=DASH,
        files=FILES,
    )


def write_board(board: Board, development: Mapping[str, Collection[str]], out: Path) -> None:
    """out/index.html, and the submitted files beside it as they were sent."""
    for file, run in board.runs.items():
        write_text(out / FILES / file, (run.folder / file).read_text(encoding="utf-8"))
    write_text(out / "index.html", page(board, development).strip() + "\n")
