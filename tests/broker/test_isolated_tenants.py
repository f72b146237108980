"""Does a customer's own authorization server stand in for the vendor's, with nothing of the vendor's left in between?"""

from __future__ import annotations

from urllib.parse import urlsplit

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.domain.credentials import Flow, Secret
from mcp_identity.domain.provider import CredentialProvider
from tests.broker.kit import BY_ISSUER, Product, raising
from tests.fakes.authorization_server import CLIENT_ID, CLIENT_SECRET, ISSUER

OWN = {"authorization_url": f"{ISSUER}/authorize", "token_url": f"{ISSUER}/token"}


async def add(product: Product, vendor: str, settings: dict[str, str]) -> CredentialProvider:
    spec = ProviderSpec(vendor=vendor, client_id=CLIENT_ID, secret=Secret(CLIENT_SECRET), settings=settings, scopes=("read",))
    return await product.broker.directory.add(product.call(), "idp", spec)


async def test_an_issuer_of_ones_own_is_read_and_its_endpoints_are_the_only_ones(product: Product) -> None:
    provider = await add(product, "okta", BY_ISSUER)
    server = provider.server
    urls = (server.authorization_url, server.token_url, server.revocation_url, server.jwks_url)
    assert {urlsplit(url).netloc for url in urls if url} == {urlsplit(ISSUER).netloc}
    assert provider.api_hosts == ()
    assert Flow.USER_FEDERATION in provider.flows
    assert (await product.connected(flow="USER_FEDERATION")).scopes == ("read",)


async def test_two_endpoints_of_ones_own_are_enough_and_nothing_is_taken_back_at_the_vendor(product: Product) -> None:
    provider = await add(product, "dropbox", OWN)
    assert (provider.server.issuer, provider.server.revocation_url, provider.api_hosts) == ("", "", ())
    await product.connected()
    revoked = await product.broker.revoke_grant(product.call("revoke_grant"), "idp")
    assert [each.at_vendor for each in revoked] == ["unsupported"]
    assert {request.path for request in product.server.requests} == {"/token"}


async def test_a_secret_does_not_follow_a_provider_to_a_server_of_ones_own(product: Product) -> None:
    before = await add(product, "onelogin", {"domain": "acme.onelogin.com"})
    assert before.api_hosts == ("https://acme.onelogin.com",)
    after, cleared = await product.update(settings=OWN)
    assert cleared
    assert (after.server.token_url, after.server.revocation_url, after.api_hosts) == (OWN["token_url"], "", ())
    back, _ = await product.update(settings=dict.fromkeys(OWN, ""), secret=Secret(CLIENT_SECRET))
    assert (back.server, back.api_hosts) == (before.server, before.api_hosts)


async def test_without_either_the_setting_that_is_missing_is_named(product: Product) -> None:
    with raising("invalid_request") as refused:
        await add(product, "pingone", {})
    assert "'environment' is required" in refused.value.message
    with raising("invalid_request") as refused:
        await add(product, "pingone", {"authorization_url": f"{ISSUER}/authorize"})
    assert "--token-url" in refused.value.message
