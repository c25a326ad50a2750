"""A page to play with adapters (`make demo`): studio.py is what it does, page.py how it looks (Gradio, an extra)."""
