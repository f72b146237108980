"""A real browser: Chromium, driven over the W3C WebDriver protocol.

Developers' machines may lack it; where `CI` is set it must be there.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.streams.text import TextReceiveStream

_ATTEMPTS = 5
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True, slots=True)
class Browser:
    """One window, driven over WebDriver."""

    http: httpx2.AsyncClient
    session: str

    async def _do(self, method: str, path: str, **body: Any) -> Any:
        answer = await self.http.request(method, f"/session/{self.session}{path}", json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    async def open(self, url: str) -> None:
        """Go there, as with a click on a link in another program; returns when the page is loaded and drawn."""
        await self._do("POST", "/url", url=url)
        drawn = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(true)))"
        await self._do("POST", "/execute/async", script=drawn, args=[])

    async def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        await self._do("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    async def find(self, selector: str) -> str:
        """An element; waits up to the implicit timeout for it."""
        return next(iter((await self._do("POST", "/element", using="css selector", value=selector)).values()))

    async def text(self, selector: str) -> str:
        """What a person reads in an element."""
        return await self._do("GET", f"/element/{await self.find(selector)}/text")

    async def run(self, script: str) -> Any:
        """The value of a script that the driver, not the page, runs."""
        return await self._do("POST", "/execute/sync", script=f"return {script}", args=[])

    async def url(self) -> str:
        """Where it is."""
        return await self._do("GET", "/url")

    async def emulate(self, *, scheme: str, width: int, height: int = 900) -> None:
        """Pretend another screen and colour preference."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        for command, parameters in (
            ("Emulation.setDeviceMetricsOverride", screen),
            ("Emulation.setEmulatedMedia", {"features": features}),
        ):
            await self._do("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    async def run_later(self, script: str) -> Any:
        """The value that a script of the driver hands to its callback, `done`."""
        script = f"const done = arguments[0]; {script}"
        return await self._do("POST", "/execute/async", script=script, args=[])

    async def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(await self._do("GET", "/screenshot"))

    async def complaints(self) -> list[str]:
        """What the browser wrote to its console."""
        return [entry["message"] for entry in await self._do("POST", "/se/log", type="browser")]


@asynccontextmanager
async def _driver() -> AsyncGenerator[int]:
    """Run a driver; its port.

    It takes a free port of IPv6 and then wants the same one of IPv4, which somebody may hold: then another one is begun.
    """
    said = ""
    for _ in range(_ATTEMPTS):
        async with await anyio.open_process([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
            try:
                assert driver.stdout is not None
                said = ""
                async for text in TextReceiveStream(driver.stdout):
                    said += text
                    if found := re.search(r"successfully on port (\d+)", said):
                        yield int(found[1])
                        return
            finally:
                with suppress(ProcessLookupError):
                    driver.terminate()
    pytest.fail(f"chromedriver did not start: {said}")


@asynccontextmanager
async def chromium(profile: Path) -> AsyncGenerator[Browser]:
    """A browser with a profile of its own."""
    async with _driver() as port, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
        options = {"binary": str(CHROMIUM), "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted: dict[str, Any] = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        wanted["timeouts"] = {"implicit": 5000, "pageLoad": 10000}
        answer = await http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        assert answer.status_code == 200, answer.text
        browser = Browser(http, answer.json()["value"]["sessionId"])
        yield browser
        await http.delete(f"/session/{browser.session}")


def require_chromium() -> None:
    """Leave a test out where there is no browser; on a CI machine that is a failure."""
    if CHROMIUM.exists() and DRIVER.exists():
        return
    why = "chromium and chromium-driver are not installed, so nothing was tried in a browser"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
