"""The demo's page, served as a user starts it, clicked and typed into in a headless Chromium.

It runs where Gradio is: `make demo` makes such an environment in .venv/demo, and .ci/run calls these tests there.
Pictures, and a training's images, are of four steps, in which the small pipeline's judges read little: what is tested
is the page.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from adapting import made
from browser import Browser, needs_browser
from browser import browser as opened
from command import ROOT

from fade.files import shipped
from fade.models.stable_diffusion import StableDiffusion
from fade.sparsity import Dense

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="no Gradio here: .venv/demo has it (make demo)")
pytestmark = [pytest.mark.demo, needs_browser, needs_gradio]
PIPELINE = shipped("canvas/pipeline")
PROGRESS = "document.querySelector('#progress').innerText"
# What the page shows, not what its address answers: Gradio writes equal pictures to one file, again and again, and who
# asks for it in that moment gets half of it
PIXELS = """(async () => {
  const image = document.querySelectorAll("SELECTOR img")[NUMBER];
  if (!image || !image.complete || !image.naturalWidth) return "";
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const whole = await crypto.subtle.digest("SHA-256", canvas.getImageData(0, 0, width, height).data);
  return [...new Uint8Array(whole)].map((x) => x.toString(16).padStart(2, "0")).join("");
})()"""


@contextmanager
def served(folder: Path, adapters: Sequence[str]) -> Iterator[str]:
    """The address of a demo that runs inside, as `python -m fade.demo ADAPTERS` prints it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "fade.demo", *adapters, "--port", port, "--no-browser", "--sampling-steps", "4"]
    with (folder / "stderr.txt").open("w") as errors:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        assert demo.stdout is not None
        line = next((line for line in demo.stdout if "http://" in line), "")
        assert f"127.0.0.1:{port}" in line, (folder / "stderr.txt").read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        demo.terminate()
        demo.wait(30)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that change what is drawn: "without pencil_sketch" and "without house_cat"."""
    model, folders = StableDiffusion.load(PIPELINE, 4, 4.0), []
    for seed, name in enumerate(("pencil_sketch", "house_cat")):
        folders.append(tmp_path_factory.mktemp("adapters") / name)
        stored = made(model, name, Dense(), seed)
        stored.about.update(target=name, surrogate="photo", domain="style", method="Fade")
        stored.write(folders[-1])
    return folders


@pytest.fixture(scope="module")
def address(adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """On the pipeline that run.py takes, as `make demo` starts it."""
    with served(tmp_path_factory.mktemp("demo"), list(map(str, adapters))) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Browser:
    """Opened anew, both pictures drawn."""
    browser.open(address, 1280, 1000)
    browser.until(picture("#before"), 300)
    browser.until(picture("#after"), 300)
    return browser


def picture(selector: str, number: int = 0) -> str:
    """The hash of a picture's pixels, as JavaScript; number: which of several."""
    return PIXELS.replace("SELECTOR", selector).replace("NUMBER", str(number))


def otherwise(page: Browser, selector: str, before: str, seconds: float = 60) -> str:
    """The hash of a picture, once it is another than before."""
    return str(page.until(f"{picture(selector)}.then((now) => now !== '{before}' && now)", seconds))


def tick(page: Browser, label: str) -> None:
    """One of the adapters, on or off."""
    found = f"[...document.querySelectorAll('#adapters label')].find((one) => one.innerText.trim() === '{label}')"
    page.until(f"!!{found}")
    page.value("document.querySelector('#ticked')?.removeAttribute('id')")
    page.value(f"{found}.querySelector('input').id = 'ticked'")
    page.click("#ticked")


def go_to(page: Browser, name: str) -> None:
    page.value(f"[...document.querySelectorAll('[role=tab]')].find((one) => one.innerText === '{name}').click()")


def says(page: Browser, selector: str, words: str, seconds: float = 60) -> str:
    """What stands there, once it has these words in it."""
    text = f"(document.querySelector('{selector}')?.innerText || '')"
    return str(page.until(f"{text}.includes({words!r}) && {text}", seconds))


