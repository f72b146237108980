"""What becomes of a code between the vendor's answer and the vault?"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_identity.broker import exchange, refresh
from mcp_identity.domain.credentials import Flow, GrantState, Reason
from tests.broker.kit import BY_ISSUER, Product, raising
from tests.vault.faults import SqliteFaults, disk_error

FULL = "CREATE TRIGGER full BEFORE UPDATE OF tokens ON grants BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"


async def until(event: anyio.Event) -> None:
    with anyio.fail_after(10):
        await event.wait()


# Somebody intervenes while the vendor answers


@pytest.mark.parametrize("connected_before", [True, False])
async def test_a_revocation_during_the_exchange_wins(idp: Product, connected_before: bool) -> None:
    if connected_before:
        await idp.connected()
    consent = await idp.start()
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(idp.consent, consent)
        await until(idp.server.holding)
        hold, idp.server.hold = idp.server.hold, None
        await idp.broker.revoke_grant(idp.call(), "idp")
        hold.set()
    assert await idp.status(consent) == ("failed", "conflict")
    assert [grant.state for grant in await idp.grants()] == [GrantState.REVOKED] * connected_before
    assert not any(idp.server.is_active(token) for family in idp.server.families for token in family.access_tokens)
    assert idp.server.revocations[-2:] == [
        ("refresh_token", f"refresh-token-canary-{1 + connected_before}"),
        ("access_token", f"access-token-canary-{1 + connected_before}"),
    ]


async def test_a_change_of_the_provider_during_the_exchange_ends_the_consent(idp: Product) -> None:
    consent = await idp.link()
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(idp.consent, consent)
        await until(idp.server.holding)
        hold, idp.server.hold = idp.server.hold, None
        await idp.update(client_id="other")
        hold.set()
    assert await idp.status(consent) == ("failed", "provider_misconfigured")
    assert await idp.grants() == []
    assert [hint for hint, _ in idp.server.revocations] == ["refresh_token", "access_token"]


async def test_a_browser_that_goes_away_loses_nothing(idp: Product) -> None:
    consent = await idp.link()
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(idp.consent, consent)
        await until(idp.server.holding)
        group.cancel_scope.cancel()
    assert (await idp.status(consent))[0] == "pending"
    idp.server.hold.set()
    status = await idp.broker.get_consent(idp.call(), consent.session_uri, 50)
    assert status.status == "completed"


async def test_an_exchange_that_a_crash_cut_off_is_ended_within_a_minute(idp: Product) -> None:
    consent = await idp.link()
    pressed = await idp.press(consent)
    parameters = idp.server.person_consents(pressed.url)
    await idp.sql("UPDATE consent_sessions SET state = 'exchanging', state_hash = NULL, attempt_sealed = NULL")
    idp.clock.advance(59)
    await idp.broker.has_open_consents()
    assert await idp.status(consent) == ("pending", "")
    idp.clock.advance(16)
    assert not await idp.broker.has_open_consents()
    assert await idp.status(consent) == ("failed", "upstream_unavailable")
    assert await idp.outcomes("sweep_consent") == ["upstream_unavailable"]
    with raising("upstream_unavailable") as told:
        await idp.get(session_uri=consent.session_uri)
    assert not told.value.retryable
    with raising("consent_not_found"):
        await idp.come_back(pressed, parameters)
    assert isinstance((await idp.link()).session_uri, str)


# The vault fails while the vendor answers


async def test_a_full_disk_is_waited_for(idp: Product) -> None:
    consent = await idp.link()
    pressed = await idp.press(consent)
    parameters = idp.server.person_consents(pressed.url)
    await idp.sql(FULL)
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(idp.come_back, pressed, parameters)
        await until(idp.server.holding)
        idp.server.hold.set()
        await until_refused(idp)
        await idp.sql("DROP TRIGGER full")
    assert await idp.status(consent) == ("completed", "")
    assert (await idp.token()).scopes == ("read",)


async def until_refused(product: Product) -> None:
    """Until the vault has refused to store the answer once."""
    with anyio.fail_after(10):
        while "vault_unavailable" not in [event.outcome for event in await product.trail()]:
            await anyio.lowlevel.checkpoint()


async def test_tokens_that_cannot_be_stored_are_given_back(idp: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "_PAUSES", (0.0, 0.0))
    consent = await idp.link()
    await idp.sql(FULL)
    await idp.consent(consent)
    assert await idp.status(consent) == ("failed", "vault_unavailable")
    assert [hint for hint, _ in idp.server.revocations] == ["refresh_token", "access_token"]
    assert await idp.grants() == []


# Whose account


@pytest.fixture
async def openid(product: Product) -> Product:
    await product.add(settings=BY_ISSUER, scopes=("openid", "read"))
    return product


async def test_the_account_is_the_id_tokens_subject(openid: Product) -> None:
    await openid.connected()
    (listed,) = (await openid.broker.list_grants(openid.call())).grants
    assert listed.account_id == "alice"
    view = await openid.page(await openid.start())
    assert view.account_known


async def test_another_account_than_before_is_refused_and_given_back(openid: Product) -> None:
    before = await openid.connected()
    consent = await openid.start()
    await openid.consent(consent, account="mallory")
    assert await openid.status(consent) == ("failed", "different_account")
    with raising("different_account"):
        await openid.get(session_uri=consent.session_uri)
    assert (await openid.token()).access_token == before.access_token
    assert openid.server.is_active(before.access_token.reveal())
    assert openid.server.families[1].revoked


async def test_another_account_is_accepted_where_the_user_said_so(openid: Product) -> None:
    await openid.connected()
    consent = await openid.start()
    await openid.consent(consent, account="bob", other_account=True)
    assert await openid.status(consent) == ("completed", "")
    (listed,) = (await openid.broker.list_grants(openid.call())).grants
    assert listed.account_id == "bob"


async def test_the_account_survives_a_refresh(openid: Product) -> None:
    await openid.connected()
    openid.clock.advance(3600)
    assert (await openid.token()).refreshed
    (listed,) = (await openid.broker.list_grants(openid.call())).grants
    assert listed.account_id == "alice"


async def test_an_account_that_cannot_be_told_is_not_the_one_before(openid: Product) -> None:
    await openid.connected()
    openid.server.id_tokens = False
    consent = await openid.start()
    await openid.consent(consent)
    assert await openid.status(consent) == ("failed", "different_account")


@pytest.mark.parametrize(("nonce", "code"), [("another", "consent_mismatch"), ("", "consent_mismatch")])
async def test_an_id_token_of_another_sign_in_is_refused_and_the_tokens_given_back(
    openid: Product, nonce: str, code: str
) -> None:
    openid.server.nonce = nonce
    consent = await openid.link()
    await openid.consent(consent)
    assert await openid.status(consent) == ("failed", code)
    assert await openid.grants() == []
    assert openid.server.families[0].revoked


async def test_a_new_consent_brings_a_dead_grant_back(idp: Product) -> None:
    await idp.connected()
    idp.server.families[0].revoked = True
    idp.clock.advance(3600)
    consent = await idp.link()
    assert consent.reason is Reason.REFRESH_REJECTED
    await idp.consent(consent)
    released = await idp.token()
    assert released.flow is Flow.USER_FEDERATION
    assert (await idp.grant()).reason is None


@pytest.mark.sqlite
async def test_a_commit_of_which_nobody_was_sure_stores_once_and_takes_nothing_back(idp: Product, tmp_path: Path) -> None:
    consent = await idp.link()
    pressed = await idp.press(consent)
    parameters = idp.server.person_consents(pressed.url)
    faults = SqliteFaults(idp.vault, tmp_path / "home" / "vault.db")
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(idp.come_back, pressed, parameters)
        await until(idp.server.holding)
        hold, idp.server.hold = idp.server.hold, None
        faults.fail_after_commit = disk_error()
        hold.set()
    assert await idp.status(consent) == ("completed", "")
    assert idp.server.revocations == []
    assert await idp.outcomes("complete_consent") == ["ok"]
    assert idp.server.is_active((await idp.token()).access_token.reveal())


async def test_what_nobody_foresaw_after_the_answer_gives_the_tokens_back_and_ends_the_consent(
    openid: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise KeyError("P-256K")

    monkeypatch.setattr(exchange, "verify_id_token", fail)
    consent = await openid.link()
    with pytest.raises(KeyError):
        await openid.consent(consent)
    assert await openid.status(consent) == ("failed", "internal_error")
    assert await openid.outcomes("complete_consent") == ["internal_error"]
    assert [hint for hint, _ in openid.server.revocations] == ["refresh_token", "access_token"]
