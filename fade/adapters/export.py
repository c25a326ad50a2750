"""Adapters for tools that do not know this package: an ordinary LoRA for diffusers or PEFT, or the changed weights.

The raw masked file never leaves: a stock loader would apply it without its mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
from peft import LoraConfig
from torch import Tensor

from fade.adapters import Adapter
from fade.adapters.factors import PROMPT, Factors
from fade.adapters.folder import HOW, stock
from fade.errors import BadInput, at_least
from fade.files import atomic_folder
from fade.models import Diffusion
from fade.models.families import named
from fade.models.ledger import added, ledger
from fade.tensors import not_finite, write_tensors

NOTHING = "at this scale the adapter changes nothing; there is nothing to export"
FILES = (
    "README.md",
    "pytorch_lora_weights.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "patch.safetensors",
)
TITLE = "# An unlearning adapter, exported"
T = TypeVar("T")


def export(
    adapter: Adapter, folder: Path | str, to: str = "diffusers", rank: int | None = None, limit: float = 0.05
) -> float:
    """Write what tools without this package read of an attached adapter, at its scale; returns the error of the fit, if
    `rank` asks for one, else 0. Raises BadInput where the form cannot carry the change.
    """
    if to not in HOW:
        raise BadInput(f"to={to!r} is unknown; choose {', '.join(HOW)}")
    if adapter.scale == 0:
        raise BadInput(NOTHING)
    family, length = type(adapter.model).__name__, adapter.model.text_length
    if to != "patch":
        return export_factors(Path(folder), to, adapter.factors(), rank, limit, family, length)
    if not adapter.mergeable:
        raise BadInput(PROMPT)
    return export_patch(Path(folder), changed_weights(adapter), family, length)


@torch.no_grad()
def changed_weights(adapter: Adapter) -> dict[str, Tensor]:
    """What an attached adapter changes, by itself: W_0 + s·ΔW, whatever else is merged or attached."""
    untouched = ledger(adapter.model.network).original
    return {
        name: added(untouched.get(name, weight.data), [change])
        for name, weight in adapter.overwrites().items()
        if (change := adapter.exact(name)) is not None
    }


def export_factors(
    folder: Path,
    to: str,
    factors: dict[str, Factors],
    rank: int | None = None,
    limit: float = 0.05,
    family: str | None = None,
    length: int | None = None,
) -> float:
    """Write a LoRA as diffusers or PEFT reads it, and return the relative error of the fit: 0 unless `rank` asks for
    one.

    rank: fit a LoRA of this rank in place of the exact form. Raises BadInput for a change of nothing, for a fit whose
    error ‖ΔW − fit‖ / ‖ΔW‖ is above `limit`, and for a folder that holds anything but an export. family: of the base,
    by the name of its class (fade/models/families.py): its loader reads no other's names. length: the adapter's
    text_length, which the README says a stock call has to be given.
    """
    at_least(0, limit=limit)
    if rank is not None:
        at_least(1, rank=rank)
    if not factors:
        raise BadInput(NOTHING)
    error = 0.0
    if rank is not None:
        factors, error = fitted(factors, rank)
        if error > limit:
            raise BadInput(
                f"a LoRA of rank {rank} misses {100 * error:.1f} % of the change (limit {100 * limit:.1f} %); "
                "give a higher rank or limit, or no rank for the exact form"
            )
    base = named(family)
    parts = by_part(factors, base)
    part = one_part(parts) if to == "peft" else base.denoiser
    with _exported(folder) as temporary:
        if to == "diffusers":
            _diffusers(temporary, parts, base)
        else:
            _peft(temporary, parts[part])
        _explain(temporary, to, part, length)
    return error


def export_patch(
    folder: Path, values: dict[str, Tensor], family: str | None = None, length: int | None = None
) -> float:
    """Write the changed weights themselves. Raises BadInput where one is not finite, they are of several parts of the
    pipeline, or the folder holds more."""
    if odd := not_finite(values):
        raise BadInput(f"{odd} is not finite at this scale; nothing was written: lower the scale")
    parts = by_part(values, named(family))
    part = one_part(parts)
    with _exported(folder) as temporary:
        write_tensors(temporary / "patch.safetensors", parts[part], {"made_by": "fade"})
        _explain(temporary, "patch", part, length)
    return 0.0


def by_part(changed: Mapping[str, T], family: type[Diffusion]) -> dict[str, dict[str, T]]:
    """What is changed of each part of the pipeline, by the part's own names (Diffusion.changeable)."""
    found: dict[str, dict[str, T]] = {}
    for name, value in changed.items():
        part = family.part_of(name)
        found.setdefault(part, {})[name if part == family.denoiser else name.removeprefix(f"{part}.")] = value
    return found


def one_part(parts: Collection[str]) -> str:
    """Raises BadInput where they are several, which one file of this form cannot carry."""
    if len(parts) != 1:
        raise BadInput(f"the change is of {' and '.join(parts)}, and this form is read by one part; use to=diffusers")
    return next(iter(parts))


def _exported(folder: Path) -> AbstractContextManager[Path]:
    def made(place: Path) -> bool:
        readme = place / "README.md"
        return readme.is_file() and readme.read_bytes().startswith(TITLE.encode())

    return atomic_folder(folder, FILES, made, "export")


def fitted(factors: dict[str, Factors], rank: int) -> tuple[dict[str, Factors], float]:
    """Every layer at one rank, and the relative error over all of them."""
    fits = {name: Factors.fit(f.product().to(f.a.dtype), rank) for name, f in factors.items()}
    missed = sum(float((fits[n].product() - f.product()).square().sum()) for n, f in factors.items())
    whole = sum(float(f.product().square().sum()) for f in factors.values())
    return fits, (missed / whole) ** 0.5 if whole else 0.0


def _config(factors: dict[str, Factors]) -> LoraConfig:
    """Ranks and alphas for each layer: without them a stock loader takes alpha for the rank."""
    ranks, alphas = {n: len(f.a) for n, f in factors.items()}, {n: f.alpha for n, f in factors.items()}
    if len(set(ranks.values())) == len(set(alphas.values())) == 1:
        return LoraConfig(
            r=next(iter(ranks.values())), lora_alpha=next(iter(alphas.values())), target_modules=list(factors)
        )
    return LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(alphas.values()),
        target_modules=list(factors),
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )


def _tensors(factors: dict[str, Factors], prefix: str = "") -> dict[str, Tensor]:
    return {
        f"{prefix}{name}.lora_{side}.weight": value.contiguous()
        for name, f in factors.items()
        for side, value in (("A", f.a), ("B", f.b))
    }


def _diffusers(folder: Path, parts: dict[str, dict[str, Factors]], family: type[Diffusion]) -> None:
    layers = {f"{part}_lora_layers": _tensors(factors) for part, factors in parts.items()}
    metadata = {f"{part}_lora_adapter_metadata": _config(factors).to_dict() for part, factors in parts.items()}
    family.pipeline.save_lora_weights(folder, **layers, **metadata, safe_serialization=True)


def _peft(folder: Path, factors: dict[str, Factors]) -> None:
    config = _config(factors)
    config.inference_mode = True
    folder.mkdir()
    config.save_pretrained(folder)
    write_tensors(folder / "adapter_model.safetensors", _tensors(factors, "base_model.model."), {"format": "pt"})


def _explain(folder: Path, to: str, part: str, length: int | None) -> None:
    how = "\n".join(stock(to, part, length))
    text = f"{TITLE}\n\nNeeds no package but the stock one:\n\n```python\n{how}\n```\n"
    if length:
        text += f"\nTrained on {length} rows of text; a call that reads another number of them draws other images.\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
