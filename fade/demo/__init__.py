"""A page to play with adapters (`make demo`): studio.py is what it does, page.py how it looks (Gradio, an extra)."""

from __future__ import annotations

from typing import Any

from fade.errors import BadInput


def gradio() -> Any:
    """Raises BadInput, one line, where the extra is missing. Here: it is said before torch is imported."""
    try:
        import gradio
    except ImportError as error:
        raise BadInput(
            "the demo needs Gradio: `make demo` installs it, or pip install 'fade-unlearning[demo]'"
        ) from error
    return gradio
