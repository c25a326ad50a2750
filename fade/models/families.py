"""Which family a pipeline is of: chosen by the pipeline's class, here and nowhere else."""

from __future__ import annotations

from pathlib import Path

from diffusers import DiffusionPipeline

from fade.errors import BadInput
from fade.files import read_json
from fade.models import Diffusion
from fade.models.flux import Flux
from fade.models.sana import Sana
from fade.models.stable_diffusion import StableDiffusion
from fade.models.stable_diffusion_3 import StableDiffusion3
from fade.models.stable_diffusion_xl import StableDiffusionXL

FAMILIES: tuple[type[Diffusion], ...] = (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, Sana)


def named(name: str | None) -> type[Diffusion]:
    """The family of that name; None is said by adapters that are older than the second one. Raises BadInput for a
    name of none."""
    known = {family.__name__: family for family in FAMILIES}
    if (name or StableDiffusion.__name__) not in known:
        raise BadInput(f"the adapter is of the family {name!r}, which this version does not know: upgrade fade")
    return known[name or StableDiffusion.__name__]


def family_at(path: str) -> type[Diffusion]:
    """The family of a pipeline's folder, by its model_index.json; of a single file, and of what cannot be read, which
    `load` will say, Stable Diffusion."""
    index = Path(path) / "model_index.json"
    name = read_json(index).get("_class_name") if index.is_file() else None
    return next((family for family in FAMILIES if name in family.pipelines), StableDiffusion)


def family_of(pipe: DiffusionPipeline) -> type[Diffusion]:
    """Raises BadInput for a pipeline of none, and for one that lacks a part of its family's."""
    names = [kind.__name__ for kind in type(pipe).__mro__]
    known = [family for family in FAMILIES if set(family.pipelines) & set(names)]
    family = known[0] if known else StableDiffusion  # pipelines of other people's that are built of its parts
    for part in (family.denoiser, "vae", *family.encoders):
        if getattr(pipe, part, None) is None:
            raise BadInput(
                f"{names[0]} has no {part}; only pipelines of {', '.join(f.title for f in FAMILIES)} can be changed"
            )
    return family
