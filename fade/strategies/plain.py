"""The plain sequence: each request on top of the model that the last one left."""

from __future__ import annotations

from fade.strategies import Strategy


class Plain(Strategy):
    """Nothing added. One-shot methods are known to collapse within three to five requests this way."""
