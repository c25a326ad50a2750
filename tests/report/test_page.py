"""The report's page in a browser: as wide as a phone and as a desk, sorted, filtered, clicked through, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, browser, needs_browser
from finished import attacked, finished, illustrated
from PIL import Image

from benchmarks.measure.predictions import read_rows
from benchmarks.report.__main__ import write

pytestmark = [needs_browser, pytest.mark.usefixtures("unsaved")]
SCRIPT = (Path(__file__).parent / "page.js").read_text()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_the_page_of_many_runs(study: Path, tmp_path: Path, window: Browser) -> None:
    write([study], tmp_path / "out")
    for width in (390, 1280):
        check_page(window, tmp_path / "out" / "report.html", width)


def check_page(window: Browser, page: Path, width: int) -> None:
    window.open(page, width)
    window.until("document.body.dataset.charts")
    found = window.value(SCRIPT)
    assert found["width"] == width and found["wide"] <= width  # what is wide scrolls in its own box
    assert found["pictures"] == 12 and window.errors == [] and len(window.asked) == 1  # the page itself
    assert found["up"] == sorted(found["up"]) and found["down"] == sorted(found["up"], reverse=True)
    assert found["shown"] == 1 and found["open"]
    assert len(found["marks"]) >= 3 and all(found["marks"])  # every chart drawn, and labelled


TILES = "[...document.querySelectorAll('#album-pairs li')]"
SAID = "document.getElementById('album-said').textContent"


@pytest.mark.parametrize("width", [390, 1280])
def test_a_number_opens_its_images_by_keyboard_and_a_cell_by_click(tmp_path: Path, window: Browser, width: int) -> None:
    finished(tmp_path / "runs" / "a", "neon")
    illustrated(tmp_path / "runs" / "a", tmp_path / "cache")
    write([tmp_path / "runs"], tmp_path / "out")
    rows = read_rows(tmp_path / "runs" / "a" / "predictions.csv")
    target = [row for row in rows if row["style"] == "neon"]
    window.open(tmp_path / "out" / "report.html", width)
    assert len(window.asked) == 1  # no image of the run before one is wanted
    window.value("document.querySelector('[data-what=ua]').focus()")
    window.press("Enter")
    gone = sum(row["style_predicted"] != "neon" for row in target)
    assert window.until(SAID).startswith(f"{gone} of {len(target)} are no longer read as it")
    captions = window.value(TILES + ".map((t) => [...t.querySelectorAll('figcaption')].map((c) => c.textContent))")
    ordered = sorted(target, key=lambda row: row["style_predicted"] != "neon")  # what is not forgotten comes first
    assert captions == [["before: neon", f"after: {row['style_predicted']}"] for row in ordered]
    labels = window.value(TILES + ".map((t) => t.querySelector('svg').getAttribute('aria-label'))")
    assert all(label.startswith("before, read as neon: ") for label in labels)
    assert all(name.startswith((tmp_path / "out").as_uri()) for name in window.asked) and window.errors == []
    window.press("Escape")
    assert window.value("!document.getElementById('album').open && document.activeElement.dataset.what") == "ua"
    window.value("document.querySelectorAll('.heat button')[0].focus()")  # glass is the first style
    window.press("Enter")
    glass = [row["style_predicted"] == "glass" for row in rows if row["style"] == "glass"]
    window.until(f"{SAID}.startsWith('{sum(glass)} of {len(glass)} are read right')")
    assert window.value("document.documentElement.scrollWidth") <= width


def test_a_cell_of_a_setting_opens_the_images_of_the_runs_that_forgot_another(tmp_path: Path, window: Browser) -> None:
    for kind, target in (("neuron", "neon"), ("neuron", "glass"), ("weight", "neon")):
        finished(tmp_path / "runs" / f"{kind}-{target}", target, kind)
        illustrated(tmp_path / "runs" / f"{kind}-{target}", tmp_path / "cache")
    write([tmp_path / "runs"], tmp_path / "out")
    window.open(tmp_path / "out" / "report.html", 1280)
    row = (
        "[...document.querySelectorAll('.heat[data-apart] tbody tr')].find((r) => r.cells[0].textContent === 'neuron')"
    )
    window.value(f"{row}.querySelector('button').click()")  # glass is the first style
    rows = read_rows(tmp_path / "runs" / "neuron-neon" / "predictions.csv")
    glass = [row["style_predicted"] == "glass" for row in rows if row["style"] == "glass"]
    assert window.until(SAID).startswith(f"{sum(glass)} of {len(glass)} are read right")
    assert "neon was forgotten" in window.value("document.getElementById('album-title').textContent")
    assert window.errors == []


def test_the_pictures_of_a_pair_are_those_of_its_row(tmp_path: Path, window: Browser) -> None:
    """The base's on the left, green, the run's on the right, red, both as grey as their row's place in the table."""
    finished(tmp_path / "runs" / "a", "neon")
    illustrated(tmp_path / "runs" / "a", tmp_path / "cache")
    write([tmp_path / "runs"], tmp_path / "out")
    window.open(tmp_path / "out" / "report.html", 1280, 1200)
    window.value("document.querySelector('[data-what=ira]').click()")
    window.until(TILES + ".length")
    window.value("Promise.all([...document.querySelectorAll('#album-pairs image')].map((i) => i.decode?.()))")
    rows = read_rows(tmp_path / "runs" / "a" / "predictions.csv")
    places = [k for k, row in enumerate(rows) if row["style"] != "neon"]
    places.sort(key=lambda k: rows[k]["style_predicted"] == rows[k]["style"])
    found = seen(window, tmp_path / "seen.png")
    assert len(found) >= 16 and window.value("document.querySelectorAll('#album-pairs svg').length") == 2 * len(places)
    wanted = [pixel for k in places for pixel in ((5 * k, 255, 5 * k), (255, 5 * k, 5 * k))]
    assert np.abs(np.array(found) - np.array(wanted[: len(found)])).max() < 12


