"""Workload access tokens: opaque, of one vault and one public URL, and ended by every change that must end them.

covers: A03, A46, A47
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.errors import TokenExpired, Unauthenticated
from mcp_identity.domain.identity import ASSERTED_ISSUER, DEFAULT_TENANT, Proof, User, UserKind, WorkloadIdentity
from mcp_identity.inbound.jwt import UNAUTHENTICATED
from mcp_identity.inbound.workload_tokens import WorkloadTokens
from mcp_identity.vault import envelope
from mcp_identity.vault.envelope import RANDOM_BYTES, DataKey, Place
from tests.fakes.clock import START, FakeClock, SystemEntropy
from tests.fakes.identity_provider import FakeIdentityProvider
from tests.inbound.kit import PUBLIC_URL, Inbound, running

ASSERTED = User(ASSERTED_ISSUER + DEFAULT_TENANT, "u-7", UserKind.ASSERTED, "u-7")
LIFE = timedelta(minutes=15)


def seal(
    inbound: Inbound, workload: WorkloadIdentity, user: User | None = None, *, tool_scopes: frozenset[str] | None = None
) -> str:
    """A token as it is issued now."""
    now = inbound.clock.now()
    token, _ = inbound.tokens.seal(workload, user, issued_at=now, expires_at=now + LIFE, tool_scopes=tool_scopes)
    return token.reveal()


async def refused(inbound: Inbound, bearer: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await inbound.authenticate(bearer)
    assert caught.value.message == UNAUTHENTICATED


async def test_a_token_proves_the_workload_and_the_user_that_it_was_sealed_for(inbound: Inbound) -> None:
    workload = await inbound.add_workload()
    now = inbound.clock.now()
    scopes = frozenset({"identity:read", "somebody else's"})
    token, token_id = inbound.tokens.seal(workload, ASSERTED, issued_at=now, expires_at=now + LIFE, tool_scopes=scopes)
    principal = await inbound.authenticate(token.reveal())
    assert (principal.workload, principal.user) == (workload, ASSERTED)
    assert (principal.authenticated_by, principal.verified, principal.edge) == (Proof.WORKLOAD_TOKEN, True, "http")
    assert (principal.credential_id, principal.expires_at) == (token_id, now + LIFE)
    assert principal.tool_scopes == {"identity:read"}
    alone = await inbound.authenticate(seal(inbound, workload))
    assert (alone.user, alone.tool_scopes) == (None, None)


async def test_a_token_says_nothing_to_whoever_reads_it(inbound: Inbound) -> None:
    workload = await inbound.add_workload("agent-with-a-name")
    token = seal(inbound, workload, replace(ASSERTED, display="Alice"))
    raw = base64.urlsafe_b64decode(token.removeprefix("mid_wat_") + "===")
    for text in (workload.id, workload.name, ASSERTED.subject, ASSERTED.issuer, "Alice", DEFAULT_TENANT, inbound.vault.id):
        assert text not in token
        assert text.encode() not in raw
    assert token != seal(inbound, workload, replace(ASSERTED, display="Alice"))


async def test_it_ends_with_its_time(inbound: Inbound) -> None:
    token = seal(inbound, await inbound.add_workload())
    inbound.clock.advance(LIFE.total_seconds() - 1)
    await inbound.authenticate(token)
    inbound.clock.advance(1)
    with pytest.raises(TokenExpired):
        await inbound.authenticate(token)


@pytest.mark.parametrize("change", [{"disabled": True}, {"may_assert_users": True}, {"owner": "somebody"}])
async def test_every_change_of_the_workload_ends_it(change: dict[str, object], inbound: Inbound) -> None:
    workload = await inbound.add_workload()
    token = seal(inbound, workload)
    await inbound.authenticate(token)
    after = await inbound.vault.run(lambda records: records.update_workload(replace(workload, **change)))  # pyright: ignore[reportArgumentType]
    await refused(inbound, token)
    assert after.disabled or (await inbound.authenticate(seal(inbound, after))).workload == after


async def test_a_removed_workload_ends_it_and_one_of_the_same_name_does_not_inherit_it(inbound: Inbound) -> None:
    workload = await inbound.add_workload()
    token = seal(inbound, workload)
    await inbound.vault.run(lambda records: records.delete_workload(workload))
    await refused(inbound, token)
    await inbound.add_workload()
    await refused(inbound, token)


async def test_a_users_not_before_ends_what_was_issued_for_them(inbound: Inbound) -> None:
    workload = await inbound.add_workload()
    mine, others = seal(inbound, workload, ASSERTED), seal(inbound, workload, replace(ASSERTED, subject="u-8"))
    await inbound.authenticate(mine)
    await inbound.vault.run(lambda records: records.end_user_credentials(DEFAULT_TENANT, ASSERTED))
    await refused(inbound, mine)
    await inbound.authenticate(others)
    await inbound.authenticate(seal(inbound, workload))
    inbound.clock.advance(1)
    await inbound.authenticate(seal(inbound, workload, ASSERTED))


async def test_a_removed_issuer_ends_what_was_issued_for_its_users(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    issuer = await inbound.add_issuer(idp)
    workload = await inbound.add_workload(issuer=issuer)
    user = (await inbound.authenticate(idp.access_token())).user
    token, alone = seal(inbound, workload, user), seal(inbound, workload)
    assert (await inbound.authenticate(token)).user == user
    await inbound.vault.run(lambda records: records.delete_issuer(issuer))
    await refused(inbound, token)
    await inbound.authenticate(alone)


async def test_users_of_different_kinds_are_different_users(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    issuer = await inbound.add_issuer(idp)
    workload = await inbound.add_workload(issuer=issuer)
    user = (await inbound.authenticate(idp.access_token())).user
    assert user is not None
    asserted = (await inbound.authenticate(seal(inbound, workload, replace(ASSERTED, subject=user.subject)))).user
    assert asserted is not None
    assert asserted.key != user.key


async def test_another_vault_or_another_public_url_does_not_open_it(
    inbound: Inbound, tmp_path_factory: pytest.TempPathFactory, clock: FakeClock
) -> None:
    workload = await inbound.add_workload()
    token = seal(inbound, workload)
    for url in ("", "https://other.example.com", f"{PUBLIC_URL}/", PUBLIC_URL.upper()):
        with pytest.raises(Unauthenticated):
            WorkloadTokens(inbound.vault, clock, SystemEntropy(), url).open(token)
    async with running(tmp_path_factory.mktemp("other"), clock=clock) as other:
        await other.add_workload()
        await refused(other, token)


async def test_every_replica_of_the_vault_opens_it(inbound: Inbound, tmp_path: Path, clock: FakeClock) -> None:
    workload = await inbound.add_workload()
    token = seal(inbound, workload, ASSERTED)
    async with running(tmp_path, clock=clock) as replica:
        assert (await replica.authenticate(token)).user == ASSERTED
        await inbound.vault.run(lambda records: records.update_workload(replace(workload, disabled=True)))
        await refused(replica, token)


async def test_what_was_cut_or_changed_does_not_open(inbound: Inbound) -> None:
    """covers: A47."""
    token = seal(inbound, await inbound.add_workload())
    head, body = token[:8], token[8:]
    changes: list[Callable[[str], str]] = [
        lambda text: text[:-1],
        lambda text: text[:-2],
        lambda text: text[: len(text) // 2],
        lambda text: text[:24],
        lambda _: "",
        lambda text: text + "A",
        lambda text: text + "=",
        lambda text: text[::-1],
        lambda text: text * 2,
        lambda text: text * 60,
        lambda text: f" {text}",
        lambda text: f"{text}\n",
        lambda text: text.swapcase(),
        lambda text: "é" + text[1:],
        lambda text: "+" + text[1:],
        lambda text: "A" * len(text),
    ]
    for change in changes:
        await refused(inbound, head + change(body))
    for at in range(0, len(body), 7):
        await refused(inbound, head + body[:at] + ("B" if body[at] == "A" else "A") + body[at + 1 :])
    await inbound.authenticate(token)


async def test_a_sealed_value_of_another_purpose_is_no_token(inbound: Inbound) -> None:
    key_id = inbound.vault.derived_key("workload-token-key-id")[:16]
    places = [
        (
            DataKey(key_id, inbound.vault.derived_key("browser-session")),
            Place("workload_token", "", inbound.vault.id, "bearer"),
        ),
        (
            DataKey(key_id, inbound.vault.derived_key("workload-token")),
            Place("browser_session", "", inbound.vault.id, "cookie"),
        ),
    ]
    for key, place in places:
        sealed = envelope.seal(key, b"{}", replace(place, context=(PUBLIC_URL,)), SystemEntropy().random_bytes(RANDOM_BYTES))
        await refused(inbound, "mid_wat_" + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode())
    right = replace(places[0][1], context=(PUBLIC_URL,))
    later = {
        "version": 2,
        "tenant": "t",
        "workload": "w",
        "epoch": 1,
        "user": None,
        "jti": "j",
        "issued": 1,
        "expires": 1 << 60,
    }
    for payload in (b"", b"{}", b"[]", b"null", json.dumps(later).encode(), b"\xff"):
        sealed = envelope.seal(places[1][0], payload, right, SystemEntropy().random_bytes(RANDOM_BYTES))
        await refused(inbound, "mid_wat_" + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode())


class Sealing:
    """A vault that only has keys."""

    id = "vault"

    def derived_key(self, purpose: str) -> bytes:
        return hashlib.sha256(purpose.encode()).digest()


TOKENS = WorkloadTokens(Sealing(), FakeClock(), SystemEntropy(), PUBLIC_URL)
subjects = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255)
users = st.none() | st.builds(
    User, st.just("https://idp.example.com"), subjects, st.sampled_from(list(UserKind)), st.text(max_size=128)
)


@given(user=users, seconds=st.integers(1, 900), epoch=st.integers(1, 1 << 60))
def test_what_is_sealed_is_what_is_opened(user: User | None, seconds: int, epoch: int) -> None:
    workload, ends = WorkloadIdentity("w", "t", "agent", epoch=epoch), START + timedelta(seconds=seconds)
    token, token_id = TOKENS.seal(workload, user, issued_at=START, expires_at=ends, tool_scopes=frozenset())
    found = TOKENS.open(token.reveal())
    assert (found.user, found.token_id, found.issued_at, found.expires_at) == (user, token_id, START, ends)
    assert (found.tenant, found.workload_id, found.epoch, found.tool_scopes) == ("t", "w", epoch, frozenset())
    assert len(token.reveal()) < 4096


@given(st.text(max_size=100) | st.binary(max_size=300).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")))
def test_whatever_looks_like_a_token_does_not_open(body: str) -> None:
    with pytest.raises(Unauthenticated):
        TOKENS.open(f"mid_wat_{body}")
