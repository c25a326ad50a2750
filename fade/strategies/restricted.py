"""Restricted gradient: where forgetting and keeping disagree, each leaves out its part along the other (arXiv 2412.07808)."""

from __future__ import annotations

from fade.errors import BadInput
from fade.methods import Gradients, Method, dot
from fade.strategies import Around, Strategy

KEEPING = ("retain", "prior")


class Restricted(Strategy):
    """The step goes along g_f' + α g_r'; g_f' = g_f − (⟨g_f, g_r⟩/‖g_r‖²) g_r where ⟨g_f, g_r⟩ < 0, and the same for g_r'."""

    def __init__(self, alpha: float = 1.5) -> None:
        self.alpha = alpha

    def check(self, method: Method) -> None:
        if "forget" not in method.terms or not set(KEEPING) & set(method.terms):
            raise BadInput(
                f"strategy restricted needs a forget and a retain term; {type(method).__name__} has {list(method.terms)}"
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
        return [(a - along / k * b) + self.alpha * (b - along / f * a) for a, b in both]
