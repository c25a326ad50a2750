"""The board: which files it takes and what it says of the others, what its page shows, and the page in a browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import checked, needs_browser
from command import ROOT
from configs import composed
from hydra.utils import instantiate

from benchmarks.measure.benchmark import Benchmark
from benchmarks.record.format import digest
from benchmarks.record.submission import read_board, read_tracks
from benchmarks.studies import board
from benchmarks.studies.compare import DEVELOPMENT
from fade.errors import BadInput
from fade.files import write_json
from fade.judges import Judge

BOARD = ROOT / "benchmarks" / "board"
Results = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BOARD, tmp_path / "board"))


def sent(path: Path, results: Results, signed: bool = True) -> Path:
    """A file to be sent; signed: its hash formed anew."""
    write_json(path, {**results, "sha256": digest(results)} if signed else results)
    return path


def another(folder: Path) -> Results:
    """A submission that the board does not have, as if it were of another training seed."""
    results: Results = json.loads(next(folder.glob("*.json")).read_text())
    other = {"identity": "0123456789ab", "adapter_sha256": "f" * 64, "seeds": {**results["seeds"], "train": 7}}
    return {**results, **other}


def said(folder: Path, path: Path) -> list[str]:
    """What --check says of it, without the file's name."""
    text, good = board.check(folder, path)
    assert good == ("the board takes it" in text)
    return [line.removeprefix(f"{path}: ") for line in text.splitlines()]


def test_the_board_takes_every_file_that_it_holds() -> None:
    found = read_board(BOARD)
    assert not found.left_out and set(found.runs) == {path.name for path in BOARD.glob("*.json")}
    assert len({run.method for run in found.runs.values()}) >= 4
    assert {run.target for run in found.runs.values()} - set(DEVELOPMENT["minicanvas"])
    for name in found.runs:
        text, good = board.check(BOARD, BOARD / name)  # beside the others, not beside itself
        assert good, text


def test_the_embedded_grid_is_asked_as_the_boards_track_says() -> None:
    """Where it is not, the board's runs are of the past: a new line in tracks.csv, and runs of that version."""
    config = composed()
    parts = {key: instantiate(config[key], _convert_="all") for key in ("dataset", "protocol", "model")}
    judges = {domain: Judge.load(str(spec)) for domain, spec in config.judges.items()}
    version = Benchmark(parts["dataset"], judges, parts["protocol"], Path("none")).version(parts["model"])
    tracks = [(t.dataset, t.protocol, t.version, t.base_sha256) for t in read_tracks(BOARD)]
    assert ("canvas", "balanced", version, parts["model"].sha256()) in tracks


def test_a_good_file_is_taken(folder: Path, tmp_path: Path) -> None:
    (line,) = said(folder, sent(tmp_path / "good.json", another(folder)))
    assert re.fullmatch(r"the board takes it: \w+, \w+, protocol default version \d+-[0-9a-f]{12}", line)


def without(*names: str) -> Callable[[Results], None]:
    """Removes a field; the names lead to it."""

    def change(results: Results) -> None:
        for name in names[:-1]:
            results = results[name]
        del results[names[-1]]

    return change


def given(value: Any, *names: str) -> Callable[[Results], None]:
    """Sets a field; the names lead to it."""

    def change(results: Results) -> None:
        for name in names[:-1]:
            results = results[name]
        results[names[-1]] = value

    return change


