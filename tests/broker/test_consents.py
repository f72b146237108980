# pyright: reportPrivateUsage=false
"""When does an agent get a link, which one, and what does it learn of it afterwards?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from mcp_identity.broker.answers import ConsentRequired, ConsentStatus, TokenReleased
from mcp_identity.domain.credentials import Reason
from mcp_identity.vault.records import Records
from tests.broker.kit import BY_ISSUER, Product, free_port, raising, running_product

# Links


async def test_equal_requests_get_one_link(idp: Product) -> None:
    first = await idp.link("a", "b")
    assert await idp.link("b", "a") == first
    assert (await idp.link("a")).session_uri != first.session_uri
    assert first.authorization_url.endswith(f"/consent/{first.session_uri.rpartition(':')[2]}")
    assert (first.expires_at - idp.clock.now()).total_seconds() == 600


async def test_a_link_whose_button_was_pressed_is_still_the_same_link(idp: Product) -> None:
    first = await idp.link()
    await idp.press(first)
    assert (await idp.link()).session_uri == first.session_uri


async def test_whoever_insists_gets_a_fresh_link_each_time(idp: Product) -> None:
    first = await idp.link()
    links = [await idp.start() for _ in range(2)]
    assert len({first.session_uri, *(link.session_uri for link in links)}) == 3
    assert links[0].reason is Reason.FORCED
    await idp.consent(links[0])
    assert (await idp.start()).reason is Reason.FORCED


async def test_an_expired_link_is_not_given_again(idp: Product) -> None:
    first = await idp.link()
    idp.clock.advance(600)
    assert (await idp.link()).session_uri != first.session_uri
    assert await idp.status(first) == ("expired", "consent_expired")


async def test_a_link_of_an_older_configuration_is_not_given_again(idp: Product) -> None:
    first = await idp.link()
    await idp.update(client_id="another")
    assert (await idp.link()).session_uri != first.session_uri


async def test_the_clients_own_token_needs_no_consent(m2m: Product) -> None:
    with raising("unsupported_flow"):
        await m2m.start()


async def test_a_fresh_consent_takes_no_session(idp: Product) -> None:
    first = await idp.link()
    with raising("invalid_request"):
        await idp.start(session_uri=first.session_uri)


async def test_the_page_says_who_asks_for_what(idp: Product) -> None:
    consent = await idp.link("write", "read")
    view = await idp.page(consent)
    assert (view.workload, view.workload_verified, view.provider) == ("agent", False, "idp")
    assert (view.provider_host, view.scopes) == ("idp.example.com", ("read", "write"))
    assert not view.account_known
    with raising("consent_not_found"):
        await idp.broker.view_consent("A" * 43)


async def test_looking_at_the_page_changes_nothing(idp: Product) -> None:
    consent = await idp.link()
    for _ in range(3):
        await idp.broker.view_consent(consent.session_uri.rpartition(":")[2])
    assert await idp.status(consent) == ("pending", "")


# Quotas


async def test_a_principal_has_a_limit_of_new_links_in_a_minute(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", links_per_minute=3) as product:
        await product.add()
        await product.add("other")
        for _ in range(3):
            await product.start()
        with raising("rate_limited") as refused:
            await product.start()
        assert refused.value.retry_after_seconds
        with raising("rate_limited"):
            await product.get("another-scope")
        assert isinstance(await product.start(provider="other"), ConsentRequired)
        assert isinstance(await (await product.as_workload("someone-else")).start(), ConsentRequired)
        product.clock.advance(61)
        assert isinstance(await product.start(), ConsentRequired)


async def test_a_link_that_is_given_again_costs_nothing(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", links_per_minute=1) as product:
        await product.add()
        assert [await product.link() for _ in range(5)] == [await product.link()] * 5


async def test_a_principal_has_a_limit_of_open_consents(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", pending_consents=2) as product:
        await product.add()
        first = await product.start()
        await product.start()
        with raising("rate_limited"):
            await product.start()
        await product.consent(first)
        assert isinstance(await product.start(), ConsentRequired)
        product.clock.advance(600)
        assert isinstance(await product.start(), ConsentRequired)


# get_token with a session


async def test_a_pending_session_answers_with_its_own_link_whatever_is_granted(idp: Product) -> None:
    await idp.connected()
    consent = await idp.start()
    again = await idp.link(session_uri=consent.session_uri)
    assert (again.session_uri, again.authorization_url) == (consent.session_uri, consent.authorization_url)
    assert isinstance(await idp.get(), TokenReleased)


async def test_a_completed_session_answers_with_the_grant_that_it_made(idp: Product) -> None:
    consent = await idp.link("a", "b")
    await idp.consent(consent)
    for scopes in ((), ("a",), ("b", "a")):
        assert (await idp.token(*scopes, session_uri=consent.session_uri)).scopes == ("a", "b")


async def test_a_session_names_its_resource_by_itself(product: Product) -> None:
    await product.add(flows="both", settings=BY_ISSUER)
    where = {"flow": "USER_FEDERATION", "resource": "https://a.example.com/"}
    consent = await product.link(**where)
    await product.consent(consent)
    by_session = await product.token(session_uri=consent.session_uri)
    assert by_session.access_token == (await product.token(**where)).access_token


@pytest.mark.parametrize(
    "request_",
    [
        {"provider": "other"},
        {"provider": "absent"},
        {"flow": "M2M"},
        {"resource": "https://a.example.com/"},
        {"audience": "a"},
        {"scopes": ("write",)},
    ],
)
async def test_a_session_answers_for_its_own_request_alone(product: Product, request_: dict[str, str]) -> None:
    await product.add(flows="both", settings=BY_ISSUER)
    await product.add("other")
    consent = await product.link(flow="USER_FEDERATION")
    scopes = request_.pop("scopes", ())
    for _ in range(2):
        with raising("invalid_request"):
            await product.get(*scopes, session_uri=consent.session_uri, **request_)
        await product.consent(consent) if (await product.status(consent))[0] == "pending" else None


async def test_a_denied_session_answers_so(idp: Product) -> None:
    consent = await idp.link()
    pressed = await idp.press(consent)
    state = idp.server.person_consents(pressed.url)[1]
    await idp.come_back(pressed, [("error", "access_denied"), state])
    with raising("consent_denied") as refused:
        await idp.get(session_uri=consent.session_uri)
    assert not refused.value.retryable
    assert await idp.status(consent) == ("denied", "consent_denied")


async def test_an_expired_session_answers_so_before_anybody_has_swept(idp: Product) -> None:
    consent = await idp.link()
    idp.clock.advance(600)
    with raising("consent_expired"):
        await idp.get(session_uri=consent.session_uri)


@pytest.mark.parametrize("error", ["server_error", "temporarily_unavailable"])
async def test_a_failed_session_answers_with_what_went_wrong(idp: Product, error: str) -> None:
    consent = await idp.link()
    pressed = await idp.press(consent)
    await idp.come_back(pressed, [("error", error), idp.server.person_consents(pressed.url)[1]])
    with raising("upstream_rejected"):
        await idp.get(session_uri=consent.session_uri)


async def test_a_session_whose_grant_was_revoked_since_asks_anew(idp: Product) -> None:
    consent = await idp.link()
    await idp.consent(consent)
    await idp.broker.revoke_grant(idp.call(), "idp")
    again = await idp.link(session_uri=consent.session_uri)
    assert (again.reason, again.session_uri == consent.session_uri) == (Reason.REVOKED, False)


@pytest.mark.parametrize(
    "uri", ["", "urn:ietf:params:oauth:request_uri:", "urn:ietf:params:oauth:request_uri:" + "A" * 43, "x"]
)
async def test_a_session_that_nobody_made_is_not_found(idp: Product, uri: str) -> None:
    with raising("consent_not_found"):
        await idp.broker.get_consent(idp.call(), uri)
    if uri:
        with raising("consent_not_found"):
            await idp.get(session_uri=uri)


# Waiting


async def test_a_wait_ends_when_the_consent_does(idp: Product) -> None:
    consent = await idp.link()
    found: list[ConsentStatus] = []

    async def wait() -> None:
        found.append(await idp.broker.get_consent(idp.call(), consent.session_uri, 50))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            await idp.consent(consent)
    assert [status.status for status in found] == ["completed"]


async def test_many_who_wait_look_together(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look several times a second, and many users may be asked at once."""
    await product.add()
    agents = [await product.as_workload(f"agent-{number}") for number in range(20)]
    links = [await agent.link() for agent in agents]
    look, looks, looked = Records.ended_sessions, list[int](), anyio.Event()

    def looking(records: Records, session_ids: Collection[str]) -> frozenset[str]:
        looks.append(len(session_ids))
        if len(looks) == 4:
            anyio.from_thread.run_sync(looked.set)
        return look(records, session_ids)

    found: list[str] = []

    async def wait(agent: Product, link: ConsentRequired) -> None:
        found.append((await agent.broker.get_consent(agent.call(), link.session_uri, 50)).status)

    monkeypatch.setattr(Records, "ended_sessions", looking)
    async with anyio.create_task_group() as group:
        for agent, link in zip(agents, links, strict=True):
            group.start_soon(wait, agent, link)
        await looked.wait()
        assert max(looks) == 20
        await agents[0].consent(links[0])
        while not found:
            await anyio.lowlevel.checkpoint()
        assert found == ["completed"]
        product.clock.advance(601)
    assert sorted(found) == ["completed"] + ["expired"] * 19
    assert len(looks) < 40


