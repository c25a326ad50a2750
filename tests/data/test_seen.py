"""pairs.seen: a retain set that shows a part of the concepts, the same part whatever the method."""

from __future__ import annotations

from pathlib import Path

import pytest

from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.data.seen import seen_concepts
from fade.errors import BadInput

DOMAINS = {"style": [f"style {k}" for k in range(16)], "object": [f"object {k}" for k in range(16)]}


def test_the_part_is_chosen_by_names_alone_and_grows_with_the_share() -> None:
    apart = {"style 3", "style 0"}
    parts = [seen_concepts(DOMAINS, share, apart) for share in (0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [2 + 4 + 4, 2 + 7 + 8, 32]
    assert apart < parts[0] < parts[1] < parts[2]
    shuffled = {domain: labels[::-1] for domain, labels in DOMAINS.items()}
    assert seen_concepts(shuffled, 0.25, apart) == parts[0]


def test_a_share_that_leaves_a_domain_empty_is_refused() -> None:
    with pytest.raises(BadInput, match=r"pairs\.seen=0\.03 leaves no style of 15 to be kept; give 0\.067 or more"):
        seen_concepts(DOMAINS, 0.03, {"style 0"})


def test_the_retain_side_shows_what_is_seen_and_the_forget_side_every_cell(dataset: Canvas, tmp_path: Path) -> None:
    request = Request.of(dataset, dataset.domains["style"][1], None)
    pairs = Pairs(dataset, request, forget=16, retain=32, batch=2, cache=tmp_path, seen=0.4)
    sides = [pairs.side(cell) for cell in dataset.cells()]
    kept = [cell for cell, side in zip(dataset.cells(), sides, strict=True) if side == "retain"]
    shown = {concept for cell in kept for concept in cell.values()}
    assert sides.count("forget") == len(dataset.domains["object"])
    assert request.surrogate in shown and request.target not in shown
    assert shown == pairs.seen - {request.target} and len(shown) < sum(map(len, dataset.domains.values())) - 1
    assert all(pairs.seen.issuperset(item.concepts) for item in pairs.choose()["retain"])
