"""SAFREE: no weights; tokens of a prompt that draw near the concept leave its subspace (arXiv 2410.12761)."""

from __future__ import annotations

from collections.abc import Mapping

from fade.adapters import Adapter
from fade.adapters.projection import Projection
from fade.adapters.text import TextEdit
from fade.checked import NonNegative, Positive, Share, Words
from fade.data.pairs import Pairs
from fade.errors import BadInput, at_least
from fade.methods import Method, check_alone
from fade.models import Diffusion


class Safree(Method):
    """All is in fade.adapters.projection. phrases: for a domain, what spans the concept, {concept} in it; the concept's
    own name where none is given. alpha, share, slope, midpoint: of Projection. Of several requests all phrases span.

    Differs from the code released (jaehong31/SAFREE b8b2c3f): latent re-attention is left out, for it weighs down
    features inside the U-Net, in Fourier space, at every step, which an edit of the text cannot hold. The phrases are
    no negative prompt here, there they are one (protocol.sampling.negative is this suite's). A negative prompt is
    edited as any other. Share is of the sampler's steps, there 10 of its 50; who samples by another way than the
    pipeline's call, as some attacks do, meets the edit at every step. Projections are taken in double precision. SDXL,
    of which it edits the second text encoder's half, is refused.
    """

    kinds = ("text",)
    draws_t = False

    def __init__(
        self,
        phrases: Mapping[str, Words] | None = None,
        alpha: NonNegative = 0.01,
        share: Share | None = 0.2,
        slope: Positive = 70.0,
        midpoint: float = 0.55,
    ) -> None:
        at_least(0, method__alpha=alpha, method__midpoint=midpoint)
        if not slope > 0:
            raise BadInput(f"method.slope is {slope}; it must be above 0, for example 70")
        if share is not None and not 0 < share <= 1:
            raise BadInput(f"method.share is {share}; it must be above 0 and at most 1, or null for every step")
        self.phrases, self.alpha, self.share, self.slope, self.midpoint = phrases or {}, alpha, share, slope, midpoint

    def suits(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        check_alone(model)

    def prepare(self, model: Diffusion, adapter: Adapter, pairs: Pairs) -> None:
        assert isinstance(adapter, TextEdit)
        concepts = tuple(
            phrase.format(concept=pairs.said(request))
            for request in pairs.requests
            for phrase in self.phrases.get(request.domain, ["{concept}"])
        )
        adapter.projection = Projection(concepts, self.alpha, self.share, self.slope, self.midpoint)
