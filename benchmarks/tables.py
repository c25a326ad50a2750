"""results.json files -> tables: of one run, of every target, of every setting; as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fade.card import cell_text
from fade.prompts import words

TITLES = {
    "ua": "UA ↑",
    "ira": "IRA ↑",
    "cra": "CRA ↑",
    "cra_target": "CRA on target ↑",
    "fid_judge": "fid_judge ↓",
    "kid_judge": "1000 kid_judge ↓",
}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it reads in a terminal too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_csv(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def as_latex(header: list[str], rows: list[list[str]]) -> str:
    """A booktabs table."""

    signs = {"\\": r"\textbackslash{}", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$"}
    special = str.maketrans(signs | {c: f"\\{c}" for c in "&%$#_{}"})

    def line(row: list[str]) -> str:
        return " & ".join(text.translate(special) for text in row) + r" \\"

    body = "\n".join(map(line, rows))
    columns = "l" + "r" * (len(header) - 1)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(header)}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def run_table(results: dict[str, Any]) -> str:
    """Base and unlearned model, one row each; then what the numbers rest on and what they cost."""
    header = ["model", *TITLES.values()]
    rows = [[name, *(cell_text(results[key].get(c), c) for c in TITLES)]
            for name, key in (("base", "base"), (f"without {words(results['target'])}", "metrics"))]  # fmt: skip
    stated = results["gates"].get("judge_stated", {})
    judges = ", ".join(f"{d} {100 * a:.1f} %" + (f" (its own file says {100 * stated[d]:.1f} %)" if d in stated else "")
                       for d, a in results["gates"]["judge_accuracy"].items())  # fmt: skip
    lines = [
        table(header, rows),
        f"{results['method']}: {results['target']} -> {results['surrogate']} ({results['domain']}); percent with 95 % "
        f"intervals over images of this one adapter, UA over {results['metrics']['ua']['n']} images",
        f"judges on held-out real images: {judges}",
        f"forgotten images read as: {', '.join(f'{k} {v}' for k, v in list(results['landed'].items())[:4])}",
    ]
    cost = results["cost"]
    if "distil_s" in cost:
        lines.append(
            f"unlearned in {cost['locate_s'] + cost['distil_s']:.0f} s, evaluated in "
            f"{cost['generate_s'] + cost['judge_s']:.0f} s; adapter {cost['adapter_bytes'] / 1000:.0f} kB, "
            f"density {results['sparsity']['density']:.3f}"
        )
    else:
        lines.append(f"{results['gates']['images']} images scored in {cost['judge_s']:.0f} s")
    return "\n".join(lines)


# overrides that say what was run and where, not how; the sparsity has a name of its own in `setting`
WHAT_AND_WHERE = {
    "target", "surrogate", "seed", "method", "sparsity", "sparsity.p", "dataset", "dataset.root", "dataset.classifiers",
    "model.path", "protocol", "+sweeps", "out", "output_dir", "cache_dir", "logger", "device", "launcher",
}  # fmt: skip


def choices(results: dict[str, Any]) -> dict[str, str]:
    """What the command line changed of how a run is done: key -> value."""
    pairs = (override.split("=", 1) for override in results.get("overrides", []))
    return {
        key: value for key, value in pairs if key not in WHAT_AND_WHERE and not key.startswith(("launcher.", "fail_under."))
    }


def method_of(results: dict[str, Any]) -> str:
    """The method, and which of its published versions where there are several."""
    variant = results.get("variant")
    return f"{results['method']} ({variant})" if variant else str(results["method"])


def setting(results: dict[str, Any], without: str = "") -> str:
    """What a table groups runs by: dataset, protocol, method, kind of mask, kept fraction, and what else was chosen;
    `without` leaves one key out."""
    sparsity = results.get("sparsity", {"kind": "", "p": 1})  # answers that others made have none
    chosen = {"sparsity.p": "" if sparsity["p"] == 1 else f"p={sparsity['p']:g}"}
    chosen |= {key: f"{key}={value}" for key, value in sorted(choices(results).items())}
    words = [text for key, text in chosen.items() if text and key != without]
    return " ".join(filter(None, [f"{results['dataset']}/{results['protocol']}", method_of(results), sparsity["kind"], *words]))


def seed_of(results: dict[str, Any]) -> str:
    """The training seed; answers that others made have none."""
    return str(results.get("seeds", {}).get("train", "–"))


def per_target(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """One row a run, by setting, target and training seed."""
    header = ["setting", "target", "surrogate", "seed", *TITLES.values(), "base IRA", "base CRA", "s"]
    rows = []
    for r in sorted(found, key=lambda r: (setting(r), r["domain"], r["target"], r["surrogate"], seed_of(r))):
        spent = r["cost"].get("locate_s", 0.0) + r["cost"].get("distil_s", 0.0)
        rows.append([setting(r), r["target"], r["surrogate"], seed_of(r), *(cell_text(r["metrics"].get(c), c) for c in TITLES),
                     cell_text(r["base"].get("ira")), cell_text(r["base"].get("cra")), f"{spent:.0f}"])  # fmt: skip
    return header, rows


def metric_values(runs: Sequence[dict[str, Any]], key: str, side: str = "metrics") -> list[float]:
    """The values of a metric of the runs that have one."""
    return [float(r[side][key]["value"]) for r in runs if r[side].get(key, {}).get("value") is not None]


def mean_value(runs: Sequence[dict[str, Any]], key: str, side: str = "metrics") -> str:
    """A distance's mean over the runs that have it, as a cell's text; where none has, why."""
    values = metric_values(runs, key, side)
    reasons = [r[side][key] for r in runs if key in r[side]]
    return cell_text({"value": float(np.mean(values))} if values else (reasons or [None])[0], key)


def spread(values: list[float]) -> str:
    """Mean over runs, with the range."""
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.0f}–{100 * max(values):.0f})"


def summary(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """One row for each setting and domain: means over its runs, and the difference from the base model, in points."""
    header = [
        "setting",
        "domain",
        "runs",
        "UA",
        "IRA",
        "Δ IRA",
        "CRA",
        "Δ CRA",
        "CRA on target",
        "fid_judge",
        "1000 kid_judge",
        "s/target",
        "kB",
    ]
    rows = []
    groups = dict.fromkeys((setting(r), domain) for r in found for domain in (r["domain"], "all"))
    for name, domain in sorted(groups, key=lambda g: (g[0], g[1] == "all", g[1])):
        runs = [r for r in found if setting(r) == name and domain in ("all", r["domain"])]
        row = [name, domain, str(len(runs)), spread(metric_values(runs, "ua"))]
        for key in ("ira", "cra"):
            values = metric_values(runs, key)
            moved = [r["metrics"][key]["value"] - r["base"][key]["value"] for r in runs if key in r["metrics"] and r["base"]]
            row += [spread(values) if values else "–", f"{100 * np.mean(moved):+.1f}" if moved else "–"]
        kept = metric_values(runs, "cra_target")
        row += [spread(kept) if kept else "–", mean_value(runs, "fid_judge"), mean_value(runs, "kid_judge")]
        trained = [r["cost"] for r in runs if "distil_s" in r["cost"]]
        row += [f"{np.mean([cost['locate_s'] + cost['distil_s'] for cost in trained]):.0f}" if trained else "–"]
        row += [f"{np.mean([cost['adapter_bytes'] for cost in trained]) / 1000:.0f}" if trained else "–"]
        rows.append(row)
    return header, rows


PUBLISHED = Path(__file__).parent / "published"


def published() -> tuple[list[str], list[list[str]]]:
    """UnlearnCanvas's methods as papers report them, each with its source."""
    columns = [*(f"{domain}_{number}" for domain in ("style", "object") for number in ("ua", "ira", "cra")),
               "fid", "time_s", "source", "evidence"]  # fmt: skip
    return _published(PUBLISHED / "unlearncanvas.csv", ["method", *columns])


def published_sequences() -> tuple[list[str], list[list[str]]]:
    """The same for six requests one after another: UA of the first, and retain accuracy."""
    columns = ["method", "metric", *(f"after_{k}" for k in range(1, 7)), "source"]
    return _published(PUBLISHED / "unlearncanvas_sequential.csv", columns)


def _published(path: Path, columns: list[str]) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        return columns, [[row[c] or "–" for c in columns] for row in csv.DictReader(file)]
