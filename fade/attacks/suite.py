"""Several attacks on one model, each beside its controls: the rows of a robustness table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from fade.adapters.lora import Lora
from fade.attacks import LEVELS, Attack, Scene, drawn
from fade.attacks.meter import HALF, SHOWN, SIDE, Meter, Subject, works
from fade.attacks.never import Never
from fade.attacks.plain import Plain
from fade.console import Stage
from fade.errors import BadInput
from fade.files import atomic, write_json
from fade.intervals import difference
from fade.models import Diffusion

FORMAT = 1  # of NAME.json
NONE = "none"  # the row without an attack
LEFT, STEP = 190, SIDE + 4  # of NAME.png: pixels beside its lines, and of one


def suite(
    meter: Meter,
    attacks: Mapping[str, Attack],
    attacked: Subject,
    base: Subject,
    oracle: Subject | None = None,
    folder: Path | None = None,
    never: Never | None = None,
) -> list[dict[str, Any]]:
    """One result an attack, the row without one first; each is written to folder/NAME.json, with its picture.

    What is measured already is read from the meter's cache, so that a suite that was killed goes on. An attack that the
    model cannot take, or that has no image to start from, says why; BadInput where none can be made.
    """
    check_float(attacked.model)
    scenes = [meter.scene, *([] if never is None else [replace(meter.scene, altered=never.altered)])]
    refused = {name: why for name, attack in attacks.items() if (why := _refusal(attack, attacked.model, scenes))}
    if attacks and len(refused) == len(attacks):
        raise BadInput(next(iter(refused.values())))
    tried = {NONE: Plain(), **{name: attack for name, attack in attacks.items() if name not in refused}}
    total = sum(_measurements(attack, oracle, never) for attack in tried.values())
    stage = Stage("attacks", total, "while attacking, after measurement")
    plain = _subjects(meter, stage, NONE, Plain(), attacked, base, oracle, None)
    rows = [_result(NONE, Plain(), plain, plain)]
    for name, attack in attacks.items():
        if name in refused:
            rows.append({"format": FORMAT, "attack": name, "level": attack.level, "refused": refused[name]})
            continue
        rows.append(_result(name, attack, _subjects(meter, stage, name, attack, attacked, base, oracle, never), plain))
        if folder is not None:
            _write(folder, rows[-1], plain)
    if folder is not None:
        _write(folder, rows[0], plain)
    return [{key: value for key, value in row.items() if key != "strips"} for row in rows]


def check_float(model: Diffusion) -> None:
    """Raises BadInput for a model in half precision, through which searches would not find their way."""
    if model.network.dtype != torch.float32:
        raise BadInput(f"attacks need float32 and the model is {model.network.dtype}; load it with dtype=torch.float32")


def _refusal(attack: Attack, model: Diffusion, scenes: Sequence[Scene]) -> str | None:
    """scenes: the attacker's, and, for attacks that learn from real images, that of the unseen concept."""
    try:
        attack.suits(model)
        for scene in scenes[: 1 + attack.shown] if attack.starts else ():
            scene.check_starts()
    except BadInput as error:
        return str(error)
    return None


def _measurements(attack: Attack, oracle: Subject | None, never: Never | None) -> int:
    """How many models `_subjects` makes an attack on."""
    return 2 + attack.optimises + (attack.shown and never is not None) + (oracle is not None)


def _subjects(
    meter: Meter,
    stage: Stage,
    name: str,
    attack: Attack,
    attacked: Subject,
    base: Subject,
    oracle: Subject | None,
    never: Never | None,
) -> dict[str, dict[str, Any]]:
    """The attack on each model; on the base first, which says what can be tried."""

    def measured(subject: Subject, kept: list[str] | None = None) -> dict[str, Any]:
        made = meter.measured(name, attack, subject, kept)
        stage.one(f", {name} on {subject.name}")
        return made

    found = {"base": measured(base)}
    kept = works(found["base"]) if attack.fixed else None
    found["attacked"] = measured(attacked, kept)
    if attack.optimises:
        found["off"] = measured(replace(attacked, name="attacked, optimiser off", off=True))
    if attack.shown and never is not None:
        found["never"] = measured(replace(base, name="base, unseen concept", never=never))
    if oracle is not None:
        found["oracle"] = measured(replace(oracle, places=attacked) if attack.placed else oracle, kept)
    return found


def _result(name: str, attack: Attack, found: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """excess: over the model that never saw the concept, or over no attack where there is none."""
    entry, base = found["attacked"], found["base"]
    off = found.get("off", plain["attacked"])["success"]
    oracle = found["oracle"]["success"] if "oracle" in found else None
    tried = [t["name"] for t in base["tried"]]
    return {
        "format": FORMAT,
        "attack": name,
        "level": attack.level,
        "has": LEVELS[attack.level],
        "settings": {"class": type(attack).__name__, **vars(attack)},
        "success": entry["success"],
        "with_rest": entry["with_rest"],
        "base": base["success"],
        "off": off,
        "oracle": oracle,
        "never": found["never"]["success"] if "never" in found else None,
        "excess": _excess(entry["success"], oracle or off),
        "over": "oracle" if oracle else "off",
        "void": entry["success"]["value"] is None or (base["success"]["value"] or 0.0) < HALF,
        "dropped": [t for t in tried if attack.fixed and t not in works(base)],
        "chosen": entry["chosen"],
        "judge": entry["judge"],  # of real images, the share that the attacker's own reads right
        "curves": {who: [[t["units"], t["right"], t["n"]] for t in one["tried"]] for who, one in found.items()},
        "tried": entry["tried"],
        "shown": entry.get("shown"),
        "units": entry["units"],
        "seconds": sum(one["seconds"] for one in found.values()),
        "strips": {who: one["strip"] for who, one in found.items()},
    }


def _excess(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    nothing = [share for share in (one, other) if share["value"] is None]
    return nothing[0] if nothing else difference(one, other)


def _write(folder: Path, row: dict[str, Any], plain: dict[str, Any]) -> None:
    """NAME.json, and NAME.png: what came back, below what is drawn without an attack. The first says what stands where
    in the second, and, of both models' images of the same prompts and noise, in which the judge reads the target."""
    strips = {"base, no attack": plain["base"]["strip"], "no attack": plain["attacked"]["strip"]}
    strips |= {f"{row['attack']} on {who}": path for who, path in row["strips"].items() if row["attack"] != NONE}
    sheet = Image.new("RGB", (SHOWN * SIDE + LEFT, STEP * len(strips)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, path) in enumerate(strips.items()):
        draw.text((6, i * STEP + SIDE // 2 - 6), name, fill="black")
        with Image.open(path) as strip:
            sheet.paste(strip, (LEFT, i * STEP))
    with atomic(folder / f"{row['attack']}.png") as temporary:
        sheet.save(temporary, format="png")
    drawn = {"left": LEFT, "step": STEP, "side": SIDE, "lines": list(strips), "clean": plain["attacked"].get("shown")}
    write_json(folder / f"{row['attack']}.json", {**{k: v for k, v in row.items() if k != "strips"}, "drawn": drawn})


def zero_is_base(meter: Meter, base: Subject) -> bool:
    """Whether an adapter of zeros draws what the base draws, bit for bit: a check of the meter itself."""
    cells, noise = meter.asked(2, meter.fresh)
    prompts, model = [meter.scene.prompt(cell) for cell in cells], base.model
    before = drawn(model, prompts, noise, meter.scene.sampling)
    adapter = Lora.attach(model, 1, 1, name="zero")
    try:
        return torch.equal(before, drawn(model, prompts, noise, meter.scene.sampling))
    finally:
        adapter.detach()
