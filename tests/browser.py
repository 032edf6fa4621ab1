"""A headless Chromium that a test opens a page in, spoken to over its debugging pipe (Chrome DevTools Protocol)."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60
"""How long an answer may take."""
_START = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, pipe in zip((3, 4), pipes):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes the browser, which reads commands from descriptor 3 and writes messages to 4."""


def find_browser() -> str | None:
    """The path of a Chromium or Chrome on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """An open page.

    Attributes:
        requests: the addresses of everything that it has asked for, itself included.
        problems: its exceptions, and errors that it wrote to the console.
    """

    def __init__(self, commands: int, messages: int) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._commands, self._messages = commands, messages
        self._buffer = b""
        self._number = 0
        self._session: str | None = None

    def open(self, address: str) -> None:
        """Load *address*, and wait until it has been."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + SECONDS
        while self.evaluate("document.readyState") != "complete" and time.monotonic() < deadline:
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript *expression*."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the protocol."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != self._number:
            self._note(message)
        assert "error" not in message, message
        return dict(message["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._messages], [], [], SECONDS)[0], "the browser does not answer"
            received = os.read(self._messages, 1 << 16)
            assert received, "the browser has ended"
            self._buffer += received
        text, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(text))

    def _note(self, message: dict[str, Any]) -> None:
        what, details = message.get("method"), message.get("params", {})
        if what == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif what == "Runtime.exceptionThrown":
            self.problems.append(str(details["exceptionDetails"]))
        elif what == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(details["entry"]["text"])


@contextmanager
def open_page(file: Path, profile: Path) -> Iterator[Page]:
    """*file* in a browser whose own files go to *profile*."""
    executable = find_browser()
    assert executable is not None
    (command_out, command_in), (message_out, message_in) = os.pipe(), os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,900"]
    options += ["--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [sys.executable, "-c", _START, str(command_out), str(message_in), executable, *options],
        pass_fds=(command_out, message_in),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_out)
    os.close(message_in)
    try:
        page = Page(command_in, message_out)
        page.open(file.as_uri())
        yield page
    finally:
        process.terminate()
        process.wait()
        os.close(command_in)
        os.close(message_out)
