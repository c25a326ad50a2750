"""Do adapters that were trained apart work together?

python run.py task=compose runs=[RUN_FOLDER,...]       measures them on one model

Every single one, every pair, and all of them at once, as a sum and merged by TIES: UA of every target (of those that
are not in the combination too: that is the interference), and IRA and CRA over what none of them removes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.measure.benchmark import Benchmark
from benchmarks.measure.metrics import Metric, hits, share
from benchmarks.measure.predictions import Row
from benchmarks.report.tables import Table
from benchmarks.runs.reopened import shared
from benchmarks.runs.task import Task
from fade.adapters.merging import changes_of, check_ties, ties
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.errors import BadInput
from fade.files import atomic, read_json, write_json
from fade.metrics import cell_text
from fade.models import Diffusion

RULES = ("sum", "ties")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """One adapter: its concept, domain and surrogate, and the run that made it."""

    concept: str
    domain: str
    surrogate: str
    run: Path
    stored: Stored

    @classmethod
    def read(cls, run: Path) -> Target:
        stored = Stored.read(run / "adapter")
        about = stored.about
        missing = [key for key in ("target", "domain", "surrogate") if key not in about]
        if missing:
            raise BadInput(f"{run / 'adapter'} does not say its {missing[0]}; name the folders of runs, which do")
        return cls(about["target"], about["domain"], about["surrogate"], run, stored)


@contextmanager
def composed(model: Diffusion, members: tuple[Target, ...], rule: str, keep: float, scale: float) -> Iterator[None]:
    """Inside, the pipeline carries all members: added up, or as one TIES merge. Outside, none."""
    on = [member.stored.attach(model, f"compose{k}") for k, member in enumerate(members)]
    try:
        if rule == "ties":
            changes = [changes_of(adapter) for adapter in on]
            while on:
                on.pop().detach()
            on.append(Patch.of(model, ties(changes, keep, scale), "ties"))
        for adapter in on:
            if adapter.writable:
                adapter.merge()
        yield
    finally:
        for adapter in on:
            adapter.detach()


def interference(
    rows: list[Row], members: tuple[Target, ...], targets: list[Target], domains: list[str], shared: bool = True
) -> dict[str, Metric]:
    """UA of every target; IRA and CRA over the cells that show no member, in the members' domains and in the others.

    With one member these are the IRA and CRA of benchmarks/measure/metrics.py.
    """
    found = {}
    for t in targets:
        own_rows = [row for row in rows if row[t.domain] == t.concept]
        found[f"ua {t.concept}"] = share(hits(own_rows, domains, t.domain, shared, gone=True))
    kept = [row for row in rows if not any(row[m.domain] == m.concept for m in members)]
    own = {m.domain for m in members}
    other = {d for m in members for d in domains if d != m.domain}
    for name, judged in (("ira", own), ("cra", other)):
        counted = [hit for domain in sorted(judged) for hit in hits(kept, domains, domain, shared)]
        if counted:
            found[name] = share(counted)
    return found


def compose(
    model: Diffusion,
    benchmark: Benchmark,
    targets: list[Target],
    out: Path,
    rules: list[str],
    keep: float,
    scale: float,
) -> list[dict[str, object]]:
    """Measure what is not measured yet, and return one entry for each combination and rule."""
    entries: list[dict[str, object]] = []
    domains, shared = list(benchmark.dataset.domains), benchmark.protocol.shared
    base = benchmark.measure_base(model, model.sha256())
    entries.append({"members": [], "rule": "", **interference(base.rows, (), targets, domains, shared)})
    sizes = sorted({1, 2, len(targets)} & set(range(1, len(targets) + 1)))
    for members in (m for size in sizes for m in combinations(targets, size)):
        for rule in rules if len(members) > 1 else ["sum"]:
            name = "+".join(m.concept for m in members) + (f"-{rule}" if len(members) > 1 else "")
            log.info("measuring %s", name)
            with composed(model, members, rule, keep, scale):
                measured = benchmark.measure(model, out / name)
            found = interference(measured.rows, members, targets, domains, shared)
            entries.append({"members": [m.concept for m in members], "rule": rule if len(members) > 1 else "", **found})
    return entries


def found_runs(folders: list[Path]) -> list[Path]:
    """Folders of runs, and those that lie directly in other folders. Raises BadInput where one holds none."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"no folder {folder}; name folders of finished runs, or one that holds them")
        runs = [folder] if (folder / "adapter").is_dir() else sorted(f.parent for f in folder.glob("*/adapter"))
        if not runs:
            raise BadInput(f"no adapter in {folder}; name folders of finished runs, or one that holds them")
        found += runs
    return found


def distinct(targets: list[Target]) -> list[Target]:
    """Raises BadInput for less than two targets, and for one that two runs removed."""
    by_concept: dict[str, Path] = {}
    for target in targets:
        if target.concept in by_concept:
            raise BadInput(
                f"{by_concept[target.concept]} and {target.run} both remove {target.concept!r}; name one of them"
            )
        by_concept[target.concept] = target.run
    if len(targets) < 2:
        raise BadInput("name two or more runs, each of another target")
    return targets


