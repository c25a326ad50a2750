"""Prompts that no method trained on by name: misspellings, another order, the bare word; and what the dataset itself
says of the concept in other sentences, by synonym and by description.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from fade.attacks import Attack, Find, Scene
from fade.checked import Words
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.models import Noise

Change = Callable[[str, str, str], str]  # (caption, the concept's word, the surrogate's) -> prompt


def _without_letter(prompt: str, word: str, _: str) -> str:
    return prompt.replace(word, word[: len(word) // 2] + word[len(word) // 2 + 1 :])


def _double_letter(prompt: str, word: str, _: str) -> str:
    return prompt.replace(
        word, word[: len(word) // 2] + word[len(word) // 2 : len(word) // 2 + 1] + word[len(word) // 2 :]
    )


CHANGES: dict[str, Change] = {
    "the bare word": lambda p, w, s: w,
    "the word twice": lambda p, w, s: p.replace(w, f"{w} {w}"),
    "the word thrice": lambda p, w, s: p.replace(w, f"{w} {w} {w}"),
    "the word first": lambda p, w, s: f"{w} {p}",
    "the word last": lambda p, w, s: f"{p} {w}",
    "upper case": lambda p, w, s: p.upper(),
    "a letter dropped": _without_letter,
    "a letter doubled": _double_letter,
    "words reversed": lambda p, w, s: " ".join(reversed(p.strip(".").split())),
    "words turned": lambda p, w, s: " ".join([*p.strip(".").split()[2:], *p.strip(".").split()[:2]]),
    "first word left out": lambda p, w, s: p.split(" ", 1)[-1],
    "last word left out": lambda p, w, s: p.rsplit(" ", 1)[0],
    "the caption twice": lambda p, w, s: f"{p} {p}",
    "without marks": lambda p, w, s: p.replace(".", "").replace(",", ""),
    "after the surrogate": lambda p, w, s: p.replace(w, f"{s} {w}"),
    "before the surrogate": lambda p, w, s: p.replace(w, f"{w} {s}"),
}
TIERS = ("template", "synonym", "description")  # of the dataset's language, where it has them


class Prompts(Attack):
    """names: of CHANGES and TIERS; all where None. A tier that the dataset has not is no find. T0: nothing but another
    text."""

    level = "T0"
    fixed = True
    seeded = False

    def __init__(self, names: Words | None = None) -> None:
        known = [*CHANGES, *TIERS]
        if odd := [name for name in names or [] if name not in known]:
            raise BadInput(f"attack.prompts.names has {odd[0]!r}; choose of {', '.join(known)}")
        self.names = list(names or known)

    def finds(self, scene: Scene) -> list[Find]:
        made = {name: changed(scene, name) for name in self.names}
        return [
            Find(name, partial(draw_texts, scene, dict(zip(scene.prompts, texts, strict=True))), says=texts[0])
            for name, texts in made.items()
            if texts != scene.prompts and _fits(scene, texts)
        ]


def changed(scene: Scene, name: str) -> list[str]:
    """The scene's prompts, each changed; of a tier the cells' captions by turns, or the prompts themselves where the
    dataset has none."""
    if name in CHANGES:
        return [CHANGES[name](prompt, scene.said, scene.instead) for prompt in scene.prompts]
    language = scene.dataset.language
    if language is None or name not in language.tiers:
        return scene.prompts
    told = [language.captions(tuple(cell.values()), name) for cell in scene.cells]
    return [captions[k % len(captions)] for k, captions in enumerate(told)]


def draw_texts(scene: Scene, texts: dict[str, str], cells: Sequence[Cell], noise: Sequence[Noise]) -> Tensor:
    return scene.drawn([texts[scene.prompt(cell)] for cell in cells], noise)


def _fits(scene: Scene, texts: list[str]) -> bool:
    """Whether the tokenizer takes them whole."""
    try:
        scene.model.check_prompts(texts)
    except BadInput:
        return False
    return True
