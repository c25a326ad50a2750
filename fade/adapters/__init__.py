"""What unlearning produces: a change of a pipeline that can be attached, muted, scaled, merged and removed.

Every kind answers to the same verbs, fade/adapters/adapter.py's: fade/adapters/lora.py (masked low rank),
fade/adapters/patch.py (changed weights), fade/adapters/matrix.py (one matrix for all of them), fade/adapters/text.py
(the text embedding, no weights). Folders are fade/adapters/stored.py's, what stock tools read is
fade/adapters/export.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fade.adapters.adapter import Adapter, Formed, Masks, check_scale, check_shapes

__all__ = ["Adapter", "Formed", "Masks", "check_scale", "check_shapes"]


def __getattr__(name: str) -> Any:
    """torch is imported when they are asked for: a card is read without (fade/adapters/folder.py)."""
    if name not in __all__:
        raise AttributeError(f"module 'fade.adapters' has no attribute {name!r}")
    from fade.adapters import adapter

    return getattr(adapter, name)
