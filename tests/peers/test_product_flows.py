"""Does the product get, keep, refresh and give back tokens of real authorization servers, with a person at the browser?"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.to_thread
import pytest
from joserfc.jwk import ECKey, RSAKey

from mcp_identity.broker.answers import ProviderSpec, TokenReleased
from mcp_identity.domain.credentials import Flow, GrantState, Reason, Secret
from mcp_identity.domain.errors import IdentityError
from tests.fakes.browser import Browser
from tests.peers.product import Product, running_product
from tests.peers.requests import is_active, send
from tests.peers.servers import AuthMethod, DjangoOAuthServer, NodeOidcProvider, Peer, PeerClient


@pytest.fixture
async def product(tmp_path: Path) -> AsyncGenerator[Product]:
    async with running_product(tmp_path / "home") as one:
        yield one


async def active(peer: Peer, client: PeerClient, released: TokenReleased) -> bool:
    return await anyio.to_thread.run_sync(is_active, peer, client, released.access_token.reveal())


# A token for the client itself


@pytest.fixture
async def m2m(product: Product, peer: Peer) -> PeerClient:
    client = await anyio.to_thread.run_sync(lambda: peer.register(grant_types=("client_credentials",), scope="read write"))
    await product.add(
        peer, client_id=client.client_id, secret=Secret(client.client_secret), scopes=("read",), settings={"flows": "M2M"}
    )
    return client


async def test_a_client_gets_a_token_of_its_own(product: Product, peer: Peer, m2m: PeerClient) -> None:
    first = await product.token()
    again = await product.token("read")
    assert first.flow is Flow.M2M
    assert first.scopes == ("read",)
    assert first.access_token == again.access_token
    assert (first.refreshed, again.refreshed) == (True, False)
    assert await active(peer, m2m, first)


async def test_a_client_asks_once_for_each_set_of_scopes(product: Product, node_oidc_provider: NodeOidcProvider) -> None:
    peer = node_oidc_provider
    client = peer.register(grant_types=("client_credentials",))
    await product.add(peer, client_id=client.client_id, secret=Secret(client.client_secret), settings={"flows": "M2M"})
    for scopes in (("read",), ("write", "read"), ("read", "write"), ("read",)):
        assert set((await product.token(*scopes)).scopes) == set(scopes)
    ledger = peer.ledger(client)
    assert ledger.client_credentials == 2
    asked = [event["scope"] for event in ledger.events if event["event"] == "grant.success"]
    assert asked == ["read", "read write"]


async def test_a_wrong_client_secret_is_the_operators_to_mend(product: Product, peer: Peer) -> None:
    await product.add(peer, client_id="m2m", secret=Secret("wrong"), settings={"flows": "M2M"})
    with pytest.raises(IdentityError) as refused:
        await product.get("read")
    assert refused.value.code == "provider_misconfigured"
    assert "mcp-identity providers test" in refused.value.message


# A token for a person


async def test_a_person_consents_once(product: Product, peer: Peer) -> None:
    client = await product.register(peer)
    consent = await product.link("read")
    assert consent.reason is Reason.NO_GRANT
    page = await product.person_opens(consent.authorization_url)
    assert "is connected" in page.text
    assert await product.status(consent) == ("completed", "")
    released = await product.token("read")
    assert released.flow is Flow.USER_FEDERATION
    assert released.scopes == ("read",)
    assert await active(peer, client, released)
    assert (await product.token("read")).access_token == released.access_token


async def test_the_vendors_page_is_reached_with_pkce_and_an_unguessable_state(product: Product, peer: Peer) -> None:
    await product.register(peer)
    consent = await product.link("read")

    def press() -> list[str]:
        with Browser() as browser:
            page = browser.get(consent.authorization_url)
            return [hop.url for hop in browser.submit(page.forms[0], page=page).hops]

    asked = next(url for url in await anyio.to_thread.run_sync(press) if url.startswith(peer.authorization_url))
    query = parse_qs(urlsplit(asked).query)
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["state"][0]) == 43


async def test_a_person_who_declines_connects_nothing(product: Product, peer: Peer) -> None:
    await product.register(peer)
    consent = await product.link("read")
    if isinstance(peer, NodeOidcProvider):  # nobody has to click there: a person who declines sits down
        words = await _as_seated(peer, consent.authorization_url, "deny")
    else:
        words = (await product.person_opens(consent.authorization_url, decision="deny")).text
    assert "Nothing was connected" in words
    assert await product.status(consent) == ("denied", "consent_denied")
    with pytest.raises(IdentityError) as refused:
        await product.get("read", session_uri=consent.session_uri)
    assert refused.value.code == "consent_denied"


async def _as_seated(peer: NodeOidcProvider, link: str, person: str, *, tick: bool = False) -> str:
    """Go through a link as another person of the node peer; returns the last page's words."""

    def walk() -> str:
        with Browser() as browser:
            peer.seat(browser, person)
            page = browser.get(link)
            fields = {"other_account": "yes"} if tick else {}
            return browser.submit(page.forms[0], page=page, **fields).text

    return await anyio.to_thread.run_sync(walk)


