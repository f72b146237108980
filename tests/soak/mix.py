"""What does a busy day of agents look like? Calls of every kind, so many a second, at a server that knows nothing of it.

Of a hundred calls 80 find their token in the vault, 5 find that it has ended (it is refreshed at a vendor that rotates), 10
begin and finish a consent with a person's browser in between, 3 call an API, and 2 list. They are sent when their time has
come, whether or not the earlier ones were answered, as agents do. Every answer is judged; nothing is tried again.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import anyio.to_thread
import httpx2
from anyio.abc import SocketAttribute, SocketStream

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec, TokenRequest
from mcp_identity.domain.credentials import Secret
from mcp_identity.settings import Settings
from tests.fakes.browser import Browser
from tests.fakes.home import person_consents
from tests.fakes.vendor import CLIENT_ID, Vendor, running_vendor
from tests.http.kit import http_client, stateless

Kind = Literal["cached", "refresh", "consent", "api", "list"]
SHARES: dict[Kind, int] = {"cached": 80, "refresh": 5, "consent": 5, "api": 3, "list": 2}
"""Of 95 steps, a hundred calls: a consent is one call that begins it and one that sees that it is there."""
CALLS: dict[Kind, int] = {"cached": 1, "refresh": 1, "consent": 2, "api": 1, "list": 1}
WORKLOAD = "claude-desktop"
FLEETING, FLEETING_SECONDS = 12, 2
"""Grants whose tokens end, and after how long; each is asked for long after its end."""
DESKS = 8
"""Providers at which persons consent, one at a time at each."""
LIMITS = {
    "CALLS_PER_SECOND": "1000000",
    "REQUESTS_PER_SECOND": "1000000",
    "LINKS_PER_MINUTE": "1000",
    "PENDING_CONSENTS": "1000",
    "CONCURRENT_WAITS": "100",
    "CONCURRENT_REQUESTS": "1000",
    "CONCURRENT_REQUESTS_PER_PRINCIPAL": "1000",
}
_OK = b'{"invoices":[1,2,3]}'


@dataclass(slots=True)
class Town:
    """Vendors, and an API.

    Attributes:
        lasting: Gives tokens for hours.
        fleeting: Give tokens for seconds, and rotate.
        desks: Are asked for consents.
        api: The origin of the API.
    """

    lasting: Vendor
    fleeting: list[Vendor]
    desks: list[Vendor]
    api: str

    @property
    def vendors(self) -> list[Vendor]:
        """All of them."""
        return [self.lasting, *self.fleeting, *self.desks]

    def given(self, grant_type: str) -> int:
        """How many requests of a kind all of them have processed."""
        return sum(vendor.count(grant_type) for vendor in self.vendors)


@dataclass(slots=True)
class Traffic:
    """What was called, and what came of it.

    Attributes:
        calls: By tool, those that were answered as they should be.
        errors: Those that were not.
        milliseconds: How long the steps of each kind took.
        late: The most that a step began after its time; the machine's own doing.
    """

    calls: Counter[str] = field(default_factory=Counter[str])
    errors: list[str] = field(default_factory=list[str])
    milliseconds: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in SHARES})
    late: float = 0


@asynccontextmanager
async def town() -> AsyncGenerator[Town]:
    """Run them while the block lasts."""
    async with AsyncExitStack() as stack:
        vendors = [await stack.enter_async_context(running_vendor()) for _ in range(1 + FLEETING + DESKS)]
        for vendor in vendors[1 : 1 + FLEETING]:
            vendor.expires_in = FLEETING_SECONDS
        listener = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(listener.serve, _serve_api)
        origin = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - anyio's, not Django's
        yield Town(vendors[0], vendors[1 : 1 + FLEETING], vendors[1 + FLEETING :], origin)
        tasks.cancel_scope.cancel()


async def _serve_api(stream: SocketStream) -> None:
    async with stream:
        try:
            while b"\r\n\r\n" not in await stream.receive():
                pass
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(_OK)}\r\nConnection: close\r\n\r\n"
            )
            await stream.send(head.encode() + _OK)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


async def settle(settings: Settings, town: Town) -> None:
    """Make the providers, and the grants that are there before the day begins."""

    def spec(vendor: Vendor, flows: str, **more: Any) -> ProviderSpec:
        return ProviderSpec(
            vendor="custom",
            client_id=CLIENT_ID,
            secret=Secret(vendor.client_secret),
            scopes=("read",),
            allow_http_loopback=True,
            settings={**vendor.settings, "flows": flows},
            **more,
        )

    async with app.open(settings) as graph:
        broker = graph.broker
        operator = broker.directory.operator(graph.user)
        specs = {
            "billing": spec(town.lasting, "M2M"),
            "invoices": spec(town.lasting, "M2M", api_hosts=(town.api,), release="never"),
            "notes": spec(town.lasting, "USER_FEDERATION"),
            **{f"fleeting-{number}": spec(vendor, "USER_FEDERATION") for number, vendor in enumerate(town.fleeting)},
            **{f"desk-{number}": spec(vendor, "USER_FEDERATION") for number, vendor in enumerate(town.desks)},
        }
        principal = await broker.directory.local_principal(WORKLOAD, graph.user, "stdio")
        for name, each in specs.items():
            await broker.directory.add(broker.call(operator, "create_provider"), name, each)
            if name == "notes" or name.startswith("fleeting"):
                consent = await broker.start_consent(broker.call(principal, "start_consent"), TokenRequest(name))
                await person_consents(consent.authorization_url)


class Agents:
    """All who call.

    Args:
        url: Of the server.
        town: Where the vendors are.
        seed: Of the order of calls.
    """

    def __init__(self, url: str, town: Town, seed: int) -> None:
        self.traffic = Traffic()
        self._url = url
        self._town = town
        self._chance = random.Random(seed)  # noqa: S311 - the same in every run
        self._free = list(range(DESKS))
        self._freed = anyio.Event()
        self._browsers = [Browser() for _ in range(DESKS)]
        self._next_fleeting = 0

    async def work(self, rate: float, seconds: float) -> None:
        """Call once in each way, then so often a second for so long, and wait for the last answers."""
        kinds = self._chance.choices(list(SHARES), list(SHARES.values()), k=round(rate * seconds))
        try:
            async with http_client() as http, anyio.create_task_group() as tasks:
                for kind in SHARES:
                    await self._step(http, kind)
                began, due = anyio.current_time(), 0.0
                for kind in kinds:
                    wait = began + due - anyio.current_time()
                    await anyio.sleep(max(0.0, wait))
                    self.traffic.late = max(self.traffic.late, -wait)
                    if due >= seconds:
                        break
                    tasks.start_soon(self._step, http, kind)
                    due += CALLS[kind] / rate
        finally:
            for browser in self._browsers:
                browser.close()

    async def _step(self, http: httpx2.AsyncClient, kind: Kind) -> None:
        steps: dict[Kind, Callable[[httpx2.AsyncClient], Awaitable[None]]] = {
            "cached": self._cached,
            "refresh": self._refresh,
            "consent": self._consent,
            "api": self._api,
            "list": self._list,
        }
        began = anyio.current_time()
        try:
            await steps[kind](http)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is an error of this run
            self.traffic.errors.append(f"{kind}: {type(error).__name__}: {error}")
        else:
            self.traffic.milliseconds[kind].append((anyio.current_time() - began) * 1000)

    async def _call(self, http: httpx2.AsyncClient, tool: str, expected: str, **arguments: Any) -> dict[str, Any]:
        body, headers = stateless("tools/call", {"name": tool, "arguments": arguments})
        answer = await http.post(f"{self._url}/mcp", json=body, headers=headers)
        structured: dict[str, Any] = answer.json().get("result", {}).get("structuredContent", {})
        if structured.get("status") != expected:
            raise AssertionError(f"{tool} answered {answer.status_code} {answer.text}")
        self.traffic.calls[tool] += 1
        return structured

    async def _cached(self, http: httpx2.AsyncClient) -> None:
        await self._call(http, "get_token", "ok", provider=self._chance.choice(["billing", "notes"]))

    async def _refresh(self, http: httpx2.AsyncClient) -> None:
        self._next_fleeting = (self._next_fleeting + 1) % FLEETING
        await self._call(http, "get_token", "ok", provider=f"fleeting-{self._next_fleeting}")

    async def _consent(self, http: httpx2.AsyncClient) -> None:
        while not self._free:
            await self._freed.wait()
        desk = self._free.pop()
        try:
            required = await self._call(http, "start_consent", "consent_required", provider=f"desk-{desk}")
            link: str = required["authorization_url"]
            await anyio.to_thread.run_sync(self._browsers[desk].consent, link)
            uri: str = required["session_uri"]
            await self._call(http, "get_consent", "completed", session_uri=uri, wait_seconds=10)
        finally:
            self._free.append(desk)
            freed, self._freed = self._freed, anyio.Event()
            freed.set()

    async def _api(self, http: httpx2.AsyncClient) -> None:
        answer = await self._call(http, "call_api", "ok", provider="invoices", method="GET", url=f"{self._town.api}/invoices")
        if "invoices" not in json.dumps(answer):
            raise AssertionError(f"call_api answered {answer}")

    async def _list(self, http: httpx2.AsyncClient) -> None:
        await self._call(http, self._chance.choice(["list_providers", "list_grants"]), "ok")
