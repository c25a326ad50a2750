"""What each metric says, in one place: tables, page, card, comparison and W&B loop over METRICS."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class About:
    """A metric, described.

    says: what it tells, in words. higher: whether more is better. share: a proportion in [0, 1], shown in percent with
    its interval; else a distance or a score, shown as it is, times `times`, which may have no value and then says why.
    harder: one of the questions that only some datasets and settings ask: shown where it was asked.
    """

    title: str
    says: str = ""
    higher: bool = True
    share: bool = True
    times: int = 1
    harder: bool = False

    @property
    def name(self) -> str:
        """With the factor that it is shown in."""
        return self.title if self.times == 1 else f"{self.times} {self.title}"

    @property
    def heading(self) -> str:
        """With which way is better."""
        return f"{self.name} {'↑' if self.higher else '↓'}"


KERNEL = 1000  # tables show kernel distances times this
METRICS: dict[str, About] = {
    "ua": About("UA", "the concept is gone"),
    "ira": About("IRA", "its own domain is kept"),
    "cra": About("CRA", "the other domain is kept"),
    "cra_target": About("CRA on target", "the rest of the forgotten image is kept"),
    "fid_judge": About("fid_judge", "kept images from real ones, by the judges' features", higher=False, share=False),
    "kid_judge": About("kid_judge", "the same by a kernel, for few images", higher=False, share=False, times=KERNEL),
    "ua_template": About("UA template", "gone in other sentences too", harder=True),
    "ua_synonym": About("UA synonym", "gone under other words", harder=True),
    "ua_description": About("UA description", "gone where only its looks are said", harder=True),
    "rest_of_prompt": About("rest of prompt", "beside a forgotten object the other one is still there", harder=True),
    "ira_near": About("IRA near", "its two nearest look-alikes are kept", harder=True),
    "ira_seen": About("IRA seen", "kept in its domain: what the retain set showed", harder=True),
    "ira_unseen": About("IRA unseen", "kept in its domain: what the retain set never showed", harder=True),
    "cra_seen": About("CRA seen", "kept in the other domain: what the retain set showed", harder=True),
    "cra_unseen": About("CRA unseen", "kept in the other domain: what the retain set never showed", harder=True),
    "sc": About("SC", "of a pair, the style with other objects is kept", harder=True),
    "oc": About("OC", "of a pair, the object in other styles is kept", harder=True),
    "up": About("UP", "what shows neither of a pair is kept", harder=True),
    "oracle_eps": About(
        "oracle eps", "how far from a model that never saw it, the base being 1", higher=False, share=False, harder=True
    ),
    "oracle_eps_kept": About(
        "oracle eps kept", "the same where something else is asked for", higher=False, share=False, harder=True
    ),
}


def usual() -> list[str]:
    """The metrics that every table has a column for."""
    return [key for key, metric in METRICS.items() if not metric.harder]


def harder(found: Collection[str]) -> list[str]:
    """The harder questions among these, in order."""
    return [key for key, metric in METRICS.items() if metric.harder and key in found]


TWIN = "_p"  # behind a share's name: the same as a mean probability


def twin(metric: str) -> str:
    """The name of a share's continuous twin: the mean probability of what the share counts."""
    return metric + TWIN


def twins(found: Collection[str]) -> list[str]:
    """The continuous twins among these, in order."""
    return [twin(key) for key in METRICS if twin(key) in found]


def about(metric: str) -> About:
    """A metric's description. A distance by another backbone than the judges' is one, and a share's twin; what is
    unknown is a share."""
    one = METRICS.get(metric.removesuffix(TWIN))
    if one is not None and metric not in METRICS:
        return replace(one, title=f"{one.title} p", says=f"{one.says}, as a mean probability")
    if metric in METRICS or not metric.startswith(("fid_", "kid_")):
        return METRICS.get(metric, About(metric))
    return About(metric, higher=False, share=False, times=KERNEL if metric.startswith("kid_") else 1)


def why_not(metric: dict[str, Any] | None) -> str:
    """In brackets, the short of why a metric has no value; nothing where no reason was written down."""
    return f" ({str(metric['why']).partition(':')[0]})" if metric and metric.get("why") else ""


def number_text(metric: dict[str, Any], key: str = "") -> str:
    """The value alone: a proportion in percent, a distance as it is, times what METRICS says."""
    known = about(key)
    if known.share and ("low" in metric or key in METRICS):
        return f"{100 * metric['value']:.1f}"
    return f"{metric['value'] * known.times:.2f}"


def interval_text(metric: dict[str, Any], key: str = "") -> str:
    """The interval as its value is shown; nothing where there is none."""
    if "low" not in metric:
        return ""
    known = about(key)
    times, form = (100, ".1f") if known.share else (known.times, ".2f")
    return f"[{times * metric['low']:{form}}, {times * metric['high']:{form}}]"


def cell_text(metric: dict[str, Any] | None, key: str = "") -> str:
    """A proportion as "97.5 [86.8, 99.9]" in percent, a distance as it is (times what METRICS says),
    nothing as a dash, with the reason where there is one."""
    if not metric or metric.get("value") is None:
        return "–" + why_not(metric)
    return f"{number_text(metric, key)} {interval_text(metric, key)}".rstrip()
