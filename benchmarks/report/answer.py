"""What a report opens with: what was removed, is it gone, what else moved, can it be brought back."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.record.attacks import Reached
from benchmarks.record.format import Metric
from benchmarks.record.results import Run, by_setting, called
from benchmarks.report.attacks import CONTROLS, points
from benchmarks.report.images import Pair, pair
from benchmarks.report.tables import DASH, KEPT, Cell, Table, mean_of, measured, number
from fade.data.prompts import words
from fade.metrics import interval_text, number_text

Shows = Callable[[Run, str], "tuple[str, str] | None"]
OVER = CONTROLS | {"off": "the same model without it"}  # what an attack is held against, in words
FEW = 4  # targets that a heading names, and runs that are shown one by one


@dataclass(frozen=True)
class Number:
    """One of the numbers of a run: what it says, the value in percent, its interval, what stands beside it (the value
    before, or an attack's control), and whose images it opens."""

    says: str
    value: str
    interval: str
    beside: str = ""
    shows: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """What is said of one run. folder: where it lies, from the page; lines: question and answer."""

    title: str
    folder: str
    lines: list[tuple[str, str]]
    numbers: list[Number]
    command: str
    pair: Pair | None


def many(count: int, name: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {name}" if count == 1 else f"{count:,} {name}s"


def heading(runs: Sequence[Run]) -> str:
    """What was removed, by what: with names where they are few."""
    targets, kinds = sorted({run.gone for run in runs}), by_setting(runs)
    removed = ", ".join(targets) if len(targets) <= FEW else many(len(targets), "concept")
    by = runs[0].method if len(kinds) == 1 else many(len(kinds), "setting")
    return f"{removed} removed by {by}" + (f", {many(len(runs), 'run')}" if len(runs) > 1 else "")


# --- counts -----------------------------------------------------------------------------------------------------------


def forgotten(ua: Metric) -> int:
    """The images that are no longer read as the target."""
    return round(ua["value"] * ua["n"])


def share_kept(metrics: dict[str, Metric], base: dict[str, Metric]) -> float | None:
    """Mean of IRA and CRA, each over the base's; None where there is no base, or a base that is good at nothing."""
    ratios = [
        metrics[key]["value"] / base[key]["value"]
        for key in KEPT
        if metrics.get(key, {}).get("value") is not None and base.get(key, {}).get("value")
    ]
    return sum(ratios) / len(ratios) if ratios else None


def counted(runs: Sequence[Run]) -> str:
    """45 of 45, over all images of some runs; a dash where one does not say of how many."""
    found = [run.metrics["ua"] for run in runs]
    if any("n" not in ua for ua in found):
        return DASH
    return f"{sum(map(forgotten, found)):,} of {sum(ua['n'] for ua in found):,}"


def kept(runs: Sequence[Run]) -> float | None:
    """The mean over runs of what is kept, as a share of the base's."""
    shares = [share for run in runs if (share := share_kept(run.metrics, run.base)) is not None]
    return float(np.mean(shares)) if shares else None


def percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f} %"


def of_percent(metric: Metric, key: str = "ua") -> str:
    """97.5 % [86.8, 99.9]"""
    return f"{number_text(metric, key)} % {interval_text(metric, key)}".rstrip()


# --- one run ----------------------------------------------------------------------------------------------------------


def answers(runs: Sequence[Run], link: Callable[[Run], str], shows: Shows) -> list[Answer]:
    """One for each of a few runs; none where there are more, which `lines` and `verdicts` put together. link: to a
    run's folder; shows: what a metric of it opens."""
    if len(runs) > FEW:
        return []
    ordered = sorted(runs, key=lambda run: (run.domain, run.gone, run.setting, run.seed or 0))
    names = [f"{run.gone} → {words(run.surrogate)}" for run in ordered]
    by = called(list(by_setting(runs)))
    if len(by) > 1:
        names = [f"{name}, by {by[run.setting]}" for name, run in zip(names, ordered, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name}, training seed {run.seed}" for name, run in zip(names, ordered, strict=True)]
    return [_answer(run, name, link(run), shows) for run, name in zip(ordered, names, strict=True)]


def _answer(run: Run, title: str, folder: str, shows: Shows) -> Answer:
    lines = [("Is it gone?", _gone(run))]
    if (share := share_kept(run.metrics, run.base)) is not None:
        lines.append(("What else moved?", f"{percent(share)} is kept of what the model got right before."))
    back = brought([run])
    lines.append(("Can it be brought back?", back or "Nobody tried yet. This does:"))
    return Answer(title, folder, lines, _numbers(run, shows), "" if back else command(run), pair(run))


def _gone(run: Run) -> str:
    ua, base = run.metrics["ua"], run.base.get("ua")
    if "n" not in ua:
        return f"The judge reads something else in {of_percent(ua)} of the images that ask for it."
    before = f"; {forgotten(base)} of {base['n']} before" if base and "n" in base else ""
    if forgotten(ua) <= (forgotten(base) if before and base else 0):
        return f"No: {ua['n'] - forgotten(ua)} of {ua['n']} images that ask for it are still read as {run.gone}."
    landed = [f"{words(label)} {n}" for label, n in run.landed.items() if label != run.target][:3]
    read = f" They are read as: {', '.join(landed)}." if landed else ""
    return f"Forgotten in {counted([run])} images that ask for it{before}.{read}"


def _numbers(run: Run, shows: Shows) -> list[Number]:
    """UA, IRA, CRA and the rest of the forgotten images, in words; and what an attack reached, where one was run."""
    others = ", ".join(f"{name}s" for name in run.judge_accuracy if name != run.domain)
    says = {
        "ua": f"asked for {run.gone}, not read as it (UA)",
        "ira": f"other {run.domain}s, read right (IRA)",
        "cra": f"{others}, read right (CRA)",
        "cra_target": f"{others}, read right where {run.gone} was asked for",
    }
    measured = [(key, run.metric(key), run.metric(key, base=True)) for key in says]
    found = [
        Number(says[key], f"{number_text(m, key)} %", interval_text(m, key), _before(base, key), shows(run, key))
        for key, m, base in measured
        if m and m.get("value") is not None
    ]
    if best := strongest([run]):
        found.append(_attacked(best[0], shows(run, best[0].attack)))
    return found


def _before(base: Metric | None, key: str) -> str:
    return f"before: {number_text(base, key)} %" if base and base.get("value") is not None else ""


def _attacked(one: Reached, shows: tuple[str, str] | None) -> Number:
    back = "drawn again" if one.over == "off" else "brought back"  # or put in: a model that never saw it would say
    says = f"{back}, by {one.attack}" if one.decided else f"read as it under {one.attack}, {_told(one)}"
    value, beside = f"{number_text(one.success)} %", f"{OVER[one.over]}: {number_text(one.control)} %"
    return Number(says, value, interval_text(one.success), beside, shows)


# --- attacks ----------------------------------------------------------------------------------------------------------


def strongest(runs: Sequence[Run]) -> tuple[Reached, Run] | None:
    """The attack that brings back most over its control on any of the runs, a decided one before any that is not, and
    of equal ones that on the run whose target was gone the most; None where none was run."""
    found = [(one, run) for run in runs for one in run.reached.values() if one.tries]
    return max(found, key=lambda pair: (pair[0].strength, pair[1].value("ua") or 0.0)) if found else None


def _told(one: Reached) -> str:
    """What is known of an attack that is not decided to bring anything back."""
    return "less than its control" if one.excess["high"] < 0 else "undecided"


def brought(runs: Sequence[Run]) -> str:
    """The attack that brings back most over its control, on which target, beside that control; "" where none was
    run."""
    best = strongest(runs)
    if best is None:
        return ""
    (one, run), over = best, OVER[best[0].over]
    names = called(list(by_setting(runs)))
    removed = f", removed by {names[run.setting]}," if len(names) > 1 else ""
    most = f"{run.gone}{removed} in {of_percent(one.success)} of the images, by {one.attack}; "
    most += f"{over}: {of_percent(one.control)}; "
    most += f"the difference: {points(one.excess)} points"
    told = "Nothing over" if one.excess["high"] < 0 else "Undecided: nothing that is told from"
    yes = "Drawn again, with no model that never saw it to compare: " if one.over == "off" else "Yes: "
    return (yes if one.decided else f"{told} what {over} gives. The most: ") + most + f", of {_tried(runs)}."


def _tried(runs: Sequence[Run]) -> str:
    """3 attacks; of several runs, on how many, and on how many of them one is decided."""
    names = {one.attack for run in runs for one in run.reached.values() if one.tries}
    best = [found[0] for run in runs if (found := strongest([run]))]
    on = f" on {len(best)} of {many(len(runs), 'run')}; decided on {sum(one.decided for one in best)} of them"
    return many(len(names), "attack") + (on if len(runs) > 1 else "")


def command(run: Run) -> str:
    """What tries to bring a run's concept back."""
    return f"python run.py task=attack run={shlex.quote(os.path.relpath(run.folder))} attack=light"


# --- many runs --------------------------------------------------------------------------------------------------------


def lines(runs: Sequence[Run]) -> Table | None:
    """Of one setting with many runs, one line a target; of a few runs nothing, which `answers` shows one by one."""
    if len(runs) <= FEW or len(by_setting(runs)) > 1:
        return None
    targets: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.domain, run.gone)):
        targets.setdefault((run.domain, run.gone), []).append(run)
    rows = [_line(gone, domain, own) for (domain, gone), own in targets.items()]
    caption = (
        "Percent. [ ]: 95 %, over the images of the one adapter where a line is one run; over runs (Student), and no "
        "narrower than their images allow, where it is several. Over control, in points: the attack that brings back "
        "most over a model that never saw it, or, where there is none, over what else it was held against"
    )
    header = ["forgotten", "domain", "runs", "images", "kept, % of base", "UA ↑", "IRA ↑", "CRA ↑", "over control"]
    return Table(header, rows, caption)


