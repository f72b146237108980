"""Does an issuer vouch for exactly the people of its tenant, and does adding one that would not say what to do instead?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_identity.domain.authorizer import Authorizer
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.issuer import IssuerPreset
from mcp_identity.providers import presets
from tests.broker.kit import raising
from tests.broker.operators import PUBLIC_URL, Operator, running_operator
from tests.fakes.identity_provider import (
    AUDIENCE,
    CLIENT,
    LOGIN_CLIENT,
    LOGIN_SECRET,
    OTHER_TENANT_ID,
    PRESETS,
    TENANT_ID,
    FakeIdentityProvider,
    Preset,
)

EVIL = "https://evil.example.com"
HD = (("hd", "example.com"),)


def claims_of(preset: Preset) -> tuple[tuple[str, str], ...]:
    return HD if preset == "google" else ()


# What is pinned


@pytest.mark.parametrize("preset", PRESETS)
async def test_an_issuer_of_every_preset_is_added_by_its_discovery_url(operator: Operator, preset: Preset) -> None:
    provider = FakeIdentityProvider(preset)
    issuer = await operator.add_issuer(provider, claims=claims_of(preset))
    assert issuer.issuer == provider.issuer
    assert issuer.jwks_url == provider.jwks_url
    assert issuer.discovery_url == provider.discovery_url
    assert issuer.rules == presets.get(preset).rules
    assert await operator.broker.issuers.list("default") == (issuer,)
    assert await operator.outcomes("create_issuer") == ["ok"]


@pytest.mark.parametrize("preset", PRESETS)
async def test_the_issuer_itself_does_for_a_discovery_url(operator: Operator, preset: Preset) -> None:
    provider = FakeIdentityProvider(preset)
    operator.reach(provider)
    audiences = (AUDIENCE,) if provider.audience else ()
    issuer = await operator.add_issuer(provider.issuer, preset=preset, audiences=audiences, claims=claims_of(preset))
    assert issuer.discovery_url == provider.discovery_url


async def test_an_authorization_servers_own_metadata_does_too(operator: Operator) -> None:
    provider = FakeIdentityProvider()
    operator.reach(provider)
    url = f"{provider.origin}/.well-known/oauth-authorization-server"
    assert (await operator.add_issuer(url, audiences=(AUDIENCE,))).issuer == provider.issuer


async def test_metadata_is_read_once_and_pinned(operator: Operator) -> None:
    provider = FakeIdentityProvider()
    issuer = await operator.add_issuer(provider)
    assert provider.knobs.metadata is not None
    provider.knobs.metadata["jwks_uri"] = f"{EVIL}/jwks"
    assert await operator.broker.issuers.get("default", "corp") == issuer
    assert provider.requests == ["/.well-known/openid-configuration", "/jwks.json"]


async def test_the_sign_in_of_browsers_is_pinned_with_its_secret(operator: Operator) -> None:
    provider = FakeIdentityProvider("okta")
    issuer = await operator.add_issuer(provider, login_client_id=LOGIN_CLIENT, login_secret=Secret(LOGIN_SECRET))
    assert issuer.can_log_in
    assert issuer.has_login_secret
    assert (issuer.login_issuer, issuer.login_token_url) == (provider.issuer, provider.token_url)
    assert await operator.vault.read(lambda records: records.open_login_secret(issuer)) == Secret(LOGIN_SECRET)
    assert operator.broker.issuers.login_redirect_uri(issuer) == f"{PUBLIC_URL}/login/callback/{issuer.id}"


async def test_the_sign_in_may_be_at_another_address(operator: Operator) -> None:
    custom, organisation = FakeIdentityProvider("okta"), FakeIdentityProvider()
    operator.reach(organisation)
    issuer = await operator.add_issuer(custom, login_client_id=LOGIN_CLIENT, login_discovery_url=organisation.discovery_url)
    assert (issuer.issuer, issuer.login_issuer) == (custom.issuer, organisation.issuer)
    assert issuer.login_jwks_url == organisation.jwks_url
    assert not issuer.has_login_secret


# What does not stand


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        (None, "upstream_bad_response"),
        ({"issuer": EVIL}, "upstream_bad_response"),
        ({"issuer": "https://idp.example.com/other"}, "upstream_bad_response"),
        ({"issuer": "https://IDP.example.com"}, "upstream_bad_response"),
        ({"issuer": "https://idp.example.com.evil.example.com"}, "upstream_bad_response"),
        ({"issuer": "https://idp.example.com?a=b"}, "upstream_bad_response"),
        ({"issuer": "https://idp.example.com#a"}, "upstream_bad_response"),
        ({"issuer": ["https://idp.example.com"]}, "upstream_bad_response"),
        ({"issuer": ""}, "upstream_bad_response"),
        ({"issuer": "{tenantid}"}, "upstream_bad_response"),
        ({"issuer": "https://{tenantid}"}, "upstream_bad_response"),
        ({"issuer": "https://{tenantid}.example.com/{tenantid}"}, "upstream_bad_response"),
        ({"jwks_uri": None}, "upstream_bad_response"),
        ({"jwks_uri": 7}, "upstream_bad_response"),
        ({"jwks_uri": "http://idp.example.com/jwks.json"}, "url_refused"),
        ({"jwks_uri": "file:///etc/passwd"}, "url_refused"),
        ({"jwks_uri": "https://user@idp.example.com/jwks.json"}, "url_refused"),
        ({"token_endpoint": "http://169.254.169.254/"}, "url_refused"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "url_refused"),
    ],
)
async def test_metadata_that_does_not_stand_adds_nothing(
    operator: Operator, metadata: dict[str, Any] | None, code: str
) -> None:
    provider = FakeIdentityProvider()
    provider.knobs.metadata = metadata
    with raising(code):
        await operator.add_issuer(provider)
    assert await operator.broker.issuers.list("default") == ()
    assert await operator.outcomes("create_issuer") == [code]


@pytest.mark.parametrize(
    "answer",
    [
        HttpResponse(404, {}, b""),
        HttpResponse(200, {"content-type": "application/json"}, b'{"keys": []}'),
        HttpResponse(200, {"content-type": "application/json"}, b'{"keys": [{"kty": "oct", "k": "AAAA"}]}'),
        HttpResponse(200, {"content-type": "text/html"}, b"<html>"),
        HttpResponse(302, {"location": EVIL}, b""),
    ],
)
async def test_an_issuer_without_a_usable_key_is_refused(operator: Operator, answer: HttpResponse) -> None:
    provider = FakeIdentityProvider()
    provider.knobs.jwks_answer = answer
    with raising("upstream_bad_response"):
        await operator.add_issuer(provider)


@pytest.mark.parametrize(
    "url", ["http://idp.example.com", "https://a@idp.example.com", "https://idp.example.com/#a", "https://127.1/", "idp", ""]
)
async def test_an_address_that_is_none_is_refused(operator: Operator, url: str) -> None:
    with raising("url_refused"):
        await operator.add_issuer(url, audiences=(AUDIENCE,))


async def test_a_discovery_url_has_no_query(operator: Operator) -> None:
    with raising("url_refused"):
        await operator.add_issuer("https://idp.example.com/?tenant=a", audiences=(AUDIENCE,))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"audiences": ()}, "--audience"),
        ({"audiences": ("",)}, "audience"),
        ({"audiences": ("a b",)}, "audience"),
        ({"audiences": ("a\n",)}, "audience"),
        ({"preset": "nosuch"}, "oidc"),
        ({"login_secret": Secret("s")}, "--login-client-id"),
        ({"login_discovery_url": "https://idp.example.com"}, "--login-client-id"),
        ({"login_client_id": "a b"}, "client id"),
        ({"claims": (("a", "1"), ("b", "2"))}, "one claim"),
        ({"claims": (("a", ""),)}, "value"),
    ],
)
async def test_what_is_missing_or_contradictory_is_named(operator: Operator, change: dict[str, Any], named: str) -> None:
    with raising("invalid_request") as refused:
        await operator.add_issuer(FakeIdentityProvider(), **change)
    assert named in refused.value.message


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "a\n"])
async def test_a_name_that_could_be_taken_for_another_is_refused(operator: Operator, name: str) -> None:
    with raising("invalid_request"):
        await operator.add_issuer(FakeIdentityProvider(), name)
    with raising("not_found"):
        await operator.broker.issuers.remove(operator.call(), name)


async def test_a_name_is_taken_once(operator: Operator) -> None:
    await operator.add_issuer(FakeIdentityProvider())
    with raising("conflict"):
        await operator.add_issuer(FakeIdentityProvider("okta"))


async def test_a_sign_in_is_refused_where_both_tokens_name_a_user_differently(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = presets.get("oidc")
    split = preset.model_copy(update={"rules": preset.rules.model_copy(update={"one_subject": False})})

    def get(_name: str) -> IssuerPreset:
        return split

    monkeypatch.setattr(presets, "get", get)
    with raising("invalid_request") as refused:
        await operator.add_issuer(FakeIdentityProvider(), login_client_id=LOGIN_CLIENT)
    assert "--return-url" in refused.value.message


async def test_a_sign_in_needs_endpoints_and_a_proof_of_the_browser(operator: Operator) -> None:
    provider = FakeIdentityProvider()
    provider.knobs.metadata = {"authorization_endpoint": None}
    with raising("invalid_request"):
        await operator.add_issuer(provider, login_client_id=LOGIN_CLIENT)
    provider.knobs.metadata = {"code_challenge_methods_supported": ["plain"]}
    with raising("provider_misconfigured"):
        await operator.add_issuer(provider, login_client_id=LOGIN_CLIENT)


# Not ourselves


@pytest.mark.parametrize(
    "url", [PUBLIC_URL, f"{PUBLIC_URL}/identity/default", "https://identity.example.com:443/identity/default"]
)
async def test_we_are_no_issuer_of_our_own(operator: Operator, url: str) -> None:
    with raising("invalid_request") as refused:
        await operator.add_issuer(url, audiences=(AUDIENCE,))
    assert "its own issuer" in refused.value.message
    assert operator.transport.providers == ()


async def test_keys_of_ours_do_not_come_in_through_anothers_metadata(operator: Operator) -> None:
    provider, ours = FakeIdentityProvider(), FakeIdentityProvider()
    ours.origin = PUBLIC_URL
    operator.reach(ours)
    provider.knobs.metadata = {"jwks_uri": f"{PUBLIC_URL}/jwks.json"}
    with raising("invalid_request"):
        await operator.add_issuer(provider)


@pytest.mark.parametrize(
    "urn", ["urn:mcp-identity:local:x", "urn:mcp-identity:asserted:default", " URN:MCP-Identity:asserted:a"]
)
async def test_reserved_names_are_no_issuers(operator: Operator, urn: str) -> None:
    with raising("invalid_request") as refused:
        await operator.add_issuer(urn, audiences=(AUDIENCE,))
    assert "reserved" in refused.value.message


# Many organisations behind one issuer


async def test_an_issuer_that_serves_many_organisations_needs_to_know_which(operator: Operator) -> None:
    with raising("invalid_request") as refused:
        await operator.add_issuer(FakeIdentityProvider("google"))
    assert "--claim 'hd=VALUE'" in refused.value.message
    issuer = await operator.add_issuer(FakeIdentityProvider("google"), claims=HD)
    assert issuer.discriminator_values == {"example.com"}
    with raising("invalid_request"):
        await operator.add_issuer(FakeIdentityProvider("google"), "other", claims=(("email_verified", "true"),))


async def test_a_directorys_own_address_says_which_organisation_it_is(operator: Operator) -> None:
    issuer = await operator.add_issuer(FakeIdentityProvider("entra"))
    assert (issuer.rules.discriminator, issuer.discriminator_values) == ("tid", {TENANT_ID})
    assert issuer.issuers_for(TENANT_ID) == {
        f"https://login.microsoftonline.com/{TENANT_ID}/v2.0",
        f"https://sts.windows.net/{TENANT_ID}/",
    }
    assert issuer.issuers_for(OTHER_TENANT_ID) == frozenset()


async def test_a_directorys_own_address_and_another_organisation_do_not_fit(operator: Operator) -> None:
    with raising("invalid_request") as refused:
        await operator.add_issuer(FakeIdentityProvider("entra"), claims=(("tid", OTHER_TENANT_ID),))
    assert TENANT_ID in refused.value.message


async def test_a_templated_issuer_serves_the_organisations_that_are_named(operator: Operator) -> None:
    provider = FakeIdentityProvider("entra")
    provider.multi_tenant = True
    with raising("invalid_request"):
        await operator.add_issuer(provider)
    one = await operator.add_issuer(provider, claims=(("tid", TENANT_ID),))
    assert one.issuer == f"https://login.microsoftonline.com/{TENANT_ID}/v2.0"
    await operator.broker.issuers.remove(operator.call(), "corp")
    both = await operator.add_issuer(provider, claims=(("tid", TENANT_ID), ("tid", OTHER_TENANT_ID)))
    assert both.issuers_for(OTHER_TENANT_ID) >= {f"https://login.microsoftonline.com/{OTHER_TENANT_ID}/v2.0"}
    assert both.issuers_for("somebody") == frozenset()


async def test_any_claim_tells_organisations_apart_where_the_preset_names_none(operator: Operator) -> None:
    issuer = await operator.add_issuer(FakeIdentityProvider(), claims=(("company", "acme"), ("company", "acme-labs")))
    assert (issuer.rules.discriminator, issuer.discriminator_values) == ("company", {"acme", "acme-labs"})


async def test_no_token_could_be_of_two_issuers_whatever_their_tenants(operator: Operator) -> None:
    provider = FakeIdentityProvider("google")
    await operator.add_issuer(provider, claims=HD)
    for tenant in ("default", "acme"):
        with raising("conflict"):
            await operator.of(tenant).add_issuer(provider, "again", claims=(*HD, ("hd", "example.org")))
    other = await operator.of("acme").add_issuer(provider, "corp", claims=(("hd", "example.org"),))
    assert other.tenant == "acme"
    assert [each.name for each in await operator.broker.issuers.list("acme")] == ["corp"]


@pytest.mark.parametrize("first", [(), (("company", "a"),)])
async def test_an_issuer_for_everybody_and_one_for_some_overlap(operator: Operator, first: tuple[tuple[str, str], ...]) -> None:
    provider = FakeIdentityProvider()
    await operator.add_issuer(provider, claims=first)
    for claims in ((), (("company", "a"),), (("team", "b"),)):
        with raising("conflict") as refused:
            await operator.of("acme").add_issuer(provider, claims=claims)
        assert "corp" not in refused.value.message


async def test_a_directory_by_its_own_address_overlaps_with_the_common_one(operator: Operator) -> None:
    provider = FakeIdentityProvider("entra")
    await operator.add_issuer(provider)
    provider.multi_tenant = True
    with raising("conflict"):
        await operator.of("acme").add_issuer(provider, claims=(("tid", OTHER_TENANT_ID), ("tid", TENANT_ID)))
    await operator.of("acme").add_issuer(provider, claims=(("tid", OTHER_TENANT_ID),))


# Removing


async def test_a_removed_issuer_is_gone_and_its_place_is_free(operator: Operator) -> None:
    provider = FakeIdentityProvider()
    await operator.add_issuer(provider)
    await operator.broker.issuers.remove(operator.call("delete_issuer"), "corp")
    assert await operator.broker.issuers.list("default") == ()
    await operator.of("acme").add_issuer(provider)
    with raising("not_found"):
        await operator.broker.issuers.remove(operator.call("delete_issuer"), "corp")
    assert await operator.outcomes("delete_issuer") == ["ok", "not_found"]


async def test_an_issuer_that_a_workload_relies_on_stays(operator: Operator) -> None:
    await operator.add_issuer(FakeIdentityProvider())
    await operator.create(issuer="corp", clients=(CLIENT,))
    with raising("conflict") as refused:
        await operator.broker.issuers.remove(operator.call("delete_issuer"), "corp")
    assert "agent" in refused.value.message
    assert "mcp-identity workloads update agent --no-authorizer" in refused.value.message
    assert (await operator.update(issuer="")).authorizer == Authorizer()
    await operator.broker.issuers.remove(operator.call("delete_issuer"), "corp")
    assert [event.detail["issuer"] for event in await operator.trail("delete_issuer")] == ["corp", "corp"]


async def test_what_is_refused_makes_no_tenant(operator: Operator) -> None:
    acme = operator.of("acme")
    with raising("invalid_request"):
        await acme.add_issuer(FakeIdentityProvider(), audiences=())
    with raising("not_found"):
        await acme.create(issuer="nosuch", clients=("x",))
    assert await operator.vault.read(lambda records: records.list_tenants()) == ("default",)
    await acme.add_issuer(FakeIdentityProvider())
    assert await operator.vault.read(lambda records: records.list_tenants()) == ("acme", "default")


async def test_without_a_public_url_the_operator_is_told_that_nobody_signs_in(tmp_path: Path) -> None:
    async with running_operator(tmp_path / "home", public_url="") as operator:
        issuer = await operator.add_issuer(FakeIdentityProvider(), login_client_id=LOGIN_CLIENT)
        assert any("MCP_IDENTITY_PUBLIC_URL" in note for note in operator.broker.issuers.notes(issuer))
        assert operator.broker.issuers.login_redirect_uri(issuer) == ""


async def test_a_cognito_pool_may_have_an_audience_and_need_not(operator: Operator) -> None:
    """Its tokens have one where the pool binds them to a resource; once it is named, it must be there."""
    plain, bound = FakeIdentityProvider("cognito"), FakeIdentityProvider("cognito")
    assert (await operator.add_issuer(plain, "plain", audiences=())).audiences == frozenset()
    bound.origin = "https://bound.example.com"
    assert (await operator.add_issuer(bound, "bound", audiences=(AUDIENCE,))).audiences == {AUDIENCE}