@pytest.mark.parametrize("kind", [RSAKey, ECKey])
async def test_a_client_signs_who_it_is(
    product: Product, node_oidc_provider: NodeOidcProvider, kind: type[RSAKey | ECKey]
) -> None:
    """With the code and with the revocation; the peer takes no assertion twice, and none that is for somebody else."""
    made = RSAKey.generate_key(2048) if kind is RSAKey else ECKey.generate_key("P-256")
    key, jwks = made.as_pem(private=True).decode(), {"keys": [{**made.as_dict(private=False), "use": "sig"}]}
    client = await product.register(node_oidc_provider, auth_method="private_key_jwt", key=key, jwks=jwks)
    await product.connected("read")
    (revoked,) = await product.broker.revoke_grant(product.broker.call(product.principal, "revoke_grant"), "peer")
    ledger = node_oidc_provider.ledger(client)
    assert (revoked.at_vendor, ledger.code_exchanges, ledger.invalid_client) == ("revoked", 1, 0)
    assert {event["client_auth"] for event in ledger.events if event["event"] == "grant.success"} == {"private_key_jwt"}


AUTH_METHODS: tuple[AuthMethod, ...] = ("client_secret_post", "none")


@pytest.mark.parametrize("auth_method", AUTH_METHODS)
async def test_every_way_to_authenticate_works(product: Product, peer: Peer, auth_method: AuthMethod) -> None:
    client = await product.register(peer, auth_method=auth_method)
    await product.connected("read")
    if isinstance(peer, NodeOidcProvider):
        (exchanged,) = [event for event in peer.ledger(client).events if event["event"] == "grant.success"]
        assert exchanged["client_auth"] == auth_method


async def test_more_scopes_are_asked_for_together_with_what_is_granted(product: Product, peer: Peer) -> None:
    await product.register(peer)
    await product.connected("read")
    consent = await product.link("write")
    assert consent.reason is Reason.MISSING_SCOPES
    assert consent.missing_scopes == ("write",)
    assert (await product.token("read")).scopes == ("read",)
    await product.person_opens(consent.authorization_url)
    assert (await product.token("write")).scopes == ("read", "write")
    assert (await product.token("read")).scopes == ("read", "write")


async def test_a_revoked_grant_is_gone_at_the_server_too(product: Product, peer: Peer) -> None:
    client = await product.register(peer)
    released = await product.connected("read")
    (revoked,) = await product.broker.revoke_grant(product.broker.call(product.principal, "revoke_grant"), "peer")
    assert revoked.at_vendor == "revoked"
    assert not await active(peer, client, released)
    assert (await product.link("read")).reason is Reason.REVOKED
    (grant,) = (await product.broker.list_grants(product.broker.call(product.principal, "list_grants"))).grants
    assert grant.state is GrantState.REVOKED
    if isinstance(peer, NodeOidcProvider):
        assert peer.ledger(client).tokens_revoked == 2


async def test_endpoints_are_found_by_the_issuer(product: Product, peer: Peer) -> None:
    await product.register(peer, by_issuer=True)
    provider = await product.broker.directory.get("default", "peer")
    assert provider.server.token_url == peer.token_url
    assert provider.server.authorization_url == peer.authorization_url
    assert (await product.connected("read")).scopes == ("read",)
    call = product.broker.call(product.principal, "test_provider")
    checks = await product.broker.directory.test(call, "peer")
    assert {check.name: check.passed for check in checks} == {"secret": True, "metadata": True, "authorization code": True}


# Refresh


SHORT = 3
"""Seconds that a token lives whose end is waited for: longer than a busy machine takes to ask whose it is."""


async def until_stale(released: TokenReleased) -> None:
    """Wait until the token has ended."""
    assert released.expires_at is not None
    await anyio.sleep(max(0.0, released.expires_at.timestamp() - time.time()) + 0.01)


async def test_an_expired_token_is_refreshed_and_the_refresh_token_rotates(
    product: Product, node_oidc_provider: NodeOidcProvider
) -> None:
    peer = node_oidc_provider
    client = await product.register(peer, access_token_seconds=SHORT)
    released = await product.connected("read")
    for _ in range(2):
        await until_stale(released)
        again = await product.token("read")
        assert again.refreshed
        assert again.access_token != released.access_token
        assert await active(peer, client, again)
        released = again
    ledger = peer.ledger(client)
    assert (ledger.code_exchanges, ledger.refreshes, ledger.invalid_grant) == (1, 2, 0)


