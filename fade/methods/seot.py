"""SuppressEOT: no weights; the concept is suppressed in the text embedding of the prompts that name it (arXiv 2402.05375)."""

from __future__ import annotations

from fade.adapters import Adapter
from fade.data.pairs import Pairs
from fade.diffusion import Diffusion
from fade.errors import BadInput
from fade.methods import Method
from fade.prompts import words
from fade.textedit import TextEdit


class Seot(Method):
    """All is in fade.textedit. Differs: without the optional optimisation of each prompt's embedding at inference."""

    kinds = ("text",)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        assert isinstance(adapter, TextEdit)
        if len(pairs.requests) > 1:
            raise BadInput("SEOT suppresses one concept; ask for one target")
        (request,) = pairs.requests
        adapter.concept = pairs.dataset.says.get(request.target, words(request.target))
        if not any(model.places(own, adapter.concept) for own, _ in pairs.captions("forget")):
            raise BadInput(f"SEOT needs the concept in the prompt, and no forget caption says {adapter.concept!r}")
