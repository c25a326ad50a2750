"""Adapters for tools that do not know this package: an ordinary LoRA for diffusers or PEFT, or the changed weights.

A change ΔW that is no low-rank matrix leaves exactly by selection, A = I[c] and B = ΔW[:, c], c the columns it touches:
(x Aᵀ) Bᵀ = x[c] ΔW[:, c]ᵀ. The raw masked file never leaves: a stock loader would apply it without its mask.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from torch import Tensor

from fade.errors import BadInput, at_least
from fade.files import atomic_folder
from fade.tensors import not_finite, write_tensors

PROMPT = "this change depends on the prompt (a gate, or an edited embedding), and no exported weights can carry that"
NOTHING = "at this scale the adapter changes nothing; there is nothing to export"
HOW = {
    "diffusers": 'pipe.load_lora_weights("this folder")',
    "peft": 'peft.PeftModel.from_pretrained(pipe.unet, "this folder")',
    "patch": 'pipe.unet.load_state_dict(safetensors.torch.load_file("this folder/patch.safetensors"), strict=False)',
}
FILES = (
    "README.md",
    "pytorch_lora_weights.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "patch.safetensors",
)
TITLE = "# An unlearning adapter, exported"


@dataclass(frozen=True)
class Factors:
    """s·ΔW = alpha / r · B A, with A (r, in), B (out, r)."""

    a: Tensor
    b: Tensor
    alpha: float

    @classmethod
    def select(cls, change: Tensor) -> Factors:
        """Exact, of the rank of the number of columns that the change (out, in) touches."""
        columns = change.any(0).nonzero()[:, 0]
        identity = torch.eye(change.shape[1], dtype=change.dtype, device=change.device)
        return cls(identity[columns], change[:, columns], float(len(columns)))

    @classmethod
    def fit(cls, change: Tensor, rank: int) -> Factors:
        """The nearest change of that rank (truncated singular values)."""
        rank = min(rank, *change.shape)
        u, s, v = torch.linalg.svd(change.double(), full_matrices=False)
        root = s[:rank].sqrt()
        return cls((root[:, None] * v[:rank]).to(change.dtype), (u[:, :rank] * root).to(change.dtype), float(rank))

    def product(self) -> Tensor:
        """s·ΔW (out, in) in double precision."""
        return self.alpha / len(self.a) * (self.b.double() @ self.a.double())


def export_factors(
    folder: Path, to: str, factors: dict[str, Factors], rank: int | None = None, limit: float = 0.05
) -> float:
    """Write a LoRA as diffusers or PEFT reads it, and return the relative error of the fit: 0 unless `rank` asks for
    one.

    rank: fit a LoRA of this rank in place of the exact form. Raises BadInput for a change of nothing, for a fit whose
    error ‖ΔW − fit‖ / ‖ΔW‖ is above `limit`, and for a folder that holds anything but an export.
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
    with _exported(folder) as temporary:
        (_diffusers if to == "diffusers" else _peft)(temporary, factors)
        _explain(temporary, to)
    return error


def export_patch(folder: Path, values: dict[str, Tensor]) -> float:
    """Write the changed weights themselves. Raises BadInput where one is not finite, or the folder holds anything
    else.
    """
    if odd := not_finite(values):
        raise BadInput(f"{odd} is not finite at this scale; nothing was written: lower the scale")
    with _exported(folder) as temporary:
        write_tensors(temporary / "patch.safetensors", values, {"made_by": "fade"})
        _explain(temporary, "patch")
    return 0.0


def _exported(folder: Path) -> AbstractContextManager[Path]:
    def made(place: Path) -> bool:
        readme = place / "README.md"
        return readme.is_file() and readme.read_bytes().startswith(TITLE.encode())

    return atomic_folder(folder, FILES, made, "export")


def check_form(to: str) -> None:
    if to not in HOW:
        raise BadInput(f"to={to!r} is unknown; choose {', '.join(HOW)}")


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


def _diffusers(folder: Path, factors: dict[str, Factors]) -> None:
    metadata = _config(factors).to_dict()
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=_tensors(factors), unet_lora_adapter_metadata=metadata, safe_serialization=True
    )


def _peft(folder: Path, factors: dict[str, Factors]) -> None:
    config = _config(factors)
    config.inference_mode = True
    folder.mkdir()
    config.save_pretrained(folder)
    write_tensors(folder / "adapter_model.safetensors", _tensors(factors, "base_model.model."), {"format": "pt"})


def _explain(folder: Path, to: str) -> None:
    text = f"{TITLE}\n\nNeeds no package but the stock one:\n\n```python\n{HOW[to]}\n```\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
