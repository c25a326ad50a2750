"""A method's published settings on a model, as conf/ states them for run.py: `model=sd15 method=NAME`.

The files are run.py's own; here they are read without Hydra: each list of defaults, a later file over an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from fade.adapters import Adapter
from fade.adapters.lora import Lora
from fade.adapters.matrix import Matrix
from fade.adapters.patch import Patch
from fade.adapters.text import TextEdit
from fade.checked import located
from fade.errors import BadInput
from fade.files import shipped
from fade.methods import Method
from fade.sparsity import Dense, Module, Neuron, Sparsity, Weight

CONF = Path(__file__).parent / "conf"  # a link to conf/ in a checkout, its files in an installed package
MODEL = "sd15"
SPARSITIES = {"dense": Dense, "module": Module, "neuron": Neuron, "weight": Weight}
OmegaConf.register_new_resolver("shipped", shipped, replace=True)  # as in run.py
GROUPS = ("trainer", "optimizer", "adapter", "sparsity", "timesteps")


def names() -> list[str]:
    return sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def published(method: str | Method, seed: int = 0, preset: str = MODEL) -> dict[str, Any]:
    """trainer, optimizer, adapter, sparsity, timesteps, method and pairs, as plain values. preset: of conf/model.

    Of a Method that is none of the package's they are FADE's. Raises BadInput for an unknown name.
    """
    name = method if isinstance(method, str) else type(method).__module__.rpartition(".")[2]
    if name not in names():
        if isinstance(method, str):
            raise BadInput(f"method {method!r} is unknown; choose {', '.join(names())}")
        name = "fade"
    variant = None if isinstance(method, str) else method.variant
    return deepcopy(_published(name, variant, seed, preset))


@cache
def _published(name: str, variant: str | None, seed: int, preset: str) -> dict[str, Any]:
    """variant: the method's own, where it is an object."""
    config, models, own = _read("config"), _line(f"model/{preset}"), _read(f"method/{name}")
    chosen = dict(choice for part in (config, *models, own) for choice in _choices(part))
    tuned = f"tuned/{preset}/{name}"
    merged = OmegaConf.merge(
        {"seed": seed, "pairs": config["pairs"]},
        *({group: _option(group, chosen[group])} for group in GROUPS),
        *({key: model[key] for key in (*GROUPS, "pairs") if key in model} for model in models),
        {key: value for key, value in own.items() if key != "defaults"},
        _read(tuned) if (CONF / f"{tuned}.yaml").is_file() else {},
        {} if variant is None else {"method": {"variant": variant}},
    )
    return filled(merged, (*GROUPS, "method", "pairs"))


def filled(config: Any, keys: Sequence[str]) -> dict[str, Any]:
    """What a configuration has under these keys, as plain values, its interpolations filled in."""
    whole = OmegaConf.create(config)
    return {key: OmegaConf.to_container(whole[key], resolve=True) for key in keys}


def attacks_of(names: Sequence[str]) -> dict[str, Any]:
    """What `attack=NAMES` composes: a part for each attack, and what its suite says of all. Raises BadInput for an
    unknown name."""
    known = sorted(path.stem for path in (CONF / "attack").glob("*.yaml"))
    if odd := [name for name in names if name not in known]:
        raise BadInput(f"attack {odd[0]!r} is unknown; choose {', '.join(known)}")
    return OmegaConf.to_container(OmegaConf.merge(*(_option("attack", name) for name in names)), resolve=True)  # type: ignore[return-value]


def protocol_sampling(name: str) -> dict[str, Any]:
    """What a protocol's own files say of its sampling beside the default, which leaves it to the model."""
    said = OmegaConf.to_container(_option("protocol", name)["sampling"], resolve=True)
    default = OmegaConf.to_container(_option("protocol", "default")["sampling"], resolve=True)
    return {key: value for key, value in said.items() if value != default[key]}  # type: ignore[union-attr, index, misc, call-overload]


def guidance_of(preset: str) -> float:
    """How strongly a model's own images are guided, by its file of conf/model."""
    return float(OmegaConf.merge(*_line(f"model/{preset}"))["model"]["guidance"])


