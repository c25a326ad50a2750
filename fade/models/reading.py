"""Where a pipeline is read from: a folder, a hub's name, or one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from fade.errors import BadInput


def place(path: str, subfolder: str | None) -> Path | str:
    """The folder or the file, or the hub's name. Raises BadInput for a folder or a file that is not there."""
    local = path.startswith((".", "/", "~", "pretrained")) or Path(path).suffix in (".ckpt", ".safetensors")
    where = Path(path, subfolder or "") if local or Path(path).exists() else path
    if local and not Path(where).exists():
        raise BadInput(f"no pipeline at {where}; train one with task=pretrain, or give model.path=FOLDER")
    return where


def loaded(pipeline: type[DiffusionPipeline], where: Path | str, dtype: str, given: dict[str, Any]) -> Any:
    """The pipeline. given: what diffusers is told beside. Raises BadInput where it cannot read it."""
    single = isinstance(where, Path) and where.is_file()
    load = pipeline.from_single_file if single else pipeline.from_pretrained
    try:
        return load(str(where), dtype=getattr(torch, dtype), **given)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BadInput(f"cannot load the pipeline {where}: {' '.join(lines)[:300]}") from error
