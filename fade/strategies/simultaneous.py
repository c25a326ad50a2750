"""All requests so far at once, from the base: the upper bound in quality and the worst in cost."""

from __future__ import annotations

from fade.strategies import Strategy


class Simultaneous(Strategy):
    """Each request retrains one adapter for all requests so far; it needs the images of every one of them again, and
    k times the steps for k requests, or none of them gets as many as it would have alone."""

    on_base = True
    together = True
    sums = False