async def test_a_wait_ends_when_its_time_is_over(idp: Product) -> None:
    consent = await idp.link()
    found: list[ConsentStatus] = []

    async def wait() -> None:
        found.append(await idp.broker.get_consent(idp.call(), consent.session_uri, 50))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until_waiting(idp, 1)
            idp.clock.advance(51)
    assert [status.status for status in found] == ["pending"]


@pytest.mark.parametrize("seconds", [-1, 51, float("nan"), float("inf")])
async def test_a_wait_has_bounds(idp: Product, seconds: float) -> None:
    consent = await idp.link()
    with raising("invalid_request"):
        await idp.broker.get_consent(idp.call(), consent.session_uri, seconds)


async def until_waiting(product: Product, count: int) -> None:
    """Until so many calls wait."""
    with anyio.fail_after(5):
        while sum(product.broker._progress._waiting.values()) < count:
            await anyio.lowlevel.checkpoint()


async def test_a_principal_has_a_limit_of_waits_at_a_time(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", concurrent_waits=2) as product:
        await product.add()
        consent = await product.link()
        other = await product.as_workload("other")
        others = await other.link()
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(product.broker.get_consent, product.call(), consent.session_uri, 50)
            await until_waiting(product, 2)
            with raising("rate_limited"):
                await product.broker.get_consent(product.call(), consent.session_uri, 1)
            assert await product.status(consent) == ("pending", "")
            group.start_soon(other.broker.get_consent, other.call(), others.session_uri, 50)
            await until_waiting(product, 3)
            product.clock.advance(51)
        assert product.broker._progress._waiting == {}


async def test_a_cancelled_wait_gives_its_place_back(idp: Product) -> None:
    consent = await idp.link()
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(idp.broker.get_consent, idp.call(), consent.session_uri, 50)
        await until_waiting(idp, 4)
        group.cancel_scope.cancel()
    assert idp.broker._progress._waiting == {}


async def test_a_port_held_by_a_stranger_gives_no_link(tmp_path: Path) -> None:
    port = free_port()
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as squatter,
        running_product(tmp_path / "home", callback_port=port) as product,
    ):
        await product.add()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(squatter.serve, _hang_up)
                with raising("vault_unavailable"):
                    await product.get()
                group.cancel_scope.cancel()
        assert await product.outcomes("get_token") == ["vault_unavailable"]


async def _hang_up(stream: anyio.abc.SocketStream) -> None:
    await stream.aclose()