WRONG: list[tuple[Callable[[Results], None], str]] = [
    (without("seeds", "images"), "no seeds.images; send the file"),
    (without("seeds"), "no seeds; send the file"),
    (without("base_sha256"), "no base_sha256; send"),
    (without("protocol_version"), "no protocol_version; send"),
    (without("versions", "torch"), "no versions.torch"),
    (without("base", "ira"), "base has no ira"),
    (without("metrics", "ua", "low"), "metrics.ua has no interval"),
    (without("metrics", "ua", "n"), "no metrics.ua.n; send"),
    (given([], "seeds", "images"), "seeds.images is []; it must have at least 1 item"),
    (given([1, 1], "seeds", "images"), "seeds.images is [1, 1]; name each seed once"),
    (given(9, "score"), "score is no field of results.json; send"),
    (given(9, "gates", "smiles"), "gates.smiles is no field of results.json; send"),
    (given("0.9", "metrics", "ua", "value"), "metrics.ua.value is '0.9'; it must be a valid number"),
    (given(float("nan"), "metrics", "ua", "value"), "metrics.ua.value is nan; it must be a finite number"),
    (given(0.3, "metrics", "ira", "value"), "metrics.ira is 0.3, outside of its interval"),
    (given(1.5, "metrics", "cra", "high"), "metrics.cra is a share, and its interval"),
    (given({"somewhere": 40}, "landed"), "metrics.ua is"),
    (given({"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}, "metrics", "beauty"), "metrics.beauty is no metric of"),
    (given(1.0, "cost", "euros"), "cost.euros is no cost"),
    (given("d" * 63, "base_sha256"), "base_sha256 is 'd"),
    (given("d" * 64, "base_sha256"), "base_sha256 dddddddddddd… is none of the bases of minicanvas/default"),
    (given("1-0123456789ab", "protocol_version"), "protocol_version is 1-0123456789ab, and the board compares"),
    (given("mine", "protocol"), "no track of minicanvas/mine; the board has canvas/balanced, minicanvas/default"),
    (given("sequence", "kind"), "of a sequence of requests; the board takes runs of one target"),
    (given("scored", "method"), "of images that others made (task=score)"),
    (given(99, "format"), "format is 99; it must be less than or equal to"),
]


@pytest.mark.parametrize(("change", "line"), WRONG, ids=[line for _, line in WRONG])
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, tmp_path: Path, change: Callable[[Results], None], line: str
) -> None:
    results = another(folder)
    results["landed"], ua = {results["target"]: 10, "photo": 30}, results["metrics"]["ua"]
    ua |= {"value": 0.75, "low": 0.5, "high": 0.9, "n": 40}
    assert said(folder, sent(tmp_path / "file.json", results))[0].startswith("the board takes it")
    change(results)
    (found,) = said(folder, sent(tmp_path / "file.json", results))
    assert found.startswith(line)


def test_a_tampered_file_is_refused(folder: Path, tmp_path: Path) -> None:
    results = json.loads(sent(tmp_path / "file.json", another(folder)).read_text())
    results["cost"]["distil_s"] += 1
    (line,) = said(folder, sent(tmp_path / "file.json", results, signed=False))
    assert line.startswith("sha256 is not that of the rest: something was changed after the run")


def test_every_fault_has_a_line_of_its_own(folder: Path, tmp_path: Path) -> None:
    results = another(folder)
    del results["seeds"], results["machine"]
    assert len(said(folder, sent(tmp_path / "file.json", {**results, "score": 1}))) == 3


def test_a_run_is_on_the_board_once(folder: Path, tmp_path: Path) -> None:
    first = next(iter(sorted(folder.glob("*.json"))))
    shutil.copy(first, tmp_path / "again.json")
    assert said(folder, tmp_path / "again.json") == [f"the board has it already, as {first.name}"]
    renamed = {**json.loads(first.read_text()), "identity": "0123456789ab"}  # the same adapter, called otherwise
    assert said(folder, sent(tmp_path / "again.json", renamed)) == [f"the board has it already, as {first.name}"]
    shutil.copy(first, folder / "zzz.json")
    printed = board.build(folder, tmp_path / "out")
    assert f"warning: left out: zzz.json: the board has it already, as {first.name}\n" in printed


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": 1}', '"text"'])
def test_a_file_that_is_no_result_is_left_out_and_the_rest_is_shown(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "odd.json").write_text(text)
    printed = board.build(folder, tmp_path / "out")
    assert "warning: left out: " in printed and "odd.json" in printed
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Left out:" in page and page.count('<tr class="run"') == len(read_board(folder).runs)


def test_what_is_not_there_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*none\.json: No such file"):
        board.check(folder, tmp_path / "none.json")
    with pytest.raises(BadInput, match=r"no folder .*; name one that holds submitted"):
        board.build(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no .*tracks\.csv"):
        board.build(tmp_path / "empty", tmp_path / "out")
    shutil.copy(BOARD / "tracks.csv", tmp_path / "empty")
    with pytest.raises(BadInput, match="no run in"):
        board.build(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_a_code_that_a_script_can_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, results = sent(tmp_path / "good.json", another(folder)), another(folder)
    del results["seeds"]
    words = ["benchmarks.studies.board", "--board", str(folder), "--check"]
    bad = [sys.executable, "-m", *words, str(sent(tmp_path / "bad.json", results))]
    done = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.count("\n") == 1
    monkeypatch.setattr(sys, "argv", [*words, str(good)])
    assert board.main() == 0 and capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "none.json")])
    with pytest.raises(SystemExit, match=r"^error: cannot read .*$"):
        board.main()


def body_of(page: str, kind: str) -> list[str]:
    """The rows of a kind as the page writes them."""
    return re.findall(rf'(?s)<tr class="{kind}".*?</tr>', page)


def test_no_row_changes_another(folder: Path, tmp_path: Path) -> None:
    """A row stands as it was measured, whoever else is here: a worse and a better one beside it change nothing."""
    board.build(folder, tmp_path / "few")
    before = (tmp_path / "few" / "index.html").read_text()
    worse = another(folder)
    worse["metrics"]["ira"] = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 320}
    sent(folder / "worse.json", worse)
    board.build(folder, tmp_path / "more")
    after = (tmp_path / "more" / "index.html").read_text()
    rows = body_of(before, "run")
    assert set(rows) < set(body_of(after, "run")) and len(body_of(after, "run")) == len(rows) + 1
    assert body_of(before, "beside") == body_of(after, "beside") and "25.0 <span" in after


