"""Methods beside each other: the six numbers, what each costs, and paired differences against one of them.

python -m benchmarks.methods FOLDER...  [--against fade] [--out FOLDER]    the comparison of finished runs
python -m benchmarks.methods FOLDER...  --tuning                           for each method, its settings from best to worst
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from benchmarks.comparison import grid
from benchmarks.judge import read_rows
from benchmarks.report import find
from benchmarks.tables import as_csv, as_latex, choices, mean_value, method_of, published, table
from fade.errors import BadInput
from fade.files import write_text

Run = dict[str, Any]
NUMBERS = ("ua", "ira", "cra")
FEWEST = 3  # targets, for an interval of a mean difference over them


def label_of(run: Run) -> str:
    """The name in tables: the method, its variant, and what the command line chose."""
    return " ".join([method_of(run), *(f"{key}={value}" for key, value in sorted(choices(run).items()))])


def mean_of(runs: Sequence[Run], number: str) -> float:
    """Mean over targets of the mean over training seeds, in percent."""
    by_target: dict[str, list[float]] = {}
    for run in runs:
        if number in run["metrics"]:
            by_target.setdefault(run["target"], []).append(100 * run["metrics"][number]["value"])
    return float(np.mean([np.mean(values) for values in by_target.values()])) if by_target else float("nan")


def domains_of(runs: Sequence[Run]) -> list[str]:
    return sorted({r["domain"] for r in runs}, reverse=True)


def six(runs: Sequence[Run], domains: Sequence[str]) -> dict[str, float]:
    """UA, IRA and CRA of the style and of the object targets, in percent."""
    return {f"{domain} {number}": mean_of([r for r in runs if r["domain"] == domain], number)
            for domain in domains for number in NUMBERS}  # fmt: skip


def same_targets(runs: Sequence[Run]) -> None:
    """Raises BadInput where one method was run on other targets or seeds than another: a mean over other targets is no
    comparison."""
    asked = {name: {(r["target"], r["seeds"]["train"]) for r in runs if label_of(r) == name} for name in map(label_of, runs)}
    targets = {name: {t for t, _ in pairs} for name, pairs in asked.items()}
    everything = set().union(*targets.values())
    for name, found in targets.items():
        if found != everything:
            raise BadInput(f"{name} lacks the targets {', '.join(sorted(everything - found))}; finish the sweep first")


def compared(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """One row a method, best mean of the six numbers first."""
    domains = domains_of(runs)
    numbers = list(six(runs, domains))
    header = [
        "method",
        "adapter",
        *numbers,
        "mean of six",
        "CRA on target",
        "fid_judge",
        "1000 kid_judge",
        "runs",
        "images a UA",
        "train s",
        "peak MB",
        "teacher passes",
        "kB",
    ]
    rows = []
    for name in dict.fromkeys(map(label_of, runs)):
        own = [r for r in runs if label_of(r) == name]
        found = six(own, domains)
        counts = sorted({str(r["metrics"]["ua"]["n"]) for r in own})
        cost = {
            key: np.mean([r["cost"][key] for r in own])
            for key in ("locate_s", "distil_s", "peak_memory_mb", "teacher_passes", "adapter_bytes")
        }
        rows.append((float(np.mean(list(found.values()))), [
            name, own[0]["sparsity"]["kind"], *(f"{v:.1f}" for v in found.values()), f"{np.mean(list(found.values())):.2f}",
            f"{mean_of(own, 'cra_target'):.1f}", mean_value(own, "fid_judge"), mean_value(own, "kid_judge"),
            str(len(own)), ", ".join(counts),
            f"{cost['locate_s'] + cost['distil_s']:.0f}", f"{cost['peak_memory_mb']:.0f}", f"{cost['teacher_passes']:.0f}",
            f"{cost['adapter_bytes'] / 1000:.0f}",
        ]))  # fmt: skip
    return header, [row for _, row in sorted(rows, key=lambda r: -r[0])]


def score(run: Run) -> float:
    """The mean of a run's UA, IRA and CRA, in percent."""
    return 100 * float(np.mean([run["metrics"][number]["value"] for number in NUMBERS if number in run["metrics"]]))


