"""All requests so far at once, from the base: the upper bound in quality and the worst in cost."""

from __future__ import annotations

from fade.strategies import Strategy


class Simultaneous(Strategy):
    """Each request retrains one adapter for all requests so far; it needs the images of every one of them again."""

    on_base = True
    together = True
    sums = False
