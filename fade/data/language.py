"""How captions say what an image shows, in tiers: by name, in other sentences, by synonym, by description."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

from fade.data.prompts import check_template, words
from fade.errors import BadInput

WORDED = ("synonym", "description")  # the tiers that say a concept by other words
PAIR = "pair"  # the tier of scenes of two objects, which no cell shows
PAIR_FIELDS = ["style", "left", "right"]


@dataclass(frozen=True)
class Language:
    """template: the sentence of the tier `name`. sentences: {tier: [sentence, ...]}, one field a domain, those of
    `pair` with the fields style, left and right. said: {concept: {tier: [words, ...]}} for the tiers synonym and
    description.

    Raises BadInput where a sentence leaves a domain out, and where a concept has no words in a tier that has sentences.
    """

    domains: dict[str, list[str]]
    template: str
    sentences: dict[str, list[str]]
    said: dict[str, dict[str, list[str]]]

    def __post_init__(self) -> None:
        for tier, given in self.sentences.items():
            for sentence in given:
                check_template(sentence, PAIR_FIELDS if tier == PAIR else list(self.domains))
        concepts = [concept for labels in self.domains.values() for concept in labels]
        unknown = sorted(set(self.said) - set(concepts))
        if unknown:
            raise BadInput(f"dataset.said speaks of {unknown[0]!r}, which is no concept of this dataset")
        for tier in (tier for tier in WORDED if tier in self.sentences):
            silent = [concept for concept in concepts if not self.said.get(concept, {}).get(tier)]
            if silent:
                raise BadInput(f"dataset.said has no {tier} for {silent[0]}; give one, or leave the tier {tier} out")

    @property
    def tiers(self) -> list[str]:
        return ["name", *self.sentences]

    def captions(self, shown: tuple[str, ...], tier: str) -> list[str]:
        """Every caption of one tier. shown: a concept of each domain, or the style and two objects for `pair`.

        Raises BadInput for a tier that this dataset does not have.
        """
        return [caption for caption, _ in self.told(shown, tier)]

    def told(self, shown: tuple[str, ...], tier: str) -> list[tuple[str, tuple[str, ...]]]:
        """The same, each with the words that it says each concept of `shown` by."""
        if tier not in self.tiers:
            raise BadInput(f"tier {tier!r} is none of this dataset's; it has {', '.join(self.tiers)}")
        sentences = [self.template] if tier == "name" else self.sentences[tier]
        fields = PAIR_FIELDS if tier == PAIR else list(self.domains)
        chosen = product(*(self.said[c][tier] if tier in WORDED else [words(c)] for c in shown))
        return [(sentence_of(s, dict(zip(fields, texts, strict=True))), texts) for texts in chosen for s in sentences]


def sentence_of(sentence: str, said: dict[str, str]) -> str:
    """The sentence with its fields filled: "a" before a vowel becomes "an", the first letter is large."""
    text = re.sub(r"\b([Aa])(?= [aeiou])", r"\1n", sentence.format(**said))
    return text[0].upper() + text[1:]


def related(one: str, other: str) -> bool:
    """Whether two concepts share a word: ink_sketch and pencil_sketch."""
    return bool(set(one.split("_")) & set(other.split("_")))
