"""Methods beside each other: means over targets, paired differences, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.judge import write_rows
from benchmarks.methods import compared, differences, pictures, same_targets, six, tuning
from fade.errors import BadInput


def run(
    method: str, target: str, ua: float, seed: int = 0, domain: str = "style", overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    metrics = {
        "ua": {"value": ua, "n": 24},
        "ira": {"value": 1.0},
        "cra": {"value": 0.9},
        "cra_target": {"value": 1.0},
        "fid_judge": {"value": 2.0},
        "kid_judge": {"value": 0.004},
    }
    cost = {"locate_s": 1.0, "distil_s": 2.0, "peak_memory_mb": 900, "teacher_passes": 3, "adapter_bytes": 4000}
    said = [f"target={target}", f"method={method}", *overrides]
    return {"method": method, "variant": "", "target": target, "domain": domain, "metrics": metrics, "cost": cost,
            "seeds": {"train": seed}, "sparsity": {"kind": "dense"}, "overrides": said}  # fmt: skip


def test_a_target_with_more_seeds_weighs_no_more() -> None:
    runs = [run("fade", "neon", 1.0, seed) for seed in range(3)] + [run("fade", "sketch", 0.5)]
    assert six(runs, ["style"])["style ua"] == pytest.approx(75.0)
    header, rows = compared([*runs, *[run("uce", t, 1.0) for t in ("neon", "sketch")]])
    assert [row[0] for row in rows] == ["uce", "fade"] and rows[1][header.index("style ua")] == "75.0"


def test_paired_differences_and_their_corrected_level() -> None:
    targets = [f"t{k}" for k in range(8)]
    runs = [run("fade", t, 0.6) for t in targets]
    runs += [run("uce", t, 0.9 + 0.01 * (k % 2)) for k, t in enumerate(targets)] + [run("ca", t, 0.6) for t in targets[:2]]
    runs += [run("esd", t, 0.6 + 0.3 * (k % 2)) for k, t in enumerate(targets)]
    header, rows = differences(runs, "fade")
    assert "98.33 %" in header[2]  # three comparisons
    by_name = {row[0]: row for row in rows}
    assert by_name["uce"][1:] == ["+10.17", "[+9.97, +10.36]", "8", "8", "better"]
    assert by_name["esd"][5] == "" and by_name["ca"][2] == "too few targets"
    with pytest.raises(BadInput, match="no run of 'salun'"):
        differences(runs, "salun")


def test_seeds_of_one_target_are_no_independent_pairs() -> None:
    targets = [f"t{k}" for k in range(4)]
    once = [run("fade", t, 0.6) for t in targets] + [run("uce", t, 0.6 + 0.1 * k) for k, t in enumerate(targets)]
    thrice = [{**r, "seeds": {"train": seed}} for r in once for seed in range(3)]
    (_, [one]), (_, [three]) = differences(once, "fade"), differences(thrice, "fade")
    assert one[:4] == three[:4] and (one[4], three[4]) == ("4", "12")


def test_other_targets_are_no_comparison() -> None:
    with pytest.raises(BadInput, match="uce lacks the targets sketch"):
        same_targets([run("fade", "neon", 1.0), run("fade", "sketch", 1.0), run("uce", "neon", 1.0)])


def test_the_best_setting_comes_first(tmp_path: Path) -> None:
    runs = [
        run("ca", t, ua, overrides=(f"optimizer.build.lr={lr}",)) for lr, ua in ((1e-3, 0.9), (3e-3, 0.2)) for t in ("a", "b")
    ]
    runs.append(run("ca", "a", 1.0, overrides=("optimizer.build.lr=1",)))  # one target only: no candidate
    _, rows = tuning(runs)
    assert [row[1] for row in rows] == ["optimizer.build.lr=0.001", "optimizer.build.lr=0.003"]


def test_the_picture_of_what_each_method_leaves(tmp_path: Path) -> None:
    rows = [{"file": f"{style}_{kind}.png", "prompt": "", "seed": 1, "style": style, "object": kind, "style_predicted": style,
             "object_predicted": kind} for style in ("neon", "photo") for kind in ("cat", "bird")]  # fmt: skip
    found = []
    for method, seed, colour in (
        ("uce", 1, "green"),
        ("fade", 0, "blue"),
        ("uce", 0, "red"),
    ):  # of two seeds the lower is shown
        folder = tmp_path / f"{method}{seed}"
        for images in (folder / "images", tmp_path / "base"):
            images.mkdir(parents=True, exist_ok=True)
            for row in rows:
                Image.new("RGB", (8, 8), colour).save(images / str(row["file"]))
        write_rows(folder / "predictions.csv", rows)
        about = {"gates": {"judge_accuracy": {"style": 1.0, "object": 1.0}}, "base_answers": str(tmp_path / "base")}
        found.append((folder, {**run(method, "neon", 1.0, seed), **about}))
    assert pictures(found, tmp_path) == []
    with Image.open(tmp_path / "neon.png") as sheet:
        assert sheet.size == (130 + 2 * 68, 22 + 3 * 68)  # two objects; base and two methods
        assert sheet.getpixel((200, 22 + 68 + 30)) == (0, 0, 255) and sheet.getpixel((200, 22 + 2 * 68 + 30)) == (255, 0, 0)
    shutil.rmtree(tmp_path / "base")
    assert "no picture of neon" in pictures(found, tmp_path)[0]
