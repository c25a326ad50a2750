"""SuppressEOT: no weights; the concept is suppressed in the embedding of prompts that name it (arXiv 2402.05375)."""

from __future__ import annotations

from fade.adapters import Adapter
from fade.adapters.text import TextEdit
from fade.data.pairs import Pairs
from fade.errors import BadInput
from fade.methods import Method, named_in_all
from fade.models import Diffusion


class Seot(Method):
    """All is in fade.adapters.text. phrases: for a domain, the words of the caption that are the concept, {concept} in
    them; the concept's own name where none is given. The words behind it matter: in a causal text encoder they carry it
    too.

    Differs: the released script leaves the first fifth of the sampling steps alone (cross_retain_steps 0.2) and then,
    by default, optimises each prompt's embedding for the attention maps, ten iterations a step up to the 20th
    (lambda_retain 1, lambda_erase −0.5); here the suppressed embedding stands at all steps and nothing is optimised.
    """

    kinds = ("text",)
    draws_t = False

    def __init__(self, phrases: dict[str, str] | None = None) -> None:
        self.phrases = phrases or {}

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        if len(pairs.requests) > 1:
            raise BadInput("SEOT suppresses one concept; ask for one target")
        named_in_all(model, pairs, "SEOT suppresses the concept's words in the prompt")

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        assert isinstance(adapter, TextEdit)
        request = pairs.requests[0]
        adapter.concept = self.phrases.get(request.domain, "{concept}").format(concept=pairs.said(request))
