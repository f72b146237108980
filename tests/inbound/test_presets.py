"""Each vendor's tokens, as it makes them: one user in all of them, services apart, organisations apart, ID tokens refused."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_identity.domain.errors import Unauthenticated
from mcp_identity.inbound.jwt import issuer_of, read_token
from mcp_identity.inbound.login import user_of
from tests.fakes.clock import FakeClock
from tests.fakes.identity_provider import (
    ALICE,
    BOB,
    OTHER_TENANT_ID,
    PRESETS,
    TENANT_ID,
    FakeIdentityProvider,
    Person,
    Preset,
    signing_key,
)
from tests.inbound import kit
from tests.inbound.forging import claims_of


def provider(preset: Preset, clock: FakeClock) -> FakeIdentityProvider:
    return FakeIdentityProvider(preset, now=clock.now)


def refused(idp: FakeIdentityProvider, token: str, **issuer: Any) -> None:
    with pytest.raises(Unauthenticated):
        kit.verify(idp, token, kit.issuer_of(idp, **issuer))


@pytest.mark.parametrize("preset", PRESETS)
def test_access_tokens_and_id_tokens_give_one_user(preset: Preset, clock: FakeClock) -> None:
    idp = provider(preset, clock)
    issuer = kit.issuer_of(idp)
    access = [idp.access_token(), idp.access_token(scopes="a b")]
    signed_in = [idp.id_token(), idp.id_token(nonce="another")]
    if preset == "entra":
        access.append(idp.access_token(version=1))
        signed_in.append(idp.id_token(version=1))
    users = [kit.verify(idp, token).user for token in access] + [user_of(issuer, claims_of(token)) for token in signed_in]
    assert None not in users
    assert len({(user.key, user.kind) for user in users if user}) == 1
    other = kit.verify(idp, idp.access_token(BOB)).user
    assert other is not None
    assert other.key not in {user.key for user in users if user}


@pytest.mark.parametrize("preset", PRESETS)
def test_no_user_is_known_by_a_name_or_an_address(preset: Preset, clock: FakeClock) -> None:
    idp = provider(preset, clock)
    for token in (idp.access_token(), idp.access_token(claims={"email": "x@y.example", "upn": "x", "preferred_username": "x"})):
        user = kit.verify(idp, token).user
        assert user is not None
        assert "@" not in user.subject
        same = kit.verify(idp, idp.access_token()).user
        assert same is not None
        assert user.key == same.key


@pytest.mark.parametrize("preset", PRESETS)
def test_a_service_has_no_user(preset: Preset, clock: FakeClock) -> None:
    idp = provider(preset, clock)
    extra = {"hd": idp.tenant_id} if preset == "google" else {}
    verified = kit.verify(idp, idp.service_token(scopes="run.all", claims=extra))
    assert verified.user is None
    assert verified.client
    assert preset == "google" or "run.all" in verified.scopes


@pytest.mark.parametrize("preset", [each for each in PRESETS if each != "google"])
def test_the_id_token_of_a_sign_in_is_no_access_token(preset: Preset, clock: FakeClock) -> None:
    """covers: A05."""
    idp = provider(preset, clock)
    for nonce in ("n0nce", ""):
        refused(idp, idp.id_token(nonce=nonce))
        refused(idp, idp.id_token(nonce=nonce, client=idp.audience or idp.client))
        refused(idp, idp.id_token(nonce=nonce, client=idp.audience or idp.client, header={"typ": "at+jwt"}))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_key_under_another_vendors_issuer_is_not_believed(preset: Preset, clock: FakeClock) -> None:
    idp = provider(preset, clock)
    for other in PRESETS:
        if other != preset:
            refused(idp, provider(other, clock).access_token(audience=idp.audience))


# --- Cognito ----------------------------------------------------------------------------------------------------------


def test_cognito_has_no_audience_and_a_client_instead(clock: FakeClock) -> None:
    idp = provider("cognito", clock)
    verified = kit.verify(idp, idp.access_token(scopes="api/read"))
    assert (verified.audiences, verified.client, verified.scopes) == (frozenset(), idp.client, {"api/read"})
    refused(idp, idp.access_token(claims={"client_id": None}))
    refused(idp, idp.access_token(claims={"client_id": ["the-agent-client"]}))
    refused(idp, idp.access_token(claims={"token_use": None}))
    refused(idp, idp.access_token(claims={"token_use": "id"}))
    refused(idp, idp.access_token(), audiences=frozenset({"https://api.example.com"}))
    bound = idp.access_token(audience="https://api.example.com")
    refused(idp, bound)  # it was asked for another service, and only by that service's name
    assert kit.verify(idp, bound, kit.issuer_of(idp, audiences=frozenset({"https://api.example.com"}))).audiences


def test_another_pool_of_the_same_region_is_another_issuer(clock: FakeClock) -> None:
    idp = provider("cognito", clock)
    refused(idp, idp.access_token(claims={"iss": idp.issuer.replace("EXAMPLE", "OTHER")}))


# --- Okta -------------------------------------------------------------------------------------------------------------


def test_okta_users_keep_who_they_are_when_their_login_changes(clock: FakeClock) -> None:
    idp = provider("okta", clock)
    before, after = kit.verify(idp, idp.access_token()), kit.verify(idp, idp.access_token(claims={"sub": "new@example.com"}))
    assert before.subject == after.subject == "00ualice"
    assert kit.verify(idp, idp.access_token(scopes="a b")).scopes == {"a", "b"}


def test_an_okta_user_whose_login_is_a_clients_id_is_no_service(clock: FakeClock) -> None:
    idp = provider("okta", clock)
    assert kit.verify(idp, idp.access_token(claims={"sub": idp.client})).subject == "00ualice"


# --- Entra ------------------------------------------------------------------------------------------------------------


def test_entra_versions_differ_in_issuer_and_client_and_not_in_user(clock: FakeClock) -> None:
    idp = provider("entra", clock)
    first, second = kit.verify(idp, idp.access_token(version=1)), kit.verify(idp, idp.access_token())
    assert claims_of(idp.access_token(version=1))["iss"] == f"https://sts.windows.net/{TENANT_ID}/"
    assert (first.subject, first.client, first.scopes) == (second.subject, second.client, second.scopes)
    assert second.subject == f"{TENANT_ID}.{ALICE.object_id}"


def test_entra_roles_are_scopes_of_services_alone(clock: FakeClock) -> None:
    idp = provider("entra", clock)
    assert kit.verify(idp, idp.service_token(scopes="Run.All")).scopes == {"Run.All"}
    assert kit.verify(idp, idp.access_token(claims={"roles": ["Run.All"]})).scopes == {"access_as_user"}


@pytest.mark.parametrize("multi_tenant", [False, True])
def test_another_directory_is_nobody_although_its_keys_are_the_same(clock: FakeClock, *, multi_tenant: bool) -> None:
    """covers: A05."""
    idp = provider("entra", clock)
    idp.multi_tenant = multi_tenant
    other = {"tid": OTHER_TENANT_ID}
    assert kit.verify(idp, idp.access_token()).subject.startswith(TENANT_ID)
    for version in (1, 2):
        host = "https://sts.windows.net/{}/" if version == 1 else "https://login.microsoftonline.com/{}/v2.0"
        theirs = host.format(OTHER_TENANT_ID)
        refused(idp, idp.access_token(version=version, claims=other))
        refused(idp, idp.access_token(version=version, claims={"iss": theirs}))
        refused(idp, idp.access_token(version=version, claims={"iss": theirs, **other}))
        for tid in (None, "", [TENANT_ID], f"{TENANT_ID}/", 1):
            refused(idp, idp.access_token(version=version, claims={"tid": tid}))
    for template in ("https://login.microsoftonline.com/{tenantid}/v2.0", "https://sts.windows.net/{tid}/"):
        refused(idp, idp.access_token(claims={"iss": template}))


def test_a_template_is_filled_with_the_organisations_that_an_operator_named(clock: FakeClock) -> None:
    idp = provider("entra", clock)
    idp.multi_tenant = True
    issuer = kit.issuer_of(idp, discriminator_values=frozenset({TENANT_ID, OTHER_TENANT_ID}))
    users = set[str]()
    for tenant_id in (TENANT_ID, OTHER_TENANT_ID):
        idp.tenant_id = tenant_id
        for version in (1, 2):
            user = kit.verify(idp, idp.access_token(version=version), issuer).user
            assert user is not None
            users.add(user.key)
    assert len(users) == 2
    assert kit.issuer_of(idp, discriminator_values=frozenset[str]()).issuers_for("") == frozenset()


def test_a_key_that_names_another_issuer_signs_nothing_here(clock: FakeClock) -> None:
    idp = provider("entra", clock)
    stranger = signing_key("consumers").as_dict(private=False)
    idp.knobs.extra_keys = [{**stranger, "issuer": f"https://login.microsoftonline.com/{OTHER_TENANT_ID}/v2.0"}]
    token = idp.sign(claims_of(idp.access_token()), kid="consumers")
    refused(idp, token)
    idp.knobs.extra_keys = [{**stranger, "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"}]
    assert kit.verify(idp, token).subject


def test_parts_of_a_subject_cannot_be_joined_in_two_ways(clock: FakeClock) -> None:
    idp = provider("entra", clock)
    for oid in ("a.b", "", None, ["x"], "x\n"):
        refused(idp, idp.access_token(claims={"oid": oid}))


# --- Auth0 ------------------------------------------------------------------------------------------------------------


def test_auth0_has_two_dialects(clock: FakeClock) -> None:
    idp = provider("auth0", clock)
    for header, claims in (({"typ": "JWT"}, {}), ({"typ": "at+jwt"}, {"azp": None, "client_id": idp.client})):
        verified = kit.verify(idp, idp.access_token(header=header, claims=claims))
        assert (verified.subject, verified.client) == ("auth0|alice", idp.client)


def test_an_auth0_user_who_is_called_like_a_service_is_none(clock: FakeClock) -> None:
    idp = provider("auth0", clock)
    for person in (Person("x@clients", "X"), Person(f"{idp.client}@clients", "X")):
        assert kit.verify(idp, idp.access_token(person)).user is not None
    assert kit.verify(idp, idp.access_token(claims={"sub": f"{idp.client}@clients"})).user is None
    assert kit.verify(idp, idp.service_token(claims={"gty": None})).user is None


@pytest.mark.parametrize(("preset", "claim"), [("auth0", "org_id"), ("google", "hd")])
def test_another_organisation_or_none_is_nobody(preset: Preset, claim: str, clock: FakeClock) -> None:
    idp = provider(preset, clock)
    for value in (None, "", "other", [idp.tenant_id], {"x": 1}, idp.tenant_id.upper(), f"{idp.tenant_id} ", 1, True):
        refused(idp, idp.access_token(claims={claim: value}))
    assert kit.verify(idp, idp.access_token()).subject


def test_one_issuer_speaks_for_several_tenants_each_with_its_own_organisation(clock: FakeClock) -> None:
    """covers: A03."""
    idp = provider("auth0", clock)
    mine = kit.issuer_of(idp, tenant="mine", discriminator_values=frozenset({"org_mine", "org_too"}))
    theirs = kit.issuer_of(idp, tenant="theirs", discriminator_values=frozenset({"org_theirs"}))
    for value, expected in (("org_mine", mine), ("org_too", mine), ("org_theirs", theirs)):
        assert issuer_of(read_token(idp.access_token(claims={"org_id": value})), [mine, theirs]) is expected
    for value in (None, "org_other", ["org_mine"]):
        with pytest.raises(Unauthenticated):
            issuer_of(read_token(idp.access_token(claims={"org_id": value})), [mine, theirs])


# --- Google -----------------------------------------------------------------------------------------------------------


def test_at_google_an_id_token_for_us_is_what_callers_bring(clock: FakeClock) -> None:
    idp = provider("google", clock)
    assert kit.verify(idp, idp.id_token(client=idp.audience)).user == kit.verify(idp, idp.access_token()).user
    refused(idp, idp.id_token())
