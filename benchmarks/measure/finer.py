"""A style and an object as one target (UnlearnCanvas's finer scale): is the pair gone, are both kept elsewhere?

ua  an image of the pair's cell in which the judges do not read both
sc  style consistency: the style is read where the same style shows other objects
oc  object consistency: the object is read where other styles show the same object
up  unrelated prompts: both are read where neither is asked for, the mean of the two
ira, cra  over every cell but the pair's, so that each tells of the rest of its domain what sc, oc and up tell apart

UnlearnCanvas (arXiv 2402.11846) names UA, SC, OC and UP and released no code for them; which judge reads what is as in
the code of SAEParate (arXiv 2605.12122). That counts for UA only what shows neither of the two; here one is enough, for
a surrogate of the same style, or the same object, is drawn in its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure.metrics import Hit, Metric, hits, told
from benchmarks.measure.predictions import Row
from fade.data.pairs import Request


def finer(rows: Sequence[Row], request: Request, domains: Sequence[str], shared: bool = True) -> dict[str, Metric]:
    """The metrics of a request that is met within one concept of another domain, of what was asked. shared: whether
    images of one seed began with one latent."""
    assert request.within is not None
    ours, (theirs, within) = request.domain, request.within
    kept = [row for row in rows if not request.concerns(row)]
    same = [row for row in kept if row[theirs] == within]
    other = [row for row in kept if row[ours] == request.target]
    rest = [row for row in kept if row[theirs] != within and row[ours] != request.target]
    style, thing = (theirs, ours) if ours == "object" else (ours, theirs)
    by_style, by_thing = (same, other) if ours == "object" else (other, same)
    parts = {
        "ua": _gone([row for row in rows if request.concerns(row)], domains, ours, theirs, shared),
        "ira": hits(kept, domains, ours, shared),
        "cra": hits(kept, domains, theirs, shared),
        "sc": hits(by_style, domains, style, shared),
        "oc": hits(by_thing, domains, thing, shared),
        "up": [*hits(rest, domains, style, shared), *hits(rest, domains, thing, shared)],
    }
    return {
        key: metric for name, images in parts.items() for key, metric in (told(name, images) if images else {}).items()
    }


def _gone(rows: Sequence[Row], domains: Sequence[str], ours: str, theirs: str, shared: bool) -> list[Hit]:
    """Whether the pair is not there: one of the two is not read."""
    both = zip(hits(rows, domains, ours, shared), hits(rows, domains, theirs, shared), strict=True)
    return [
        Hit(a.cell, a.noise, not (a.right and b.right), None if a.p is None or b.p is None else 1 - a.p * b.p)
        for a, b in both
    ]
