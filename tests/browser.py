"""A headless Chromium, for the tests of pages: driven through its protocol over two pipes, so that a page is as wide as
asked (a window of Chromium's is 500 px wide at least) and keys and clicks are the browser's own.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
LIMIT = 60.0  # seconds for one answer
KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "Backspace": ("Backspace", 8, ""),
}


class Browser:
    """One page of a running Chromium. errors: what it said of exceptions and on its console; asked: every address that
    was asked for, but `data:`."""

    def __init__(self, process: subprocess.Popen[bytes], told: int, answers: int) -> None:
        self.process, self.told, self.answers = process, told, answers
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.loaded = False
        self._number, self._buffer, self._session = 0, b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        where = {"sessionId": self._session} if self._session else {}
        os.write(self.told, json.dumps(message | where).encode() + b"\0")
        while (found := self._next()).get("id") != self._number:
            self._heard(found)
        assert "error" not in found, (method, found["error"])
        return found["result"]

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + LIMIT
        while b"\0" not in self._buffer:
            assert select.select([self.answers], [], [], max(0.0, until - time.monotonic()))[0], "Chromium is silent"
            self._buffer += os.read(self.answers, 1 << 20)
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _heard(self, event: dict[str, Any]) -> None:
        said = event["params"]
        if event["method"] == "Page.loadEventFired":
            self.loaded = True
        elif event["method"] == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event["method"] == "Log.entryAdded" and said["entry"]["level"] in ("warning", "error"):
            self.errors.append(said["entry"]["text"])
        elif event["method"] == "Runtime.consoleAPICalled" and said["type"] in ("warning", "error"):
            self.errors.append(str([part.get("value") for part in said["args"]]))
        elif event["method"] == "Network.requestWillBeSent" and not said["request"]["url"].startswith("data:"):
            self.asked.append(said["request"]["url"])

    def open(self, page: Path | str, width: int, height: int = 900, dark: bool = False, media: str = "") -> None:
        """A page from the disk, or by its address, in a window of so many CSS pixels. media: "print", or none."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.errors, self.asked, self.loaded = [], [], False
        self.call("Page.navigate", url=page if isinstance(page, str) else page.absolute().as_uri())
        while not self.loaded:
            self._heard(self._next())

    def seconds(self) -> float:
        """Of the processor, in the processes that show pages, so far: what else the machine does changes it little."""
        session, self._session = self._session, ""  # of the browser, not of the page
        found = self.call("SystemInfo.getProcessInfo")["processInfo"]
        self._session = session
        return sum(process["cpuTime"] for process in found if process["type"] == "renderer")

    def value(self, expression: str) -> Any:
        """What JavaScript says; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = LIMIT) -> Any:
        """The first value of an expression that is true."""
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.05)
        return found

    def press(self, key: str) -> None:
        """A key, as a hand presses it."""
        code, number, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number, **more)

    def click(self, selector: str, across: float = 0.5) -> None:
        """With the mouse, where the element is; across: 0 at its left edge, 1 at its right."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.until(f"!!{found}")
        self.value(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y, width, height = self.value(f"(r => [r.x, r.y, r.width, r.height])({found}.getBoundingClientRect())")
        assert width and height, f"{selector} is not to be seen"
        for kind in ("mousePressed", "mouseReleased"):
            where = {"x": x + across * width, "y": y + height / 2, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def write(self, selector: str, text: str) -> None:
        """In place of what stands in a box; then the focus leaves it."""
        self.click(selector)
        self.value("document.activeElement.select()")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.press("Backspace")
        self.value("document.activeElement.blur()")

    def picture(self, path: Path, whole: bool = True) -> None:
        """A screenshot, of the whole page or of what the window shows."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


def checked(page: Path, profile: Path, width: int) -> tuple[Browser, dict[str, Any]]:
    """What the script that a test put into a page has written into the body's data-checked."""
    with browser(profile) as found:
        found.open(page, width)
        return found, json.loads(found.until("document.body.dataset.checked"))


def opening(page: Path, profile: Path) -> tuple[float, float]:
    """Seconds of the processor until a report's page is loaded, and until its charts are drawn too."""
    with browser(profile) as found:
        found.open("data:text/html,", 1280)
        before = found.seconds()
        found.open(page, 1280)
        loaded = found.seconds() - before
        found.until("document.body.dataset.charts")
        return loaded, found.seconds() - before


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A Chromium of its own. profile: a folder for what it keeps."""
    (theirs, told), (answers, its) = os.pipe(), os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    # Chromium reads its commands from 3 and answers on 4: a shell puts them there
    line = f'exec 5<&{theirs} 6>&{its}; exec "$0" "$@" 3<&5 4>&6'
    process = subprocess.Popen(
        ["bash", "-c", line, str(CHROMIUM), *flags, "about:blank"], pass_fds=(theirs, its), stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    os.close(its)
    try:
        yield Browser(process, told, answers)
    finally:
        os.close(told)  # where its commands end, it ends
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers)
