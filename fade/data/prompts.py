"""The one place that turns (concept, template) into captions: training, surrogate, retain and evaluation alike."""

from __future__ import annotations

import difflib
import string

from fade.errors import BadInput

Cell = dict[str, str]  # domain -> concept, for example {"style": "neon", "object": "cat"}


def words(concept: str) -> str:
    """A label as it is said in a caption: Van_Gogh -> Van Gogh."""
    return concept.replace("_", " ")


def caption(template: str, cell: Cell, says: dict[str, str] | None = None) -> str:
    """Fill the template's fields, one for each domain, with the cell's concepts; `says` holds labels said otherwise."""
    said = {domain: (says or {}).get(concept, words(concept)) for domain, concept in cell.items()}
    return template.format(**{domain: text for domain, text in said.items() if f"{{{domain}}}" in template})


def swapped(cell: Cell, domain: str, concept: str) -> Cell:
    """The same cell with another concept in one domain: what a conditional surrogate shows."""
    return {**cell, domain: concept}


def check_template(template: str, domains: list[str]) -> None:
    fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    if sorted(fields) != sorted(domains):
        raise BadInput(
            f"template {template!r} has the fields {fields}; this dataset's domains are {domains}: name each one once"
        )


def find_domain(concept: str, domains: dict[str, list[str]], role: str = "target") -> str:
    """The domain a concept belongs to; an unknown name is refused with the closest ones."""
    for domain, labels in domains.items():
        if concept in labels:
            return domain
    labels = [label for group in domains.values() for label in group]
    close = difflib.get_close_matches(concept.lower(), [x.lower() for x in labels], n=4, cutoff=0.4)
    names = [x for x in labels if x.lower() in close] or labels
    raise BadInput(f"{role} {concept!r} is no concept of this dataset; closest: {', '.join(names[:20])}")