def _line(gone: str, domain: str, runs: Sequence[Run]) -> list[Cell]:
    share, best = kept(runs), strongest(runs)
    return [
        Cell(gone),
        Cell(domain),
        number(len(runs)),
        Cell(counted(runs)),
        number(None if share is None else 100 * share, "{:.1f}".format),
        *(measured(mean_of(runs, key), key) for key in ("ua", *KEPT)),
        Cell(_most(best[0]) if best else "nobody tried"),
    ]


def _most(one: Reached) -> str:
    """+87.5 [57.7, 96.5], closed"""
    return f"{points(one.excess)}, {one.attack}" + ("" if one.decided else f": {_told(one)}")


def largest(runs: Sequence[Run]) -> str:
    """The largest decided excess of an attack over its control, in points: by what, on which target, of how many."""
    best = strongest(runs)
    if best is None:
        return DASH
    one, run = best
    tried = sum(one.tries for run in runs for one in run.reached.values())
    return (
        f"{100 * one.excess['value']:.1f} ({one.attack}, {run.target}; of {tried})"
        if one.decided
        else f"none of {tried}"
    )


def verdicts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Of many runs, one answer a question over all of them."""
    if len(runs) <= FEW:
        return []
    kinds = by_setting(runs)
    names = called(list(kinds))
    gone = {names[kind]: float(np.mean([run.metrics["ua"]["value"] for run in own])) for kind, own in kinds.items()}
    left = {names[kind]: share for kind, own in kinds.items() if (share := kept(own)) is not None}
    counts = f"{counted(runs)} images that ask for it, in {many(len(runs), 'run')}"
    found = [("Is it gone?", f"Forgotten in {counts}.{_ends(gone)}")]
    if left:
        mean = percent(float(np.mean(list(left.values()))))
        found.append(("What else moved?", f"{mean} is kept of what the model got right before.{_ends(left)}"))
    back = brought(runs) or f"Nobody tried yet. For one run: {command(runs[0])}"
    return [*found, ("Can it be brought back?", back)]


def _ends(shares: dict[str, float]) -> str:
    """Which settings have most, and which least; nothing of one."""
    if len(shares) < 2:
        return ""
    best, least = max(shares.values()), min(shares.values())
    top = [name for name, share in shares.items() if share == best]
    first = top[0] if len(top) == 1 else f"{len(top)} of {len(shares)} settings"
    last = next(name for name, share in shares.items() if share == least)
    return f" Most by {first} ({percent(best)})" + (f", least by {last} ({percent(least)})." if least < best else ".")
