"""The demo in a real browser, on the embedded pipeline: unlearn, draw, drag the slider, attack, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chrome import Tab, tab
from command import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OWN = ROOT / ".venv" / "demo" / "bin" / "python"
PYTHON = sys.executable if importlib.util.find_spec("gradio") else os.environ.get("DEMO_PYTHON", str(OWN))
SHOTS = os.environ.get("DEMO_SHOTS")  # a folder for pictures of the page
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Gradio: make .venv/demo/.installed"),
]
SAME = """(async () => {
    const read = async (id) => new Uint8Array(await (await fetch(document.querySelector(id).src)).arrayBuffer());
    return String(await read('#before img')) == String(await read('#after img'))})()"""
LINE = "document.querySelector('#problem').innerText.trim()"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Tab]:
    """The page of `python -m fade.demo`, which Ctrl-C ends."""
    command = [PYTHON, "-u", "-m", "fade.demo", "--no-browser", "--port", "7943"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            lines = iter(server.stdout or ())
            said = ""
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
                said = next(lines)
            with tab(str(CHROMIUM), found[0], tmp_path / "profile") as opened:
                opened.until("document.querySelector('#draw') !== null")
                yield opened
        finally:
            server.send_signal(2)


def picture(page: Tab, name: str) -> str:
    """The address of a picture once it is loaded."""
    image = f"document.querySelector('#{name} img')"
    return str(page.until(f"{image} && {image}.complete && {image}.naturalWidth > 0 && {image}.src"))


WIDE = """[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.id || e.className).slice(0, 9)"""


def shot(page: Tab, name: str) -> list[str]:
    """What is wider than the page, a line a width; pictures of it go to SHOTS."""
    wide = []
    for width, height in ((390, 1500), (1280, 1000)):
        page.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.until("true")
        if SHOTS:
            page.shot(Path(SHOTS) / f"{name}-{width}.png", width, height)
        if (found := page.js("document.documentElement.scrollWidth")) > width:
            wide.append(f"{name}: {found} of {width} px: {page.js(WIDE)}")
    return wide


def choose(page: Tab, tab_name: str) -> None:
    page.js(f"[...document.querySelectorAll('[role=tab]')].find(t => t.innerText == {json.dumps(tab_name)}).click()")


def test_the_demo(page: Tab, tmp_path: Path) -> None:
    page.click("#draw")
    page.until(f"{LINE}.includes('no adapter is chosen')")
    page.write("#folder textarea, #folder input", str(tmp_path))
    page.click("#add")
    page.until(f"{LINE}.includes('adapter.json is missing')")

    choose(page, "Unlearn this")
    page.until("document.querySelector('#unlearn').offsetParent !== null")
    page.click("#unlearn")
    page.until("document.querySelector('#progress').innerText.includes('step 1')", 300)
    page.click("#stop")
    page.until(f"{LINE}.includes('nothing was kept')")
    page.click("#unlearn")
    page.until("/step [3-9]\\d of 100/.test(document.querySelector('#progress').innerText)", 300)
    wide = shot(page, "unlearn")
    page.until("document.querySelector('#progress').innerText.includes('done')", 300)
    page.until("document.querySelector('#adapters').innerText.includes('without neon')")

    choose(page, "Before and after")
    page.until("document.querySelector('#draw').offsetParent !== null")
    page.click("#draw")
    before, after = picture(page, "before"), picture(page, "after")
    assert before != after and page.js(LINE) == ""
    slider = "#scale input[type=range]"
    page.write(slider, "0")
    page.js(f"document.querySelector('{slider}').dispatchEvent(new Event('pointerup', {{bubbles: true}}))")
    page.until(f"document.querySelector('#after img').src != {json.dumps(after)}")
    page.until("document.querySelector('#after img').complete")
    assert page.js(SAME), "scale 0 is not the base"
    page.click("#over")
    page.until("document.querySelectorAll('#strip img').length >= 5")
    wide += shot(page, "compare")
    page.write("#prompt textarea, #prompt input", " ")
    page.click("#draw")
    page.until(f"{LINE}.includes('prompt is empty')")

    choose(page, "Attack it")
    page.until("document.querySelector('#attack').offsetParent !== null")
    page.click("#attack")
    page.until("document.querySelector('#rows').innerText.includes('closed')", 400)
    wide += shot(page, "attack")
    assert not wide, wide
    bad = [e for e in page.events if e["method"] == "Runtime.exceptionThrown"]
    asked = {
        e["params"]["request"]["url"].split("/")[2]
        for e in page.events
        if e["method"] == "Network.requestWillBeSent" and e["params"]["request"]["url"].startswith("http")
    }
    assert not bad and {host.split(":")[0] for host in asked} == {"127.0.0.1"}, (bad, asked)
