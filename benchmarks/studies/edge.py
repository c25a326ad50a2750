"""Do fewer steps give the same verdicts where a concept is half forgotten? Samplers beside DDIM 100, on the same noise.

python -m benchmarks.studies.edge outputs/RUNS... --out outputs/edge      the same command goes on where it was stopped

Each run's adapter is turned down until about half of its target's images are forgotten; the target's cells, the other
tiers, its look-alikes and a part of all others are then asked by every sampler. Only verdicts are kept.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure.answers import Answer
from benchmarks.measure.benchmark import Benchmark
from benchmarks.measure.predictions import Row, read_rows
from benchmarks.record.results import Run, read
from benchmarks.report.tables import Table
from benchmarks.runs.reopened import together
from benchmarks.studies import _edge as edges
from benchmarks.studies._edge import Edge, Sampler
from benchmarks.studies._verdicts import LEAST, POINTS, Verdicts, at_edge, cheapest, row_of, settings_table
from fade.console import Stage, command, doing, one_line, without_bars
from fade.errors import BadInput, above, at_least
from fade.files import read_json, unharmed, write_json
from fade.models import Diffusion

REFERENCE = "DDIM:100"
CANDIDATES = [
    *("DDIM:15", "DDIM:20", "DDIM:30"),
    *(f"{solver}:{steps}" for solver in ("DEIS", "DPM++", "UniPC") for steps in (8, 10, 12, 15, 20)),
]
HEADER = [
    *("sampler", "images", "same verdict, %", "UA", "Δ UA, points", "kept: same, %", "Δ IRA", "Δ CRA"),
    *("passes", "CPU, of the reference's", "judged in bf16: same, %"),
]


def found_scales(model: Diffusion, benchmark: Benchmark, runs: Sequence[Run], out: Path) -> list[Edge]:
    """Each run at a scale that forgets about half, which scales.json remembers; a run that has none is named."""
    path = out / "scales.json"
    known = unharmed(path, read_json) or {}
    found = []
    for run in runs:
        name = Edge(run).adapter
        if name not in known:
            known[name] = scale_of(model, benchmark, run)
            write_json(path, known)
        if known[name] is None:
            print(f"{name}: no scale forgets half; left out")
        else:
            found.append(Edge(run, known[name]))
    return found


def scale_of(model: Diffusion, benchmark: Benchmark, run: Run) -> float | None:
    """The scale at which a run's adapter forgets about half."""
    doing(f"looking for the scale at which {Edge(run).adapter} forgets half")
    own = edges.of_edge(benchmark, Edge(run), 1, 0)

    def ua(scale: float) -> float:
        return edges.share_gone(model, own, Edge(run, scale))

    return edges.half_forgotten(ua)


def file_of(out: Path, edge: Edge, sampler: Sampler) -> Path:
    return out / "verdicts" / edge.name / f"{sampler.name.replace(' ', '-')}.csv"


def rows_of(out: Path, edge: Edge, sampler: Sampler) -> list[Row]:
    path = file_of(out, edge, sampler)
    return read_rows(path) if path.is_file() else []


def ask(
    model: Diffusion, asked: Sequence[tuple[Edge, Benchmark, list[Answer]]], samplers: Sequence[Sampler], out: Path
) -> None:
    """Every sampler on every edge, edge by edge; progress is in steps of single images."""
    todo = [
        (edge, benchmark, wanted, sampler)
        for edge, benchmark, wanted in asked
        for sampler in samplers
        if edges.lacking(wanted, rows_of(out, edge, sampler))
    ]
    total = sum(sampler.steps * len(wanted) for *_, wanted in asked for sampler in samplers)
    left = sum(one.steps * len(edges.lacking(wanted, rows_of(out, edge, one))) for edge, _, wanted, one in todo)
    stage = Stage("steps of images at the edge", total, "at step", total - left)
    for edge, benchmark, wanted in asked:
        if own := [sampler for other, _, _, sampler in todo if other is edge]:
            with edges.turned_down(model, edge):
                for sampler in own:
                    edges.verdicts(model, benchmark, edge, wanted, sampler, file_of(out, edge, sampler), stage)


def tables(out: Path, found: Sequence[Edge], samplers: Sequence[Sampler]) -> str:
    """What was found, as text and as files in `out`. The first sampler is the reference."""
    reference, *candidates = samplers
    by = {edge: Verdicts(edge, rows_of(out, edge, reference)) for edge in found}
    kept = at_edge(by.values())
    lines = [
        f"{edge.name}: UA {100 * one.ua:.1f} by {reference.name}, not at the edge; left out"
        for edge, one in by.items()
        if one not in kept
    ]
    if not kept:
        raise BadInput("no run is half forgotten by the reference; name others")
    pairs = {one: [(mine, Verdicts(mine.edge, rows_of(out, mine.edge, one))) for mine in kept] for one in samplers}
    rows = {sampler.name: row_of(pair) for sampler, pair in pairs.items()}
    table = Table.of(HEADER, [[name, *row.cells()] for name, row in rows.items()])
    table.write(out, "samplers")
    settings = settings_table(kept)
    settings.write(out, "edges")
    best = cheapest({one.name: rows[one.name] for one in candidates})
    images = sum(row.images for row in rows.values())
    rule = f"Cheapest with {LEAST:g} % of the verdicts or more and {POINTS:g} point of UA or less"
    said = f"{rule}: {best or 'none of these'}. {images:,} images in all, of {len(kept)} adapters."
    return "\n\n".join([*lines, settings.markdown(), table.markdown(), said])


def study(
    folders: list[Path], out: Path, samplers: Sequence[Sampler], seeds: int, tier_seeds: int, share: float
) -> str:
    runs, problems = read(folders)
    for run in runs:
        edges.check_run(run)
    model, benchmark = together([run.folder for run in runs], out / "cache")
    model.to(benchmark.device)
    found = found_scales(model, benchmark, runs, out)
    own = [(edge, edges.of_edge(benchmark, edge, seeds, tier_seeds)) for edge in found]
    asked = [(edge, one, edges.asked(one, edge, share)) for edge, one in own]
    ask(model, asked, samplers, out)
    return "\n".join([*problems, tables(out, found, samplers)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders that hold finished runs, with their adapters")
    parser.add_argument("--out", type=Path, required=True, help="a folder for verdicts and tables")
    parser.add_argument("--reference", default=REFERENCE, help="the sampler that the others are compared with")
    parser.add_argument("--samplers", nargs="+", default=CANDIDATES, metavar="SOLVER:STEPS[:bfloat16]")
    parser.add_argument("--seeds", type=int, default=2, help="images of each of the target's cells")
    parser.add_argument("--tier-seeds", type=int, default=1, help="the same in each other tier; 0: not asked")
    parser.add_argument("--share", type=float, default=1 / 16, help="of the grid's other cells, which are to be kept")
    given = parser.parse_args()
    with one_line(given.out):
        at_least(1, seeds=given.seeds)
        at_least(0, tier_seeds=given.tier_seeds)
        above(0, share=given.share)
        samplers = [Sampler.of(text) for text in dict.fromkeys([given.reference, *given.samplers])]
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
        without_bars()
        print(study(given.folders, given.out, samplers, given.seeds, given.tier_seeds, given.share))


if __name__ == "__main__":
    command(main)
