"""Which methods are told apart: paired differences over targets, domains weighing alike, and what tests say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product
from statistics import harmonic_mean

import numpy as np
from scipy.special import stdtr, stdtrit

from benchmarks.record.results import Run
from benchmarks.report.tables import asked_harder
from fade.metrics import METRICS

NUMBERS = ("ua", "ira", "cra")
LEVEL = 0.05
_EXACT = 14  # targets up to which every sign is tried
_FLIPS = 19_999  # random ones beyond


def score(run: Run, numbers: Sequence[str] = NUMBERS) -> float:
    """The mean of those of a run's numbers that it has, in percent."""
    return 100 * float(np.mean([run.metrics[number]["value"] for number in numbers if number in run.metrics]))


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean of the numbers that there are, in which one that is near 0 cannot be made good by others."""
    return harmonic_mean([value for value in values if not np.isnan(value)])


def gaps(
    runs: Sequence[Run],
    one: str,
    other: str,
    numbers: Sequence[str] = NUMBERS,
    named: Callable[[Run], str] = lambda run: run.label,
) -> dict[tuple[str, str], float]:
    """(domain, target) -> one method's score minus another's, in points: paired over training seeds, then one mean a
    target, since the seeds of one target are no independent draws of what else one could be asked to forget. named:
    what a run is called in `one` and `other`."""
    scores = {(named(r), r.domain, r.target, r.seed): score(r, numbers) for r in runs}
    pairs: dict[tuple[str, str], list[float]] = {}
    for (name, domain, target, seed), value in scores.items():
        if name == one and (other, domain, target, seed) in scores:
            pairs.setdefault((domain, target), []).append(value - scores[other, domain, target, seed])
    return {place: float(np.mean(values)) for place, values in pairs.items()}


def stratified(found: dict[tuple[str, str], float]) -> tuple[float, np.ndarray]:
    """The mean over domains of the mean over their targets, and what each target adds to it."""
    domains = [domain for domain, _ in found]
    parts = np.array([gap / domains.count(domain) for (domain, _), gap in found.items()]) / len(set(domains))
    return float(parts.sum()), parts


def sign_flip(parts: np.ndarray) -> float:
    """Two-sided p of a sum whose parts are as likely with the other sign if two methods are alike (Fisher's
    randomisation test): all signs where there are few targets, else random ones. Its smallest value is 2 / 2^n."""
    n = len(parts)
    if n <= _EXACT:
        signs = np.array(list(product((1, -1), repeat=n)))
        return float(np.mean(np.abs(signs @ parts) >= abs(parts.sum()) - 1e-9))
    signs = np.random.default_rng(0).choice((1, -1), (_FLIPS, n))
    return float((1 + np.sum(np.abs(signs @ parts) >= abs(parts.sum()) - 1e-9)) / (_FLIPS + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p: the smallest times how many there are, the next times one fewer, never falling."""
    adjusted, highest = [1.0] * len(p), 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable")):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def error(found: dict[tuple[str, str], float]) -> tuple[float, int] | None:
    """The standard error of the mean over domains of the mean over their targets, and its Σ (n_d − 1) degrees of
    freedom; None where a domain has one target, which says nothing of how targets differ."""
    by_domain: dict[str, list[float]] = {}
    for (domain, _), gap in found.items():
        by_domain.setdefault(domain, []).append(gap)
    sizes = [len(values) for values in by_domain.values()]
    if min(sizes, default=0) < 2:
        return None
    variance = sum(np.var(values, ddof=1) / len(values) for values in by_domain.values())
    return float(np.sqrt(variance) / len(by_domain)), sum(sizes) - len(sizes)


def student(found: dict[tuple[str, str], float]) -> float:
    """Two-sided p of the mean over domains of the mean over their targets, by Student's t; 1 where `error` has none. It
    takes the differences for normal, and can decide with fewer targets than `sign_flip` can."""
    spread, mean = error(found), stratified(found)[0]
    if spread is None:
        return 1.0
    if spread[0] < 1e-9:
        return float(abs(mean) < 1e-9)
    return float(2 * stdtr(spread[1], -abs(mean) / spread[0]))


def student_interval(found: dict[tuple[str, str], float]) -> tuple[float, float] | None:
    """The 95 % interval that belongs to `student`; None where there is none, or where no two targets differ."""
    spread, mean = error(found), stratified(found)[0]
    if spread is None or spread[0] < 1e-9:
        return None
    half = float(stdtrit(spread[1], 0.975)) * spread[0]
    return mean - half, mean + half


def paired(runs: Sequence[Run], numbers: Sequence[str] = NUMBERS) -> list[dict[tuple[str, str], float]]:
    """The gaps of every two methods."""
    return [gaps(runs, *pair, numbers) for pair in combinations(dict.fromkeys(r.label for r in runs), 2)]


def decided(runs: Sequence[Run]) -> str:
    """One line: how many of all pairs of methods are told apart."""
    found = paired(runs)
    p = holm([sign_flip(stratified(pair)[1]) for pair in found])
    n, told = len({r.target for r in runs}), sum(value <= LEVEL for value in p)
    return (
        f"Of all {len(p)} pairs of methods {told} are decided at {100 * LEVEL:.0f} % (sign-flip test over {n} "
        f"targets, whose smallest p is {2 ** (1 - n):.2g}; Holm over the pairs)."
    )


def told_apart(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """For the mean of UA, IRA and CRA and for each harder number that all runs have: of how many pairs of methods the
    difference is decided. "95 %": Student's interval of the pair alone leaves out zero; then the same, and the
    sign-flip test, by Holm over all pairs."""
    everywhere = [k for k in asked_harder(runs) if METRICS[k].share and all(run.value(k) is not None for run in runs)]
    rows = []
    for name, numbers in [("mean of UA, IRA, CRA", NUMBERS), *((METRICS[key].name, (key,)) for key in everywhere)]:
        found = paired(runs, numbers)
        alone = [student(pair) for pair in found]
        tests = [alone, holm(alone), holm([sign_flip(stratified(pair)[1]) for pair in found])]
        rows.append([name, str(len(found)), *(str(sum(p <= LEVEL for p in test)) for test in tests)])
    return ["number", "pairs", "95 % leaves out 0", "Student, Holm", "sign-flip, Holm"], rows
