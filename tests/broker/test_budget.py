"""How much of other people's answers is held at once, and who is told what when there is no more room?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_identity.broker import calls
from mcp_identity.broker.answers import ConsentRequired
from mcp_identity.broker.budget import Budget
from mcp_identity.domain.api_call import ApiAnswer, ApiRequest
from mcp_identity.domain.http import HttpRequest, HttpResponse, Method
from mcp_identity.transport import Transport
from tests.broker.kit import Product, raising, running_product
from tests.fakes.api import API, VendorWithApi
from tests.fakes.clock import FakeClock
from tests.fakes.hostile_server import HostileServer, Script, hostile_server

KIBIBYTE = 1024
ROOM = 300 * KIBIBYTE


class Wire(Transport):
    """Whatever is asked of the API goes to a server on this machine."""

    def __init__(self, server: HostileServer) -> None:
        super().__init__()
        self._url = server.url

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        del allow_http_loopback
        return await super().send(replace(request, url=self._url), allow_http_loopback=True)


@pytest.fixture
async def server() -> AsyncGenerator[HostileServer]:
    async with hostile_server(Script(keep_alive=True, body=b"x" * 200 * KIBIBYTE)) as one:
        yield one


@pytest.fixture
async def api(tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Product]:
    """The product with an API of answers of 200 KiB, and room for 300."""
    monkeypatch.setattr(calls, "ANSWER_BYTES", ROOM)
    clock = FakeClock()
    vendor = VendorWithApi(clock.now)
    async with Wire(server) as vendor.wire, running_product(tmp_path / "home", clock=clock, server=vendor) as one:
        await one.add(flows="M2M", api_hosts=(API,), release="never")
        yield one


async def call(product: Product, method: Method = "GET") -> ApiAnswer:
    request = ApiRequest("idp", method=method, url=f"{API}/items")
    found = await product.broker.call_api(product.call("call_api"), request)
    assert not isinstance(found, ConsentRequired)
    return found


async def test_the_room_of_an_answer_is_free_again_when_the_call_ends(api: Product) -> None:
    for _ in range(5):
        found = await call(api)
        assert not found.is_cut


async def test_a_read_that_finds_no_room_is_told_to_come_again(api: Product, server: HostileServer) -> None:
    server.script = Script(keep_alive=True, body=b"x" * 400 * KIBIBYTE)
    with raising("rate_limited") as told:
        await call(api)
    assert (told.value.retryable, told.value.retry_after_seconds) == (True, 1)
    assert (await api.outcomes("call_api"))[-1] == "rate_limited"
    server.script = Script(keep_alive=True, body=b"x" * 200 * KIBIBYTE)
    assert (await call(api)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_what_may_have_changed_something_is_cut_and_not_done_twice(
    api: Product, server: HostileServer, method: Method
) -> None:
    server.script = Script(keep_alive=True, body=b"x" * 400 * KIBIBYTE)
    found = await call(api, method)
    assert found.is_cut
    assert len(server.requests) == 1


async def test_many_answers_at_once_share_the_room(api: Product, server: HostileServer) -> None:
    server.script = Script(keep_alive=True, body=b"x" * 200 * KIBIBYTE)
    codes: list[str] = []

    async def one() -> None:
        try:
            await call(api)
        except Exception as error:  # noqa: BLE001 - its code is what is looked at
            codes.append(getattr(error, "code", "?"))
        else:
            codes.append("ok")

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)
    assert set(codes) <= {"ok", "rate_limited"}
    assert "ok" in codes


def test_an_account_gives_back_what_it_took_whatever_happens() -> None:
    budget = Budget(100)
    with budget.account("POST") as first:
        assert first.take(60)
        with budget.account("POST") as second:
            assert not second.take(60)
            assert second.take(40)
        assert budget.left == 40
        with raising("rate_limited"), budget.account("GET") as third:
            assert third.take(30)
            third.take(30)
        assert budget.left == 40
    assert budget.left == 100


async def test_the_reads_of_one_principal_share_a_connection_and_no_others(api: Product, server: HostileServer) -> None:
    other = await api.as_workload("other")
    for product in (api, other, api, other):
        await call(product)
    assert server.came_on == [1, 2, 1, 2]
    await call(api, "POST")
    assert server.came_on[-1] == 3