def trained_on_all(run: Path, targets: list[Target]) -> Path:
    """The adapter of a sequence with strategy=simultaneous. Raises BadInput for an unfinished one, or other targets."""
    adapters = sorted(run.glob("[0-9][0-9]-*/adapter"))
    if not (run / "results.json").is_file() or not adapters:
        raise BadInput(f"--joint {run} is no finished sequence; name the folder of one with strategy=simultaneous")
    asked = [request["target"] for request in read_json(run / "results.json").get("requests", [])]
    if sorted(asked) != sorted(t.concept for t in targets):
        raise BadInput(
            f"{run} was trained on {', '.join(asked)}; --joint needs one trained on all the adapters' targets"
        )
    return adapters[-1]


def jointly(model: Diffusion, benchmark: Benchmark, targets: list[Target], run: Path, out: Path) -> dict[str, object]:
    """One adapter that was trained on all targets at once: the last of a sequence with strategy=simultaneous.

    Raises BadInput where that sequence is not finished, or had other requests than the targets.
    """
    adapter = Stored.read(trained_on_all(run, targets)).attach(model, "joint")
    try:
        with adapter.applied():
            measured = benchmark.measure(model, out / "joint")
    finally:
        adapter.detach()
    members = [t.concept for t in targets]
    return {
        "members": members,
        "rule": "joint",
        **interference(
            measured.rows, tuple(targets), targets, list(benchmark.dataset.domains), benchmark.protocol.shared
        ),
    }


def matrix(entries: list[dict[str, object]], targets: list[Target]) -> tuple[list[str], list[list[str]]]:
    """One row a combination; a target that is a member is marked, for there UA should be high, and elsewhere low."""
    header = ["adapters on", "rule", *(f"UA {t.concept}" for t in targets), "IRA", "CRA"]
    rows = []
    for entry in entries:
        members = list(entry["members"])  # type: ignore[call-overload]
        marks = [cell_text(entry[f"ua {t.concept}"]) + (" *" if t.concept in members else "") for t in targets]  # type: ignore[arg-type]
        rows.append(
            [
                " + ".join(members) or "none",
                str(entry["rule"]) or "–",
                *marks,
                *(cell_text(entry.get(key)) for key in ("ira", "cra")),  # type: ignore[arg-type]
            ]
        )
    return header, rows


def picture(entries: list[dict[str, object]], targets: list[Target], path: Path) -> None:
    """The matrix in colours: green where it is as it should be (members forgotten, everything else kept)."""
    columns = [f"ua {t.concept}" for t in targets] + ["ira", "cra"]
    left, wide, high = 220, 90, 26
    sheet = Image.new("RGB", (left + wide * len(columns), high * (len(entries) + 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, column in enumerate(columns):
        draw.text((left + i * wide + 6, 7), column, fill="black")
    for j, entry in enumerate(entries):
        members = list(entry["members"])  # type: ignore[call-overload]
        y = (j + 1) * high
        draw.text((6, y + 7), f"{' + '.join(members) or 'none'} {entry['rule']}", fill="black")
        for i, column in enumerate(columns):
            metric = entry.get(column)
            if not isinstance(metric, dict):
                continue
            value = float(metric["value"])
            wanted = not column.startswith("ua ") or column.removeprefix("ua ") in members
            good = value if wanted else 1 - value
            colour = (int(235 - 130 * good), int(90 + 120 * good), 100)
            draw.rectangle((left + i * wide, y, left + (i + 1) * wide - 3, y + high - 3), fill=colour)
            draw.text((left + i * wide + 6, y + 6), f"{100 * value:.1f}", fill="black")
    with atomic(path) as temporary:
        sheet.save(temporary, format="png")


def interfere(task: Task) -> None:
    """task=compose: the interference matrix of adapters that were trained apart."""
    given, config = task.values("compose"), task.config
    check_ties(given["keep"], given["scale"])
    runs = found_runs([Path(run) for run in config["runs"]])
    targets = distinct([Target.read(run) for run in runs])
    joint = Path(given["joint"]) if given["joint"] else None
    if joint:
        trained_on_all(joint, targets)
    out = Path(config["out"] or Path(config["output_dir"]) / "composed")
    out.mkdir(parents=True, exist_ok=True)
    model, benchmark = shared(task, runs, given["seeds"])
    entries = compose(model, benchmark, targets, out, given["rules"], given["keep"], given["scale"])
    if joint:
        entries.append(jointly(model, benchmark, targets, joint, out))
    header, rows = matrix(entries, targets)
    write_json(out / "composed.json", entries)
    table = Table.of(header, rows)
    table.write(out, "composed")
    picture(entries, targets, out / "composed.png")
    print(f"{table.markdown()}\n\n*: this one is to be forgotten; percent with 95 % intervals")
    print(f"{out}/: composed.png .md .csv .tex .json")
