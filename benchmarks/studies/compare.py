"""Methods beside each other: the six numbers, what each costs, and paired differences against one of them.

python -m benchmarks.studies.compare FOLDER... --against fade --out FOLDER    the comparison of finished runs
python -m benchmarks.studies.compare FOLDER... --published     with Kendall's tau against UnlearnCanvas's order
python -m benchmarks.studies.compare FOLDER... --tuning    for each method, its settings from best to worst
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.record.results import Run, called, never_saw, read
from benchmarks.report.answer import largest
from benchmarks.report.decided import LEVEL, NUMBERS, decided, gaps, harmonic, holm, sign_flip, stratified, told_apart
from benchmarks.report.errors import differences as apart
from benchmarks.report.pictures import grid
from benchmarks.report.tables import DASH, NEVER, UNTOUCHED, Table, asked_harder, mean_value, published, table
from benchmarks.studies._agreement import agreement, chart, orders
from fade.console import command, one_line
from fade.errors import BadInput
from fade.metrics import METRICS, usual
from fade.training.beside import base_images

# By dataset, the targets that settings are chosen on (sweeps/tuning): no table reports them. FADE's rank, masks and p
# were looked at on all targets, over time. minicanvas: of version 0.1, whose runs are read and made no more.
DEVELOPMENT = {"minicanvas": ("neon", "cat"), "canvas": ("block_print", "palm_tree")}


def _mean_of(runs: Sequence[Run], number: str, base: bool = False) -> float:
    """Mean over targets of the mean over training seeds, in percent."""
    by_target: dict[str, list[float]] = {}
    for run in runs:
        if (value := run.value(number, base)) is not None:
            by_target.setdefault(run.target, []).append(100 * value)
    return float(np.mean([np.mean(values) for values in by_target.values()])) if by_target else float("nan")


def _domains_of(runs: Sequence[Run]) -> list[str]:
    return sorted({r.domain for r in runs}, reverse=True)


def six(runs: Sequence[Run], domains: Sequence[str], base: bool = False) -> dict[str, float]:
    """UA, IRA and CRA of the style and of the object targets, in percent."""
    return {
        f"{domain} {number}": _mean_of([r for r in runs if r.domain == domain], number, base)
        for domain in domains
        for number in NUMBERS
    }


def _said(names: Iterable[object]) -> str:
    return ", ".join(map(str, sorted(names, key=str)))


def same_targets(runs: Sequence[Run]) -> None:
    """Raises BadInput where one method was run on other targets, training seeds or images than another: a mean over
    others is no comparison; and for targets that settings were chosen on."""
    chosen_on = {r.target for r in runs if r.target in DEVELOPMENT.get(r.dataset, ())}
    if chosen_on:
        raise BadInput(
            f"settings were chosen on {_said(chosen_on)}, which no table may report; name folders without them, or "
            f"--tuning"
        )
    meters = {(r.dataset, r.protocol, *r.image_seeds) for r in runs}
    if len(meters) > 1:
        names = _said(" ".join(map(str, name)) for name in meters)
        raise BadInput(f"the runs are of different datasets, protocols or image seeds ({names}); compare those of one")
    for name in dict.fromkeys(r.label for r in runs):
        masks = {f"{r.sparsity['kind']} p={r.sparsity['p']:g}" for r in runs if r.label == name}
        if len(masks) > 1:
            raise BadInput(
                f"runs of {name} differ in what may change ({', '.join(sorted(masks))}), and would be one row; "
                "python -m benchmarks.report keeps them apart"
            )
    asked = {name: {(r.target, r.seed) for r in runs if r.label == name} for name in (r.label for r in runs)}
    everything = set().union(*asked.values())
    for name, found in asked.items():
        without = {target for target, _ in everything} - {target for target, _ in found}
        if without:
            raise BadInput(f"{name} lacks the targets {_said(without)}; finish the sweep first")
        if found != everything:
            seeds = _said(f"{target} seed {seed}" for target, seed in everything - found)
            raise BadInput(f"{name} lacks {seeds}, which others have; finish the sweep first")


_SPENT = {"peak_memory_mb": 1, "teacher_passes": 1, "adapter_bytes": 1000}  # of a run's cost, and the unit shown


def _beside(runs: Sequence[Run]) -> list[str]:
    """What a comparison shows beside the six numbers: the usual metrics, and the harder questions that were asked."""
    return [key for key in (*usual(), *asked_harder(runs)) if key not in NUMBERS]


def measured(
    runs: Sequence[Run], domains: Sequence[str], also: Sequence[str], base: bool = False
) -> tuple[float, list[str]]:
    """The mean of the six numbers, and a row's cells: the six, UA and what is kept apart, both means, and `also`."""
    found = six(runs, domains, base)
    ua = float(np.nanmean([v for name, v in found.items() if name.endswith(" ua")]))
    kept = float(np.nanmean([v for name, v in found.items() if not name.endswith(" ua")]))
    mean = float(np.nanmean(list(found.values())))
    more = [_share(runs, key, base) if METRICS[key].share else mean_value(runs, key, base) for key in also]
    means = [f"{ua:.1f}", f"{kept:.1f}", f"{mean:.2f}", f"{harmonic(list(found.values())):.2f}"]
    return mean, [*(f"{v:.1f}" for v in found.values()), *means, *more]


