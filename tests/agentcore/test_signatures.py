"""Does a request with a bad signature come through the whole server, as bytes on a socket?

The same changes as in `tests/inbound/test_sigv4.py`, made to requests of an operator's key that would make a workload.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import anyio

from mcp_identity.inbound.sigv4 import SignedRequest
from tests.agentcore.kit import World
from tests.inbound.signing import HOST, sign
from tests.inbound.test_sigv4 import CHANGES, other_requests

REFUSALS = {400, 401, 403, 404, 405, 421, 431}


def to_wire(request: SignedRequest) -> bytes:
    """The bytes of a request; what no client could write is left to the parser."""
    target = request.raw_path + (b"?" + request.raw_query if request.raw_query else b"")
    lines = [request.method.encode() + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers if name != b"content-length"]
    lines += [b"content-length: %d" % len(request.body), b"connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.body


async def status_of(world: World, raw: bytes) -> int:
    """The status that the server answers with; 400 where it hangs up without one."""
    host, _, port = world.url.partition("//")[2].partition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        answer = b""
        try:
            await stream.send(raw)
            while b"\r\n" not in answer:
                answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
    return int(answer.split(b" ", 2)[1]) if answer else 400


def signed_here(world: World, name: str, *, at: datetime | None = None) -> SignedRequest:
    """A request of the operator that would make a workload."""
    key = world.keys["admin"]
    body = json.dumps({"name": name}).encode()
    return sign(body=body, key_id=key.id, secret=key.secret, at=at or datetime.now(UTC), url=world.url)


async def workloads(world: World) -> set[str]:
    return {each.name for each in await world.broker.workloads.list("default")}


async def test_a_good_one_comes_through(world: World) -> None:
    """Or nothing of the others would mean anything."""
    assert await status_of(world, to_wire(signed_here(world, "well-signed"))) == 201
    assert "well-signed" in await workloads(world)


async def test_of_two_hundred_bad_ones_none_does(world: World) -> None:
    """covers: A61."""
    before, tried = await workloads(world), Counter[int]()
    room = anyio.CapacityLimiter(16)
    wrong: list[str] = []

    async def try_(name: str, request: SignedRequest) -> None:
        async with room:
            status = await status_of(world, to_wire(request))
        tried[status] += 1
        if status not in REFUSALS:
            wrong.append(f"{name}: {status}")

    async with anyio.create_task_group() as tasks:
        for number, (name, (change, _)) in enumerate(CHANGES.items()):
            try:
                tasks.start_soon(try_, name, change(signed_here(world, f"badly-signed-{number}")))
            except AssertionError:  # it is about the key or the day of the other tests
                continue
        for name, (request, _) in other_requests().items():
            tasks.start_soon(try_, name, request)
        for seconds in (-3600, -301, 400, 3600):  # one from the future gets less so while it waits
            late = signed_here(world, f"late{seconds}", at=datetime.now(UTC) + timedelta(seconds=seconds))
            tasks.start_soon(try_, f"{seconds} seconds away", late)
    assert wrong == []
    assert tried.total() >= 200
    assert await workloads(world) == before


async def test_what_was_signed_for_another_server_is_not_for_this_one(world: World) -> None:
    key = world.keys["admin"]
    request = sign(key_id=key.id, secret=key.secret, at=datetime.now(UTC))
    assert HOST not in world.url
    assert await status_of(world, to_wire(request)) == 421
    moved = tuple(
        (name, world.url.partition("//")[2].encode() if name == b"host" else value) for name, value in request.headers
    )
    elsewhere = SignedRequest(request.method, request.raw_path, request.raw_query, moved, request.body)
    assert await status_of(world, to_wire(elsewhere)) == 403
