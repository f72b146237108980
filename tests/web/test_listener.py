from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from socket import AF_INET, AF_INET6, create_server
from typing import TYPE_CHECKING

import anyio
import httpx2
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_identity.domain.errors import UpstreamUnavailable, VaultUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.web.listener import LoopbackListener
from mcp_identity.web.serving import claim, serving

if TYPE_CHECKING:
    from tests.web.conftest import FakeClock, FakeDesk, FakeEntropy, Processes, Raising, Sender


@asynccontextmanager
async def stranger(endpoint: object, port: int = 0) -> AsyncGenerator[int]:
    """A program that is not ours answers `/vault-proof` on a port."""
    sockets = claim(port)
    assert sockets is not None
    app = Starlette(routes=[Route("/vault-proof", endpoint, methods=["POST"])])  # pyright: ignore[reportArgumentType]
    async with serving(app, sockets):
        yield sockets[0].getsockname()[1]


async def health(port: int, host: str = "127.0.0.1") -> int:
    """The status of the health page; 0 where nobody answers."""
    async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
        try:
            answer = await client.get(f"http://{host}:{port}/healthz", headers={"host": f"localhost:{port}"})
        except (httpx2.NetworkError, httpx2.RemoteProtocolError):  # also one that hangs up as it lets go of the port
            return 0
    return answer.status_code


# Opening


