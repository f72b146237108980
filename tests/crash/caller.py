"""Who calls a server that may die in the middle of it? A client of one connection per request, and a person's browser."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tests.fakes.browser import Browser
from tests.http.kit import stateless

SECONDS = 20.0


class Gone(Exception):
    """The server went away before it had answered."""


class Refused(Exception):
    """The server answered that it cannot.

    Attributes:
        code: The stable code.
        retryable: Whether the same call may succeed later.
    """

    def __init__(self, answer: dict[str, Any]) -> None:
        self.code = str(answer["code"])
        self.retryable = bool(answer["retryable"])
        super().__init__(f"{self.code}: {answer['message']}")


@dataclass(frozen=True, slots=True)
class Landing:
    """A browser that the authorization server has just sent back to us.

    Attributes:
        session_uri: The consent.
        path: Path and query of the callback.
        cookie: What the browser sends along.
    """

    session_uri: str
    path: str
    cookie: str

    @property
    def session_id(self) -> str:
        """The random part of the session URI."""
        return self.session_uri.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of one server."""

    port: int

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own; status, headers and body.

        Raises:
            Gone: If the connection fails or breaks.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Gone(type(error).__name__) from None
        finally:
            connection.close()

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool; its structured answer.

        Raises:
            Gone: If the server dies meanwhile.
            Refused: If the answer is an error.
        """
        body, headers = stateless("tools/call", {"name": tool, "arguments": arguments})
        status, _, content = self.send("POST", "/mcp", json.dumps(body).encode(), headers)
        if status != 200:
            raise AssertionError(f"{status}: {content[:300]!r}")
        text = content.decode()
        if not text.startswith("{"):  # what takes longer comes as a stream of events
            text = next(line for line in reversed(text.splitlines()) if line.startswith("data: {"))[len("data: ") :]
        answer: dict[str, Any] = json.loads(text)["result"]["structuredContent"]
        if answer["status"] == "error":
            raise Refused(answer)
        return answer

    def get_token(self, provider: str) -> dict[str, Any]:
        """Ask for a token."""
        return self.call("get_token", provider=provider)

    def land(self, provider: str) -> Landing:
        """Ask for a consent, and let a person go through with it until their browser is sent back.

        Raises:
            Gone: If the server dies meanwhile.
            Refused: If there is no link.
        """
        asked = self.call("start_consent", provider=provider)
        try:
            with Browser(stop_at=f"http://127.0.0.1:{self.port}/oauth2/callback/") as browser:
                page = browser.get(asked["authorization_url"])
                landed = browser.submit(page.forms[0], page=page).url
                cookie = browser.cookies.header(landed, cross_site=True, method="GET")
        except httpx2.TransportError as error:
            raise Gone(type(error).__name__) from None
        parts = urlsplit(landed)
        assert parts.path.startswith("/oauth2/callback/"), landed
        return Landing(asked["session_uri"], f"{parts.path}?{parts.query}", cookie)

    def come_back(self, landing: Landing) -> tuple[int, str]:
        """The browser follows the redirect to the callback; the status, and where it goes next."""
        status, headers, _ = self.send("GET", landing.path, None, {"cookie": landing.cookie})
        return status, headers.get("location", "")
