"""Who removes a concept cannot list everything that is to stay: the part of the concepts that a retain set may show."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from fade.errors import BadInput


def seen_concepts(domains: dict[str, list[str]], share: float, apart: Collection[str]) -> set[str]:
    """The concepts that may be shown: of each domain's labels `share`, those of the lowest name hash, and `apart`.

    apart: targets and surrogates, which are shown whatever the share is and are not counted. The choice depends on the
    names alone, so that every run of a target leaves out the same. Raises BadInput where nothing of a domain is left.
    """
    found = set(apart)
    for domain, labels in domains.items():
        others = sorted((label for label in labels if label not in apart), key=by_name)
        count = round(share * len(others))
        if others and not count:
            raise BadInput(
                f"pairs.seen={share:g} leaves no {domain} of {len(others)} to be kept; "
                f"give {1 / len(others):.2g} or more"
            )
        found |= set(others[:count])
    return found


def by_name(concept: str) -> str:
    return hashlib.sha256(concept.encode()).hexdigest()