async def test_django_rotates_too(product: Product, tmp_path: Path) -> None:
    with DjangoOAuthServer.start(tmp_path, access_token_seconds=SHORT) as server:
        client = await product.register(server)
        released = await product.connected("read")
        await until_stale(released)
        again = await product.token("read")
        assert again.access_token != released.access_token
        assert await active(server, client, again)


async def test_a_grant_that_ended_at_the_server_needs_the_person_again(
    product: Product, node_oidc_provider: NodeOidcProvider
) -> None:
    peer = node_oidc_provider
    client = await product.register(peer, access_token_seconds=SHORT)
    released = await product.connected("read")
    token = released.access_token.reveal()
    await anyio.to_thread.run_sync(lambda: send(peer.revocation_url, client, token=token))  # the vendor ends it on its own
    await until_stale(released)
    consent = await product.link("read")
    assert consent.reason is Reason.REFRESH_REJECTED
    await product.person_opens(consent.authorization_url)
    assert await active(peer, client, await product.token("read"))


# What only node-oidc-provider has


async def test_a_resource_makes_a_grant_of_its_own(product: Product, node_oidc_provider: NodeOidcProvider) -> None:
    peer = node_oidc_provider
    await product.register(peer)
    plain = await product.connected("read")
    assert (await product.link("read", resource=peer.jwt_resource)).reason is Reason.NO_GRANT
    bound = await product.connected("read", resource=peer.jwt_resource)
    assert len(bound.access_token.reveal().split(".")) == 3
    assert (await product.token("read")).access_token == plain.access_token
    assert (await product.token("read", resource=peer.jwt_resource)).access_token == bound.access_token


async def test_a_refresh_asks_for_the_same_resource(product: Product, node_oidc_provider: NodeOidcProvider) -> None:
    peer = node_oidc_provider
    await product.register(peer, access_token_seconds=SHORT)
    bound = await product.connected("read", resource=peer.jwt_resource)
    await until_stale(bound)
    assert len((await product.token("read", resource=peer.jwt_resource)).access_token.reveal().split(".")) == 3


async def test_a_server_that_promised_to_name_itself_must(product: Product, node_oidc_provider: NodeOidcProvider) -> None:
    peer = node_oidc_provider
    client = await product.register(peer, by_issuer=True)
    provider = await product.broker.directory.get("default", "peer")
    assert provider.server.requires_iss
    consent = await product.link("read")
    parameters: dict[str, str] = {}
    cookies: dict[str, str] = {}

    def walk() -> None:
        with Browser(stop_at=product.broker.directory.redirect_uri(provider)) as browser:
            parameters.update(browser.consent(consent.authorization_url).query)
            cookies.update({cookie.name: cookie.value for cookie in browser.cookies})

    await anyio.to_thread.run_sync(walk)
    assert parameters.pop("iss") == peer.issuer
    short = consent.session_uri.rpartition(":")[2][:16]
    (secret,) = [value for name, value in cookies.items() if short in name]
    await product.broker.receive_callback(provider.provider_id, list(parameters.items()), {short: secret})
    assert await product.status(consent) == ("failed", "consent_mismatch")
    assert peer.ledger(client).code_exchanges == 0


async def test_the_account_of_an_id_token_is_remembered(product: Product, node_oidc_provider: NodeOidcProvider) -> None:
    peer = node_oidc_provider
    client = await product.register(peer, by_issuer=True, scopes=("openid", "read"))
    consent = await product.link()
    await _as_seated(peer, consent.authorization_url, "carol")
    await product.token()
    (grant,) = (await product.broker.list_grants(product.broker.call(product.principal, "list_grants"))).grants
    assert grant.account_id == "carol"

    consent = await product.fresh_link()
    page = await _as_seated(peer, consent.authorization_url, "dave")
    assert "did not work" in page
    assert await product.status(consent) == ("failed", "different_account")
    assert peer.ledger(client).tokens_revoked > 0
    (grant,) = (await product.broker.list_grants(product.broker.call(product.principal, "list_grants"))).grants
    assert (grant.account_id, grant.state) == ("carol", GrantState.ACTIVE)

    consent = await product.fresh_link()
    await _as_seated(peer, consent.authorization_url, "dave", tick=True)
    assert await product.status(consent) == ("completed", "")
    (grant,) = (await product.broker.list_grants(product.broker.call(product.principal, "list_grants"))).grants
    assert grant.account_id == "dave"


async def test_a_provider_with_an_unknown_client_does_not_pass_its_test(product: Product, peer: Peer) -> None:
    spec = ProviderSpec(
        vendor="custom",
        settings={"issuer": peer.issuer},
        client_id="nobody",
        secret=Secret("x"),
        allow_http_loopback=True,
    )
    await product.add_as("nobody", spec)
    checks = await product.broker.directory.test(product.broker.call(product.principal, "test_provider"), "nobody")
    assert {check.name: check.passed for check in checks} == {
        "secret": True,
        "metadata": True,
        "client credentials": False,
        "authorization code": False,
    }
