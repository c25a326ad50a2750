"""The report, the ledger and the subset: from the files of finished, broken and unfinished runs."""

from __future__ import annotations

import csv
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import needs_browser, opening
from command import ROOT
from finished import STYLES, finished, illustrated

from benchmarks.record.folder import Record
from benchmarks.record.results import Run, read
from benchmarks.record.sweep import expect, fail, ledger
from benchmarks.report.__main__ import main, status, write
from benchmarks.report.figures import accuracies, both
from benchmarks.report.page import write_page
from benchmarks.report.tables import Table, mean_of, summary
from benchmarks.studies.coverage import load
from fade.errors import BadInput
from fade.files import write_json
from fade.metrics import interval_text


def test_the_report_is_one_page_and_three_kinds_of_table(study: Path, tmp_path: Path) -> None:
    printed = write([study], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "report.html",
        "figures",
        *(f"{n}.{kind}" for n in ("targets", "summary") for kind in ("csv", "md", "tex")),
    }
    markup = re.sub(r"(?s)<script.*?</script>", "", html)  # what scripts ask for, the browser tells
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|\.\./|figures/)""", markup) and "http" not in markup
    for link in re.findall(r'href="(figures/[^"]*)"', markup):
        assert (tmp_path / "out" / unquote(link)).stat().st_size > 1000
    assert (tmp_path / "out" / "figures" / "ua-retention.pdf").read_bytes().startswith(b"%PDF")
    assert html.count('class="shot"') == 12 and "fade random p=0.1" in printed
    for section in (
        "What else moved",
        "What is wrong",
        "Over what was swept",
        "Published numbers",
        "Gates",
        "a processor, 2 cores",
    ):
        assert section in html
    assert html.count("– (40 images for 192 features)") == printed.count("– (40 images for 192 features)") == 3
    assert "1000 kid_judge" in printed and "1.23" in printed and "over images of the one adapter" in printed
    assert 'href="../runs/neon-neuron-0.1/"' in html and "SalUn" in html.split("Published numbers")[-1]
    with (tmp_path / "out" / "targets.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    assert r"fid\_judge" in (tmp_path / "out" / "summary.tex").read_text()
    assert r"50 \% \{x\} $\uparrow$ -- \textbackslash" in Table.of(["a"], [["50 % {x} ↑ – \\"]]).latex()


def test_what_a_report_says_of_two_runs_by_hand(tmp_path: Path) -> None:
    def run(domain: str, ua: float, ira: float) -> Run:
        own = {"ua": {"value": ua}, "ira": {"value": ira}, "cra": {"value": 0.5}}
        results = finished(tmp_path / domain, "neon" if domain == "style" else "cat")
        base = {"ira": {"value": 0.9}, "cra": {"value": 1.0}}
        return Run(tmp_path / domain, {**results, "metrics": own, "base": base})

    runs = [run("style", 0.89, 0.7), run("object", 0.91, 0.8)]
    interval = mean_of(runs, "ua")  # the deviation is 0.01 times the root of 2, Student's quantile of one degree 12.706
    assert interval == pytest.approx({"value": 0.9, "low": 0.9 - 0.12706, "high": 1.0}, abs=1e-5)
    assert {key: found["value"] for key, found in both(runs).items() if found} == pytest.approx(
        {"ua": 0.9, "kept": (0.7 + 0.8 + 0.5 + 0.5) / 4}
    )
    said = summary(runs)
    found = {row[1]: dict(zip(said.header, row, strict=True)) for row in said.texts}
    assert [found[d]["UA"] for d in ("style", "all")] == ["89.0 (89–89)", "90.0 (89–91)"]
    assert [found[d]["Δ IRA"] for d in ("style", "object", "all")] == ["-20.0", "-10.0", "-15.0"]
    table = accuracies(runs[:1], "style")
    shares = {
        style: [
            row["style_predicted"] == style
            for row in csv.DictReader((tmp_path / "style" / "predictions.csv").open())
            if row["style"] == style
        ]
        for style in STYLES
    }
    assert table["value"].tolist() == pytest.approx([100 * np.mean(shares[style]) for style in STYLES])
    assert table["row"].unique() == ["neon"] and table["own"].tolist() == [False, True, False]


def test_a_page_of_one_run_opens_with_the_answer_and_has_no_chart_of_one_point(study: Path, tmp_path: Path) -> None:
    run = next(run for run in read([study])[0] if run.target == "neon")
    run = Run(run.folder, {**run.results, "base": {}})  # as written, the base forgets as much
    drawn = write_page([run], [], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "<h1>Concept unlearning: neon removed by" in html and "settings</h1>" not in html
    first = html.split("<section")[1]
    assert "The answer" in first
    ua = run.metrics["ua"]
    assert f"Forgotten in {round(ua['value'] * ua['n'])} of {ua['n']} images that ask for it" in first
    assert f"{100 * ua['value']:.1f} %</strong> <span" in first and interval_text(ua, "ua") in first
    command = re.search(r"<code>(python run.py task=attack run=(.*) attack=light)</code>", first)
    assert command and Path(command[2]).resolve() == run.folder and "?:" not in first
    assert not [figure.name for figure in drawn if figure.name.endswith(("retention", "seconds"))]


@pytest.mark.usefixtures("unsaved")
def test_what_cannot_be_used_is_said_and_the_rest_is_made(study: Path, tmp_path: Path) -> None:
    (study / "half").mkdir()
    (study / "half" / "results.json").write_text('{"format": 1, "dataset": "mini')
    write_json(study / "old" / "results.json", {"format": 0})
    write_json(study / "foreign" / "results.json", [1, 2])
    write_json(study / "bare" / "results.json", {"format": 1, "dataset": "canvas"})
    other = finished(study / "official", "neon")
    write_json(study / "official" / "results.json", {**other, "protocol": "official"})
    printed = write([study], tmp_path / "out")
    assert printed.count("warning: ") == 4 and "format 0, this version reads 1" in printed
    html = (tmp_path / "out" / "report.html").read_text()
    assert "runs under different protocols (default, official)" in html and "old/results.json: left out" in html
    assert Run(study, other).setting != Run(study, {**other, "protocol": "official"}).setting
    with pytest.raises(BadInput, match="run something first"):
        read([tmp_path / "out"])
    with pytest.raises(BadInput, match="no folder"):
        read([tmp_path / "none"])


@pytest.mark.slow
@needs_browser
def test_five_hundred_runs_make_a_page_under_twelve_megabytes_that_opens_in_two_seconds(tmp_path: Path) -> None:
    """`pytest -rP` shows what both cost."""
    for k in range(500):
        finished(tmp_path / "runs" / f"{k:03}", ("neon", "cat")[k % 2], p=0.01 * (1 + k % 9), seed=k)
        illustrated(tmp_path / "runs" / f"{k:03}", tmp_path / "cache")
        shutil.copy(ROOT / "docs" / "comparison.png", tmp_path / "runs" / f"{k:03}" / "comparison.png")
    before = time.process_time()
    found, problems = read([tmp_path / "runs"])
    write_page(found, problems, tmp_path / "report.html")
    made = time.process_time() - before
    loaded, drawn = opening(tmp_path / "report.html", tmp_path / "profile")
    print(f"seconds of the processor: made in {made:.1f}, loaded in {loaded:.2f}, with all charts in {drawn:.2f}")
    assert drawn < 2
    assert len(found) == 500 and (tmp_path / "report.html").stat().st_size < 12_000_000
    assert len(list((tmp_path / "images").glob("*.js"))) == 500


def test_the_ledger(study: Path) -> None:
    expect(study, [["target=neon", "sparsity=neuron"], ["target=boat", "sparsity=neuron"]])
    for _ in range(2):  # what was asked for before is asked for still, and once
        expect(study, [["target=house", "sparsity=neuron"]])
    Record(study / "now", "a: 1", ["target=car"])
    dead = Record(study / "dead", "a: 2", ["target=tree"])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_json(dead.folder / "run.json", {"identity": "y", "overrides": [], "host": platform.node(), "pid": gone.pid})
    failing = Record(study / "failed", "a: 3", ["target=fish"])
    with pytest.raises(BadInput), failing.kept():
        raise BadInput("the disk is full")
    (study / "broken").mkdir()
    (study / "broken" / "run.json").write_text("{")
    states = {entry.name: entry.state for entry in ledger(study)}
    assert states["now"] == "running" and states["dead"] == "stopped" and states["failed"] == "failed"
    assert (
        states["broken"] == "failed"
        and states["target=house sparsity=neuron"] == "missing"
        and "target=neon" not in states
    )
    said = status(study)
    assert "12 finished, 1 running, 2 failed, 1 stopped, 2 missing" in said and "the disk is full" in said
    Record(study / "failed", "a: 3", ["target=fish"])  # taken up again: no longer failed
    assert next(e for e in ledger(study) if e.name == "failed").state == "running" and os.getpid()
    with pytest.raises(BadInput, match="no folder"):
        status(study / "none")


def test_a_run_that_died_without_a_folder_is_failed(tmp_path: Path) -> None:
    expect(tmp_path, [["target=noen"], ["target=neon"]])
    fail(tmp_path, ["target=noen"], "target 'noen' is no concept")
    assert [(e.state, e.note) for e in ledger(tmp_path)] == [("failed", "target 'noen' is no concept"), ("missing", "")]
    Record(tmp_path / "run", "a: 1", ["target=noen"])  # tried again, and this time it began
    assert [e.state for e in ledger(tmp_path)] == ["running", "missing"]
    next(tmp_path.glob("failed-*.json")).write_text("{")
    (tmp_path / "sweep.json").write_text('{"jobs": [["targ')
    assert [e.state for e in ledger(tmp_path)] == ["running", "failed"] and "broken list of runs" in status(tmp_path)
    expect(tmp_path, [["target=neon"]])
    assert [e.state for e in ledger(tmp_path)] == ["running", "missing"]


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_makes_no_dead_run_live(tmp_path: Path, jump: int) -> None:
    folder = Record(tmp_path / "run", "a: 1", []).folder
    write_json(folder / "run.json", {"identity": "x", "overrides": [], "host": "another", "pid": 1})
    assert ledger(tmp_path)[0].state == "running"
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() + jump, time.time() + jump))
    assert ledger(tmp_path)[0].state == "stopped"


def test_two_sweeps_with_one_name_count_a_run_once(study: Path, tmp_path: Path) -> None:
    for name, identity in (("neon-neuron-0.1", "a" * 12), ("glass-neuron-0.1", "b" * 12)):
        results = json.loads((study / name / "results.json").read_text())
        write_json(study / name / "results.json", {**results, "identity": identity})
    shutil.copytree(study, tmp_path / "elsewhere" / "runs")
    for path in list((tmp_path / "elsewhere").rglob("results.json")):
        if path.parent.name != "neon-neuron-0.1":
            shutil.rmtree(path.parent)
    found, problems = read([study, tmp_path / "elsewhere"])
    assert len(found) == 12 and len(problems) == 1 and "the same configuration as" in problems[0]


@pytest.mark.usefixtures("unsaved")
def test_broken_files_beside_the_results(study: Path, tmp_path: Path) -> None:
    picture = study / "neon-neuron-0.1" / "comparison.png"
    picture.write_bytes(picture.read_bytes()[:2000])
    (study / "cat-neuron-0.1" / "predictions.csv").write_text("file,style,obj")
    (study / "dog-neuron-0.1" / "predictions.csv").write_bytes(b"\xff\xfe\x00style")
    printed = write([study], tmp_path / "out")
    assert printed.count("left out, broken") == 3
    assert (tmp_path / "out" / "report.html").read_text().count('class="shot"') == 11


@pytest.mark.usefixtures("unsaved")
def test_finished_runs_of_the_grid_that_is_gone_are_read(tmp_path: Path) -> None:
    """As version 0.1 wrote them: the board has eight."""
    for path in (ROOT / "benchmarks" / "board").glob("minicanvas-*.json"):
        (tmp_path / path.stem).mkdir()
        shutil.copyfile(path, tmp_path / path.stem / "results.json")
    printed = write([tmp_path], tmp_path / "out")
    assert printed.count("| minicanvas/default fade ") and printed.count("| minicanvas/default uce ")
    runs, problems = read([tmp_path])
    assert len(runs) == 8 and not problems and {run.target for run in runs} == {"sketch", "bird"}


@pytest.mark.usefixtures("unsaved")
def test_answers_that_others_made_are_reported_without_costs_and_without_a_base(tmp_path: Path) -> None:
    scored = finished(tmp_path / "runs" / "a", "neon")
    del scored["sparsity"], scored["overrides"]
    write_json(
        tmp_path / "runs" / "a" / "results.json", {**scored, "method": "scored", "base": {}, "cost": {"judge_s": 1.0}}
    )
    printed = write([tmp_path / "runs"], tmp_path / "out")
    assert "| canvas/default scored " in printed and "| –" in printed and "warning" not in printed


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("metrics", "ua", {"value": "abc", "n": 3}),
        ("metrics", "ira", {"value": float("nan"), "low": 0.0, "high": 1.0, "n": 3}),
        ("metrics", "cra", {"value": 0.5, "low": float("-inf"), "high": 1.0, "n": 3}),
        ("base", "ua", {"value": None, "n": 3}),
        ("metrics", "kid_judge", {"value": [1], "n": 3}),
        ("cost", "distil_s", "long"),
    ],
)
def test_a_result_that_is_no_number_is_left_out_with_its_name(
    study: Path, tmp_path: Path, part: str, key: str, value: Any
) -> None:
    folder = study / "neon-neuron-0.1"
    results = json.loads((folder / "results.json").read_text())
    write_json(folder / "results.json", {**results, part: {**results[part], key: value}})
    found, problems = read([study])
    assert len(found) == 11 and len(problems) == 1
    assert re.search(
        rf"neon-neuron-0\.1/results\.json: left out, no usable result .*{part}\.{key}[a-z.]* is .*no finite",
        problems[0],
    )
    with pytest.raises(BadInput, match="no finite number"):
        read([folder])


def test_half_a_table_of_predictions_is_said_and_not_used(study: Path, tmp_path: Path) -> None:
    table = study / "neon-neuron-0.1" / "predictions.csv"
    whole = table.read_text()
    table.write_text("\n".join(whole.splitlines()[:20]) + "\n")  # whole lines, but not all
    assert read([study])[1] == [f"{table}: left out, broken"]
    with pytest.raises(BadInput, match=r"neon-neuron-0\.1/predictions\.csv is missing, cut short"):
        load([study])
    table.write_text(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cut short"):
        load([study])
    table.unlink()
    with pytest.raises(BadInput, match="is missing"):
        load([study])
    table.write_text(whole)
    results = json.loads((table.parent / "results.json").read_text())
    write_json(table.parent / "results.json", {**results, "target": "cubism"})
    assert read([study])[1] == [f"{table}: no image of the target 'cubism' of results.json"]
    with pytest.raises(BadInput, match="no image of the target 'cubism'"):
        load([study])


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("coverage", ("--draws", "0"), "draws is 0; it must be 1 or more"),
        ("coverage", ("--draws", "-1"), "draws is -1; it must be 1 or more"),
        ("attached", ("--counts", "0"), "counts is 0; it must be 1 or more"),
        ("attached", ("--repeats", "0"), "repeats is 0; it must be 1 or more"),
    ],
)
def test_a_number_that_makes_no_sense_is_one_line(
    study: Path, monkeypatch: pytest.MonkeyPatch, module: str, arguments: tuple[str, ...], line: str
) -> None:
    given = [str(study)] if module == "coverage" else []
    monkeypatch.setattr(sys, "argv", [module, *given, *arguments])
    with pytest.raises(SystemExit, match=f"^error: {line}"):
        importlib.import_module(f"benchmarks.studies.{module}").main()


def test_a_report_onto_a_full_disk_is_one_line(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.report", str(study), "--out", "/dev/full/report"])
    with pytest.raises(SystemExit, match=r"^error: cannot write .*$"):
        main()
