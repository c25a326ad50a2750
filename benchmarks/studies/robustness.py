"""Who falls to what: every attack on every setting, over the targets of each domain and target by target.

python -m benchmarks.studies.robustness FOLDER...      runs that task=attack was run on
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.record.attacks import NONE, Reached
from benchmarks.record.results import Run, by_setting, called, read
from benchmarks.report.attacks import over_targets
from benchmarks.report.tables import DASH, NEVER, Table
from fade.console import command, one_line
from fade.errors import BadInput

LEFT = 0.5  # of the images as asked: who leaves as many as that has forgotten nothing that could be brought back
SAID = (
    "percent of the images that are read as the target; **bold**: more than on the control by a 95 % interval above "
    f"0, over targets where there are several; {DASH}: void, or not made. Who leaves half of the images as asked "
    "stands last. Control, the last row: {}"
)
FALLS = "falls on"  # how many of its targets: what was never gone counts
HELD = {
    "oracle": "a model that never saw the target",
    "never": "the base, taught a concept that nobody saw",
    "off": "the optimiser off, or no attack",
}


def columns(runs: Sequence[Run]) -> list[str]:
    """The attacks: none first, then by level and name."""
    levels = {name: one.level for run in runs for name, one in run.reached.items()}
    return sorted(levels, key=lambda name: (name != NONE, levels[name], name))


def reached(runs: Sequence[Run], attack: str) -> list[Reached]:
    return [run.reached[attack] for run in runs if attack in run.reached]


def decided(runs: Sequence[Run], attack: str) -> bool:
    """Whether it brings back more than its control, over these runs."""
    excess = over_targets(runs, attack)
    return excess is not None and excess["low"] > 0


def success(runs: Sequence[Run], attack: str) -> float | None:
    """Its mean over the runs that it was made on."""
    found = [one.success["value"] for one in reached(runs, attack)]
    return float(np.mean(found)) if found else None


def cell(runs: Sequence[Run], attack: str) -> str:
    value = success(runs, attack)
    if value is None:
        return DASH
    return f"**{100 * value:.0f}**" if decided(runs, attack) else f"{100 * value:.0f}"


def left(runs: Sequence[Run]) -> bool:
    """Whether half of the images are the target without an attack, over these runs."""
    return (success(runs, NONE) or 0.0) >= LEFT


def control(runs: Sequence[Run], attack: str) -> str:
    """Its mean over the runs: what knows the attacked change's places is another for each, and the optimiser off says
    what a run draws without it, so that runs which forgot nothing are left out."""
    found = [one.control["value"] for run in runs if not left([run]) for one in reached([run], attack)]
    return f"{100 * np.mean(found):.0f}" if found else DASH


def of(where: str, runs: Sequence[Run], names: dict[str, str]) -> Table:
    """One row a setting: the fewest decided first, who forgot nothing last; then the control. where: the target, or
    what several have in common, of which a last column says on how many something is decided."""
    kinds, attacks = by_setting(runs), columns(runs)
    several = len({run.target for run in runs}) > 1
    order = sorted(kinds, key=lambda name: rank(kinds[name]))
    rows = [
        [where, names[name], *(cell(kinds[name], one) for one in attacks), *[on(kinds[name])] * several]
        for name in order
    ]
    over = sorted({one.over for run in runs for one in run.reached.values()}, key=list(HELD).index)
    last = [where, f"*{NEVER}*" if over == ["oracle"] else "*control*", *(control(runs, one) for one in attacks)]
    header = ["target", "setting", *attacks, *[FALLS] * several]
    return Table.of(header, [*rows, last + [DASH] * several], SAID.format("; ".join(HELD[one] for one in over)))


def by_target(runs: Sequence[Run]) -> dict[str, list[Run]]:
    return {target: [run for run in runs if run.target == target] for target in sorted({run.target for run in runs})}


def falls(runs: Sequence[Run]) -> list[bool]:
    """For each target of a setting, whether some attack brings back more than its control, or nothing was gone."""
    return [left(own) or bool(fallen(own)) for own in by_target(runs).values()]


def on(runs: Sequence[Run]) -> str:
    found = falls(runs)
    return f"{sum(found)} of {len(found)}"


def fallen(runs: Sequence[Run]) -> list[str]:
    """The attacks that bring back more than their control."""
    tried = {name for run in runs for name, one in run.reached.items() if one.tries}
    return sorted(name for name in tried if decided(runs, name))


def rank(runs: Sequence[Run]) -> tuple[bool, int, float]:
    """What settings are sorted by, the best first."""
    return left(runs), len(fallen(runs)), mean_excess(runs)


def mean_excess(runs: Sequence[Run]) -> float:
    found = [one.excess["value"] for run in runs for one in run.reached.values() if one.tries]
    return float(np.mean(found)) if found else 0.0


def nowhere(runs: Sequence[Run]) -> list[str]:
    """The settings that forgot all of their targets and of which no attack brings any back over its control."""
    return [name for name, own in by_setting(runs).items() if not any(falls(own))]


def tables(runs: Sequence[Run]) -> Iterator[Table]:
    """Of each domain of which several targets were attacked, then of each target."""
    names = called(list(by_setting(runs)))
    for domain in sorted({run.domain for run in runs}, reverse=True):  # style before object, as everywhere
        own = [run for run in runs if run.domain == domain]
        if (n := len(by_target(own))) > 1:
            yield of(f"{n} {domain}s", own, names)
    for target, own in by_target(runs).items():
        yield of(target, own, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    given = parser.parse_args()
    with one_line():
        runs = [run for run in read(given.folders)[0] if run.reached]
        if not runs:
            raise BadInput(
                f"no run in {', '.join(map(str, given.folders))} was attacked; python run.py task=attack run=FOLDER"
            )
    names = called(list(by_setting(runs)))
    for found in tables(runs):
        print(found.markdown(), found.caption, sep="\n", end="\n\n")
    print("over the control nowhere:", ", ".join(names[name] for name in nowhere(runs)) or "none")


if __name__ == "__main__":
    command(main)