def embedded(path: str | None = None) -> dict[str, Any] | None:
    """name, model, dataset, judges and target, as plain values, of the embedded pipeline in the folder `path`, or of
    the one that run.py takes by default; None where the folder holds another. dataset, judges: run.py's, for all of
    them draw its grid; target: run.py's, None of any but its own."""
    config = _read("config")
    default = dict(_choices(config))
    for name in sorted(p.stem for p in (CONF / "model").glob("*.yaml")):
        parts = OmegaConf.merge(*_line(f"model/{name}"), _read(f"dataset/{default['dataset']}"))
        own, place = name == default["model"], Path(parts["model"]["path"]).resolve()
        if not place.is_relative_to(Path(shipped("")).resolve()):  # on a hub, by a name that may be a folder's too
            continue
        if own if path is None else place == Path(path).resolve():
            found = filled(parts, ("model", "dataset", "judges"))
            return {"name": name, "target": config["target"] if own else None, **found}
    return None


def settings(part: Mapping[str, Any]) -> dict[str, Any]:
    """What a `_target_` is called with."""
    return {key: value for key, value in part.items() if not key.startswith("_")}


def made(part: dict[str, Any]) -> Any:
    """The object that published settings describe."""
    return located(part["_target_"])(**settings(part))


def sparsity_of(method: Method, known: dict[str, Any], sparsity: str | Sparsity | None, p: float | None) -> Sparsity:
    """The method's own, where none is asked for; p is of kinds that leave something out."""
    if isinstance(sparsity, Sparsity):
        return sparsity
    if sparsity is not None and sparsity not in SPARSITIES:
        raise BadInput(f"sparsity {sparsity!r} is unknown; choose {', '.join(SPARSITIES)}")
    if not method.terms or "lora" not in method.kinds:
        return Dense()
    kind = located(known["_target_"]) if sparsity is None else SPARSITIES[sparsity]
    return Dense() if kind is Dense else kind(known["p"] if p is None else p)


def adapter_of(
    method: Method, known: dict[str, Any], rank: int | None, alpha: float | None, targets: Sequence[str] | None
) -> tuple[type[Adapter], dict[str, Any]]:
    """The kind of adapter and what it takes: the published one's where the method trains it, else the first it does."""
    kind, shape = located(known["_target_"].rpartition(".")[0]), settings(known)
    if kind.kind not in method.kinds:
        kind, shape = next(k for k in (Lora, Matrix, Patch, TextEdit) if k.kind in method.kinds), {}
    if kind is Lora:
        ranks = {"rank": rank, "alpha": alpha or rank} if rank or alpha else {}
        shape = shape | {key: value for key, value in ranks.items() if value}
    return kind, shape | ({"targets": list(targets)} if targets and kind is not TextEdit else {})


def optimizer_of(method: Method, known: dict[str, Any], lr: float | None) -> partial[torch.optim.Optimizer]:
    """Raises BadInput where neither the caller nor the method names a rate."""
    rate = known["lr"] if lr is None else lr
    if method.terms and rate is None:
        raise BadInput(
            f"{type(method).__name__} published no rate for Stable Diffusion; give lr=NUMBER and steps=NUMBER"
        )
    return partial(located(known["_target_"]), **settings(known) | {"lr": rate})


@cache
def _read(name: str) -> DictConfig:
    """A file, not to be written to: its values below its group unless it says that they are everybody's."""
    path = CONF / f"{name}.yaml"
    whole = path.read_text(encoding="utf-8").startswith("# @package _global_") or "/" not in name
    found = OmegaConf.load(path)
    return found if whole else OmegaConf.create({name.split("/")[0]: found})  # type: ignore[return-value]


def _line(name: str) -> list[DictConfig]:
    """A file, behind those of its group that it builds on."""
    own, group = _read(name), name.partition("/")[0]
    said = own.get("defaults") or own.get(group, {}).get("defaults", ())
    below = [entry for entry in said if isinstance(entry, str) and entry != "_self_"]
    return [part for entry in below for part in _line(f"{group}/{entry}")] + [own]


def _choices(part: DictConfig) -> Iterator[tuple[str, str]]:
    """The options of groups that a list of defaults chooses."""
    for entry in OmegaConf.to_container(part["defaults"]) if "defaults" in part else []:
        if isinstance(entry, Mapping):
            yield from ((str(key).removeprefix("override /"), value) for key, value in entry.items())


def _option(group: str, option: str) -> Any:
    """An option of a group, over those that it builds on."""
    found = OmegaConf.merge(*(part[group] for part in _line(f"{group}/{option}")))
    return OmegaConf.masked_copy(found, [key for key in found if key != "defaults"])
