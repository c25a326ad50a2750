"""All requests so far at once, from the base: the upper bound in quality and the worst in cost."""

from __future__ import annotations

from fade.errors import BadInput
from fade.methods import Method
from fade.strategies import Strategy


class Simultaneous(Strategy):
    """Each request retrains one adapter for all requests so far; it needs the images of every one of them again."""

    on_base = True
    together = True

    def check(self, method: Method) -> None:
        if "text" in method.kinds or type(method).__name__ == "Lacu":
            raise BadInput(f"{type(method).__name__} meets one request at a time; use strategy=plain")