def test_the_page_holds_what_may_be_compared_and_apart_what_may_not(folder: Path, tmp_path: Path) -> None:
    first = folder / "minicanvas-sketch-esd-seed0.json"  # of a target whose runs have no oracle
    run = json.loads(first.read_text())
    sent(first, {**run, "oracle": {key: {**metric, "n": 77} for key, metric in run["base"].items()}})
    other = another(folder)  # the same under another protocol version: a group of its own
    with (folder / "tracks.csv").open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(
            ["minicanvas", "default", "1-0123456789ab", other["base_sha256"], read_tracks(BOARD)[0].name]
        )
    sent(folder / "other.json", {**other, "protocol_version": "1-0123456789ab"})
    board.build(folder, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    runs = read_board(folder).runs.values()
    targets, oracles = {run.gone for run in runs}, {run.gone for run in runs if run.oracle}
    assert page.count("<tbody data-target") == len(targets) + 1
    assert len(body_of(page, "beside")) == len(targets) + 1 + len(oracles) and "never saw it</th>" in page
    for name, run in read_board(folder).runs.items():
        assert (tmp_path / "out" / "files" / name).read_bytes() == (folder / name).read_bytes()
        assert (
            run.base_sha256 in page and f'href="files/{name}"' in page and f'id="{name.removesuffix(".json")}"' in page
        )
    runs, _, published = page.partition("Published elsewhere, not comparable")
    assert "arXiv 2402.11846v4" in published and "arXiv 2402.11846v4" not in runs and "SAeUron" not in runs
    markup = re.sub(r"(?s)<script.*?</script>", "", page)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|files/)""", markup) and "http" not in markup


CHECK = f"<script>{(Path(__file__).parent / 'board.js').read_text()}</script>"


def looked(folder: Path, width: int) -> dict[str, Any]:
    """What board.js finds in folder/index.html, in a window as wide as that."""
    page = (folder / "index.html").read_text()
    (folder / "checked.html").write_text(page.replace("<body>", "<body>" + CHECK, 1))
    window, found = checked(folder / "checked.html", folder / "profile", width)
    assert window.errors == [] and len(window.asked) == 1
    return found


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(folder: Path, tmp_path: Path, width: int) -> None:
    worse = another(folder)
    worse["metrics"]["ira"] = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 320}
    sent(folder / "worse.json", worse)
    board.build(folder, tmp_path / "out")
    found, runs = looked(tmp_path / "out", width), list(read_board(folder).runs.values())
    assert found["width"] == width and found["wide"] <= 0 and found["errors"] == [] and found["asked"] == []
    assert found["first"] == len(runs) and found["count"] == f"{len(runs)} of {len(runs)} runs"
    assert found["words"] == sum(run.method_name == "esd" for run in runs) > 0
    assert found["target"] == sum(run.target == "sketch" for run in runs) > 0 and found["heads"] == 1
    assert found["held"] == sum(run.target not in DEVELOPMENT["minicanvas"] for run in runs)
    assert found["best"] == [sorted(group, reverse=True) for group in found["best"]] and found["pinned"]
    assert found["up"] == [sorted(group) for group in found["best"]] and found["again"] == found["best"]
    assert any(0.25 in group for group in found["best"]) and found["open"] and found["numbers"] > 8
