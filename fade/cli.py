"""Adapters as files: the `fade` command. Hydra is not asked.

fade info DIR · fade export DIR --to FORM --out OUT --base PIPELINE · fade merge DIR --base PIPELINE --out OUT ·
fade verify DIR --base PIPELINE (an adapter, or the folder of a sequence) · fade fold DIR --base PIPELINE --out OUT (a
sequence)
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import diffusers
import torch
import transformers
from torch import Tensor

from fade.adapters import Adapter, history
from fade.adapters.card import card_text
from fade.adapters.export import HOW, PROMPT
from fade.adapters.merging import folded
from fade.adapters.patch import Patch
from fade.adapters.stored import DTYPES, Stored, check_scale
from fade.errors import BadInput, at_least
from fade.files import atomic_folder, read_json
from fade.models import Diffusion, Noise
from fade.tensors import not_finite, tensors_hash

CYCLES = 100


def info(given: argparse.Namespace) -> None:
    """The card."""
    print(card_text(Stored.read(given.folder).about))


def export(given: argparse.Namespace) -> None:
    """A LoRA needs no base; the changed weights do."""
    refuse_existing(given.out)
    check_scale(given.scale)
    stored = Stored.read(given.folder)
    if given.base is None:
        if given.to == "patch":
            raise BadInput("--to patch writes changed weights and needs --base PIPELINE, which they are changed from")
        error = stored.export(given.out, given.to, given.scale, given.rank, given.limit)
    else:
        adapter = stored.attach(base_of(given), force=given.force)
        adapter.scale = given.scale
        error = adapter.export(given.out, given.to, given.rank, given.limit)
    exact = f"fitted at rank {given.rank}: misses {100 * error:.3f} % of the change" if given.rank else "exact"
    print(f"{given.out}/ ({exact}); load it with {HOW[given.to]}")


def merge(given: argparse.Namespace) -> None:
    """A pipeline folder with the change written in."""
    refuse_existing(given.out)
    check_scale(given.scale)
    model = base_of(given)
    adapter = Stored.read(given.folder).attach(model, force=given.force)
    if not adapter.mergeable:
        raise BadInput(PROMPT)
    adapter.scale = given.scale
    values = adapter.values()
    adapter.detach()
    if odd := not_finite(values):
        raise BadInput(
            f"{odd} is not finite at scale {given.scale:g} in {given.dtype}; nothing was written: lower the scale"
        )
    model.unet.load_state_dict(values, strict=False)
    with atomic_folder(given.out, (), bool, "pipeline") as temporary:
        model.pipe.save_pretrained(temporary)
    print(
        f"{given.out}/: {len(values)} tensors of the U-Net changed, {given.dtype}; load it with "
        f'StableDiffusionPipeline.from_pretrained("{given.out}")'
    )


def fold(given: argparse.Namespace) -> None:
    """The adapters of a finished sequence as one patch, which stands for all of them."""
    refuse_existing(given.out)
    folder, model = Path(given.folder), base_of(given)
    if not (folder / "results.json").is_file():
        raise BadInput(f"{folder} is no finished sequence: it has no results.json")
    results = read_json(folder / "results.json")
    if not results.get("sums"):
        raise BadInput(
            f"{folder}: what was measured there is no sum of its adapters (strategy {results.get('strategy')})"
        )
    history.verify(folder, model.sha256())
    met = [line for line in history.read(folder) if line["event"] == "forgotten"]
    unknown = sorted(set(given.without) - {line["number"] for line in met})
    if unknown:
        raise BadInput(f"--without {unknown[0]}: this sequence has met the requests 1 to {len(met)}")
    left = [line for line in met if line["number"] not in given.without]
    if not left:
        raise BadInput("--without leaves no request to fold")
    parts = [
        Stored.read(folder / line["folder"] / "adapter").attach(model, f"request{line['number']}") for line in left
    ]
    changes = folded(parts)
    for part in reversed(parts):
        part.detach()
    about = {
        "target": ", ".join(line["target"] for line in left),
        "folded_from": [line["adapter_sha256"] for line in left],
    }
    Patch.of(model, changes, "folded").save(given.out, {**about, "base_sha256": model.sha256()})
    size = (given.out / "adapter.safetensors").stat().st_size
    print(f"{given.out}/: {len(left)} requests as one patch, {size / 1000:.0f} kB")


def verify(given: argparse.Namespace) -> int:
    """Every claim of exactness, measured; 1 where one of them does not hold. A sequence: its log."""
    at_least(1, cycles=given.cycles)
    model = base_of(given)
    if Path(given.folder, history.NAME).is_file():
        print("\n".join(history.verify(Path(given.folder), model.sha256())))
        return 0
    stored = Stored.read(given.folder)
    print(f"tensors      {stored.about['sha256'][:16]} as adapter.json says")
    stored.check_base(model)
    print(f"base         {model.sha256()[:16]} is the one it was made for")
    with tempfile.TemporaryDirectory() as folder:
        gaps = {"round trip": round_trip(model, stored, Path(folder))}
        print(f"round trip   max |Δε| {gaps['round trip']:g} between the adapter in memory and reloaded")
        gated = stored.about["kind"] == "text" or "gate" in stored.about
        done = (
            "load and remove (it cannot be merged)"
            if gated
            else f"{given.cycles} cycles of load, merge, unmerge, remove"
        )
        for name in DTYPES:
            model.pipe.to(getattr(torch, name))
            gaps[name] = reversal(model, stored, given.cycles)
            print(f"reversal     {name}: max |ΔW| {gaps[name]:g} after {done}")
        model.pipe.to(torch.float32)
        drift = stock_drift(base_of(given), stored, Path(folder) / "lora", given.cycles)
        print(f"stock        {drift}")
    failed = [name for name, gap in gaps.items() if gap != 0]
    print("exact" if not failed else f"NOT exact: {', '.join(failed)}")
    return int(bool(failed))


@torch.no_grad()
def predictions(model: Diffusion) -> Tensor:
    """ε of two fixed latents under a prompt."""
    z = torch.cat([model.latent(Noise(1)), model.latent(Noise(2))]).to(model.device, model.unet.dtype)
    return model.predict(z, torch.tensor([10, 900], device=model.device), model.embed(["a picture"] * 2))


def round_trip(model: Diffusion, stored: Stored, folder: Path) -> float:
    """max |Δε| between an adapter in memory and the one that it leaves on disk."""
    adapter = stored.attach(model, force=True)
    wanted = predictions(model)
    adapter.save(folder / "again", {})
    adapter.detach()
    again = Adapter.load(model, folder / "again")
    found = predictions(model)
    again.detach()
    return float((found - wanted).abs().max())


def weights_of(model: Diffusion) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.unet.state_dict().items()}


def largest_gap(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """max |ΔW|; infinite where the tensors are not the same ones, or differ in bits alone."""
    if before.keys() != after.keys():
        return float("inf")
    gap = max(float((before[k].float() - after[k].float()).abs().max()) for k in before)
    return gap if gap or tensors_hash(before) == tensors_hash(after) else float("inf")


def reversal(model: Diffusion, stored: Stored, cycles: int) -> float:
    before = weights_of(model)
    adapter = stored.attach(model, force=True)
    for _ in range(cycles if adapter.mergeable else 0):
        adapter.merge()
        adapter.unmerge()
    adapter.detach()
    return largest_gap(before, weights_of(model))


def stock_drift(model: Diffusion, stored: Stored, folder: Path, cycles: int) -> str:
    """What the same cycles do through stock diffusers, for comparison."""
    adapter = stored.attach(model, force=True)
    try:
        adapter.export(folder)
    except BadInput as error:
        return f"no comparison: {error}"
    finally:
        adapter.detach()
    before = weights_of(model)
    model.pipe.load_lora_weights(folder)
    for _ in range(cycles):
        model.pipe.fuse_lora()
        model.pipe.unfuse_lora()
    model.pipe.unload_lora_weights()
    gap = largest_gap(before, weights_of(model))
    return f"fuse_lora and unfuse_lora, {cycles} times: max |ΔW| {gap:.1e}"


def base_of(given: argparse.Namespace) -> Diffusion:
    return Diffusion.load(given.base, 50, 7.5, dtype=given.dtype)


def refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise BadInput(f"{folder} exists already; name a new folder")


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="fade", description="Adapters of unlearning, as files.")
    actions = command.add_subparsers(required=True, metavar="{info,export,merge,verify,fold}")

    def action(name: str, does: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text)
        added.add_argument("folder", metavar="DIR", help="the adapter's folder")
        added.set_defaults(does=does)
        return added

    def with_base(added: argparse.ArgumentParser, out: bool, required: bool = True) -> None:
        added.add_argument(
            "--base", required=required, metavar="PIPELINE", help="a diffusers folder, a hub name, or a checkpoint"
        )
        added.add_argument("--dtype", choices=DTYPES, default="float32")
        if out:
            added.add_argument("--out", type=Path, required=True)
            added.add_argument("--scale", type=float, default=1.0)
            added.add_argument("--force", action="store_true", help="onto another base than it was made for")

    action("info", info, "print the card")
    exporting = action("export", export, "write what stock tools read")
    exporting.add_argument("--to", choices=list(HOW), required=True)
    exporting.add_argument("--rank", type=int, help="fit a LoRA of this rank instead of the exact form")
    exporting.add_argument("--limit", type=float, default=0.05, help="of the fit's relative error")
    with_base(exporting, out=True, required=False)
    with_base(action("merge", merge, "write a pipeline with the change in it"), out=True)
    folding = action("fold", fold, "make one adapter of a finished sequence's")
    folding.add_argument("--without", type=int, nargs="+", default=[], metavar="K", help="leave these requests out")
    folding.add_argument("--out", type=Path, required=True)
    with_base(folding, out=False)
    verifying = action("verify", verify, "measure that the adapter is exact")
    verifying.add_argument("--cycles", type=int, default=CYCLES)
    with_base(verifying, out=False)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 1 for bad input, 2 (argparse's own) for a bad command line."""
    given: Any = parser().parse_args(arguments)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    try:
        return given.does(given) or 0
    except (BadInput, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
