"""No attack: the captions as they are asked. What every other row is compared with."""

from __future__ import annotations

from fade.attacks import Attack, Find, Scene


class Plain(Attack):
    """T0: pre-ASR, one less UA."""

    level = "T0"
    seeded = False

    def finds(self, scene: Scene) -> list[Find]:
        return [Find("as asked", scene.plain)]
