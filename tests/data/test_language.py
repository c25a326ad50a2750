"""Captions in tiers: the same cell by name, in other sentences, by synonym, by description, and two objects at once."""

from __future__ import annotations

from typing import Any

import pytest
from grids import canvas

from fade.errors import BadInput


def test_each_tier_says_the_same_in_other_words() -> None:
    language = canvas().language
    said = {tier: language.captions(("ink_sketch", "wild_cat"), tier) for tier in language.tiers if tier != "pair"}
    assert said["name"] == ["A wild cat image in ink sketch style."]
    assert len(said["template"]) >= 6 and "An ink sketch of a wild cat." in said["template"]
    assert "A lion image in pen drawing style." in said["synonym"]
    assert not any({"wild", "cat", "ink", "sketch"} & set(text.lower().split()) for text in said["description"])
    assert (
        language.captions(("photo", "city_car", "palm_tree"), "pair")[0] == "A city car and a palm tree in photo style."
    )


def test_no_description_holds_a_word_of_the_name_and_no_synonym_stands_for_two() -> None:
    said = canvas().language.said
    for concept, tiers in said.items():
        assert len(tiers["synonym"]) >= 2
        for text in tiers["description"]:
            assert not set(concept.split("_")) & set(text.split()), (concept, text)
    synonyms = [text for tiers in said.values() for text in tiers["synonym"]]
    assert len(set(synonyms)) == len(synonyms)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sentences": {"template": ["A {object}."]}}, "name each one once"),
        ({"said": {"dog": {"synonym": ["hound"]}}}, "'dog', which is no concept"),
        ({"said": {"photo": {"synonym": ["snapshot"]}}}, "no synonym for ink_sketch"),
    ],
)
def test_a_language_that_cannot_be_spoken_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        canvas(**changed)


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(BadInput, match="tier 'slang' is none of this dataset's; it has name, template"):
        canvas().language.captions(("photo", "city_car"), "slang")
