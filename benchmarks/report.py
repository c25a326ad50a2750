"""results.json files -> tables and pictures.

python -m benchmarks.report FOLDER...        one row a run, and the mean over targets of every setting
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.generate import Answer
from fade.data.dataset import Dataset
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.files import read_json, whole, write_text
from fade.prompts import words

COLUMNS = ("ua", "ira", "cra", "cra_target", "fid_judge")
TITLES = {"ua": "UA ↑", "ira": "IRA ↑", "cra": "CRA ↑", "cra_target": "CRA on target ↑", "fid_judge": "fid_judge ↓"}


def cell_text(metric: dict[str, Any] | None) -> str:
    """A proportion as "97.5 [86.8, 99.9]" in percent, a distance as it is, nothing as a dash."""
    if not metric or metric["value"] is None:
        return "–"
    if "low" not in metric:
        return f"{metric['value']:.2f}"
    return f"{100 * metric['value']:.1f} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, padded so that it reads in a terminal too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run_table(results: dict[str, Any]) -> str:
    """Base and unlearned model, one row each; then what the numbers rest on and what they cost."""
    header = ["model", *(TITLES[c] for c in COLUMNS)]
    rows = [[name, *(cell_text(results[key].get(c)) for c in COLUMNS)]
            for name, key in (("base", "base"), (f"without {words(results['target'])}", "metrics"))]  # fmt: skip
    judges = ", ".join(f"{d} {100 * a:.1f} %" for d, a in results["gates"]["judge_accuracy"].items())
    lines = [
        table(header, rows),
        f"{results['method']}: {results['target']} -> {results['surrogate']} ({results['domain']}); percent with 95 % "
        f"intervals, UA over {results['metrics']['ua']['n']} images; judges on held-out real images: {judges}",
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


def comparison(
    base: Path, run: Path, wanted: list[Answer], dataset: Dataset, request: Request, path: Path, side: int = 96
) -> None:
    """A picture: the target and two neighbours, before and after, side by side across the other domain (or the seeds).

    base, run: folders of images of the same answer set; a cell that the answer set leaves out stays white.
    """
    labels = dataset.domains[request.domain]
    others = [c for c in (request.surrogate, *labels) if c != request.target]
    other = next((d for d in dataset.domains if d != request.domain), None)
    seeds = list(dict.fromkeys(str(answer.seed) for answer in wanted))
    columns = dataset.domains[other][:10] if other else seeds[:10]
    first: dict[tuple[str, str], str] = {}
    for answer in wanted:
        key = (answer.cell[request.domain], answer.cell[other] if other else str(answer.seed))
        first.setdefault(key, answer.file)
    lines = [(concept, name, folder) for concept in dict.fromkeys([request.target, others[0], others[-1]])
             for name, folder in (("before", base), ("after", run))]  # fmt: skip
    left, top = 150, 22
    sheet = Image.new("RGB", (left + len(columns) * (side + 4), top + len(lines) * (side + 4) + 16), "white")
    draw = ImageDraw.Draw(sheet)
    for i, column in enumerate(columns):
        draw.text((left + i * (side + 4) + 4, 5), words(column) if other else f"seed {column}", fill="black")
    for j, (concept, name, folder) in enumerate(lines):
        y = top + j * (side + 4) + 8 * (j // 2)
        draw.text((6, y + side // 2 - 6), f"{words(concept)}, {name}", fill="black" if concept != request.target else "#b00020")
        for i, column in enumerate(columns):
            if (concept, column) in first:
                with Image.open(folder / first[concept, column]) as file:
                    sheet.paste(file.resize((side, side), Image.Resampling.LANCZOS), (left + i * (side + 4), y))
    with whole(path) as temporary:
        sheet.save(temporary, format="png")


def find(folders: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """All results below the folders, sorted. Raises BadInput where there is none."""
    paths = sorted({path for folder in folders for path in folder.rglob("results.json")})
    if not paths:
        raise BadInput(f"no results.json below {', '.join(map(str, folders))}; run something first")
    return [(path.parent, read_json(path)) for path in paths]


def setting(results: dict[str, Any]) -> str:
    """What a table groups runs by: dataset, protocol, method, kind of mask, kept fraction."""
    sparsity = results["sparsity"]
    p = "" if sparsity["p"] == 1 else f" p={sparsity['p']:g}"
    return f"{results['dataset']}/{results['protocol']} {results['method']} {sparsity['kind']}{p}"


def per_target(found: list[dict[str, Any]]) -> str:
    header = ["setting", "target", "surrogate", *(TITLES[c] for c in COLUMNS), "base IRA", "base CRA", "s"]
    rows = []
    for r in found:
        spent = r["cost"]["locate_s"] + r["cost"]["distil_s"]
        rows.append([setting(r), r["target"], r["surrogate"], *(cell_text(r["metrics"].get(c)) for c in COLUMNS),
                     cell_text(r["base"].get("ira")), cell_text(r["base"].get("cra")), f"{spent:.0f}"])  # fmt: skip
    return table(header, rows)


def spread(values: list[float]) -> str:
    """Mean over targets, with the range."""
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.0f}–{100 * max(values):.0f})"


def summary(found: list[dict[str, Any]]) -> str:
    """One row for each setting and domain: means over its targets, and the difference from the base model, in points."""
    header = [
        "setting",
        "domain",
        "targets",
        "UA",
        "IRA",
        "Δ IRA",
        "CRA",
        "Δ CRA",
        "CRA on target",
        "fid_judge",
        "s/target",
        "kB",
    ]
    rows = []
    groups = dict.fromkeys((setting(r), domain) for r in found for domain in (r["domain"], "all"))
    for name, domain in sorted(groups, key=lambda g: (g[0], g[1] == "all", g[1])):
        runs = [r for r in found if setting(r) == name and domain in ("all", r["domain"])]
        row = [name, domain, str(len(runs)), spread([r["metrics"]["ua"]["value"] for r in runs])]
        for key in ("ira", "cra"):
            both = [(r["metrics"][key]["value"], r["base"][key]["value"]) for r in runs if key in r["metrics"]]
            row += [spread([a for a, _ in both]), f"{100 * np.mean([a - b for a, b in both]):+.1f}"] if both else ["–", "–"]
        kept = [r["metrics"]["cra_target"]["value"] for r in runs if "cra_target" in r["metrics"]]
        fids = [r["metrics"]["fid_judge"]["value"] for r in runs if r["metrics"]["fid_judge"]["value"] is not None]
        row += [spread(kept) if kept else "–", f"{np.mean(fids):.2f}" if fids else "–"]
        row += [f"{np.mean([r['cost']['locate_s'] + r['cost']['distil_s'] for r in runs]):.0f}"]
        row += [f"{np.mean([r['cost']['adapter_bytes'] for r in runs]) / 1000:.0f}"]
        rows.append(row)
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables from the results.json files below some folders.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--status", action="store_true", help="only say where the sweeps in these folders stand")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file too")
    given = parser.parse_args()
    try:
        if given.status:
            from benchmarks.ledger import status  # which prints with this module's table

            print("\n\n".join(status(folder) for folder in given.folders))
            return
        found = [results for _, results in find(given.folders)]
    except BadInput as error:
        raise SystemExit(f"error: {error}") from None
    text = (
        f"{per_target(found)}\n\n{summary(found)}\n\nPercent; intervals are 95 %; in the second table the range over targets.\n"
    )
    print(text)
    if given.out:
        write_text(given.out, text)


if __name__ == "__main__":
    main()
