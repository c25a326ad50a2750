"""What the page opens with, in words; and the images that its numbers open."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from finished import STYLES, finished, illustrated

from benchmarks.measure.predictions import read_rows
from benchmarks.record.results import Run, read, short
from benchmarks.report import images
from benchmarks.report.answer import answers, brought, lines, verdicts
from benchmarks.report.images import album, opens, pair, write_images
from fade.files import write_json
from fade.intervals import share_of


def changed(run: Run, **values: Any) -> Run:
    return Run(run.folder, {**run.results, **values})


def made(folder: Path, target: str, **metrics: dict[str, Any]) -> Run:
    results = finished(folder, target)
    return Run(folder, {**results, "metrics": {**results["metrics"], **metrics}, "seeds": {"train": 0, "images": [1]}})


def said(run: Run) -> dict[str, str]:
    (found,) = answers([run], lambda run: "there/", lambda run, key: None)
    return dict(found.lines)


def test_is_it_gone_in_words(tmp_path: Path) -> None:
    def ua(share: float) -> dict[str, Any]:
        return {"value": share, "low": 0.0, "high": 1.0, "n": 40}

    run = changed(
        made(tmp_path, "neon", ua=ua(0.9)), landed={"neon": 4, "photo": 30, "glass": 6}, base={"ua": ua(0.05)}
    )
    assert said(run)["Is it gone?"] == (
        "Forgotten in 36 of 40 images that ask for it; 2 of 40 before. They are read as: photo 30, glass 6."
    )
    same = changed(run, metrics={**run.metrics, "ua": ua(0.05)})
    assert said(same)["Is it gone?"] == "No: 38 of 40 images that ask for it are still read as neon."
    bare = changed(run, metrics={"ua": {"value": 0.5}}, base={})
    assert said(bare) == {
        "Is it gone?": "The judge reads something else in 50.0 % of the images that ask for it.",
        "Can it be brought back?": "Nobody tried yet. This does:",
    }


def test_every_number_of_a_run_has_a_percent_sign_and_its_interval(tmp_path: Path) -> None:
    run = made(tmp_path, "neon")
    (found,) = answers([run], lambda run: "there/", lambda run, key: (key, key))
    assert len(found.numbers) == 4 and [n.shows for n in found.numbers] == [(k, k) for k in images.SHOWN]
    for number, key in zip(found.numbers, images.SHOWN, strict=True):
        metric = run.metrics[key]
        assert number.value == f"{100 * metric['value']:.1f} %" and number.beside.endswith(" %")
        assert number.interval == f"[{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"
    assert "in its style" not in str(found) and "objects, read right (CRA)" in found.numbers[2].says


def test_an_attack_that_was_run_is_told_and_one_that_was_not_has_its_command(tmp_path: Path) -> None:
    run = made(tmp_path / "a run", "neon")
    (found,) = answers([run], lambda run: "there/", lambda run, key: None)
    assert re.fullmatch(r"python run\.py task=attack run='.*/a run' attack=light", found.command)
    give(run, "none", 16, 0, "T0")  # is no attack, and neither is what stands at T4
    give(run, "scale", 16, 0, "T4")
    give(run, "closed", 8, 1)
    give(run, "relearn_5", 13, 10, "T3")  # the most images, of which a model that never saw it gives nearly as many
    run = Run(run.folder, run.results)
    (found,) = answers([run], lambda run: "there/", lambda run, key: None)
    number = found.numbers[-1]
    assert (found.command, number.says, number.value) == ("", "brought back, by closed", "50.0 %")
    assert number.beside == "a model that never saw it: 6.2 %"
    assert dict(found.lines)["Can it be brought back?"] == (
        "Yes: neon in 50.0 % [28.0, 72.0] of the images, by closed; a model that never saw it: 6.2 % [1.1, 28.3]; the "
        "difference: +43.8 [12.6, 66.3] points, of 2 attacks."
    )
    assert brought([run, made(tmp_path / "b", "cat")]).endswith("of 2 attacks on 1 of 2 runs; decided on 1 of them.")


def test_of_equal_attacks_that_on_what_was_gone_is_told_and_of_several_settings_which(tmp_path: Path) -> None:
    ua = {"low": 0.0, "high": 1.0, "n": 16}
    runs = [made(tmp_path / f"{share}", "neon", ua={"value": share, **ua}) for share in (0.0, 1.0)]
    runs = [changed(run, method=name) for run, name in zip(runs, ("fmn", "speed"), strict=True)]
    for run in runs:
        give(run, "closed", 16, 0)
    assert brought(runs).startswith("Yes: neon, removed by speed, in 100.0 %")


def give(run: Run, name: str, hits: int, unseen: int | None, level: str = "T2") -> None:
    """Write an attack beside a run: of 16 images `hits` are read as the target, and `unseen` on the oracle."""
    row = {"attack": name, "level": level, "success": share_of(hits, 16), "off": share_of(0, 16)}
    oracle = None if unseen is None else share_of(unseen, 16)
    write_json(run.folder / "attacks" / f"{name}.json", {**row, "oracle": oracle})


@pytest.mark.parametrize(
    ("hits", "unseen", "begins", "says"),
    [
        (
            8,
            10,
            "Undecided: nothing that is told from what a model that never saw it gives. The most: neon in 50",
            "undecided",
        ),
        (0, 10, "Nothing over what a model that never saw it gives. The most: neon in 0.0 %", "less than its control"),
        (8, None, "Drawn again, with no model that never saw it to compare: neon in 50.0 % [28.0, 72.0]", ""),
    ],
)
def test_what_a_model_that_never_saw_it_gives_as_well_is_not_brought_back(
    tmp_path: Path, hits: int, unseen: int | None, begins: str, says: str
) -> None:
    run = made(tmp_path, "neon")
    give(run, "relearn_5", hits, unseen)
    (found,) = answers([run], lambda run: "there/", lambda run, key: None)
    assert dict(found.lines)["Can it be brought back?"].startswith(begins)
    number = f"read as it under relearn_5, {says}" if says else "drawn again, by relearn_5"
    assert found.numbers[-1].says == number


def test_of_many_targets_each_is_a_line_and_of_few_each_is_shown(tmp_path: Path) -> None:
    runs = [made(tmp_path / f"{target}-{k}", target) for k in range(2) for target in ("neon", "glass", "cat")]
    assert lines(runs[:3]) is None and verdicts(runs[:3]) == [] and answers(runs, str, lambda r, k: None) == []  # type: ignore[arg-type]
    found = lines(runs)
    assert found is not None and [row[0].text for row in found.rows] == ["cat", "glass", "neon"]
    neon = [run.metrics["ua"] for run in runs if run.target == "neon"]
    gone = sum(round(ua["value"] * ua["n"]) for ua in neon)
    assert found.rows[2][3].text == f"{gone} of {sum(ua['n'] for ua in neon)}" and found.rows[2][2].text == "2"
    assert [question for question, _ in verdicts(runs)] == [
        "Is it gone?",
        "What else moved?",
        "Can it be brought back?",
    ]


def test_of_several_settings_the_best_and_the_worst_are_named(tmp_path: Path) -> None:
    def ua(share: float) -> dict[str, Any]:
        return {"value": share, "n": 40}

    shares = {"fade": 1.0, "uce": 0.5, "esd": 0.75}
    runs = [
        changed(made(tmp_path / f"{m}-{t}", t, ua=ua(share)), method=m)
        for m, share in shares.items()
        for t in ("neon", "cat")
    ]
    assert verdicts(runs)[0][1] == (
        "Forgotten in 180 of 240 images that ask for it, in 6 runs. Most by fade (100.0 %), least by uce (50.0 %)."
    )
    assert lines(runs) is None


def test_names_are_short_without_what_all_of_them_have() -> None:
    assert short(["a/b fade p=1", "a/b fade p=2"]) == ["p=1", "p=2"]
    assert short(["a fade", "a fade p=2"]) == ["a fade", "a fade p=2"] and short(["a b"]) == ["a b"]


def test_the_pair_is_the_first_image_of_the_target(tmp_path: Path) -> None:
    finished(tmp_path / "runs" / "a", "neon")
    illustrated(tmp_path / "runs" / "a", tmp_path / "cache")
    (run,), _ = read([tmp_path / "runs"])
    row = next(row for row in run.predictions if row["style"] == "neon")
    found = pair(run)
    assert found and (found.read_before, found.read_after) == ("neon", row["style_predicted"])
    assert found.seed == row["seed"] and found.before != found.after
    (tmp_path / "cache" / "base" / "images" / row["file"]).unlink()
    assert pair(run) is None


def test_runs_share_the_base_and_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    for name, target in (("a", "neon"), ("b", "cat")):
        finished(tmp_path / "runs" / name, target)
        illustrated(tmp_path / "runs" / name, tmp_path / "cache")
    runs, _ = read([tmp_path / "runs"])
    names, problems = write_images(runs, tmp_path / "images")
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images").glob("*.webp")}
    assert len(names) == 2 and problems == [] and len(made) == 3
    assert sum(name.startswith("base-") for name in made) == 1
    write_images(runs, tmp_path / "images")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images").glob("*.webp")} == made


def test_of_too_many_images_all_of_the_target_and_all_wrong_ones_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "runs" / "a", "neon")
    illustrated(tmp_path / "runs" / "a", tmp_path / "cache")
    (run,), _ = read([tmp_path / "runs"])
    wrong = [r for r in run.predictions if any(r[d] != r[f"{d}_predicted"] for d in ("style", "object"))]
    wanted = {r["file"] for r in run.predictions if r["style"] == "neon"} | {r["file"] for r in wrong}
    monkeypatch.setattr(images, "MOST", len(wanted) + 3)
    found = album(run)
    assert found and wanted < {row["file"] for row in found.chosen} and len(found.chosen) <= len(wanted) + 3
    written, _ = write_images([run], tmp_path / "images")
    text = (tmp_path / "images" / f"{written[run.folder]}.js").read_text()
    told = json.loads(re.sub(r"^imagesOf\(\"\w+\", |\);\n$", "", text))
    assert told["images"] == 45 and len(told["rows"]) == len(found.chosen) and told["keys"][0] == STYLES


def test_a_broken_image_is_said_and_a_run_without_images_opens_nothing(tmp_path: Path) -> None:
    for name, target in (("a", "neon"), ("b", "cat")):
        finished(tmp_path / "runs" / name, target)
    illustrated(tmp_path / "runs" / "a", tmp_path / "cache")
    file = read_rows(tmp_path / "runs" / "a" / "predictions.csv")[7]["file"]
    (tmp_path / "runs" / "a" / "images" / file).write_bytes(b"no picture")
    runs, _ = read([tmp_path / "runs"])
    names, problems = write_images(runs, tmp_path / "images")
    assert names == {} and len(problems) == 1 and "runs/a/images: left out, broken" in problems[0]
    assert opens(runs[0], "ua", names) is None and opens(runs[0], "ua", {runs[0].folder: "x"}) == ("x", "ua")
    other = changed(runs[0], gates={**runs[0].results["gates"], "reading": "authors"})
    assert opens(other, "ira", {runs[0].folder: "x"}) is None  # counts other cells than the page does
