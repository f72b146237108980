"""One process of the product among several on one vault, for the tests: asks for a token whenever the last one has ended.

    python worker.py HOME --tokens 20 [--die before-request|after-answer]

Prints a line when it is ready, begins when its input ends, and prints as JSON what it was given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Literal, NoReturn

import anyio
import anyio.to_thread

from mcp_identity import app
from mcp_identity.broker.answers import TokenReleased, TokenRequest
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.settings import Settings
from mcp_identity.transport import Transport

DEADLINE_SECONDS = 60


class DeadlyTransport(Transport):
    """The process ends at once, as a power cut ends it: before its first request, or when that was answered."""

    def __init__(self, moment: Literal["before-request", "after-answer"]) -> None:
        super().__init__()
        self._moment = moment

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        if self._moment == "after-answer":
            await super().send(request, allow_http_loopback=allow_http_loopback)
        _die()


def _die() -> NoReturn:
    os._exit(9)


async def work(home: Path, tokens: int, transport: Transport | None) -> None:
    seen: list[str] = []
    refreshed = 0
    errors: list[str] = []
    prepared = app.prepare(Settings(home=home), transport=transport)
    async with app.running(prepared) as graph:
        principal = await graph.broker.directory.local_principal("agent", graph.user, "stdio")
        print("ready", flush=True)  # noqa: T201 - what the test waits for
        await anyio.to_thread.run_sync(sys.stdin.read)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(seen) < tokens and time.monotonic() < deadline:
            try:
                released = await graph.broker.get_token(graph.broker.call(principal, "get_token"), TokenRequest("peer"))
            except IdentityError as error:
                errors.append(error.code)
                continue
            if not isinstance(released, TokenReleased):
                errors.append(type(released).__name__)
                break
            fingerprint = hashlib.sha256(released.access_token.reveal().encode()).hexdigest()[:16]
            refreshed += released.refreshed
            if fingerprint not in seen:
                seen.append(fingerprint)
            if released.expires_at is not None:
                # A token of one second counts as fresh until a tenth of it is left.
                await anyio.sleep(max(0.0, released.expires_at.timestamp() - time.time() - 0.1))
    print(json.dumps({"seen": seen, "refreshed": refreshed, "errors": errors}), flush=True)  # noqa: T201 - the result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--die", choices=["before-request", "after-answer"])
    options = parser.parse_args()
    transport = DeadlyTransport(options.die) if options.die else None
    anyio.run(work, options.home, options.tokens, transport)


if __name__ == "__main__":
    main()
