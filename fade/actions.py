"""What the actions of the `fade` command do (fade/cli.py), apart from it: its help and the card need no torch."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import diffusers
import transformers

from fade.adapters import check_scale, history
from fade.adapters.export import by_part, changed_weights, export, export_factors
from fade.adapters.factors import PROMPT
from fade.adapters.folder import called, stock
from fade.adapters.merging import folded
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.adapters.verify import claims
from fade.console import without_bars
from fade.errors import BadInput
from fade.files import atomic_folder, read_json
from fade.models import Diffusion
from fade.models.families import family_at, named
from fade.tensors import not_finite

without_bars()
for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()


def exported(given: argparse.Namespace) -> None:
    """A LoRA needs no base; the changed weights do."""
    refuse_existing(given.out)
    check_scale(given.scale)
    stored = Stored.read(given.folder)
    length = stored.about.get("text_length")
    if given.base is None:
        if given.to == "patch":
            raise BadInput("--to patch writes changed weights and needs --base PIPELINE, which they are changed from")
        factors, family = stored.factors(given.scale), stored.about.get("family")
        error = export_factors(given.out, given.to, factors, given.rank, given.limit, family, length)
    else:
        adapter = stored.attach(base_of(given), force=given.force)
        adapter.scale = given.scale
        error = export(adapter, given.out, given.to, given.rank, given.limit)
    family, changed = named(stored.about.get("family")), stored.about.get("layers") or stored.about.get("weights") or {}
    part = next(iter(by_part(changed, family)), family.denoiser)
    exact = f"fitted at rank {given.rank}: misses {100 * error:.3f} % of the change" if given.rank else "exact"
    print(f"{given.out}/ ({exact}); load it with {', then '.join(stock(given.to, part, length))}")


def merge(given: argparse.Namespace) -> None:
    """A pipeline folder with the change written in."""
    refuse_existing(given.out)
    check_scale(given.scale)
    model = base_of(given)
    stored = Stored.read(given.folder)
    adapter = stored.attach(model, force=given.force)
    if not adapter.mergeable:
        raise BadInput(PROMPT)
    adapter.scale = given.scale
    values = changed_weights(adapter)
    adapter.detach()
    if odd := not_finite(values):
        raise BadInput(
            f"{odd} is not finite at scale {given.scale:g} in {given.dtype}; nothing was written: lower the scale"
        )
    weights = model.changeable()
    for name, value in values.items():
        weights[name].data = value
    with atomic_folder(given.out, (), bool, "pipeline") as temporary:
        model.pipe.save_pretrained(temporary)
    how = [f'{model.pipeline.__name__}.from_pretrained("{given.out}")', *called(stored.about.get("text_length"))]
    print(f"{given.out}/: {len(values)} tensors changed, {given.dtype}; load it with {', then '.join(how)}")


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
    Stored.of(Patch.of(model, changes, "folded"), {**about, "base_sha256": model.sha256()}).write(given.out)
    size = (given.out / "adapter.safetensors").stat().st_size
    print(f"{given.out}/: {len(left)} requests as one patch, {size / 1000:.0f} kB")


def verify(given: argparse.Namespace) -> int:
    """Every claim of exactness, measured; 1 where one of them does not hold. A sequence: its log."""
    if Path(given.folder, history.NAME).is_file():
        print("\n".join(history.verify(Path(given.folder), base_of(given).sha256())))
        return 0
    failed = []
    for claim in claims(Stored.read(given.folder), partial(base_of, given), given.cycles):
        print(f"{claim.name:<12} {claim.says}")
        failed += [claim.name] if claim.gap else []
    print(f"NOT exact: {', '.join(dict.fromkeys(failed))}" if failed else "exact")
    return int(bool(failed))


def base_of(given: argparse.Namespace) -> Diffusion:
    return family_at(given.base).load(given.base, 50, 7.5, dtype=given.dtype)


def refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise BadInput(f"{folder} exists already; name a new folder")
