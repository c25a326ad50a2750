"""Restricted gradient: where the two disagree, each leaves out its part along the other (arXiv 2412.07808)."""

from __future__ import annotations

from fade.errors import BadInput
from fade.methods import Gradients, Method, dot
from fade.strategies import Around, Strategy, total

KEEPING = ("retain", "prior")


class Restricted(Strategy):
    """The step goes along g_f' + α g_r'; g_f' = g_f − (⟨g_f, g_r⟩/‖g_r‖²) g_r where ⟨g_f, g_r⟩ < 0, and the same for
    g_r'. What else the method minimises (LACU's pull toward the weights before) is added as it is.

    Differs from the released code (reds-lab): there α multiplies the gradient of the raw retain loss, here that of the
    term as the method weighs it, so that FADE's 0.3 : 1.0 and α 1.5 are 5 : 1; and there the forget loss is ascent on
    the denoising loss, held at 1 where it exceeds m (1.1), here it is the method's own.
    """

    def __init__(self, alpha: float = 1.5) -> None:
        self.alpha = alpha

    def check(self, method: Method) -> None:
        if "forget" not in method.terms or not set(KEEPING) & set(method.terms):
            raise BadInput(
                f"strategy restricted needs a forget and a retain term; {type(method).__name__} has "
                f"{list(method.terms)}"
            )
        if method.combines:
            raise BadInput(
                f"strategy restricted decides how forgetting and keeping are combined, and {type(method).__name__} "
                "does so itself; use another strategy"
            )

    def method(self, method: Method) -> Method:
        return Restrained(method, self.alpha)


class Restrained(Around):
    def __init__(self, inner: Method, alpha: float) -> None:
        super().__init__(inner)
        self.alpha, self.combines = alpha, True
        self.keeping = next(term for term in KEEPING if term in inner.terms)

    def combine(self, gradients: dict[str, Gradients]) -> Gradients:
        forget, keep = gradients["forget"], gradients[self.keeping]
        along = dot(forget, keep).clamp(max=0)
        f, k = dot(forget, forget).clamp(min=1e-20), dot(keep, keep).clamp(min=1e-20)
        both = zip(forget, keep, strict=True)
        step = [(a - along / k * b) + self.alpha * (b - along / f * a) for a, b in both]
        return total(step, *(g for term, g in gradients.items() if term not in ("forget", self.keeping)))
