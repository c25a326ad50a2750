"""Make a text-to-image diffusion model forget one concept, and nothing else."""

from fade.errors import BadInput

__all__ = ["BadInput"]
