"""Can an operator set providers up, change them and take them away, without a secret going where it was not sent before?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.domain.credentials import Flow, Reason, Secret
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import ClientAuthentication, Release
from tests.broker.kit import BY_ISSUER, BY_URLS, Product, raising, running_product
from tests.fakes.authorization_server import CLIENT_ID, CLIENT_SECRET, ISSUER, respond_json

# Add


async def test_endpoints_are_looked_up_once_and_pinned(product: Product) -> None:
    provider = await product.add(settings=BY_ISSUER, flows="both")
    assert provider.server.token_url == f"{ISSUER}/token"
    assert provider.server.requires_iss
    assert provider.flows == (Flow.M2M, Flow.USER_FEDERATION)
    assert product.server.metadata is not None
    product.server.metadata["token_endpoint"] = "https://evil.example.com/token"
    await product.token(flow="M2M")
    assert [request.path for request in product.server.requests][-1] == "/token"
    await product.update(scopes=("write",))
    assert (await product.broker.directory.get("default", "idp")).server == provider.server


async def test_the_address_of_the_metadata_does_where_the_issuer_is_not_known(product: Product) -> None:
    address = f"{ISSUER}/.well-known/openid-configuration"
    provider = await product.add(settings={"discovery_url": address}, flows="both")
    assert (provider.server.issuer, provider.server.token_url) == (ISSUER, f"{ISSUER}/token")
    assert [request.path for request in product.server.requests] == ["/.well-known/openid-configuration"]
    assert product.server.metadata is not None
    product.server.metadata["issuer"] = f"{ISSUER}/other"
    with raising("upstream_bad_response"):
        await product.update(settings={"discovery_url": address})


async def test_without_metadata_the_urls_themselves_do(product: Product) -> None:
    provider = await product.add(settings=BY_URLS)
    assert product.server.requests == []
    assert provider.server.issuer == ""
    assert (await product.connected()).scopes == ("read",)


async def test_what_is_set_wins_over_the_metadata(product: Product) -> None:
    provider = await product.add(settings={**BY_ISSUER, "revocation_url": f"{ISSUER}/other-revoke"})
    assert provider.server.revocation_url == f"{ISSUER}/other-revoke"
    assert provider.server.token_url == f"{ISSUER}/token"


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        (None, "upstream_bad_response"),
        ({"issuer": "https://evil.example.com"}, "upstream_bad_response"),
        ({"issuer": f"{ISSUER}/"}, "upstream_bad_response"),
        ({"token_endpoint": "http://idp.example.com/token"}, "url_refused"),
        ({"token_endpoint": None}, "upstream_bad_response"),
        ({"code_challenge_methods_supported": ["plain"]}, "provider_misconfigured"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "url_refused"),
    ],
)
async def test_metadata_that_does_not_stand_adds_nothing(product: Product, metadata: dict[str, Any] | None, code: str) -> None:
    product.server.metadata = metadata
    with raising(code):
        await product.add(settings=BY_ISSUER)
    assert (await product.broker.directory.list("default")).providers == ()
    assert await product.outcomes("add_provider") == [code]


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"authorization_url": f"{ISSUER}/authorize"}},
        {"settings": {**BY_URLS, "jwks_url": f"{ISSUER}/jwks"}},
        {"settings": {**BY_URLS, "flows": "USER_FEDERATION", "authorization_url": ""}},
        {"settings": {**BY_URLS, "colour": "red"}},
        {"settings": {**BY_URLS, "token_url": "ftp://idp.example.com"}},
        {"client_id": None},
        {"client_id": "two\nlines"},
        {"secret": None},
        {"client_authentication": "none"},
        {"client_authentication": "private_key_jwt"},
        {"release": "often"},
        {"flows": "M2M", "secret": None, "client_authentication": "none"},
    ],
)
async def test_an_incomplete_or_contradictory_specification_is_refused(product: Product, change: dict[str, Any]) -> None:
    with raising("invalid_request"):
        await product.add(**change)
    assert await product.outcomes("add_provider") == ["invalid_request"]


async def test_plain_http_is_refused_but_on_loopback_where_it_is_allowed(product: Product) -> None:
    loopback = {"authorization_url": "http://127.0.0.1:9/a", "token_url": "http://127.0.0.1:9/t"}
    with raising("url_refused"):
        await product.add(settings=loopback)
    await product.add(settings=loopback, allow_http_loopback=True)
    with raising("url_refused"):
        await product.add("far", settings={**BY_URLS, "token_url": "http://idp.example.com/t"}, allow_http_loopback=True)
    with raising("url_refused"):
        await product.update(allow_http_loopback=False)


@pytest.mark.parametrize("name", ["", "é", "a b", "../x", "-a", ".a", "a/b", "a" * 256, "a\n", "\uff41"])
async def test_a_name_that_could_be_taken_for_another_is_refused(product: Product, name: str) -> None:
    with raising("invalid_request"):
        await product.add(name)
    with raising("unknown_provider"):
        await product.update(name)
    with raising("unknown_provider"):
        await product.broker.directory.remove(product.call(), name)
    with raising("unknown_provider"):
        await product.broker.directory.test(product.call(), name)


async def test_a_name_is_taken_once(idp: Product) -> None:
    with raising("conflict"):
        await idp.add()


async def test_an_unknown_vendor_is_refused_with_a_hint(product: Product) -> None:
    with raising("invalid_request") as refused:
        await product.broker.directory.add(product.call(), "x", ProviderSpec(vendor="gihub"))
    assert "github" in refused.value.message


async def test_a_public_client_has_no_secret_and_no_token_of_its_own(product: Product) -> None:
    provider = await product.add(flows="both", secret=None, client_authentication="none")
    assert provider.client_authentication is ClientAuthentication.NONE
    assert provider.flows == (Flow.USER_FEDERATION,)


async def test_a_provider_says_what_to_register_and_to_know(product: Product) -> None:
    provider = await product.add(release="handle")
    uri = product.broker.directory.redirect_uri(provider)
    assert uri == f"http://127.0.0.1:{product.prepared.graph.settings.callback_port}/oauth2/callback/{provider.provider_id}"
    assert any("handle" in note for note in product.broker.directory.notes(provider))


async def test_a_name_that_is_used_again_is_another_provider(idp: Product) -> None:
    await idp.connected()
    first = await idp.broker.directory.get("default", "idp")
    await idp.broker.directory.remove(idp.call(), "idp")
    second = await idp.add()
    assert first.id != second.id
    assert first.provider_id != second.provider_id
    assert (await idp.link()).reason is Reason.NO_GRANT


# Update


async def test_what_is_left_out_stays(idp: Product) -> None:
    before = await idp.broker.directory.get("default", "idp")
    after, cleared = await idp.update(scopes=("write",), release="handle")
    assert not cleared
    assert after.epoch == before.epoch + 1
    assert (after.server, after.client_id, after.provider_id) == (before.server, before.client_id, before.provider_id)
    assert (after.scopes, after.release) == (frozenset({"write"}), Release.HANDLE)
    await idp.update(release="token")
    assert (await idp.connected()).scopes == ("write",)


@pytest.mark.parametrize("field", ["token_url", "authorization_url", "revocation_url"])
async def test_a_secret_does_not_follow_an_endpoint_that_moves(idp: Product, field: str) -> None:
    _, cleared = await idp.update(settings={field: "https://evil.example.com/x"})
    assert cleared
    consent = await idp.link()
    await idp.consent(consent)
    assert await idp.status(consent) == ("failed", "provider_misconfigured")
    assert not [request for request in idp.server.requests if request.path == "/x"]


async def test_a_secret_given_with_the_move_is_the_new_one(idp: Product) -> None:
    _, cleared = await idp.update(settings={"token_url": "https://new.example.com/token"}, secret=Secret("new"))
    assert not cleared


async def test_an_issuer_that_moved_its_endpoints_is_followed_when_an_operator_names_it_again(product: Product) -> None:
    await product.add(settings=BY_ISSUER)
    assert product.server.metadata is not None
    product.server.metadata["token_endpoint"] = "https://idp.example.com/token/v2"
    checks = await product.broker.directory.test(product.call("test_provider"), "idp")
    assert {check.name: check.passed for check in checks}["metadata"] is False
    after, cleared = await product.update(settings=BY_ISSUER)
    assert cleared
    assert after.server.token_url.endswith("/v2")


@pytest.mark.parametrize(
    "change",
    [{"vendor": "github"}, {"client_authentication": "none", "secret": Secret("x")}, {"client_id": ""}, {"release": ""}],
)
async def test_a_contradictory_change_is_refused(idp: Product, change: dict[str, Any]) -> None:
    before = await idp.broker.directory.get("default", "idp")
    with raising("invalid_request"):
        await idp.update(**change)
    assert await idp.broker.directory.get("default", "idp") == before
    assert await idp.outcomes("update_provider") == ["invalid_request"]


async def test_a_client_that_becomes_public_loses_its_secret_and_one_that_ceases_to_be_needs_one(idp: Product) -> None:
    after, _ = await idp.update(client_authentication="none")
    assert await idp.vault.read(lambda records: records.open_provider_secret(after)) is None
    with raising("invalid_request"):
        await idp.update(client_authentication="basic")
    await idp.update(client_authentication="basic", secret=Secret(CLIENT_SECRET))
    assert (await idp.connected()).scopes == ("read",)


async def test_every_process_sees_a_change_at_once(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home") as one, running_product(tmp_path / "home") as two:
        await one.add(flows="M2M")
        await two.token()
        await one.update(disabled=True)
        with raising("access_denied"):
            await two.get()


# Remove


async def test_a_removed_provider_takes_its_secret_and_everybodys_grants_along(idp: Product) -> None:
    await idp.connected()
    await (await idp.as_workload("other")).connected()
    provider = await idp.broker.directory.get("default", "idp")
    revoked = await idp.broker.directory.remove(idp.call("remove_provider"), "idp")
    assert [each.at_vendor for each in revoked] == ["revoked", "revoked"]
    assert all(family.revoked for family in idp.server.families)
    assert not await idp.vault.read(lambda records: records.list_provider_grants("default", provider.id).grants)
    with raising("unknown_provider"):
        await idp.get()


async def test_a_provider_is_removed_also_where_the_vendor_cannot_be_reached(idp: Product) -> None:
    await idp.connected()
    idp.server.refuses_connections = True
    (revoked,) = await idp.broker.directory.remove(idp.call(), "idp")
    assert revoked.at_vendor == "failed"
    assert (await idp.broker.directory.list("default")).providers == ()


# Test


async def checks(product: Product) -> dict[str, bool]:
    found = await product.broker.directory.test(product.call("test_provider"), "idp")
    return {check.name: check.passed for check in found}


async def test_a_provider_that_works_passes_every_check_and_nothing_changes(product: Product) -> None:
    await product.add(flows="both", settings=BY_ISSUER)
    assert await checks(product) == {
        "secret": True,
        "metadata": True,
        "client credentials": True,
        "authorization code": True,
    }
    assert await product.grants() == []
    assert await product.outcomes("test_provider") == ["ok"]


@pytest.mark.parametrize("change", [{"client_id": "nobody"}, {"secret": Secret("wrong")}])
async def test_a_client_that_the_server_does_not_know_is_found(idp: Product, change: dict[str, Any]) -> None:
    await idp.update(**change)
    assert await checks(idp) == {"secret": True, "authorization code": False}
    assert await idp.outcomes("test_provider") == ["provider_misconfigured"]


@pytest.mark.parametrize(
    "answer",
    [
        respond_json({}, 503),
        HttpResponse(200, {"content-type": "text/html"}, b"<html>"),
        respond_json({"access_token": "x", "token_type": "Bearer"}),
    ],
)
async def test_a_server_that_does_not_answer_properly_is_found(idp: Product, answer: HttpResponse) -> None:
    idp.server.answer = answer
    assert await checks(idp) == {"secret": True, "authorization code": False}


async def test_an_api_key_is_tested_without_any_request(product: Product) -> None:
    await product.add_api_key("idp")
    assert await checks(product) == {"secret": True}
    assert product.server.requests == []


# Principals of this machine


async def test_a_workload_is_registered_at_first_sight_and_stays_the_same(product: Product) -> None:
    again = await product.as_workload("agent")
    assert again.principal.workload == product.principal.workload
    assert not again.principal.verified
    await product.as_workload("b")
    assert [workload.name for workload in await product.broker.directory.workloads("default")] == ["agent", "b"]


@pytest.mark.parametrize("name", ["", "-a", "é", "a b", "../x", "a" * 256])
async def test_a_workload_that_is_no_name_is_refused(product: Product, name: str) -> None:
    with raising("invalid_request"):
        await product.as_workload(name)


async def test_the_listing_says_what_is_there_and_no_secret(idp: Product) -> None:
    await idp.connected()
    await idp.add_api_key()
    listing = await idp.broker.list_providers(idp.call("list_providers"))
    assert [(summary.provider.name, len(summary.grants)) for summary in listing.providers] == [("idp", 1), ("key", 0)]
    assert "canary" not in repr(listing)
    assert CLIENT_ID in repr(listing)


async def test_a_vendor_that_this_version_does_not_know_hides_no_other_provider(idp: Product) -> None:
    provider = await idp.broker.directory.get("default", "idp")
    strange = replace(provider, id="0" * 32, name="strange", vendor="of-the-future", provider_id="p")
    await idp.run(lambda records: records.insert_provider(strange, None))
    listing = await idp.broker.list_providers(idp.call())
    assert [summary.provider.name for summary in listing.providers] == ["idp", "strange"]
    with raising("provider_misconfigured"):
        await idp.get(provider="strange")


async def test_a_disabled_agent_of_this_machine_is_turned_away_and_that_is_written_down(product: Product) -> None:
    agent, user = product.principal.workload, product.principal.user
    assert user is not None
    await product.run(lambda records: records.update_workload(replace(agent, disabled=True)))
    with raising("access_denied"):
        await product.broker.directory.local_principal("agent", user, "stdio")
    assert await product.outcomes("arrive") == ["access_denied"]
