"""Who is signed in at a browser, and by what is nobody?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import pytest

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.identity import User, UserKind
from mcp_identity.domain.issuer import Issuer, TokenRules
from mcp_identity.domain.login import LoginBegun, LoginDone, LoginPurpose, LoginTarget
from mcp_identity.inbound import login
from mcp_identity.vault.records import Records
from tests.broker.kit import raising
from tests.fakes.identity_provider import ALICE, LOGIN_CLIENT, LOGIN_SECRET, OTHER_TENANT_ID, TENANT_ID, FakeIdentityProvider
from tests.web.remote import PUBLIC_URL, Remote, issuer_of, running_remote, user_of

TARGET = LoginTarget("default", "issuer-1")
CONSENT = "C" * 43
ENTRA = TokenRules(access_subject=("tid", "oid"), id_subject=("tid", "oid"), discriminator="tid")
Parameters = Sequence[tuple[str, str]]


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[Remote]:
    async with running_remote(tmp_path / "home") as one:
        yield one


async def begin(remote: Remote, target: LoginTarget = TARGET) -> LoginBegun:
    return await remote.logins.start(target, LoginPurpose.CONSENT, CONSENT)


def answer(remote: Remote, begun: LoginBegun) -> list[tuple[str, str]]:
    """What the identity provider sends the browser back with."""
    given = remote.company.respond(HttpRequest("GET", begun.authorization_url))
    assert given.status == 302, given.body
    return parse_qsl(urlsplit(given.headers["location"]).query)


async def finish(remote: Remote, begun: LoginBegun, parameters: Parameters, issuer_id: str = "issuer-1") -> LoginDone:
    return await remote.logins.finish(issuer_id, parameters, {begun.name: begun.browser_secret.reveal()})


async def sign_in(remote: Remote, target: LoginTarget = TARGET) -> LoginDone:
    begun = await begin(remote, target)
    return await finish(remote, begun, answer(remote, begun), target.issuer_id)


async def sign_ins(remote: Remote) -> list[AuditEvent]:
    return [event for event in await remote.product.trail() if event.action == "sign_in"]


async def rows(remote: Remote) -> int:
    return await remote.product.run(
        lambda records: records.connection.exec_driver_sql("SELECT count(*) FROM login_transactions").scalar_one()
    )


# The way it is meant


async def test_a_sign_in_says_who_sits_at_the_browser(remote: Remote) -> None:
    done = await sign_in(remote)
    assert done.session.user == user_of(ALICE)
    assert (done.purpose, done.consent_id, done.session.issuer_id) == (LoginPurpose.CONSENT, CONSENT, "issuer-1")
    assert (done.session.expires_at - done.session.issued_at).total_seconds() == 8 * 3600
    assert remote.logins.open(done.cookie.reveal()) == done.session
    assert await remote.logins.current(done.cookie.reveal()) == done.session
    (event,) = await sign_ins(remote)
    assert (event.outcome, event.user_key, event.edge, event.workload) == ("ok", user_of(ALICE).key, "web", "")
    assert await rows(remote) == 0


async def test_the_request_is_a_code_flow_with_pkce_nonce_and_state(remote: Remote) -> None:
    """covers: A16c."""
    begun = await begin(remote)
    asked = dict(parse_qsl(urlsplit(begun.authorization_url).query))
    assert asked["redirect_uri"] == f"{PUBLIC_URL}/login/callback/issuer-1"
    assert (asked["response_type"], asked["code_challenge_method"], asked["scope"]) == ("code", "S256", "openid profile")
    assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43
    assert begun.browser_secret.reveal() not in begun.authorization_url
    assert "prompt" not in asked
    again = await remote.logins.start(TARGET, LoginPurpose.CONSENT, CONSENT, another_user=True)
    assert dict(parse_qsl(urlsplit(again.authorization_url).query))["prompt"] == "login"


async def test_nothing_of_a_sign_in_stands_readable_in_the_vault(remote: Remote, tmp_path: Path) -> None:
    begun = await begin(remote)
    asked = dict(parse_qsl(urlsplit(begun.authorization_url).query))
    files = b"".join(path.read_bytes() for path in (tmp_path / "home").iterdir() if path.is_file())
    for secret in (asked["state"], asked["nonce"], begun.browser_secret.reveal(), LOGIN_SECRET):
        assert secret.encode() not in files


async def test_a_public_login_client_needs_no_secret(tmp_path: Path) -> None:
    async with running_remote(tmp_path / "home") as remote:
        remote.company.login_secret = ""

        def unit(records: Records) -> None:
            records.insert_issuer(replace(issuer_of(remote.company), id="issuer-2", name="public"), None)

        await remote.product.run(unit)
        assert (await sign_in(remote, LoginTarget("default", "issuer-2"))).session.issuer_id == "issuer-2"


# Login CSRF


@pytest.mark.parametrize("brought", ["nothing", "another", "empty", "of another sign-in", "under another name"])
async def test_an_answer_in_another_browser_signs_nobody_in(remote: Remote, brought: str) -> None:
    """Mallory sends Bob the answer to their own sign-in, so that Bob would be Mallory here.

    covers: A16d
    """
    begun, other = await begin(remote), await begin(remote)
    secret = begun.browser_secret.reveal()
    cookies = {
        "nothing": {},
        "another": {begun.name: "A" * 43},
        "empty": {begun.name: ""},
        "of another sign-in": {begun.name: other.browser_secret.reveal(), other.name: other.browser_secret.reveal()},
        "under another name": {other.name: secret},
    }[brought]
    parameters = answer(remote, begun)
    with raising("consent_mismatch"):
        await remote.logins.finish("issuer-1", parameters, cookies)
    with raising("consent_not_found"):
        await finish(remote, begun, parameters)
    assert "/token" not in remote.company.requests
    assert [event.outcome for event in await sign_ins(remote)] == ["consent_mismatch", "consent_not_found"]


async def test_an_answer_counts_once(remote: Remote) -> None:
    """covers: A16."""
    begun = await begin(remote)
    parameters = answer(remote, begun)
    outcomes: list[str] = []

    async def once() -> None:
        try:
            await finish(remote, begun, parameters)
            outcomes.append("ok")
        except IdentityError as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(once)
    assert sorted(outcomes) == ["consent_not_found"] * 49 + ["ok"]
    assert remote.company.requests.count("/token") == 1


@pytest.mark.parametrize("states", [[], ["unknown"], ["", ""], ["right", "right"], ["\udcff"]])
async def test_an_answer_without_a_known_state_is_nobodys(remote: Remote, states: list[str]) -> None:
    begun = await begin(remote)
    parameters = answer(remote, begun)
    right = dict(parameters)["state"]
    brought = [("state", right if each == "right" else each) for each in states]
    with raising("consent_not_found"):
        await finish(remote, begun, [pair for pair in parameters if pair[0] != "state"] + brought)
    assert (await finish(remote, begun, parameters)).session.user == user_of(ALICE)


async def test_an_answer_after_ten_minutes_is_too_late(remote: Remote) -> None:
    begun = await begin(remote)
    parameters = answer(remote, begun)
    remote.product.clock.advance(600)
    with raising("consent_expired"):
        await finish(remote, begun, parameters)


async def test_an_answer_at_another_issuers_callback_is_refused(remote: Remote) -> None:
    """covers: A04."""
    begun = await begin(remote)
    with raising("consent_mismatch"):
        await finish(remote, begun, answer(remote, begun), "issuer-2")
    assert "/token" not in remote.company.requests


async def test_an_answer_of_another_issuer_is_refused(remote: Remote) -> None:
    """covers: A04."""
    remote.company.knobs.login_iss = "https://evil.example.com"
    begun = await begin(remote)
    with raising("consent_mismatch"):
        await finish(remote, begun, answer(remote, begun))
    assert "/token" not in remote.company.requests


async def test_a_code_of_another_sign_in_does_not_count(remote: Remote) -> None:
    """covers: A16d."""
    mine, theirs = await begin(remote), await begin(remote)
    code = dict(answer(remote, theirs))["code"]
    parameters = [(name, code if name == "code" else value) for name, value in answer(remote, mine)]
    with raising("upstream_rejected"):
        await finish(remote, mine, parameters)


# What the identity provider says


async def test_who_does_not_want_to_is_nobody(remote: Remote) -> None:
    remote.company.knobs.denies = True
    begun = await begin(remote)
    with raising("consent_denied"):
        await finish(remote, begun, answer(remote, begun))


CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"nonce": "another"}, "consent_mismatch"),
    "no nonce": ({"nonce": None}, "consent_mismatch"),
    "another issuer": ({"iss": "https://evil.example.com"}, "upstream_bad_response"),
    "another client": ({"aud": "another-client"}, "upstream_bad_response"),
    "another party": ({"azp": "another-client"}, "upstream_bad_response"),
    "several clients": ({"aud": [LOGIN_CLIENT, "another"]}, "upstream_bad_response"),
    "expired": ({"exp": 1}, "upstream_bad_response"),
    "from the future": ({"iat": 1 << 40}, "upstream_bad_response"),
    "no subject": ({"sub": None}, "upstream_bad_response"),
    "a subject that is no text": ({"sub": 7}, "upstream_bad_response"),
    "an empty subject": ({"sub": ""}, "upstream_bad_response"),
    "a subject with a line break": ({"sub": "alice\n"}, "upstream_bad_response"),
    "an endless subject": ({"sub": "a" * 256}, "upstream_bad_response"),
}


@pytest.mark.parametrize(("claims", "code"), CLAIMS.values(), ids=CLAIMS.keys())
async def test_an_id_token_that_does_not_stand_signs_nobody_in(remote: Remote, claims: dict[str, Any], code: str) -> None:
    remote.company.knobs.login_claims = claims
    begun = await begin(remote)
    with raising(code):
        await finish(remote, begun, answer(remote, begun))
    assert [event.outcome for event in await sign_ins(remote)] == [code]


@pytest.mark.parametrize("what", ["down", "no token", "no id token", "error", "other keys", "no keys"])
async def test_an_identity_provider_in_trouble_signs_nobody_in(remote: Remote, what: str) -> None:
    knobs = remote.company.knobs
    begun = await begin(remote)
    parameters = answer(remote, begun)
    json_type = {"content-type": "application/json"}
    match what:
        case "down":
            knobs.down = True
        case "no token":
            knobs.token_answer = HttpResponse(200, json_type, b"{}")
        case "no id token":
            knobs.token_answer = HttpResponse(200, json_type, b'{"access_token": "x", "token_type": "Bearer"}')
        case "error":
            knobs.token_answer = HttpResponse(400, json_type, b'{"error": "invalid_grant"}')
        case "other keys":
            knobs.jwks_answer = HttpResponse(200, json_type, b'{"keys": []}')
        case _:
            knobs.jwks_answer = HttpResponse(500, json_type, b"{}")
    with raising(
        {"down": "upstream_unavailable", "error": "upstream_rejected", "no keys": "upstream_unavailable"}.get(
            what, "upstream_bad_response"
        )
    ):
        await finish(remote, begun, parameters)
    knobs.down = False
    with raising("consent_not_found"):
        await finish(remote, begun, parameters)


async def test_the_name_for_people_is_cleaned_and_never_decides(remote: Remote) -> None:
    remote.company.knobs.login_claims = {"name": "\u202eevil\nname " + "x" * 300}
    user = (await sign_in(remote)).session.user
    assert user.display.startswith("evil name x")
    assert len(user.display) <= 128
    remote.company.knobs.login_claims = {"name": None, "email": None}
    assert (await sign_in(remote)).session.user.display == "alice"


# Issuers of many kinds


async def as_entra(remote: Remote, **fields: Any) -> tuple[FakeIdentityProvider, LoginTarget]:
    entra = FakeIdentityProvider("entra", now=remote.product.clock.now)
    entra.multi_tenant = fields.pop("multi_tenant", False)
    given: dict[str, Any] = {"rules": ENTRA, "discriminator_values": frozenset({TENANT_ID}), **fields}
    issuer = replace(issuer_of(entra), id="issuer-entra", name="entra", issuer=entra.metadata_issuer, **given)
    await remote.product.run(lambda records: records.insert_issuer(issuer, Secret(LOGIN_SECRET)))
    world: Any = remote.product.prepared.transport
    world.company = entra
    object.__setattr__(remote, "company", entra)
    return entra, LoginTarget("default", "issuer-entra")


@pytest.mark.parametrize("multi_tenant", [False, True])
async def test_a_user_has_one_identifier_made_of_the_claims_that_the_rules_name(remote: Remote, multi_tenant: bool) -> None:
    entra, target = await as_entra(remote, multi_tenant=multi_tenant)
    user = (await sign_in(remote, target)).session.user
    assert user.key == f"{entra.metadata_issuer} {TENANT_ID}.{ALICE.object_id}"


@pytest.mark.parametrize("multi_tenant", [False, True])
async def test_a_person_of_another_organisation_is_nobody_here(remote: Remote, multi_tenant: bool) -> None:
    entra, target = await as_entra(remote, multi_tenant=multi_tenant)
    entra.tenant_id = OTHER_TENANT_ID
    begun = await begin(remote, target)
    with raising("upstream_bad_response" if multi_tenant else "consent_mismatch"):  # the one issuer's answer names another
        await finish(remote, begun, answer(remote, begun), target.issuer_id)


async def test_an_issuer_of_many_organisations_without_theirs_named_accepts_nobody(remote: Remote) -> None:
    _, target = await as_entra(remote, multi_tenant=True, discriminator_values=frozenset[str]())
    begun = await begin(remote, target)
    with raising("upstream_bad_response"):
        await finish(remote, begun, answer(remote, begun), target.issuer_id)


@pytest.mark.parametrize("claims", [{"token_use": "access"}, {"token_use": None}])
async def test_a_token_that_is_no_id_token_signs_nobody_in(tmp_path: Path, claims: dict[str, Any]) -> None:
    rules = TokenRules(id_claims={"token_use": "id"})
    async with running_remote(tmp_path / "home", issuer={"rules": rules}) as remote:
        remote.company.knobs.login_claims = claims
        begun = await begin(remote)
        with raising("upstream_bad_response"):
            await finish(remote, begun, answer(remote, begun))
        remote.company.knobs.login_claims = {"token_use": "id"}
        assert (await sign_in(remote)).session.user == user_of(ALICE)


@pytest.mark.parametrize(
    "fields", [{"disabled": True}, {"login_client_id": ""}, {"rules": TokenRules(one_subject=False)}], ids=str
)
async def test_nobody_signs_in_where_it_is_not_set_up(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with running_remote(tmp_path / "home", issuer=fields) as remote:
        with raising("provider_misconfigured"):
            await begin(remote)
        assert await remote.logins.targets() == ()
        with raising("provider_misconfigured"):
            await begin(remote, LoginTarget("default", "absent"))


async def test_an_issuer_that_is_removed_on_the_way_signs_nobody_in(remote: Remote) -> None:
    begun = await begin(remote)
    parameters = answer(remote, begun)

    def unit(records: Records) -> None:
        issuer = records.find_issuer("default", "company")
        assert issuer is not None
        records.delete_issuer(issuer)

    await remote.product.run(unit)
    with raising("provider_misconfigured"):
        await finish(remote, begun, parameters)
    assert "/token" not in remote.company.requests


async def test_where_people_can_sign_in_is_listed_by_name(remote: Remote) -> None:
    ((name, target),) = await remote.logins.targets()
    assert (name, target.tenant, target.issuer_id, target.host) == ("company", "default", "issuer-1", "login.example.com")


# Limits


async def test_sign_ins_on_their_way_have_limits(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """covers: A45."""
    for _ in range(10):
        await begin(remote)
    with raising("rate_limited"):
        await begin(remote)
    assert await remote.logins.start(TARGET, LoginPurpose.CONSENT, "D" * 43)
    monkeypatch.setattr(login, "MAXIMUM_OPEN", 2)
    with raising("rate_limited"):
        await remote.logins.start(TARGET, LoginPurpose.CONSENT, "E" * 43)
    remote.product.clock.advance(600)
    await remote.product.broker.sweep()
    assert await rows(remote) == 0
    assert await begin(remote)


async def test_who_begins_many_sign_ins_at_the_portal_locks_nobody_out(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may press that button; the newest sign-ins stand. covers: A45."""
    monkeypatch.setattr(login, "MAXIMUM_OPEN", 3)
    begun: list[LoginBegun] = []
    for _ in range(5):
        remote.product.clock.advance(1)
        begun.append(await remote.logins.start(TARGET, LoginPurpose.PORTAL))
    assert await rows(remote) == 3
    for late in begun[2:]:
        assert (await finish(remote, late, answer(remote, late))).session.user == user_of(ALICE)
    with raising("consent_not_found"):
        await finish(remote, begun[1], answer(remote, begun[1]))