def differences(runs: Sequence[Run], against: str) -> tuple[list[str], list[list[str]]]:
    """Each method's mean of UA, IRA and CRA minus that of `against`, in points: paired over training seeds, then one mean a
    target, since the seeds of one target are no independent draws of what else one could be asked to forget. Student's
    interval over targets, its level corrected for the number of comparisons (Bonferroni)."""
    own = {(r["target"], r["seeds"]["train"]): score(r) for r in runs if label_of(r) == against}
    if not own:
        raise BadInput(f"no run of {against!r}; choose one of {', '.join(dict.fromkeys(map(label_of, runs)))}")
    others = [name for name in dict.fromkeys(map(label_of, runs)) if name != against]
    level = 1 - 0.05 / max(1, len(others))
    rows = []
    for name in others:
        by_target: dict[str, list[float]] = {}
        for r in (r for r in runs if label_of(r) == name and (r["target"], r["seeds"]["train"]) in own):
            by_target.setdefault(r["target"], []).append(score(r) - own[r["target"], r["seeds"]["train"]])
        gaps = np.array([np.mean(of_seeds) for of_seeds in by_target.values()])
        counts = [str(len(gaps)), str(sum(map(len, by_target.values())))]
        if len(gaps) < FEWEST or np.ptp(gaps) == 0:
            rows.append([name, f"{gaps.mean():+.2f}", "too few targets" if len(gaps) < FEWEST else "all alike", *counts, ""])
            continue
        low, high = ttest_1samp(gaps, 0.0).confidence_interval(confidence_level=level)
        apart = "" if low <= 0 <= high else ("better" if low > 0 else "worse")
        rows.append([name, f"{gaps.mean():+.2f}", f"[{low:+.2f}, {high:+.2f}]", *counts, apart])
    rows.sort(key=lambda row: -float(row[1]))
    return [f"against {against}", "difference", f"{100 * level:.2f} % interval", "targets", "pairs", ""], rows


def tuning(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """For each method, every setting that was tried, best first: the mean of UA, IRA and CRA over the development targets."""
    rows: list[list[str]] = []
    domains = domains_of(runs)
    for name in dict.fromkeys(r["method"] for r in runs):
        tried: dict[str, list[Run]] = {}
        for run in (r for r in runs if r["method"] == name):
            tried.setdefault(" ".join(f"{key}={value}" for key, value in sorted(choices(run).items())), []).append(run)
        most = max(len({r["target"] for r in group}) for group in tried.values())
        full = {s: group for s, group in tried.items() if len({r["target"] for r in group}) == most}
        means = {setting: six(group, domains) for setting, group in full.items()}
        for words, numbers in sorted(means.items(), key=lambda e: -np.nanmean(list(e[1].values()))):
            rows.append([name, words, *(f"{v:.1f}" for v in numbers.values()), f"{np.nanmean(list(numbers.values())):.2f}"])
    return ["method", "setting", *six(runs, domains), "mean"], rows


def pictures(found: Sequence[tuple[Path, Run]], out: Path) -> list[str]:
    """out/TARGET.png for every target: what each method leaves of it, one row a method, the same prompts and starting noise.
    Returns a line for each that cannot be made, its images being gone."""
    problems = []
    by_seed = sorted(found, key=lambda f: -int(f[1]["seeds"]["train"]))  # the lowest seed comes last, and stays
    for target in dict.fromkeys(run["target"] for _, run in found):
        runs = {label_of(run): (folder, run) for folder, run in by_seed if run["target"] == target}
        folder, run = next(iter(runs.values()))
        other = next((d for d in run["gates"]["judge_accuracy"] if d != run["domain"]), "seed")
        first: dict[str, str] = {}
        for row in read_rows(folder / "predictions.csv"):
            if row[run["domain"]] == target:
                first.setdefault(str(row[other]), str(row["file"]))
        folders = {"base": Path(run["base_answers"]), **{name: own / "images" for name, (own, _) in sorted(runs.items())}}
        rows = [(name, [images / file for file in first.values()]) for name, images in folders.items()]
        try:
            grid(list(first), rows, out / f"{target}.png")
        except FileNotFoundError as error:
            problems.append(f"no picture of {target}: {error.filename} is not there")
    return problems


def write(folders: list[Path], against: str, out: Path | None, tuned: bool) -> str:
    """The tables as text, and as files in `out`."""
    found, problems = find(folders)
    runs = [run for _, run in found]
    if tuned:
        parts = {"tuning": tuning(runs)}
    else:
        same_targets(runs)
        parts = {"methods": compared(runs), "differences": differences(runs, against)}
    for name, part in parts.items() if out else ():
        assert out is not None
        write_text(out / f"{name}.csv", as_csv(*part))
        write_text(out / f"{name}.md", table(*part) + "\n")
        write_text(out / f"{name}.tex", as_latex(*part))
    if out and not tuned:
        problems += pictures(found, out)
    measured = [table(*part) for part in parts.values()]
    others = [] if tuned else [f"As published, on another model, other images and other judges:\n\n{table(*published())}"]
    return "\n\n".join([*problems, *measured, *others])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--against", default="fade")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tuning", action="store_true")
    given = parser.parse_args()
    try:
        print(write(given.folders, given.against, given.out, given.tuning))
    except BadInput as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
