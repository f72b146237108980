"""What does an issuer say about itself (RFC 8414, OpenID Connect Discovery 1.0)?

Builds the requests and reads the metadata; whether to believe an issuer at all is the operator's decision, and what was
read is pinned elsewhere, so a later change has no effect by itself. Trusts the issuer for its own endpoints and nothing
else: the document must name exactly the issuer that was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from mcp_identity.domain.errors import ProviderMisconfigured, UpstreamBadResponse, UrlRefused
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication
from mcp_identity.oauth.answers import Fields, check_status, parse_object
from mcp_identity.oauth.urls import check_url

MAXIMUM_METADATA_BYTES = 256 * 1024
MAXIMUM_LIST_LENGTH = 1000

_METHODS = {
    "client_secret_basic": ClientAuthentication.BASIC,
    "client_secret_post": ClientAuthentication.POST,
    "none": ClientAuthentication.NONE,
    "private_key_jwt": ClientAuthentication.PRIVATE_KEY_JWT,
}


@dataclass(frozen=True, slots=True)
class DiscoveredServer:
    """An issuer's metadata, as far as we use it.

    Attributes:
        server: Its endpoints.
        client_authentication: The ways to authenticate there that we know, in its order; may be empty.
        scopes: The scopes that it lists; it may know more (RFC 8414 §2).
        grant_types: The grant types that it offers.
    """

    server: AuthorizationServer
    client_authentication: tuple[ClientAuthentication, ...]
    scopes: tuple[str, ...]
    grant_types: tuple[str, ...]


def discovery_urls(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may be, best first (RFC 8414 §3.1 and §5, OpenID Connect Discovery §4).

    Raises:
        UrlRefused: If the issuer is no https URL, or has a query (RFC 8414 §2).
    """
    parts = urlsplit(check_url(issuer, allow_http_loopback=True))
    if "?" in issuer:
        raise UrlRefused("an issuer identifier has no query (RFC 8414 §2)")
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    urls = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ]
    return tuple(dict.fromkeys(urls))


def is_metadata_of(issuer: str, url: str) -> bool:
    """Whether an address is one where this issuer's metadata may be; that of RFC 8414 below the path counts, too."""
    try:
        urls = discovery_urls(issuer)
    except UrlRefused:
        return False
    return url in urls or url == f"{issuer.rstrip('/')}/.well-known/oauth-authorization-server"


def discovery_request(url: str) -> HttpRequest:
    """Ask for a metadata document."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    return HttpRequest("GET", url, headers, maximum_bytes=MAXIMUM_METADATA_BYTES)


def process_discovery_response(response: HttpResponse, *, issuer: str, url: str = "") -> DiscoveredServer:
    """Read a metadata document (RFC 8414 §3.2 and §3.3).

    Args:
        response: What came.
        issuer: The issuer that was asked; empty where only the address of its metadata is known.
        url: That address: the issuer that the document names must be the one whose metadata stands there.

    Raises:
        UpstreamUnavailable: At 429 and 5xx.
        UpstreamBadResponse: If it is no metadata, or of another issuer.
        UrlRefused: If an endpoint is not https, or http on loopback.
        ProviderMisconfigured: If the server lists its PKCE methods and S256 is not among them.
    """
    check_status(response, accepted=(200,))
    if len(response.body) > MAXIMUM_METADATA_BYTES:
        raise UpstreamBadResponse("the metadata document is too large")
    metadata = parse_object(response)
    named = metadata.get("issuer")
    if not isinstance(named, str) or (issuer and named != issuer) or (url and not is_metadata_of(named, url)):
        raise UpstreamBadResponse("the metadata document is of another issuer than the one that was asked (RFC 8414 §3.3)")
    methods = _names(metadata, "code_challenge_methods_supported")
    if methods is not None and "S256" not in methods:
        raise ProviderMisconfigured("the authorization server offers PKCE, but not with S256")
    server = AuthorizationServer(
        issuer=named,
        authorization_url=_endpoint(metadata, "authorization_endpoint"),
        token_url=_endpoint(metadata, "token_endpoint"),
        revocation_url=_endpoint(metadata, "revocation_endpoint"),
        jwks_url=_endpoint(metadata, "jwks_uri"),
        requires_iss=_flag(metadata, "authorization_response_iss_parameter_supported"),
    )
    if not server.token_url:
        raise UpstreamBadResponse("the metadata document names no token endpoint")
    offered = _names(metadata, "token_endpoint_auth_methods_supported") or ("client_secret_basic",)
    return DiscoveredServer(
        server=server,
        client_authentication=tuple(_METHODS[name] for name in offered if name in _METHODS),
        scopes=_names(metadata, "scopes_supported") or (),
        grant_types=_names(metadata, "grant_types_supported") or ("authorization_code", "implicit"),
    )


def _endpoint(metadata: Fields, name: str) -> str:
    value = metadata.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UpstreamBadResponse(f"the metadata document's {name} is not a string")
    return check_url(value, allow_http_loopback=True)


def _flag(metadata: Fields, name: str) -> bool:
    value = metadata.get(name, False)
    if not isinstance(value, bool):
        raise UpstreamBadResponse(f"the metadata document's {name} is not a boolean")
    return value


def _names(metadata: Fields, name: str) -> tuple[str, ...] | None:
    value = metadata.get(name)
    if value is None:
        return None
    names = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(names) != len(value) or len(names) > MAXIMUM_LIST_LENGTH:
        raise UpstreamBadResponse(f"the metadata document's {name} is not a list of names")
    return tuple(dict.fromkeys(names))
