"""Make a text-to-image diffusion model forget one concept, and nothing else.

fade.unlearn(pipe, concept=..., surrogate=...)   trains an adapter on a stock diffusers pipeline
fade.load(pipe, folder)                          puts a saved one on it
fade.attached(pipe)                              what is on it
fade.attack(pipe, concept=..., judge=...)        tries to bring back what it forgot
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fade.errors import BadInput

if TYPE_CHECKING:
    from fade.api import Handle, attached, load, unlearn
    from fade.attacks.call import attack

__all__ = ["BadInput", "Handle", "attached", "attack", "load", "unlearn"]


def __getattr__(name: str) -> Any:
    """torch and diffusers are imported when they are asked for: `import fade` alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'fade' has no attribute {name!r}")
    from fade import api

    if name == "attack":
        from fade.attacks.call import attack

        return attack
    return getattr(api, name)
