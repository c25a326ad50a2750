"""A headless Chromium that is spoken to over two pipes (its devtools protocol), so that no package is needed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Tab:
    """One page. Events that come while an answer is waited for are kept in `events`."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.number, self.read, self.session = to, back, 0, b"", ""
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        """One command, and its result."""
        self.number += 1
        asked = {"id": self.number, "method": method, "params": given}
        os.write(self.to, json.dumps(asked | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while (said := self._next()).get("id") != self.number:
            self.events.append(said)
        assert "error" not in said, said
        return dict(said["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.read:
            part = os.read(self.back, 1 << 20)
            assert part, "the browser is gone"
            self.read += part
        line, _, self.read = self.read.partition(b"\0")
        return dict(json.loads(line))

    def js(self, text: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, text: str, seconds: float = 120.0) -> Any:
        """The expression's value once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.js(text)):
            assert time.monotonic() < end, f"not in {seconds:g} s: {text}\n{self.js('document.body.innerText')}"
            time.sleep(0.2)
        return value

    def click(self, element: str) -> None:
        self.js(f"document.querySelector({element!r}).click()")

    def write(self, element: str, text: str) -> None:
        """Into a box, as if it were typed."""
        self.js(
            f"(() => {{const e = document.querySelector({element!r}); const p = Object.getPrototypeOf(e);"
            f"Object.getOwnPropertyDescriptor(p, 'value').set.call(e, {json.dumps(text)});"
            "for (const n of ['input', 'change', 'blur']) e.dispatchEvent(new Event(n, {bubbles: true}));})()"
        )

    def shot(self, path: Path, width: int, height: int) -> None:
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        time.sleep(0.5)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def tab(chromium: str, url: str, profile: Path) -> Iterator[Tab]:
    """The page, open; the browser ends with the block."""
    (there, to), (back, here) = os.pipe(), os.pipe()
    start = f"exec 3<&{there} 4>&{here}; exec {chromium} --headless --no-sandbox --disable-gpu --remote-debugging-pipe "
    command = ["bash", "-c", f"{start} --user-data-dir={profile} --window-size=1280,1000 about:blank"]
    browser = subprocess.Popen(command, pass_fds=(there, here), stderr=subprocess.DEVNULL)
    os.close(there)
    os.close(here)
    try:
        page = Tab(to, back)
        target = page.ask("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            page.ask(f"{domain}.enable")
        page.ask("Page.navigate", url=url)
        yield page
    finally:
        browser.terminate()
        browser.wait()
        os.close(to)
        os.close(back)
