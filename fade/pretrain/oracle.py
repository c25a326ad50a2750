"""A model that never saw a concept, read back beside its base: what `task=pretrain pretrain.without=...` left.

FOLDER/tiers.json    `without`: the concept; `autoencoder`: the hash of the base's, whose latents it draws
FOLDER/pipeline/     what denoises, text encoders and tokenizers; the autoencoder too, or else it is the base's
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from fade.errors import BadInput
from fade.files import read_json, unharmed, write_json
from fade.models import Diffusion
from fade.models.families import family_at
from fade.tensors import tensors_hash

_MAKE = "task=pretrain pretrain.without=CONCEPT pretrain.base=FOLDER makes one"


def autoencoder_hash(vae: AutoencoderKL) -> str:
    """Of its weights in float16, as they are shipped."""
    return tensors_hash({name: value.half() for name, value in vae.state_dict().items()})


def sign(folder: Path, vae: AutoencoderKL) -> None:
    """Write into an oracle's tiers.json whose latents it draws, so that it can be shipped without its autoencoder."""
    path = folder / "tiers.json"
    write_json(path, {**read_json(path), "autoencoder": autoencoder_hash(vae)})


def oracle_folder(given: str | None, target: str) -> Path | None:
    """The folder of the target's oracle. given: that folder, or one that holds a folder for each of some concepts; None
    where it holds none for this target. Raises BadInput where there is no oracle at all."""
    if given is None:
        return None
    folder = Path(given)
    if (folder / "tiers.json").is_file():
        return folder
    if not any(folder.glob("*/tiers.json")):
        raise BadInput(f"oracle={given} holds no model that was pretrained without a concept (tiers.json); {_MAKE}")
    return folder / target if (folder / target / "tiers.json").is_file() else None


def load_oracle(folder: Path, base: Diffusion, target: str) -> Diffusion:
    """The oracle, of its base's family and sampled as its base is. Raises BadInput where it was pretrained without
    another concept, and where it is of another base: of another family, of other latents, or predicting another."""
    said = unharmed(folder / "tiers.json", read_json) or {}
    if said.get("without") != target:
        missed = f"never saw {said['without']!r}" if said.get("without") else "has seen every concept"
        raise BadInput(f"the oracle {folder} {missed}, and the target is {target!r}; name another, or oracle=null")
    check_family(folder, base)
    own = (folder / "pipeline" / "vae").is_dir()
    pipe = read_pipeline(folder, base, own)
    theirs = autoencoder_hash(pipe.vae) if own else said.get("autoencoder")
    if theirs != autoencoder_hash(base.pipe.vae):
        raise BadInput(
            f"the oracle {folder} is of another base: its autoencoder is not this model's; pretrain one with "
            "pretrain.base=FOLDER of this model"
        )
    oracle = base.like(pipe)
    if oracle.prediction != base.prediction:
        raise BadInput(
            f"the oracle {folder} is of another base: it predicts {oracle.prediction}, not {base.prediction}"
        )
    pipe.scheduler = oracle.scheduler(type(base.pipe.scheduler).__name__)
    return oracle.to(torch.device(base.device)).eval()


def check_family(folder: Path, base: Diffusion) -> None:
    """Raises BadInput where the oracle is of another family than the base."""
    family = family_at(str(folder / "pipeline"))
    if not isinstance(base, family):
        raise BadInput(
            f"the oracle {folder} is a {family.title}, and this model a {base.title}: they predict different things; "
            "name one of this model's family, or oracle=null"
        )


def read_pipeline(folder: Path, base: Diffusion, own: bool) -> DiffusionPipeline:
    """The oracle's pipeline, in the base's floating-point type. own: whether it came with an autoencoder, which is
    the base's else."""
    given = {} if own else {"vae": base.pipe.vae}
    how = {**base.without, **given, "dtype": base.network.dtype}
    try:
        return base.pipeline.from_pretrained(folder / "pipeline", **how)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BadInput(f"cannot load the oracle {folder / 'pipeline'}: {str(error).splitlines()[0][:200]}") from error
