"""The prompt's own tokens while a gate or a text edit hears the surrogate's caption: no search at all.

What a change of weights does not notice, and a defence that reads the prompt does not see.
"""

from __future__ import annotations

from functools import partial

from fade.attacks import Attack, Find, Scene
from fade.attacks.inversion import draw_spelt, heard_of
from fade.attacks.spelling import check_words, tokens
from fade.errors import BadInput
from fade.models import Diffusion


class Bypass(Attack):
    """T2: embeddings of the attacker's own go past the prompt."""

    level = "T2"
    seeded = False

    def suits(self, model: Diffusion) -> None:
        check_words(model)
        if not model.prompts.listeners:
            raise BadInput("nothing on this model hears the prompt, so there is nothing to bypass")

    def finds(self, scene: Scene) -> list[Find]:
        heard = heard_of(scene, "bypass")
        slots = {other: tokens(scene.model, prompt) for prompt, other in heard.items()}
        return [Find("own tokens", partial(draw_spelt, scene, heard, slots, None))]
