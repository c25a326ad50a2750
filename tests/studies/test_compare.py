"""Methods beside each other: means over targets, paired differences, tuning, and what is refused."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import ROOT
from PIL import Image, ImageFont
from scipy.stats import permutation_test, t, ttest_1samp

from benchmarks.measure.predictions import write_rows
from benchmarks.record.results import Run
from benchmarks.report.decided import decided, holm, sign_flip, stratified, student, told_apart
from benchmarks.report.pictures import grid
from benchmarks.studies.compare import (
    DEVELOPMENT,
    briefly,
    compared,
    differences,
    edge,
    pictures,
    same_targets,
    six,
    tuning,
    write,
)
from fade.errors import BadInput
from fade.files import write_json
from fade.intervals import share_of


def run(
    method: str, target: str, ua: float, seed: int = 0, domain: str = "style", overrides: tuple[str, ...] = ()
) -> Run:
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
    base = {**metrics, "ua": {"value": 0.0, "n": 24}, "cra": {"value": 1.0}}
    results = {
        "method": method,
        "variant": "",
        "target": target,
        "domain": domain,
        "metrics": metrics,
        "cost": cost,
        "base": base,
        "dataset": "canvas",
        "protocol": "default",
        "seeds": {"train": seed, "images": [1, 2]},
        "sparsity": {"kind": "dense", "p": 1.0},
        "overrides": said,
    }
    return Run(Path(), results)


def changed(run: Run, **other: Any) -> Run:
    return Run(run.folder, {**run.results, **other})


def test_a_target_with_more_seeds_weighs_no_more() -> None:
    runs = [run("fade", "block_print", 1.0, seed) for seed in range(3)] + [run("fade", "sketch", 0.5)]
    assert six(runs, ["style"])["style ua"] == pytest.approx(75.0)
    header, rows = compared([*runs, *[run("uce", t, 1.0) for t in ("block_print", "sketch")]])
    assert [row[0] for row in rows] == ["uce", "fade", "base (nothing done)"] and rows[1][
        header.index("style ua")
    ] == "75.0"


def test_doing_nothing_has_a_row_and_ua_stands_apart_from_what_is_kept() -> None:
    runs = [run("fade", "sketch", 0.5), run("fade", "bird", 1.0, domain="object")]
    header, (fade, base) = compared(runs)
    assert [fade[header.index(name)] for name in ("UA", "retention", "mean of six")] == ["75.0", "95.0", "88.33"]
    assert [base[header.index(name)] for name in ("UA", "retention", "mean of six")] == ["0.0", "100.0", "66.67"]
    assert base[header.index("kB")] == "–" and fade[header.index("kB")] == "4" and len(base) == len(header)
    assert len(compared([changed(runs[0], base={}), runs[1]])[1]) == 1  # answers that others made may have no base


def test_a_model_that_never_saw_the_targets_has_a_row_and_attacks_a_column(tmp_path: Path) -> None:
    runs = [run("fade", "sketch", 0.5), run("fade", "bird", 1.0, domain="object"), run("uce", "sketch", 0.9)]
    runs.append(run("uce", "bird", 1.0, domain="object"))
    seen = {"ua": {"value": 0.875, "n": 8}, "ira": {"value": 1.0}, "cra": {"value": 0.75}}
    told = [changed(one, oracle=seen) if one.target == "sketch" else one for one in runs]
    told = [Run(tmp_path / f"{one.method}-{one.target}", one.results) for one in told]
    for name, hits, level in (("closed", 16, "T2"), ("relearn_5", 11, "T3"), ("scale", 16, "T4")):
        unseen = share_of(10 if name == "relearn_5" else 0, 16)
        row = {"attack": name, "level": level, "success": share_of(hits, 16), "off": share_of(0, 16), "oracle": unseen}
        for method in ("uce", "fade") if name == "relearn_5" else ("uce",):
            write_json(tmp_path / f"{method}-sketch" / "attacks" / f"{name}.json", row)
    header, rows = compared(told)
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    never = found["never saw it (1 of 2 targets)"]
    assert [never[name] for name in ("style ua", "style ira", "style cra", "UA")] == ["87.5", "100.0", "75.0", "87.5"]
    assert never["largest decided excess"] == never["kB"] == "–" and never["CRA on target"] == "–"
    column = {name: row["largest decided excess"] for name, row in found.items()}
    assert column["uce"] == "100.0 (closed, sketch; of 2)" and column["fade"] == "none of 1"
    # fade's six: 50, 100, 90 of the style, 100, 100, 90 of the object; 6 / (1/50 + 3/100 + 2/90)
    assert found["fade"]["harmonic mean of six"] == "83.08" and found["fade"]["mean of six"] == "88.33"
    assert found["base (nothing done)"]["harmonic mean of six"] == "0.00"  # nothing is gone there
    bare = {row[0]: dict(zip(header, row, strict=True)) for row in compared(runs)[1]}
    assert all(row["largest decided excess"] == "–" for row in bare.values()) and "never saw it" not in str(bare)


def test_holm_and_the_sign_flip_test_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []
    gaps = np.array([1.0, 2.0, -0.5])  # sums of all signs: 3.5, 2.5, 1.5, 0.5 and their opposites; ours is 2.5
    assert sign_flip(gaps) == 4 / 8 and sign_flip(np.ones(6)) == 2 / 64 and sign_flip(np.zeros(4)) == 1
    ours = np.random.default_rng(1).normal(0.4, 1, 9)
    theirs = permutation_test(
        (ours, np.zeros(9)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip(ours) == pytest.approx(theirs.pvalue)
    many = np.random.default_rng(2).normal(0.3, 1, 15)  # random signs, near to all of them
    signs = np.array(list(product((1, -1), repeat=15)))
    assert sign_flip(many) == pytest.approx(np.mean(np.abs(signs @ many) >= many.sum()), abs=0.01)


def test_domains_weigh_alike_in_a_difference() -> None:
    mean, parts = stratified({("style", "a"): 1.0, ("style", "b"): 3.0, ("object", "c"): -4.0})
    assert mean == -1.0 and parts.tolist() == [0.25, 0.75, -2.0]


def test_student_by_hand_and_over_two_domains() -> None:
    style = np.array([1.0, 2.0, 4.0, 3.0])
    assert student({("style", str(k)): v for k, v in enumerate(style)}) == pytest.approx(ttest_1samp(style, 0).pvalue)
    both = {("style", "a"): 1.0, ("style", "b"): 3.0, ("object", "c"): 0.0, ("object", "d"): 2.0}
    # mean 1.5; the error is sqrt(2/2 + 2/2) / 2, with two degrees of freedom
    assert student(both) == pytest.approx(2 * t.sf(1.5 / (np.sqrt(2) / 2), 2))
    assert student({("style", "a"): 5.0, ("object", "c"): 5.0}) == 1  # one target a domain says nothing
    assert (
        student({("style", "a"): 5.0, ("style", "b"): 5.0}) == 0
        and student({("style", "a"): 0.0, ("style", "b"): 0.0}) == 1
    )


def test_what_is_decided_is_counted_for_each_number_that_all_runs_have() -> None:
    def asked(method: str, place: int, near: float) -> Run:
        made = run(method, f"t{place}", 1.0)
        return changed(made, metrics={**made.metrics, "ira_near": {"value": near + 0.01 * place}})

    runs = [asked(method, k, near) for method, near in (("fade", 0.5), ("uce", 0.9)) for k in range(7)]
    runs += [asked("ca", k, 0.5 + 0.02 * (-1) ** k) for k in range(7)]
    header, (mean, near) = told_apart(runs)
    assert mean == ["mean of UA, IRA, CRA", "3", "0", "0", "0"]
    assert near[1:] == ["3", "2", "2", "2"] and len(header) == len(near)
    assert len(told_apart([*runs[:-1], run("ca", "t6", 1.0)])[1]) == 1  # one run was not asked


def test_paired_differences_by_domain() -> None:
    places = [(f"s{k}", "style") for k in range(5)] + [(f"o{k}", "object") for k in range(3)]
    runs = [run("fade", t, 0.6, domain=d) for t, d in places]
    runs += [run("uce", t, 0.9 if d == "style" else 0.3, domain=d) for t, d in places]
    runs += [run("ca", t, 0.9 + 0.01 * k, domain=d) for k, (t, d) in enumerate(places)]
    header, rows = differences(runs, "fade")
    found = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}
    assert len(found) == 6 and header[0] == "against fade"
    assert found["uce", "style"]["difference"] == "+10.00" and found["uce", "object"]["difference"] == "-10.00"
    both = found["uce", "all"]
    assert (both["difference"], both["Δ UA"], both["Δ retention"], both["n"]) == ("+0.00", "+0.00", "+0.00", "8")
    assert both["over targets"] == "-10.0 to +10.0" and both[""] == ""
    assert found["ca", "all"]["p (Holm)"] == f"{2 * 2 / 2**8:.3f}" and found["ca", "all"][""] == "better"
    assert found["ca", "object"]["p (Holm)"] == f"{min(1, 2 * 2 / 2**3):.3f}"  # three targets decide nothing
    assert decided(runs).startswith(
        "Of all 3 pairs of methods 2 are decided at 5 % (sign-flip test over 8 targets, whose smallest p is 0.0078"
    )
    with pytest.raises(BadInput, match="no run of 'salun'; choose one of fade; uce; ca"):
        differences(runs, "salun")


def test_a_method_is_found_by_its_name_where_that_is_one_kind_of_run() -> None:
    runs = [run("fade", "a", 0.5, overrides=("lr=1",)), run("uce", "a", 0.6)]
    assert differences(runs, "fade")[0][0] == differences(runs, "fade lr=1")[0][0] == "against fade lr=1"
    with pytest.raises(BadInput, match=r"several kinds of runs of 'fade'; choose one of fade lr=1; uce; fade lr=2"):
        differences([*runs, run("fade", "a", 0.5, overrides=("lr=2",))], "fade")


def test_seeds_of_one_target_are_no_independent_pairs() -> None:
    targets = [f"t{k}" for k in range(4)]
    once = [run("fade", t, 0.6) for t in targets] + [run("uce", t, 0.6 + 0.1 * k) for k, t in enumerate(targets)]
    thrice = [changed(r, seeds={"train": seed}) for r in once for seed in range(3)]
    assert differences(once, "fade") == differences(thrice, "fade")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([run("uce", "a", 1.0)], "uce lacks the targets b; finish"),
        (
            [run("uce", "a", 1.0), run("uce", "b", 1.0), run("uce", "b", 1.0, seed=1)],
            "fade lacks b seed 1, which others have",
        ),
        ([run("uce", t, 1.0, seed=1) for t in "ab"], "fade lacks a seed 1, b seed 1"),
        (
            [changed(run("uce", t, 1.0), protocol="official") for t in "ab"],
            "different datasets, protocols or image seeds",
        ),
        (
            [changed(run("uce", t, 1.0), seeds={"train": 0, "images": [1]}) for t in "ab"],
            "different datasets, protocols or image seeds",
        ),
        (
            [changed(run("fade", t, 1.0, seed=1), sparsity={"kind": "random", "p": 0.1}) for t in "ab"],
            r"fade differ in what may change \(dense p=1, random p=0.1\)",
        ),
        (
            [run("uce", t, 1.0) for t in ("a", "b", "palm_tree", "block_print")],
            "settings were chosen on block_print, palm_tree, which no table may report",
        ),
    ],
)
def test_what_is_no_comparison_is_refused(others: list[Run], message: str) -> None:
    runs = [run("fade", t, 1.0) for t in "ab"]
    same_targets(runs)
    with pytest.raises(BadInput, match=message):
        same_targets([*runs, *others])


def tried(
    method: str, key: str, means: dict[str, float], targets: tuple[str, ...] = ("block_print", "palm_tree")
) -> list[Run]:
    return [run(method, t, ua, overrides=(f"{key}={value}",)) for value, ua in means.items() for t in targets]


def test_the_best_setting_comes_first_and_its_place_in_the_grid_is_said() -> None:
    runs = tried("ca", "lr", {"0.003": 0.2, "0.001": 0.9, "0.0003": 0.1}) + tried(
        "ca", "lr", {"1": 1.0}, ("block_print",)
    )
    runs += tried("esd", "lr", {"0.0003": 0.2, "0.001": 0.9}) + tried(
        "spm", "lr", {"0.001": 0.9, "0.002": 0.2, "0.004": 0.1}
    )
    runs += tried("uce", "method.ridge", {"0.05": 1.0, "0.5": 1.0, "5": 1.0, "50": 0.9})  # a plateau: its middle
    runs += tried("fmn", "lr", {"0.001": 0.5}) + tried(
        "ca", "lr", {"0.001": 0.0}, ("sketch",)
    )  # one value; no development target
    runs += [run("seot", t, 0.5) for t in ("block_print", "palm_tree")]
    (_, rows), lines = tuning(runs)
    assert [row[1] for row in rows if row[0] == "ca"] == ["lr=0.001", "lr=0.003", "lr=0.0003"]
    chosen = {row[0]: row[1] for row in rows if row[-1] == "chosen"}
    assert chosen == {
        "ca": "lr=0.001",
        "esd": "lr=0.001",
        "spm": "lr=0.001",
        "uce": "method.ridge=0.5",
        "fmn": "lr=0.001",
        "seot": "",
    }
    said = dict(line.split(": ", 1) for line in lines)
    assert said["ca"] == said["uce"] == "the best lies inside what was tried"
    command = "the best lies at the EDGE in lr; go on with: python run.py -m +sweeps=tuning method="
    assert said["esd"] == f"{command}esd lr=0.0033" and said["spm"] == f"{command}spm lr=0.0005"
    assert said["fmn"] == f"{command}fmn lr=0.00033,0.003" and said["seot"].startswith("nothing was varied")
    counts = (("pairs.batch", "1"), ("pairs.retain", "400"), ("method.terms.retain", "3"))
    assert edge("fade", counts, [counts, (("pairs.batch", "2"), *counts[1:])]).endswith(
        "method=fade pairs.batch=1 pairs.retain=133,1200 method.terms.retain=1,9"
    )
    with pytest.raises(BadInput, match="no run of a development target"):
        tuning(tried("ca", "lr", {"1": 1.0}, ("sketch",)))


def test_what_every_run_of_several_methods_was_given_is_no_setting() -> None:
    given = [
        run(method, t, ua, overrides=("pairs.seen=0.5", f"lr={lr}"))
        for method in ("ca", "esd")
        for lr, ua in (("1", 0.9), ("2", 0.1))
        for t in ("block_print", "palm_tree")
    ]
    (_, rows), lines = tuning(given)
    assert {row[1] for row in rows} == {"lr=1", "lr=2"} and all("seen" not in line for line in lines)
    (_, rows), _ = tuning(given[:4])
    assert {row[1] for row in rows} == {"lr=1 pairs.seen=0.5", "lr=2 pairs.seen=0.5"}  # of one method: it may be one


def test_a_table_says_what_tells_methods_apart() -> None:
    labels = ["fade pairs.seen=0.5", "uce method.ridge=5 pairs.seen=0.5"]
    header, rows = briefly(
        labels, ["against fade pairs.seen=0.5", "n"], [[labels[1], "8"], ["base (nothing done)", "8"]]
    )
    assert header == ["against fade", "n"] and rows == [["uce method.ridge=5", "8"], ["base (nothing done)", "8"]]
    assert briefly(labels, ["method"], [[labels[0]]]) == (["method"], [["fade"]])


def test_the_development_targets_are_those_of_the_sweep() -> None:
    sweep = yaml.safe_load((ROOT / "sweeps" / "tuning.yaml").read_text())
    assert tuple(sweep["hydra"]["sweeper"]["params"]["target"].split(",")) == DEVELOPMENT["canvas"]


def test_the_whole_comparison_of_folders(tmp_path: Path) -> None:
    for method, ua in (("fade", 0.9), ("uce", 1.0)):
        for target in ("fish", "sketch"):
            results = {
                **run(method, target, ua).results,
                "format": 1,
                "surrogate": "photo",
                "landed": {},
                "identity": method + target,
                "gates": {"judge_accuracy": {"style": 1.0}, "images": 9},
            }
            write_json(tmp_path / f"{method}-{target}" / "results.json", results)
    write_json(tmp_path / "scored" / "results.json", {**results, "identity": "s", "cost": {"judge_s": 1.0}})
    text = write([tmp_path], "fade", tmp_path / "out", False)
    assert "scored: left out, it says no seed or no cost of training" in text and "base (nothing done)" in text
    assert "Of all 1 pairs of methods 0 are decided" in text
    assert {f.name for f in (tmp_path / "out").iterdir()} >= {"methods.csv", "methods.md", "differences.tex"}


def test_the_picture_of_what_each_method_leaves(tmp_path: Path) -> None:
    rows = [
        {
            "file": f"{style}_{kind}.png",
            "prompt": "",
            "seed": 1,
            "style": style,
            "object": kind,
            "style_predicted": style,
            "object_predicted": kind,
        }
        for style in ("block_print", "photo")
        for kind in ("palm_tree", "bird")
    ]
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
        about = {
            "gates": {"judge_accuracy": {"style": 1.0, "object": 1.0}, "images": 4},
            "base_answers": str(tmp_path / "base"),
        }
        found.append(Run(folder, {**run(method, "block_print", 1.0, seed).results, **about}))
    assert pictures(found, tmp_path) == []
    with Image.open(tmp_path / "block_print.png") as sheet:
        assert sheet.height == 34 + 3 * 68  # base and two methods
        left = sheet.width - 2 * 68  # two objects
        assert [sheet.getpixel((left + 100, 34 + row * 68 + 30)) for row in (1, 2)] == [(0, 0, 255), (255, 0, 0)]
    whole = ImageFont.load_default().getlength(longest := "a method (as its authors released it, one level)")
    grid(["palm_tree"], [(longest, [tmp_path / "base" / "photo_bird.png"])], tmp_path / "long.png")
    with Image.open(tmp_path / "long.png") as sheet:  # no image stands on a name
        assert sheet.width - 68 > 6 + whole
    shutil.rmtree(tmp_path / "base")
    assert "no picture of block_print" in pictures(found, tmp_path)[0]
