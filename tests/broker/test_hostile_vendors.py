"""What does a vendor do to us that answers badly, slowly or not at all, over a real connection, and to those beside it?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio

from mcp_identity.broker.breaker import OPEN_SECONDS, REFUSED_SECONDS
from mcp_identity.broker.upstreams import PLACES
from mcp_identity.domain.credentials import GrantState
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.transport import Transport
from tests.broker.kit import Product, raising, running_product
from tests.fakes.authorization_server import FakeAuthorizationServer
from tests.fakes.clock import FakeClock
from tests.fakes.hostile_server import HostileServer, Script, hostile_server
from tests.transport.test_exchange import HOSTILE

LIFE = 3600
"""What the server's good answer says of its token."""
MORE: dict[str, tuple[Script, str]] = {
    "answers with HTML": (Script(headers=(("Content-Type", "text/html"),), body=b"<html>ok</html>"), "upstream_bad_response"),
    "answers with nothing": (Script(body=b""), "upstream_bad_response"),
    "answers with half a JSON": (Script(body=b'{"access_token":"at'), "upstream_bad_response"),
    "answers with a byte order mark": (Script(body=b'\xef\xbb\xbf{"access_token":"a"}'), "upstream_bad_response"),
    "names a member twice": (
        Script(body=b'{"access_token":"a","access_token":"b","token_type":"Bearer"}'),
        "upstream_bad_response",
    ),
    "has wrong types": (Script(body=b'{"access_token":1,"token_type":["Bearer"]}'), "upstream_bad_response"),
    "redirects": (Script(status=302, headers=(("Location", "http://127.0.0.1:9/"),)), "upstream_bad_response"),
    "redirects and keeps the method": (Script(status=307, headers=(("Location", "/token2"),)), "upstream_bad_response"),
    "is down": (Script(status=503, body=b"{}"), "upstream_unavailable"),
    "is broken": (Script(status=500, body=b"{}"), "upstream_unavailable"),
    "has a bad gateway": (Script(status=502, headers=(("Content-Type", "text/html"),), body=b"<html>"), "upstream_unavailable"),
    "limits our rate": (Script(status=429, headers=(("Retry-After", "20"),), body=b"{}"), "upstream_unavailable"),
    "forgot our client": (Script(status=401, body=b'{"error":"invalid_client"}'), "provider_misconfigured"),
}
RECOVERY_SECONDS = {"forgot our client": REFUSED_SECONDS}


class Wire(FakeAuthorizationServer):
    """No authorization server of its own: everything goes over a real transport.

    Attributes:
        deadline: Of each request, in seconds.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.now)
        self._wire = Transport()
        self.deadline = 30.0

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        patient = replace(request, deadline_seconds=self.deadline)
        return await self._wire.send(patient, allow_http_loopback=allow_http_loopback)


async def add(product: Product, name: str, server: HostileServer) -> None:
    settings = {"token_url": server.url.partition("?")[0]}
    await product.add(name, flows="M2M", settings=settings, allow_http_loopback=True)


async def test_a_living_token_is_served_a_dead_one_is_not_and_afterwards_all_is_well(tmp_path: Path) -> None:
    clock = FakeClock()
    wire = Wire(clock)
    async with running_product(tmp_path / "home", clock=clock, server=wire) as product:
        for number, (what, (script, code)) in enumerate((HOSTILE | MORE).items()):
            name = f"vendor-{number}"
            async with hostile_server() as server:
                await add(product, name, server)
                first = await product.token(provider=name)
                clock.advance(LIFE - 30)
                # Who never ends an answer is cut by the deadline; the others are caught by what they send, in their own time.
                server.script, wire.deadline = script, 0.3 if code == "upstream_unavailable" else 30
                assert (await product.token(provider=name)).access_token == first.access_token, what
                clock.advance(60)
                with raising(code):
                    await product.get(provider=name)
                grant = await product.grant(name)
                assert (grant.state, grant.lease_owner) == (GrantState.ACTIVE, ""), what
                server.script, wire.deadline = Script(), 30
                clock.advance(RECOVERY_SECONDS.get(what, OPEN_SECONDS))
                assert (await product.token(provider=name)).refreshed, what


async def test_beside_one_that_hangs_a_healthy_one_answers_everybody(tmp_path: Path) -> None:
    clock, order = FakeClock(), list[str]()
    async with (
        hostile_server(Script(hang=True)) as hanging,
        hostile_server() as healthy,
        running_product(tmp_path / "home", clock=clock, server=Wire(clock), grace_seconds=0) as product,
    ):
        await add(product, "hanging", hanging)
        await add(product, "healthy", healthy)

        async def ask(scope: str) -> None:
            try:
                await product.token(scope, provider="hanging")
            except IdentityError as error:
                order.append(error.code)

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(ask, f"scope-{number}")
            with anyio.fail_after(30):
                while len(hanging.requests) < PLACES:
                    await anyio.lowlevel.checkpoint()
            for number in range(40):
                assert (await product.token(f"scope-{number}", provider="healthy")).refreshed
            assert len(hanging.requests) == PLACES
            assert order == []  # nobody's failure, and nobody's end, was waited for
            group.cancel_scope.cancel()