def test_the_same_noise_before_and_after_at_every_scale(page: Browser) -> None:
    before, both = page.value(picture("#before")), page.value(picture("#after"))
    assert both != before  # two adapters at once
    tick(page, "without house_cat")
    one = otherwise(page, "#after", both)
    assert one != before
    page.click("#scale input[type=range]", 0.001)
    off = otherwise(page, "#after", one)
    assert off == before == page.value(picture("#before"))  # the scale 0: bit for bit
    page.click("#scale input[type=range]", 0.999)
    assert otherwise(page, "#after", off) == one
    for merged in (True, False):  # written into the weights, and taken out of them: the same, or off by a rounding
        page.click("#merged input")
        page.click("#scale input[type=range]", 0.001)
        page.until(f"{picture('#after')}.then((now) => now === '{before}')")
        page.click("#scale input[type=range]", 0.999)
        assert otherwise(page, "#after", before) == one or merged
    page.click("#on input")
    assert otherwise(page, "#after", one) == before
    page.click("#over")
    shown = "#strip .thumbnail-item"
    page.until(f"document.querySelectorAll('{shown} img').length === 5")
    page.value("document.querySelector('#strip').scrollIntoView()")
    first, middle, last = (page.until(picture(shown, number)) for number in (0, 2, 4))
    assert first == before and last == one and middle not in (before, one)
    page.write("#prompt textarea", "A house cat image in photo style.")
    page.click("#draw")
    assert otherwise(page, "#before", before)


def test_what_cannot_be_used_is_one_line_on_the_page(page: Browser, tmp_path: Path) -> None:
    page.write("#prompt textarea", "")
    page.click("#draw")
    says(page, "#draw-problem", "the prompt is empty; say what is to be drawn")
    page.write("#prompt textarea", "A house cat image in photo style.")
    page.click("#draw")
    page.until("!document.querySelector('#draw-problem').innerText.trim()")
    page.click("#adding button")
    page.write("#folder textarea, #folder input", str(tmp_path))
    page.click("#add")
    says(page, "#add-problem", "adapter.json is missing")
    go_to(page, "Attack it")
    tick(page, "without pencil_sketch")
    tick(page, "without house_cat")
    page.click("#attack")
    says(page, "#attack-problem", "no adapter is chosen")


def test_unlearn_this_trains_one_with_live_loss_and_preview_and_stop_ends_it(page: Browser, tmp_path: Path) -> None:
    go_to(page, "Unlearn this")
    page.write("#templates textarea", "A house cat image in {} style.")
    page.write("#retain textarea", "A city car image in photo style.")
    page.click("#steps input[type=range]", 0.001)
    page.click("#unlearn")
    page.until(f"/s left/.test({PROGRESS})")
    first = page.until(picture("#preview"))
    page.until(f"/distil: [1-9]|Done/.test({PROGRESS})", 200)  # a busy page does not show every step
    page.until("!!document.querySelector('#loss canvas, #loss svg')")
    done = says(page, "#progress", "Done:", 200)
    assert "without pencil_sketch (2)" in done and otherwise(page, "#preview", first)
    chosen = "[...document.querySelectorAll('#adapters label')].filter((x) => x.querySelector('input').checked)"
    assert page.value(f"{chosen}.map((x) => x.innerText.trim())") == ["without pencil_sketch (2)"]
    page.write("#out textarea, #out input", str(tmp_path / "new"))
    page.click("#save")
    says(page, "#progress", "adapter.safetensors and its card")
    assert (tmp_path / "new" / "adapter.safetensors").is_file()
    page.click("#steps input[type=range]", 0.999)  # long enough to be stopped
    page.click("#unlearn")
    page.until(f"/distil: [1-9]/.test({PROGRESS})", 200)
    page.click("#stop")
    says(page, "#train-problem", "nothing was kept")


def test_attack_it_fills_the_table_beside_the_base(page: Browser) -> None:
    go_to(page, "Attack it")
    page.click("#images input[type=range]", 0.001)
    page.click("#attacks .token-remove")  # `prompts`, which tries sixteen captions
    page.click("#attack")
    says(page, "#attacked", "s left", 180)
    rows = "document.querySelector('#rows').innerText"
    page.until(f"({rows}.match(/[[][0-9]/g) || []).length >= 4", 600)  # intervals: of the model and of its base
    found = page.value(rows)
    assert "none" in found and "closed" in found and "prompts" not in found
    page.until("document.querySelectorAll('#drawn img').length >= 2")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_tab_fits_the_window_and_asks_nobody_else(browser: Browser, address: str, width: int, dark: bool) -> None:
    browser.open(address, width, 900, dark)
    browser.until(picture("#after"), 300)
    words = "[...document.querySelectorAll('label, button, h1, p')].filter((e) => e.checkVisibility() && e.innerText)"
    for name in ("Before and after", "Unlearn this", "Attack it"):
        go_to(browser, name)
        cut = f"{words}.filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.innerText)"
        assert browser.value(cut) == [] and browser.value("document.documentElement.scrollWidth - innerWidth") <= 0, (
            name
        )
        assert browser.value(f"{words}.length") > 10, name
    asked = "performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !/^data:|127.0.0.1/.test(n))"
    assert browser.value(asked) == []
