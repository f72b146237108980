"""Where an authorization server's endpoints are: what its metadata says, for the fields that nobody set (RFC 8414)."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_identity.domain.errors import IdentityError, UpstreamBadResponse, UpstreamRejected, UpstreamUnavailable
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Endpoints
from mcp_identity.oauth.discovery import DiscoveredServer, discovery_request, discovery_urls, process_discovery_response
from mcp_identity.oauth.urls import check_url
from mcp_identity.transport import Transport


@dataclass(frozen=True, slots=True)
class Discovered:
    """Endpoints to pin.

    Attributes:
        server: The endpoints.
        client_authentication: The ways to authenticate that the metadata lists; empty where none was read.
    """

    server: AuthorizationServer
    client_authentication: tuple[ClientAuthentication, ...] = ()


async def discover(transport: Transport, endpoints: Endpoints, *, allow_http_loopback: bool) -> Discovered:
    """Complete a definition's endpoints.

    Metadata is read only where an issuer or its metadata's address is known and the token endpoint is not; what was set
    explicitly stays.

    Raises:
        UpstreamError: If no metadata document of this issuer can be had.
    """
    known = AuthorizationServer(
        issuer=endpoints.issuer,
        authorization_url=endpoints.authorization,
        token_url=endpoints.token,
        refresh_url=endpoints.refresh,
        revocation_url=endpoints.revocation,
        jwks_url=endpoints.jwks,
    )
    if endpoints.token or not (endpoints.issuer or endpoints.discovery):
        return Discovered(known)
    if endpoints.discovery:
        url = check_url(endpoints.discovery, allow_http_loopback=allow_http_loopback)
        response = await transport.send(discovery_request(url), allow_http_loopback=allow_http_loopback)
        found = process_discovery_response(response, issuer=endpoints.issuer, url=url)
    else:
        found = await fetch_metadata(transport, endpoints.issuer, allow_http_loopback=allow_http_loopback)
    server = AuthorizationServer(
        issuer=found.server.issuer,
        authorization_url=known.authorization_url or found.server.authorization_url,
        token_url=found.server.token_url,
        refresh_url=known.refresh_url,
        revocation_url=known.revocation_url or found.server.revocation_url,
        jwks_url=known.jwks_url or found.server.jwks_url,
        requires_iss=found.server.requires_iss,
    )
    return Discovered(server, found.client_authentication)


async def fetch_metadata(transport: Transport, issuer: str, *, allow_http_loopback: bool) -> DiscoveredServer:
    """Read an issuer's metadata from the first of its well-known places that has it.

    Raises:
        UpstreamError: What went wrong at the last place, if none has it.
        ProviderMisconfigured: If the server is one that we must not use.
    """
    failure: IdentityError = UpstreamBadResponse("the issuer publishes no metadata")
    for url in discovery_urls(issuer):
        try:
            response = await transport.send(discovery_request(url), allow_http_loopback=allow_http_loopback)
            return process_discovery_response(response, issuer=issuer)
        except (UpstreamBadResponse, UpstreamRejected, UpstreamUnavailable) as error:
            failure = error
    raise failure