def _share(runs: Sequence[Run], key: str, base: bool) -> str:
    return DASH if np.isnan(value := _mean_of(runs, key, base)) else f"{value:.1f}"


def compared(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """One row a method, best mean of the six numbers first; then the base model, which is what doing nothing scores,
    and the models that never saw the targets, of those targets that have one."""
    domains, also = _domains_of(runs), _beside(runs)
    header = [
        "method",
        "adapter",
        *six(runs, domains),
        *("UA", "retention", "mean of six", "harmonic mean of six"),
        *(METRICS[key].name for key in also),
        "largest decided excess",
        "runs",
        "images a UA",
        "train s",
        "peak MB",
        "teacher passes",
        "kB",
    ]
    rows = []
    for name in dict.fromkeys(r.label for r in runs):
        own = [r for r in runs if r.label == name]
        mean, cells = measured(own, domains, also)
        counts = _said({r.metrics["ua"]["n"] for r in own})
        seconds = np.mean([r.train_s for r in own])
        spent = [f"{np.mean([r.cost[key] for r in own]) / unit:.0f}" for key, unit in _SPENT.items()]
        cells += [largest(own), str(len(own)), counts, f"{seconds:.0f}", *spent]
        rows.append((mean, [name, own[0].sparsity["kind"], *cells]))
    return header, [row for _, row in sorted(rows, key=lambda r: -r[0])] + _untrained(runs, domains, also, len(header))


def _untrained(runs: Sequence[Run], domains: Sequence[str], also: Sequence[str], width: int) -> list[list[str]]:
    """The rows of the base, and of the models that never saw a target, as cells."""
    found = {}
    if all(r.base for r in runs):
        found[UNTOUCHED] = measured(runs, domains, also, base=True)[1]
    if never := never_saw(runs):
        own, targets = len({r.target for r in never}), len({r.target for r in runs})
        of = "" if own == targets else f" ({own} of {targets} targets)"
        found[NEVER + of] = measured(never, domains, also)[1]
    return [[name, DASH, *cells, *[DASH] * (width - 2 - len(cells))] for name, cells in found.items()]


def _named(runs: Sequence[Run], name: str) -> str:
    """The label that `name` means: itself, or the one label of a method of that name. BadInput for none or several."""
    labels = list(dict.fromkeys(r.label for r in runs))
    of_method = {r.label for r in runs if name in (r.method_name, r.method)}
    if name in labels or len(of_method) == 1:
        return name if name in labels else of_method.pop()
    raise BadInput(
        f"{'several kinds of runs' if of_method else 'no run'} of {name!r}; choose one of {'; '.join(labels)} "
        f"(--against)"
    )


def differences(runs: Sequence[Run], against: str) -> tuple[list[str], list[list[str]]]:
    """Each method's score minus that of `against`, over all targets (domains weigh alike) and within each domain: the
    difference of UA, of what is kept and of the mean of UA, IRA and CRA, its range over targets, and the sign-flip
    test's p, by Holm over the methods of a stratum."""
    other = _named(runs, against)
    names = [name for name in dict.fromkeys(r.label for r in runs) if name != other]
    domains = _domains_of(runs)
    rows = []
    for stratum in ["all", *(domains if len(domains) > 1 else ())]:
        own = [r for r in runs if stratum in ("all", r.domain)]
        tested = {name: gaps(own, name, other) for name in names}
        adjusted = dict(zip(names, holm([sign_flip(stratified(found)[1]) for found in tested.values()]), strict=True))
        for name in sorted(names, key=lambda name: -stratified(tested[name])[0]):
            apart = [stratified(gaps(own, name, other, part))[0] for part in (("ua",), ("ira", "cra"))]
            mean, values = stratified(tested[name])[0], tested[name].values()
            told = ("better" if mean > 0 else "worse") if adjusted[name] <= LEVEL else ""
            rows.append(
                [
                    name,
                    stratum,
                    str(len(values)),
                    *(f"{round(v, 2) + 0:+.2f}" for v in (*apart, mean)),
                    f"{min(values):+.1f} to {max(values):+.1f}",
                    f"{adjusted[name]:.3f}",
                    told,
                ]
            )
    return [
        f"against {other}",
        "targets of",
        "n",
        "Δ UA",
        "Δ retention",
        "difference",
        "over targets",
        "p (Holm)",
        "",
    ], rows


_Setting = tuple[tuple[str, str], ...]  # what the command line chose, sorted
# whole, >= 1
_COUNTED = ("pairs.forget", "pairs.retain", "pairs.batch", "trainer.max_steps", "model.steps", "adapter.rank")


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _best_of(means: dict[_Setting, float]) -> _Setting:
    """The setting of the best mean. Of several that are equal the middle one, by their values: a plateau's middle is
    farthest from where it ends."""
    top = [setting for setting, mean in means.items() if mean >= max(means.values()) - 1e-9]
    order = sorted(top, key=lambda setting: [(key, number(value) or 0.0, value) for key, value in setting])
    return order[(len(order) - 1) // 2]


def edge(method: str, best: _Setting, tried: Sequence[_Setting]) -> str:
    """Whether the best setting lies inside what was tried, for every number varied; else the command that goes on."""
    further = {}
    for key, value in best:
        values = sorted({v for setting in tried for k, text in setting if k == key and (v := number(text)) is not None})
        own = number(value)
        if own is None or (len(values) > 1 and values[0] < own < values[-1]):
            continue
        if len(values) == 1:
            on = [own / 3, own * 3]
        else:  # as far again, as a factor where that makes sense
            near = values[1] if own == values[0] else values[-2]
            on = [own * own / near if own * near > 0 else 2 * own - near]
        if key in _COUNTED:
            on = [v for v in (max(1, round(v)) for v in on) if v != own]
        if on:
            further[key] = [str(v) if key in _COUNTED else f"{v:.2g}" for v in on]
    if not best:
        return f"{method}: nothing was varied; give what to vary, as sweeps/tuning.yaml says"
    if not further:
        return f"{method}: the best lies inside what was tried"
    options = [f"{key}={','.join(further.get(key, [value]))}" for key, value in best]
    command = f"python run.py -m +sweeps=tuning method={method} {' '.join(options)}"
    return f"{method}: the best lies at the EDGE in {_said(further)}; go on with: {command}"


def _common(runs: Sequence[Run]) -> set[tuple[str, str]]:
    """What all runs of several methods were given: part of the question, no setting that was tried."""
    given = [set(run.chosen.items()) for run in runs]
    return set.intersection(*given) if len({run.method_name for run in runs}) > 1 else set()


def tuning(runs: Sequence[Run]) -> tuple[tuple[list[str], list[list[str]]], list[str]]:
    """For each method every setting that was tried on all of its development targets, best first, the chosen one
    marked; and a line a method on whether that lies inside what was tried. Runs of other targets are not read."""
    rows: list[list[str]] = []
    lines = []
    own = [r for r in runs if r.target in DEVELOPMENT.get(r.dataset, (r.target,))]
    if not own:
        raise BadInput(
            f"no run of a development target ({_said(t for of in DEVELOPMENT.values() for t in of)}); run "
            f"sweeps/tuning first"
        )
    domains, common = _domains_of(own), _common(own)
    for name in dict.fromkeys(r.method_name for r in own):
        tried: dict[_Setting, list[Run]] = {}
        for run in (r for r in own if r.method_name == name):
            tried.setdefault(tuple(item for item in run.chosen.items() if item not in common), []).append(run)
        most = max(len({r.target for r in group}) for group in tried.values())
        full = {
            setting: six(group, domains) for setting, group in tried.items() if len({r.target for r in group}) == most
        }
        means = {setting: float(np.nanmean(list(numbers.values()))) for setting, numbers in full.items()}
        best = _best_of(means)
        lines.append(edge(name, best, list(full)))
        for setting in sorted(full, key=lambda setting: (-means[setting], setting != best)):
            words = " ".join(f"{key}={value}" for key, value in setting)
            cells = [*(f"{v:.1f}" for v in full[setting].values()), f"{means[setting]:.2f}"]
            rows.append([name, words, *cells, "chosen" if setting == best else ""])
    return (["method", "setting", *six(own, domains), "mean", ""], rows), lines


def pictures(found: Sequence[Run], out: Path) -> list[str]:
    """out/TARGET.png for every target: what each method leaves of it, one row a method, the same prompts and starting
    noise. Returns a line for each that cannot be made, its images being gone."""
    problems = []
    by_seed = sorted(found, key=lambda run: -(run.seed or 0))  # the lowest seed comes last, and stays
    brief = called(sorted({run.label for run in found}))
    for target in dict.fromkeys(run.target for run in found):
        runs = {run.label: run for run in by_seed if run.target == target}
        run = next(iter(runs.values()))
        other = next((d for d in run.judge_accuracy if d != run.domain), "seed")
        first: dict[str, str] = {}
        for row in run.predictions:
            if row[run.domain] == target:
                first.setdefault(str(row[other]), str(row["file"]))
        base = base_images(run.base_answers, run.folder)
        if not first or base is None:
            problems.append(
                f"no picture of {target}: {run.folder / 'predictions.csv'} or the base model's images are not there"
            )
            continue
        folders = {"base": base, **{brief[name]: own.folder / "images" for name, own in sorted(runs.items())}}
        rows = [(name, [images / file for file in first.values()]) for name, images in folders.items()]
        try:
            grid(list(first), rows, out / f"{target}.png")
        except FileNotFoundError as error:
            problems.append(f"no picture of {target}: {error.filename} is not there")
    return problems


def _usable(found: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Runs that this tool trained; and a line for each whose images others made, which has no cost and no seed."""
    kept = [run for run in found if run.seed is not None and {*_SPENT, "locate_s", "distil_s"} <= set(run.cost)]
    return kept, [f"{run.folder}: left out, it says no seed or no cost of training" for run in found if run not in kept]


def mark_of(runs: Sequence[Run]) -> str:
    """What stands in the first heading of every table of them."""
    return next((f" ({run.mark})" for run in runs if run.mark), "")


def briefly(
    labels: Sequence[str], header: Sequence[str], rows: Sequence[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """A table whose first column and header say labels without what all of them have in common."""
    brief = called(labels)
    against = header[0].removeprefix("against ")
    first = f"against {brief[against]}" if against in brief else header[0]
    return [first, *header[1:]], [[brief.get(row[0], row[0]), *row[1:]] for row in rows]


def write(folders: list[Path], against: str, out: Path | None, tuned: bool, ranked: bool = False) -> str:
    """The tables as text, and as files in `out`. ranked: with the agreement with UnlearnCanvas's published order."""
    found, problems = read(folders)
    runs, scored = _usable(found)
    problems += scored
    if not runs:
        raise BadInput(f"no run below {_said(folders)} was trained here; name folders of finished runs")
    if tuned:
        settings, lines = tuning(runs)
        parts = {"tuning": settings}
    else:
        same_targets(runs)
        parts = {"methods": compared(runs), "differences": differences(runs, against), "decided": told_apart(runs)}
        labels = list(dict.fromkeys(run.label for run in runs))
        parts |= {name: briefly(labels, *parts[name]) for name in ("methods", "differences")}
        ranks = orders(runs) if ranked else []
        parts |= {"agreement": agreement(ranks)} if ranked else {}
        parts = {name: ([header[0] + mark_of(runs), *header[1:]], rows) for name, (header, rows) in parts.items()}
        lines = [decided(runs)]
    for name, part in parts.items() if out else ():
        assert out is not None
        Table.of(*part).write(out, name)
    if out and not tuned:
        problems += pictures(runs, out)
        for figure in [*apart(runs), *map(chart, ranks)]:
            figure.save(out)
    shown = [table(*part) for part in parts.values()]
    others = (
        [] if tuned else [f"As published, on another model, other images and other judges:\n\n{published().markdown()}"]
    )
    return "\n\n".join([*problems, *shown, "\n".join(lines), *others])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders that hold finished runs")
    parser.add_argument(
        "--against", default="fade", help="the method, or its label in the table, that others are compared with"
    )
    parser.add_argument("--out", type=Path, help="a folder for the tables as files, and the pictures")
    parser.add_argument(
        "--tuning", action="store_true", help="every setting on the development targets, and which is chosen"
    )
    parser.add_argument(
        "--published", action="store_true", help="how far UnlearnCanvas's methods stand in the published order"
    )
    given = parser.parse_args()
    with one_line(given.out or "the tables"):
        print(write(given.folders, given.against, given.out, given.tuning, given.published))


if __name__ == "__main__":
    command(main)
