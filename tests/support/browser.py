"""A headless Chromium, spoken to by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Chromium reads commands from descriptor 3 and writes to 4: what the pipes' ends have to become.
TRAMPOLINE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions",
    "--no-proxy-server", "--no-sandbox",  # which a container or root cannot have
)  # fmt: skip
CONTROLS = ("button", "textbox", "spinbutton", "log", "navigation", "dialog")
SECONDS = 20.0  # for what should take a moment


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """Commands and their answers, one at a time; JSON with a null byte after each."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back  # descriptors
        self._data = b""
        self._n = 0

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command. Raises RuntimeError."""
        self._n += 1
        command = {"id": self._n, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while (answer := self._read()).get("id") != self._n:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> Any:
        while b"\0" not in self._data:
            is_there, _, _ = select.select([self._back], [], [], 2 * SECONDS)
            if not is_there or not (more := os.read(self._back, 1 << 16)):
                raise RuntimeError("chromium has ended, or hangs")
            self._data += more
        message, _, self._data = self._data.partition(b"\0")
        return json.loads(message)

    @contextmanager
    def open(self, url: str) -> Iterator[Tab]:
        """A page with storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, attached["sessionId"])
        tab.go(url)
        try:
            yield tab
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Tab:
    """A page of it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        """Load it. Raises RuntimeError."""
        if "errorText" in (failed := self.call("Page.navigate", url=url)):
            raise RuntimeError(f"{url}: {failed['errorText']}")
        self.wait(f"document.readyState === 'complete' && location.href.startsWith('{url}')")

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise. Raises RuntimeError, too after
        SECONDS."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True, timeout=1000 * SECONDS,
        )  # fmt: skip
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']['exception']}")
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until it holds, looked at every 5 ms. Raises RuntimeError after SECONDS."""
        self.run(f"""new Promise((resolve, reject) => {{
            const end = performance.now() + {1000 * SECONDS};
            const look = () => {{
                if ({condition}) resolve();
                else if (performance.now() > end) reject("it did not come");
                else setTimeout(look, 5);
            }};
            look();
        }})""")

    def press(self, key: str, code: int, text: str = "", *, shift: bool = False) -> None:
        """A key of the keyboard; `code`: Windows' number of it."""
        what = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **what)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int) -> None:
        """The window's inside, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=True)  # fmt: skip

    def controls(self) -> list[tuple[str, str]]:
        """Role and name of each, as those hear it who do not see the page."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (role, node.get("name", {}).get("value", ""))
            for node in nodes
            if (role := node.get("role", {}).get("value")) in CONTROLS
        ]


@contextmanager
def browsing(chromium: str) -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    theirs_in, to = os.pipe()
    back, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [sys.executable, "-ISc", TRAMPOLINE, str(theirs_in), str(theirs_out), chromium,
             *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        browser = Browser(to, back)
        try:
            yield browser
        finally:
            try:
                browser.call("Browser.close")
                process.wait(SECONDS)
            finally:
                process.kill()
                process.wait()
                os.close(to)
                os.close(back)
