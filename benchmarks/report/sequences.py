"""Sequences beside each other, for the report: one line each, and the triangle of each one's requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.record.format import Metric
from benchmarks.record.sequences import BACK, SequenceRun, State, frame
from benchmarks.report.attacks import over_control
from benchmarks.report.tables import DASH, Cell, Table, measured, number, table
from fade.data.prompts import words
from fade.metrics import cell_text


def heading(runs: Sequence[SequenceRun]) -> str:
    """What was asked, by whom it was met."""
    if len(runs) > 1:
        return f"{len(runs)} sequences of requests"
    (run,) = runs
    return f"{len(run.targets)} requests one after another, by {run.label}"


def answers(runs: Sequence[SequenceRun]) -> list[tuple[str, str]]:
    """Question and answer: of one sequence with its requests named, of several who reaches most and who least."""
    return _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)


def _of_one(run: SequenceRun) -> list[tuple[str, str]]:
    last, base = run.steps[-1], run.base
    worst = min(last.ua, key=lambda target: last.ua[target]["value"])
    least = f"{words(worst)} {cell_text(last.ua[worst], 'ua')} %"
    return [
        ("Are all requests met at the end?", f"UA is {_percent(last.ua_mean)} % in the mean; the lowest: {least}."),
        ("Did one come back after it was met?", _came_back(run)),
        ("After which request does the first come back?", _first_back(run)),
        (
            "What else moved?",
            f"Of what nobody asked to remove {_percent(last.retention)} % is read right, {_percent(base.retention)} % "
            f"before; of what looks most like a request {cell_text(last.nearest, 'ira')} %.",
        ),
        ("Can one be taken back?", _taken_back(run)),
        *([("Can one be brought back?", _brought_back(run))] if run.reached else []),
    ]


def _came_back(run: SequenceRun) -> str:
    met = {target: step.ua[target]["value"] for target, step in zip(run.targets, run.steps, strict=True)}
    falls = {target: value - run.steps[-1].ua[target]["value"] for target, value in met.items()}
    most = max(falls, key=lambda target: falls[target])
    if falls[most] <= 0:
        return "No: none has a lower UA at the end than just after its own request."
    return f"The largest fall of a UA since its own request: {words(most)}, {_percent(falls[most])} points."


def _first_back(run: SequenceRun) -> str:
    """Of the concept that was removed first, by its UA as counted, without its interval."""
    found = {below: run.first_back(below) for below in BACK}
    told = [
        f"below {100 * below:.0f} % " + (f"after request {k} ({words(run.targets[k - 1])})" if k else "never")
        for below, k in found.items()
    ]
    return f"UA of {words(run.targets[0])}: {', '.join(told)}, in {len(run.steps)} requests."


def _first_backs(runs: Sequence[SequenceRun], below: float) -> str:
    found = {run.name: k for run in runs if (k := run.first_back(below))}
    if not found:
        return "In none."
    soonest = min(found, key=lambda name: found[name])
    return f"In {len(found)} of {len(runs)} sequences, soonest after request {found[soonest]}: {soonest}."


def _taken_back(run: SequenceRun) -> str:
    if not run.revoked:
        return "Nobody tried; sequence.revoke=[1] does."
    back = ", ".join(f"{words(one.target)} {_percent(1 - one.back['value'])} %" for one in run.revoked)
    stay = ", ".join(f"{_percent(one.ua_mean)} %" for one in run.revoked)
    return f"Each alone, images that are read as it again: {back}. Mean UA of the others then: {stay}."


def _brought_back(run: SequenceRun) -> str:
    """By attacks on the model after the last request."""
    tried = [(one, target) for target, own in run.reached.items() for one in own.values() if one.tries]
    if not tried:
        return "Nothing was tried that is an attack."
    one, target = max(tried, key=lambda pair: pair[0].strength)
    return (
        f"{_decided(run)}. The most: {words(target)} in {cell_text(one.success)} % of the images, by {one.attack}, its "
        f"control in {cell_text(one.control)} %."
    )


def _decided(run: SequenceRun) -> str:
    """On how many of its requests an attack brings back more than its control."""
    back = [own for own in run.reached.values() if any(one.tries and one.decided for one in own.values())]
    return f"Decided over the control on {len(back)} of the {len(run.reached)} requests that were attacked"


def attacked(run: SequenceRun) -> Table | None:
    """A row for each request, a column for each attack: what it brings back over its control after the last request;
    None where nothing was attacked."""
    names = dict.fromkeys(name for own in run.reached.values() for name in own)
    rows = [
        [Cell(target), *(over_control(own[name]) if name in own else Cell(DASH) for name in names)]
        for target, own in run.reached.items()
    ]
    caption = (
        f"{run.name}. Attacks on the model after the last request: points over the control, with 95 % intervals over "
        "images; behind = the images read as the target, less the control's"
    )
    return Table(["request", *names], rows, caption) if rows else None


def _of_several(runs: Sequence[SequenceRun]) -> list[tuple[str, str]]:
    asked = {
        "Are all requests met at the end? (mean UA)": lambda run: run.steps[-1].ua_mean,
        "And the one that is met least? (lowest UA)": lambda run: min(m["value"] for m in run.steps[-1].ua.values()),
        "What else moved? (read right, of what nobody asked to remove)": lambda run: run.steps[-1].retention,
    }
    found = [(question, _ends({run.name: value(run) for run in runs})) for question, value in asked.items()]
    back = "After which request does the first come back? (its UA below {:.0f} %)"
    found += [(back.format(100 * below), _first_backs(runs, below)) for below in BACK]
    attacked = [f"{_decided(run)}, {run.name}" for run in runs if run.reached]
    return [*found, *([("Can they be brought back?", f"{'; '.join(attacked)}.")] if attacked else [])]


def _ends(shares: dict[str, float]) -> str:
    (most, best), *_, (least, last) = sorted(shares.items(), key=lambda item: -item[1])
    return f"{_percent(last)} to {_percent(best)} %. Most: {most}; least: {least}."


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


SUMMARY: dict[str, tuple[str, Callable[[float], str]]] = {  # of the summary: heading, and how it is shown
    "ua_mean": ("UA mean", _percent),
    "ua_worst": ("UA worst", _percent),
    "rebound": ("rebound", _percent),
    "retention": ("kept", _percent),
    "retention_drop": ("Δ kept", lambda drop: f"{-100 * drop:.1f}"),
    "retention_area": ("area", _percent),
    "nearest": ("nearest", _percent),
    "seconds": ("s", "{:.0f}".format),
    "last_over_first": ("last/first", "{:.2f}".format),
    "bytes": ("kB", lambda size: f"{size / 1000:.0f}"),
}


def summary(runs: Sequence[SequenceRun]) -> Table:
    """One row a sequence: how much is gone at the end, how much is kept, what it cost."""
    rows = [
        [
            Cell(" ".join(run.targets)),
            Cell(" ".join(filter(None, [run.label, run.mark and f"({run.mark})"]))),
            number(run.seed),
            *(number(run.summary.get(key), form) for key, (_, form) in SUMMARY.items()),
            *(number(k) if (k := run.first_back(below)) else Cell("never") for below in BACK),
        ]
        for run in runs
    ]
    header = ["sequence", "method, strategy", "seed", *(heading for heading, _ in SUMMARY.values())]
    header += [f"first < {100 * below:.0f} after" for below in BACK]
    caption = (
        "One request after another; percent, in the order of the requests. First < 90 after: after which request UA of "
        "the concept that was removed first is below 90 %"
    )
    return Table(header, rows, caption, frame(runs))


def triangle(run: SequenceRun) -> Table:
    """After each request, UA of all so far and what is kept, with intervals; then each request that was taken back."""
    targets, domains = run.targets, list(run.base.kept)
    header = ["after", *targets, *(f"kept {domain}s" for domain in domains), "nearest", "fid_judge", "s", "kB"]
    states: list[tuple[str, State, dict[str, Metric]]] = [("base", run.base, {})]
    states += [(f"{k} {targets[k - 1]}", step, step.ua) for k, step in enumerate(run.steps, 1)]
    states += [(f"without {step.target}'s", step, step.ua_of_all) for step in run.revoked]
    rows = []
    for after, state, ua in states:
        spent = [number(state.train_s), number(state.adapter_bytes / 1000)] if state.trained else [Cell(DASH)] * 2
        cells = [measured(ua.get(target), "ua") for target in targets]
        cells += [measured(state.kept[domain], "ira") for domain in domains]
        cells += [measured(state.nearest, "ira"), measured(state.distance("fid_judge"), "fid_judge"), *spent]
        rows.append([Cell(after), *cells])
    return Table(header, rows, f"{run.name}. Percent, 95 % intervals over images of these adapters")


def sequence_table(run: SequenceRun) -> str:
    """The triangle of UA, with retention beside it; then the summary."""
    rows = []
    for k, step in enumerate(run.steps, 1):
        ua = [f"{100 * step.ua[t]['value']:.0f}" if t in step.ua else "" for t in run.targets]
        rows.append([f"{k} {run.targets[k - 1]}", *ua, *_kept(step)])
    for taken in run.revoked:
        shown = {t: f"{100 * metric['value']:.0f}" for t, metric in taken.ua.items()}
        shown[taken.target] = f"({100 * taken.back['value']:.0f})"
        rows.append([f"without {taken.target}'s", *(shown[t] for t in run.targets), *_kept(taken)])
    s = {key: 100 * value for key, value in run.summary.items()}
    return "\n".join(
        [
            table(["after request", *run.targets, "kept", "nearest"], rows),
            "UA of every request so far, and accuracy on never-requested concepts "
            f"(base {100 * run.base.retention:.1f}), in percent",
            f"{run.method_name}, strategy {run.strategy}: UA mean {s['ua_mean']:.1f}, worst "
            f"{s['ua_worst']:.1f}, largest rebound {s['rebound']:.1f}; kept {s['retention']:.1f} "
            f"({-s['retention_drop']:+.1f}), area {s['retention_area']:.1f}; {s['seconds'] / 100:.0f} s of training "
            f"(last request {s['last_over_first'] / 100:.2f} of the first), {s['bytes'] / 1e5:.0f} kB",
        ]
    )


def _kept(state: State) -> list[str]:
    return [f"{100 * state.retention:.1f}", f"{100 * state.nearest['value']:.1f}"]
