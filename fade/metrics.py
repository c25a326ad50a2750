"""What each metric says, in one place: tables, page, card, comparison and W&B loop over METRICS."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class About:
    """A metric, described.

    says: what is counted, in words, and not how it came out. higher: whether more is better. share: a proportion in
    [0, 1], shown in percent with its interval; else a distance or a score, shown as it is, times `times`, which may
    have no value and then says why. harder: one of the questions that only some datasets and settings ask: shown where
    it was asked.
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
    "ua": About("UA", "images that ask for it, no longer read as it"),
    "ira": About("IRA", "of others in its own domain, read right"),
    "cra": About("CRA", "of others in the other domain, read right"),
    "cra_target": About("CRA on target", "the rest of what asks for it, read right"),
    "fid_judge": About("fid_judge", "kept images from real ones, by the judges' features", higher=False, share=False),
    "kid_judge": About("kid_judge", "the same by a kernel, for few images", higher=False, share=False, times=KERNEL),
    "ua_template": About("UA template", "asked for in other sentences, no longer read as it", harder=True),
    "ua_synonym": About("UA synonym", "asked for by other words, no longer read as it", harder=True),
    "ua_description": About("UA description", "asked for by its looks alone, no longer read as it", harder=True),
    "rest_of_prompt": About("rest of prompt", "beside a forgotten object the other one, read right", harder=True),
    "ira_near": About("IRA near", "of its two nearest look-alikes, read right", harder=True),
    "ira_seen": About("IRA seen", "in its domain what the retain set showed, read right", harder=True),
    "ira_unseen": About("IRA unseen", "in its domain what the retain set never showed, read right", harder=True),
    "cra_seen": About("CRA seen", "in the other domain what the retain set showed, read right", harder=True),
    "cra_unseen": About("CRA unseen", "in the other domain what the retain set never showed, read right", harder=True),
    "sc": About("SC", "of a pair, the style with other objects, read right", harder=True),
    "oc": About("OC", "of a pair, the object in other styles, read right", harder=True),
    "up": About("UP", "what shows neither of a pair, read right", harder=True),
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