async def test_the_port_is_served_when_ensure_open_returns(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
        assert listener.is_holding
        assert listener.port > 0
        assert await health(listener.port) == 200


async def test_opening_twice_and_at_once_is_opening_once(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (listener, _), anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(listener.ensure_open)
    assert not listener.is_holding


async def test_a_listener_that_does_not_run_says_so(
    desk: FakeDesk, clock: FakeClock, entropy: FakeEntropy, sender: Sender
) -> None:
    listener = LoopbackListener(desk, port=0, send=sender, clock=clock, entropy=entropy)
    with pytest.raises(RuntimeError):
        await listener.ensure_open()


async def test_localhost_is_served_at_both_its_addresses(processes: Processes, desk: FakeDesk) -> None:
    try:
        create_server(("::1", 0), family=AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
        assert await health(listener.port, "[::1]") == 200


# A port that is taken


async def test_a_sibling_of_the_same_vault_is_accepted(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (holder, _):
        await holder.ensure_open()
        async with processes.start(desk, holder.port) as (sibling, _):
            await sibling.ensure_open()
            assert not sibling.is_holding


async def test_a_server_of_another_vault_is_refused_and_the_setting_named(
    processes: Processes, desk: FakeDesk, other_desk: FakeDesk
) -> None:
    async with processes.start(other_desk) as (holder, _):
        await holder.ensure_open()
        async with processes.start(desk, holder.port) as (listener, _):
            with pytest.raises(VaultUnavailable) as caught:
                await listener.ensure_open()
    assert str(holder.port) in caught.value.message
    assert "MCP_IDENTITY_CALLBACK_PORT" in caught.value.message


@pytest.mark.parametrize("answer", [Response(bytes(32)), Response(b""), Response(b"x" * 5000), Response(status_code=404)])
async def test_a_squatter_that_speaks_http_is_refused(
    processes: Processes, desk: FakeDesk, raising: Raising, answer: Response
) -> None:
    async def squat(_request: Request) -> Response:
        return answer

    async with stranger(squat) as port, processes.start(desk, port) as (listener, _):
        with raising("vault_unavailable"):
            await listener.ensure_open()


async def test_a_squatter_that_does_not_speak_http_is_refused(processes: Processes, desk: FakeDesk, raising: Raising) -> None:
    async def hang_up(stream: SocketStream) -> None:
        await stream.aclose()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as squatter, anyio.create_task_group() as tasks:
        tasks.start_soon(squatter.serve, hang_up)
        port = squatter.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        async with processes.start(desk, port) as (listener, _):
            with raising("vault_unavailable"):
                await listener.ensure_open()
        tasks.cancel_scope.cancel()


async def test_a_holder_that_lets_go_while_it_is_asked_is_succeeded(processes: Processes, desk: FakeDesk) -> None:
    holder = create_server(("127.0.0.1", 0))

    async def let_go(_request: HttpRequest) -> HttpResponse:
        holder.close()
        raise UpstreamUnavailable("the holder has gone")

    async with processes.start(desk, holder.getsockname()[1], let_go) as (listener, _):
        await listener.ensure_open()
        assert listener.is_holding


async def test_a_proof_relayed_from_another_port_is_refused(
    processes: Processes, desk: FakeDesk, raising: Raising, sender: Sender
) -> None:
    async with processes.start(desk) as (holder, _):
        await holder.ensure_open()

        async def relay(request: Request) -> Response:
            url = f"http://127.0.0.1:{holder.port}/vault-proof"
            proof = await sender(HttpRequest("POST", url, body=await request.body()))
            assert proof.status == 200
            return Response(proof.body)

        async with stranger(relay) as port, processes.start(desk, port) as (listener, _):
            with raising("vault_unavailable"):
                await listener.ensure_open()


async def test_a_squatter_on_the_other_address_of_localhost_is_refused(
    processes: Processes, desk: FakeDesk, raising: Raising
) -> None:
    try:
        squatter = create_server(("::1", 0), family=AF_INET6)
    except OSError:
        pytest.skip("this machine has no ::1")
    with squatter:
        async with processes.start(desk, squatter.getsockname()[1]) as (listener, _):
            with raising("vault_unavailable"):
                await listener.ensure_open()
            assert not listener.is_holding


async def test_nobody_can_bind_beside_us(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
        assert claim(listener.port) is None
        for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - a squatter would
            with pytest.raises(OSError, match="in use"):
                create_server((host, listener.port), family=AF_INET)


# Taking over and letting go


async def test_the_next_process_takes_over_when_the_holder_ends(processes: Processes, desk: FakeDesk) -> None:
    desk.open_consents = True
    end = anyio.Event()

    async def hold_until_the_end(*, task_status: TaskStatus[int]) -> None:
        async with processes.start(desk) as (holder, _):
            await holder.ensure_open()
            task_status.started(holder.port)
            await end.wait()

    async with anyio.create_task_group() as tasks:
        port = await tasks.start(hold_until_the_end)
        async with processes.start(desk, port) as (sibling, ticks):
            await ticks.tick()
            assert not sibling.is_holding
            end.set()
            while await health(port):
                await anyio.lowlevel.checkpoint()
            await ticks.tick()
            assert sibling.is_holding
            assert await health(port) == 200


async def test_a_holder_with_nothing_open_hands_over_to_a_sibling_that_asks(
    processes: Processes, desk: FakeDesk, clock: FakeClock
) -> None:
    async with processes.start(desk) as (holder, holders_ticks):
        await holder.ensure_open()
        async with processes.start(desk, holder.port) as (sibling, _):
            clock.elapsed = 30
            await holders_ticks.tick()
            await sibling.ensure_open()
            assert (holder.is_holding, sibling.is_holding) == (False, True)


async def test_the_port_of_a_killed_process_is_free_at_once(processes: Processes, desk: FakeDesk) -> None:
    program = "from mcp_identity.web.serving import claim; s = claim(0); print(s[0].getsockname()[1], flush=True); input()"
    command = [sys.executable, "-c", program]
    desk.open_consents = True
    async with await anyio.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(await other.stdout.receive())
        async with processes.start(desk, port) as (listener, ticks):
            await ticks.tick()
            assert not listener.is_holding
            other.kill()
            await other.wait()
            await ticks.tick()
            assert listener.is_holding


async def test_the_port_is_left_alone_while_nothing_is_open(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (listener, ticks):
        for _ in range(3):
            await ticks.tick()
        assert not listener.is_holding
        desk.open_consents = True
        await ticks.tick()
        assert listener.is_holding


async def test_the_port_is_let_go_after_lingering_and_taken_again(
    processes: Processes, desk: FakeDesk, clock: FakeClock
) -> None:
    async with processes.start(desk) as (listener, ticks):
        await listener.ensure_open()
        port = listener.port
        clock.elapsed = 29
        await ticks.tick()
        assert listener.is_holding
        clock.elapsed = 30
        await ticks.tick()
        assert not listener.is_holding
        assert await health(port) == 0
        await listener.ensure_open()
        assert listener.port == port
        assert await health(port) == 200


async def test_a_new_link_or_an_open_consent_starts_the_lingering_afresh(
    processes: Processes, desk: FakeDesk, clock: FakeClock
) -> None:
    async with processes.start(desk) as (listener, ticks):
        await listener.ensure_open()
        clock.elapsed = 20
        await listener.ensure_open()
        clock.elapsed = 40
        await ticks.tick()
        assert listener.is_holding
        desk.open_consents = True
        clock.elapsed = 60
        await ticks.tick()
        desk.open_consents = False
        clock.elapsed = 89
        await ticks.tick()
        assert listener.is_holding


async def test_while_the_vault_cannot_be_read_nothing_changes(processes: Processes, desk: FakeDesk, clock: FakeClock) -> None:
    async with processes.start(desk) as (listener, ticks):
        desk.open_consents = VaultUnavailable("busy")
        await ticks.tick()
        assert not listener.is_holding
        await listener.ensure_open()
        clock.elapsed = 1000
        await ticks.tick()
        assert listener.is_holding


async def test_cancelling_frees_the_port(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
    assert not listener.is_holding
    sockets = claim(listener.port)
    assert sockets is not None
    for held in sockets:
        held.close()
