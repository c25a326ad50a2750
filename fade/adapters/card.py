"""The card of an adapter, README.md: what was removed, how it was checked, how sure that is, what was not."""

from __future__ import annotations

import json
from typing import Any

from fade.metrics import METRICS, cell_text
from fade.metrics import about as described

UNCHECKED = (
    "whether an attack on the prompt or on the latents brings the concept back",
    "whether fine-tuning on a few images teaches it again",
    "paraphrases, other languages, misspellings, and prompts that only hint at it",
    "image-to-image, inpainting, ControlNet and other adapters on top",
    "any base other than the one named above",
)
HEADER = """---
library_name: diffusers
pipeline_tag: text-to-image
tags: [concept-unlearning, fade, {kind}]
---
"""


def card_text(about: dict[str, Any]) -> str:
    """README.md with the hub's YAML header, from adapter.json."""
    target, surrogate = about.get("target", "a concept"), about.get("surrogate")
    instead = f", and draws {surrogate} instead" if surrogate else ""
    parts = [
        HEADER.format(kind=about["kind"]),
        f"# Without {target}\n\nAn adapter that makes one text-to-image pipeline forget **{target}**{instead}.\n",
        f"![before and after]({about['picture']})\n" if about.get("picture") else "",
        "## What was removed\n\n" + _table(["", ""], _facts(about)),
        "## How it was checked, and how sure that is\n\n" + _checked(about.get("results")),
        "## What was NOT checked\n\n" + "".join(f"- {line};\n" for line in UNCHECKED),
        '## Use\n\n```python\nimport fade\n\nhandle = fade.load(pipe, "this folder")\nhandle.remove()\n```\n\n'
        "Without this package: `fade export DIR --to diffusers --out OUT` first. This folder's own file is no LoRA "
        "file: a stock loader refuses it.\n",
        "## Every setting\n\n```json\n" + json.dumps(_settings(about), indent=1, ensure_ascii=False) + "\n```\n",
        f"```yaml\n{about['config']}```\n" if about.get("config") else "",
    ]
    return "\n".join(part for part in parts if part)


def _facts(about: dict[str, Any]) -> list[list[str]]:
    """What identifies the adapter, as far as it is known."""
    known = {
        "concept": about.get("target"),
        "domain": about.get("domain"),
        "surrogate": about.get("surrogate"),
        "method": " ".join(filter(None, [about.get("method"), about.get("variant")])) or None,
        "kind of change": about["kind"],
        "SHA-256 of the base pipeline": about.get("base_sha256"),
        "SHA-256 of the change": about["sha256"],
        "git commit": about.get("git_commit"),
        "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()) or None,
        "seeds": json.dumps(about["seeds"]) if "seeds" in about else None,
    }
    return [[name, str(value)] for name, value in known.items() if value]


def _checked(results: dict[str, Any] | None) -> str:
    if not results:
        return "Not at all: no results belong to this adapter yet.\n"
    metrics, base = results["metrics"], results["base"]
    known = [key for key in METRICS if key in metrics]
    known += [key for key in metrics if key not in METRICS and not described(key).share]
    rows = [
        [_named(key), cell_text(base.get(key), key), cell_text(metrics[key], key), str(metrics[key].get("n", ""))]
        for key in known
    ]
    accuracies = results.get("gates", {}).get("judge_accuracy", {})
    judges = ", ".join(f"{domain} {100 * value:.1f} %" for domain, value in accuracies.items())
    landed = ", ".join(f"{label} {n}" for label, n in list(results.get("landed", {}).items())[:5])
    return (
        f"Images of `{results.get('dataset')}` under the protocol `{results.get('protocol')}`, read by classifiers "
        f"that are right on real images this often: {judges}. Percent with 95 % intervals over images of this one "
        "adapter (another training seed makes another); base is the same pipeline without the adapter, the same "
        "prompts and the same noise.\n\n"
        + _table(["", "base", "with the adapter", "images"], rows)
        + (f"\nImages that were asked for the concept read as: {landed}.\n" if landed else "")
    )


def _named(metric: str) -> str:
    about = described(metric)
    return f"{about.heading} ({about.says})" if about.says else about.heading


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _settings(about: dict[str, Any]) -> dict[str, Any]:
    """All of adapter.json but what stands above, and the long lists of shapes as their lengths."""
    shown = {k: v for k, v in about.items() if k not in ("results", "picture", "versions", "config")}
    for key in ("layers", "weights"):
        if isinstance(shown.get(key), dict):
            shown[key] = f"{len(shown[key])} of the U-Net's"
    return shown
