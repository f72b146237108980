"""Is every call in the trail before its answer, and does no secret leave where the trail is broken?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from mcp_identity.broker.answers import ConsentRequired, ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import InvalidRequest
from tests.broker.kit import BY_ISSUER, Product, raising
from tests.fakes.authorization_server import CLIENT_SECRET

Verb = Callable[[Product], Awaitable[object]]
MUTE = "CREATE TRIGGER mute BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'no'); END"


def _verb(action: str, provider: str) -> Verb:
    broker_verbs: dict[str, Callable[[Product], Awaitable[object]]] = {
        "get_token": lambda p: p.broker.get_token(p.call(action), TokenRequest(provider)),
        "start_consent": lambda p: p.broker.start_consent(p.call(action), TokenRequest(provider)),
        "get_api_key": lambda p: p.broker.get_api_key(p.call(action), provider),
        "list_providers": lambda p: p.broker.list_providers(p.call(action)),
        "list_grants": lambda p: p.broker.list_grants(p.call(action)),
        "revoke_grant": lambda p: p.broker.revoke_grant(p.call(action), provider),
        "whoami": lambda p: p.broker.note(p.call(action)),
        "refused": lambda p: p.broker.refuse(p.call(action), InvalidRequest("x"), provider=provider),
        "get_consent": lambda p: p.broker.get_consent(p.call(action), provider),
        "add_provider": lambda p: p.broker.directory.add(
            p.call(action), provider, ProviderSpec(vendor="api-key", secret=Secret("x"), release="token")
        ),
        "update_provider": lambda p: p.broker.directory.update(p.call(action), provider, ProviderSpec(scopes=())),
        "remove_provider": lambda p: p.broker.directory.remove(p.call(action), provider),
        "test_provider": lambda p: p.broker.directory.test(p.call(action), provider),
        "begin_consent": lambda p: p.broker.begin_consent("A" * 43, allow_other_account=False),
        "callback": lambda p: p.broker.receive_callback("x", [("state", "x")], {}),
    }
    return broker_verbs[action]


ALLOWED = [
    ("get_token", "idp"), ("start_consent", "idp"), ("get_api_key", "key"), ("list_providers", ""), ("list_grants", ""),
    ("revoke_grant", "idp"), ("whoami", ""), ("add_provider", "new"), ("update_provider", "idp"), ("remove_provider", "idp"),
    ("test_provider", "idp"),
]  # fmt: skip
REFUSED = [
    ("get_token", "absent"), ("start_consent", "absent"), ("get_api_key", "absent"), ("revoke_grant", "absent"),
    ("refused", "idp"), ("get_consent", "no-uri"), ("add_provider", "No Name"), ("update_provider", "absent"),
    ("remove_provider", "absent"), ("test_provider", "absent"), ("begin_consent", ""), ("callback", ""),
]  # fmt: skip


@pytest.fixture
async def full(product: Product) -> Product:
    """A product with everything in it."""
    await product.add(settings=BY_ISSUER, scopes=("openid", "read"))
    await product.add_api_key()
    await product.connected()
    return product


@pytest.mark.parametrize(("action", "provider"), ALLOWED)
async def test_every_allowed_call_is_in_the_trail(full: Product, action: str, provider: str) -> None:
    before = len(await full.outcomes(action))
    answer = await _verb(action, provider)(full)
    written = (await full.outcomes(action))[before:]
    assert written == ["consent_required" if isinstance(answer, ConsentRequired) else "ok"]


@pytest.mark.parametrize(("action", "provider"), REFUSED)
async def test_every_refused_call_is_in_the_trail_once(full: Product, action: str, provider: str) -> None:
    before = len(await full.outcomes(action))
    try:
        await _verb(action, provider)(full)
    except Exception as error:  # noqa: BLE001 - its code is compared
        code = getattr(error, "code", "")
    else:
        code = "invalid_request"
    assert (await full.outcomes(action))[before:] == [code]


@pytest.mark.parametrize(("action", "provider"), [*ALLOWED, *REFUSED])
async def test_where_the_trail_is_broken_no_call_is_answered(full: Product, action: str, provider: str) -> None:
    await full.sql(MUTE)
    with raising("audit_unavailable"):
        await _verb(action, provider)(full)
    await full.sql("DROP TRIGGER mute")
    assert isinstance(await full.get(), TokenReleased)
    assert len((await full.broker.directory.list("default")).providers) == 2


async def test_where_the_trail_is_broken_a_callback_exchanges_nothing(full: Product) -> None:
    pressed = await full.press(await full.start())
    parameters = full.server.person_consents(pressed.url)
    exchanges = full.server.count("authorization_code")
    await full.sql(MUTE)
    with raising("audit_unavailable"):
        await full.come_back(pressed, parameters)
    assert full.server.count("authorization_code") == exchanges
    await full.sql("DROP TRIGGER mute")
    await full.come_back(pressed, parameters)
    assert full.server.count("authorization_code") == exchanges + 1


async def test_where_the_trail_is_broken_a_consent_of_an_end_is_not_told(full: Product) -> None:
    consent = await full.start()
    await full.sql(MUTE)
    with raising("audit_unavailable"):
        await full.status(consent)
    with raising("audit_unavailable"):
        await full.get(session_uri=consent.session_uri)


async def test_the_trail_holds_no_secret(full: Product) -> None:
    full.clock.advance(3600)
    await full.token()
    await full.broker.get_api_key(full.call("get_api_key"), "key")
    pressed = await full.press(await full.start("write"))
    parameters = full.server.person_consents(pressed.url)
    await full.come_back(pressed, parameters)
    await full.broker.revoke_grant(full.call("revoke_grant"), "idp")
    for name, value in (("error", "x"), ("code", "code-canary")):
        other = await full.press(await full.start(name))
        await full.come_back(other, [(name, value), full.server.person_consents(other.url)[1]])
    trail = repr(await full.trail())
    secrets = [
        CLIENT_SECRET,
        "canary",
        parameters[0][1],
        parameters[1][1],
        *pressed.cookies.values(),
        pressed.session_id,
    ]
    assert len(await full.trail()) > 15
    assert [secret for secret in secrets if secret in trail] == []


async def test_no_secret_stands_in_the_database(full: Product) -> None:
    full.clock.advance(3600)
    await full.token()
    home = full.prepared.graph.settings.home
    content = b"".join(path.read_bytes() for path in home.iterdir() if path.name.startswith("vault.db"))
    assert len(content) > 10_000
    assert b"canary" not in content


async def test_a_row_says_who_did_what(full: Product) -> None:
    await full.token()
    event = (await full.trail())[-1]
    assert (event.workload, event.workload_id) == ("agent", full.principal.workload.id)
    assert event.user_key == full.principal.user_key
    assert (event.edge, event.verified) == ("stdio", False)
    assert (event.action, event.provider, event.flow, event.scopes) == (
        "get_token",
        "idp",
        "USER_FEDERATION",
        ("openid", "read"),
    )
    assert len(event.correlation_id) == 16


async def test_a_hostile_name_is_cleaned_before_it_is_written(full: Product) -> None:
    hostile = "a\u202eb\x1b[31m\n" + "x" * 5000
    with raising("unknown_provider"):
        await full.get(provider=hostile)
    written = (await full.trail())[-1].provider
    assert written.isprintable()
    assert len(written) <= 128