def test_an_attack_opens_clean_and_attacked_beside_each_other(tmp_path: Path, window: Browser) -> None:
    finished(tmp_path / "runs" / "a", "neon")
    attacked(tmp_path / "runs" / "a", "closed", [True, False, True])
    write([tmp_path / "runs"], tmp_path / "out")
    window.open(tmp_path / "out" / "report.html", 1280, 1200)
    buttons = "[...document.querySelectorAll('[data-what=attack]')]"
    assert window.value(f"{buttons}.map((b) => b.textContent)") == ["66.7 %", "+66.7"]  # the answer's, and the table's
    window.value(f"{buttons}[1].click()")
    assert window.until(SAID).startswith("neon: 66.7 [10.0, 90.0] % of 3 images are read as it under the attack.")
    captions = window.value(TILES + ".map((t) => [...t.querySelectorAll('figcaption')].map((c) => c.textContent))")
    away = "something else"
    assert captions == [[f"clean: {away}", f"attacked: {read}"] for read in ("neon", away, "neon")]
    window.value("Promise.all([...document.querySelectorAll('#album-pairs image')].map((i) => i.decode?.()))")
    wanted = [pixel for k in range(3) for pixel in ((20 * k, 255, 20 * k), (255, 20 * k, 20 * k))]
    assert np.abs(np.array(seen(window, tmp_path / "seen.png")) - np.array(wanted)).max() < 12
    assert window.errors == []


def seen(window: Browser, path: Path) -> list[tuple[int, ...]]:
    """The colour in the middle of each picture of the dialog that the window shows."""
    middles = window.value(
        "[...document.querySelectorAll('#album-pairs svg')].map((s) => s.getBoundingClientRect())"
        ".map((r) => [r.x + r.width / 2, r.y + r.height / 2])"
    )
    window.picture(path, whole=False)
    with Image.open(path) as file:
        return [file.convert("RGB").getpixel((round(x), round(y))) for x, y in middles if y < 1100]


def test_a_page_whose_images_are_gone_says_so(tmp_path: Path, window: Browser) -> None:
    finished(tmp_path / "runs" / "a", "neon")
    illustrated(tmp_path / "runs" / "a", tmp_path / "cache")
    write([tmp_path / "runs"], tmp_path / "out")
    for path in (tmp_path / "out" / "images").iterdir():
        path.unlink()
    window.open(tmp_path / "out" / "report.html", 390)
    window.value("document.querySelector('[data-what=ua]').click()")
    assert window.until(SAID).endswith(".js is not beside this page")
