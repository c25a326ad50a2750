"""The card of an adapter, README.md: what was removed, how it was checked, how sure that is, what was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from fade.metrics import METRICS, cell_text
from fade.metrics import about as described

TEMPLATE = Path(__file__).with_name("card.md.j2")


def card_text(about: dict[str, Any]) -> str:
    """README.md with the hub's YAML header, from adapter.json."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        about=about,
        target=about.get("target", "a concept"),
        facts=_facts(about),
        settings=json.dumps(_settings(about), indent=1, ensure_ascii=False),
        **_checked(about.get("results")),
    )


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


def _checked(results: dict[str, Any] | None) -> dict[str, Any]:
    """What the card says of the results: which judges, every metric beside the base's, where the images landed."""
    if not results:
        return {"results": None}
    metrics, base = results["metrics"], results["base"]
    known = [key for key in METRICS if key in metrics]
    known += [key for key in metrics if key not in METRICS and not described(key).share]
    rows = [
        [_named(key), cell_text(base.get(key), key), cell_text(metrics[key], key), str(metrics[key].get("n", ""))]
        for key in known
    ]
    accuracies = results.get("gates", {}).get("judge_accuracy", {})
    return {
        "results": results,
        "rephrased": "ua_synonym" in metrics,
        "metrics": rows,
        "judges": ", ".join(f"{domain} {100 * value:.1f} %" for domain, value in accuracies.items()),
        "landed": ", ".join(f"{label} {n}" for label, n in list(results.get("landed", {}).items())[:5]),
    }


def _named(metric: str) -> str:
    about = described(metric)
    return f"{about.heading} ({about.says})" if about.says else about.heading


def _settings(about: dict[str, Any]) -> dict[str, Any]:
    """All of adapter.json but what stands above, and the long lists of shapes as their lengths."""
    shown = {k: v for k, v in about.items() if k not in ("results", "picture", "versions", "config")}
    for key in ("layers", "weights"):
        if isinstance(shown.get(key), dict):
            shown[key] = f"{len(shown[key])} of the pipeline's"
    return shown