async def test_answers_to_nothing_are_counted_and_do_not_fill_the_trail(remote: Remote) -> None:
    """covers: A24, A45."""
    for _ in range(100):
        with raising("consent_not_found"):
            await remote.logins.finish("issuer-1", [("state", "x" * 43), ("code", "c")], {})
    assert [event.outcome for event in await sign_ins(remote)] == ["consent_not_found"] * 30
    assert (await sign_in(remote)).session.user == user_of(ALICE)


# The cookie


async def test_a_session_of_another_vault_is_nobodys(remote: Remote, tmp_path: Path) -> None:
    cookie = (await sign_in(remote)).cookie.reveal()
    async with running_remote(tmp_path / "other", own_vault=True) as other:
        assert other.logins.open(cookie) is None


async def test_a_user_of_another_kind_is_never_in_a_session(remote: Remote) -> None:
    session = (await sign_in(remote)).session
    local = User(session.user.issuer, session.user.subject, UserKind.LOCAL, "x")
    opened = remote.logins.open(remote.logins.seal(replace(session, user=local)).reveal())
    assert opened is not None
    assert opened.user.kind is UserKind.OIDC


async def test_a_session_from_the_future_or_without_its_issuer_is_nobodys(remote: Remote) -> None:
    done = await sign_in(remote)
    remote.product.clock.advance(-60)
    assert remote.logins.open(done.cookie.reveal()) is None
    remote.product.clock.advance(60)
    other: Issuer = replace(issuer_of(remote.company), id="issuer-2", name="other", issuer="https://elsewhere.example.com")
    await remote.product.run(lambda records: records.insert_issuer(other, None))
    moved = remote.logins.seal(replace(done.session, issuer_id="issuer-2"))
    assert await remote.logins.current(moved.reveal()) is None
