"""Access tokens of configured issuers: what does not stand is refused with one text, whatever the reason.

covers: A05, A05b, A39, A46, A47
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.errors import CallerError, TokenExpired, Unauthenticated
from mcp_identity.inbound.jwt import UNAUTHENTICATED, VerifiedToken, issuer_of, read_token
from tests.fakes.clock import FakeClock
from tests.fakes.identity_provider import ALICE, PRESETS, FakeIdentityProvider, Preset
from tests.inbound import corpus, kit
from tests.inbound.corpus_algorithms import algorithm_cases
from tests.inbound.corpus_structure import structure_cases
from tests.inbound.forging import claims_of, compact, header_of, issuer_signer

CLOCK = FakeClock()
IDP = FakeIdentityProvider("oidc", now=CLOCK.now)


def refusal(idp: FakeIdentityProvider, token: str) -> CallerError | None:
    """What is raised for a token; None for nothing."""
    try:
        kit.verify(idp, token)
    except CallerError as error:
        return error
    return None


def test_the_corpus_is_as_large_as_it_says(idp: FakeIdentityProvider) -> None:
    bad, good = corpus.bad_tokens(idp), corpus.good_tokens(idp)
    assert len({token for _, token in bad}) >= 300
    assert len({token for _, token in good}) >= 30
    assert len({name for name, _ in bad}) == len(bad)
    assert len({name for name, _ in good}) == len(good)


def test_every_bad_token_is_refused_with_one_text(idp: FakeIdentityProvider) -> None:
    corpus.good_tokens(idp)
    answers = {name: refusal(idp, token) for name, token in corpus.bad_tokens(idp)}
    assert [name for name, error in answers.items() if type(error) is not Unauthenticated] == []
    assert {error.message for error in answers.values() if error} == {UNAUTHENTICATED}


def test_every_good_token_is_accepted(idp: FakeIdentityProvider) -> None:
    good = corpus.good_tokens(idp)
    verified = {name: kit.verify(idp, token) for name, token in good}
    services = {name for name, token in verified.items() if token.user is None}
    assert services == {"of a service on its own"}
    assert {token.subject for token in verified.values()} == {"alice", ""}


def test_only_a_token_that_is_right_in_every_other_way_has_expired(idp: FakeIdentityProvider) -> None:
    answers = {name: refusal(idp, token) for name, token in corpus.expired_tokens(idp)}
    assert [name for name, error in answers.items() if type(error) is not TokenExpired] == []
    assert len({error.message for error in answers.values() if error}) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_no_vendors_rules_let_a_broken_form_or_signature_through(preset: Preset, clock: FakeClock) -> None:
    idp = FakeIdentityProvider(preset, now=clock.now)
    assert kit.verify(idp, idp.access_token()).client == idp.client
    cases = dict([*structure_cases(idp), *algorithm_cases(idp)])
    accepted = [name for name, token in cases.items() if refusal(idp, token) is None]
    assert accepted == []


def test_what_a_token_says_is_what_is_known_of_it(idp: FakeIdentityProvider) -> None:
    verified = kit.verify(idp, idp.access_token(scopes="a b a", audience=["x", idp.audience], claims={"jti": "j-1\u202e"}))
    assert (verified.subject, verified.client, verified.token_id) == ("alice", idp.client, "j-1")
    assert (verified.scopes, verified.audiences) == ({"a", "b"}, {"x", idp.audience})
    assert (verified.expires_at.timestamp(), verified.issued_at.timestamp()) == (idp.epoch + 3600, idp.epoch)
    user = verified.user
    assert user is not None
    assert (user.issuer, user.subject, user.kind, user.display) == (idp.issuer, "alice", "oidc", "Alice Example")
    assert "alice" not in repr(verified).replace("subject='alice'", "")


@pytest.mark.parametrize(
    ("claims", "display"),
    [
        ({"name": " Alice \u202e\u200b\nExample "}, "Alice Example"),
        ({"name": None, "preferred_username": "al"}, "al"),
        ({"name": "\u200b", "preferred_username": 7, "email": "a@example.com"}, "a@example.com"),
        ({"name": None}, "alice"),
        ({"name": "x" * 500}, "x" * 128),
    ],
)
def test_a_name_for_people_is_clean_and_bounded(idp: FakeIdentityProvider, claims: dict[str, Any], display: str) -> None:
    assert kit.verify(idp, idp.access_token(claims=claims)).display == display


def test_a_disabled_issuer_or_two_that_fit_are_no_issuer(idp: FakeIdentityProvider) -> None:
    token, issuer = read_token(idp.access_token()), kit.issuer_of(idp)
    assert issuer_of(token, [issuer]) is issuer
    other = replace(issuer, id="other", tenant="other")
    for issuers in ([], [replace(issuer, disabled=True)], [issuer, other], [replace(issuer, issuer="https://x.example")]):
        with pytest.raises(Unauthenticated):
            issuer_of(token, issuers)


def test_an_issuer_without_an_audience_accepts_nothing_where_one_is_required(idp: FakeIdentityProvider) -> None:
    issuer = kit.issuer_of(idp, audiences=frozenset[str]())
    for audience in (idp.audience, "", "anything"):
        with pytest.raises(Unauthenticated):
            kit.verify(idp, idp.access_token(audience=audience), issuer)


def test_an_algorithm_that_the_issuer_may_not_use_is_refused_though_its_key_would_do(idp: FakeIdentityProvider) -> None:
    idp.publish("ec-1")
    claims = claims_of(idp.access_token())
    token = idp.sign(claims, kid="ec-1")
    assert kit.verify(idp, token).subject == "alice"
    issuer = kit.issuer_of(idp)
    narrow = replace(issuer, rules=issuer.rules.model_copy(update={"algorithms": ("RS256",)}))
    with pytest.raises(Unauthenticated):
        kit.verify(idp, token, narrow)


@pytest.mark.parametrize(
    "text", ["a" * 65536 + "!", "." * 65536, "ey" * 32768 + ".e30.e30", "=" * 16384, "%" * 16384, "A" * 16380 + ".A.A"]
)
def test_floods_cost_next_to_nothing(text: str) -> None:
    """covers: A48."""
    began = time.perf_counter()
    with pytest.raises(Unauthenticated):
        read_token(text)
    assert time.perf_counter() - began < 0.05


# --- properties -------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
names = st.sampled_from(
    ["iss", "aud", "exp", "iat", "nbf", "sub", "jti", "client_id", "azp", "scope", "scp", "name", "typ", "token_use", "nonce"]
)


@given(st.dictionaries(names, values, min_size=1, max_size=4))
def test_whatever_an_issuer_signs_is_refused_or_holds_what_we_rely_on(claims: dict[str, Any]) -> None:
    signed = claims_of(IDP.access_token()) | claims
    token = compact(header_of(IDP.access_token()), signed, issuer_signer(IDP))
    try:
        verified = kit.verify(IDP, token)
    except CallerError:
        return
    _check_invariants(verified, signed)


def _check_invariants(verified: VerifiedToken, signed: dict[str, Any]) -> None:
    assert signed["iss"] == IDP.issuer
    assert IDP.audience in verified.audiences
    assert verified.expires_at > IDP.now()
    assert type(signed["exp"]) is int
    assert verified.issued_at.timestamp() <= IDP.epoch + 60
    assert verified.user is None or verified.user.subject == signed["sub"]
    assert verified.user is not None or signed["sub"] == verified.client
    assert "nonce" not in signed
    assert len(verified.display) <= 128
    assert all(scope and " " not in scope for scope in verified.scopes) or isinstance(signed.get("scope"), list)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        read_token(text)


@given(st.data())
def test_a_token_of_which_one_character_was_changed_is_refused(data: st.DataObject) -> None:
    token = IDP.access_token(ALICE, claims={"jti": "fixed"})
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda each: each != token[at]))
    with pytest.raises(Unauthenticated):
        kit.verify(IDP, token[:at] + char + token[at + 1 :])
