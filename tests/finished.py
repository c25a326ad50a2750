"""Folders of finished runs, written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure.metrics import landed, scores
from benchmarks.measure.predictions import read_rows, write_rows
from fade.data.pairs import Request
from fade.files import read_json, write_json

STYLES, OBJECTS = ["glass", "neon", "photo"], ["cat", "dog", "fish"]


def finished(
    folder: Path, target: str, kind: str = "neuron", p: float = 0.1, seed: int = 0, wrong: float = 0.1
) -> dict[str, Any]:
    """A run's folder with everything that the report reads; a judge errs on `wrong` of the images."""
    generator = np.random.default_rng(seed)
    domain = "style" if target in STYLES else "object"
    rows = []
    for style in STYLES:
        for name in OBJECTS:
            for number in range(5):
                row = {
                    "file": f"{style}_{name}_seed{number}.png",
                    "prompt": "",
                    "seed": str(number),
                    "style": style,
                    "object": name,
                }
                for d, labels in (("style", STYLES), ("object", OBJECTS)):
                    off = generator.random() < 0.1 or (d == domain and row[d] == target and generator.random() < 0.9)
                    row[f"{d}_predicted"] = labels[(labels.index(row[d]) + 1) % 3] if off else row[d]
                rows.append(row)
    few = {"value": None, "why": "40 images for 192 features: the Fréchet distance needs more images", "n": 40}
    measured = {
        **scores(rows, target, domain, ["style", "object"]),
        "kid_judge": {"value": 0.00123, "std": 0.0, "n": 40},
    }
    measured["fid_judge"] = few if seed == 2 else {"value": 2.0 + seed, "n": 40}
    results = {
        "format": 1,
        "dataset": "canvas",
        "target": target,
        "domain": domain,
        "surrogate": "photo",
        "method": "fade",
        "protocol": "default",
        "metrics": measured,
        "base": measured,
        "landed": landed(rows, Request(target, "photo", domain)),
        "gates": {"judge_accuracy": {"style": 1.0, "object": 0.99}, "images": 45, "reading": "retained"},
        "cost": {
            "locate_s": 1.0,
            "distil_s": 20.0,
            "generate_s": 9.0,
            "judge_s": 1.0,
            "adapter_bytes": 148_000,
            "steps": 100,
        },
        "sparsity": {"kind": kind, "p": p, "density": p},
        "versions": {"torch": "2"},
        "git_commit": "abc",
        "machine": "a processor, 2 cores",
        "base_sha256": "d" * 64,
        "overrides": [f"target={target}", f"sparsity={kind}"],
    }
    write_rows(folder / "predictions.csv", rows)
    write_json(folder / "results.json", results)
    write_json(folder / "run.json", {"identity": "x", "overrides": results["overrides"]})
    Image.fromarray(generator.integers(0, 255, (120, 300, 3), dtype=np.uint8)).save(folder / "comparison.png")
    return results


def attacked(folder: Path, name: str, hits: list[bool]) -> None:
    """Give a finished run an attack as fade/attacks/suite.py writes it: no attack green and nothing read, the attack
    red; grey as deep as an image's place."""
    lines, side, left, step = ["base, no attack", "no attack", f"{name} on base", f"{name} on attacked"], 32, 50, 36
    sheet = Image.new("RGB", (left + side * len(hits), step * len(lines)), "white")
    for line, channel in (("no attack", 1), (f"{name} on attacked", 0)):
        for place in range(len(hits)):
            pixels = np.full((side, side, 3), 20 * place, dtype=np.uint8)
            pixels[..., channel] = 255
            sheet.paste(Image.fromarray(pixels), (left + side * place, step * lines.index(line)))
    (folder / "attacks").mkdir(parents=True, exist_ok=True)
    sheet.save(folder / "attacks" / f"{name}.png")
    clean = [{"prompt": f"prompt {place}", "hit": False} for place in range(len(hits))]
    row = {
        "attack": name,
        "success": {"value": sum(hits) / len(hits), "low": 0.1, "high": 0.9, "n": len(hits)},
        "off": {"value": 0.0, "low": 0.0, "high": 0.5, "n": len(hits)},
        "shown": [{**one, "hit": hit} for one, hit in zip(clean, hits, strict=True)],
        "drawn": {"left": left, "step": step, "side": side, "lines": lines, "clean": clean},
    }
    write_json(folder / "attacks" / f"{name}.json", row)


def illustrated(folder: Path, cache: Path) -> None:
    """Give a finished run its images, and the base model's, which is right everywhere: grey as deep as a row's place in
    the table, the run's own red, the base's green."""
    rows = read_rows(folder / "predictions.csv")
    for place, row in enumerate(rows):
        for images, channel in ((folder / "images", 0), (cache / "base" / "images", 1)):
            images.mkdir(parents=True, exist_ok=True)
            pixels = np.full((32, 32, 3), 5 * place, dtype=np.uint8)
            pixels[..., channel] = 255
            Image.fromarray(pixels).save(images / row["file"])
    right = [row | {f"{d}_predicted": row[d] for d in ("style", "object")} for row in rows]
    write_rows(cache / "base" / "predictions.csv", right)
    results = read_json(folder / "results.json")
    write_json(folder / "results.json", {**results, "base_answers": "base"})
    write_json(folder / "run.json", {**read_json(folder / "run.json"), "cache": str(cache)})
