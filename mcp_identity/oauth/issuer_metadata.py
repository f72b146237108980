"""What does an identity provider say about itself, whose tokens callers will bring (OpenID Connect Discovery 1.0 §4)?

Reads the metadata of one address that an operator named. Whether to believe the provider is the operator's decision; here it
is held to §4.3: the issuer that the document names must be the one whose metadata stands at that very address. Some vendors
write a placeholder for the organisation into it, ``https://idp.example/{tenantid}/v2.0``; then the address must fit that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mcp_identity.domain.errors import UpstreamBadResponse, UrlRefused, clean_text
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.issuer import fill
from mcp_identity.oauth.answers import Fields, check_status, parse_object
from mcp_identity.oauth.discovery import MAXIMUM_METADATA_BYTES
from mcp_identity.oauth.jws import process_key_set_response
from mcp_identity.oauth.urls import check_url

_WELL_KNOWN = "/.well-known/"
_SUFFIXES = ("openid-configuration", "oauth-authorization-server")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]{1,64}\}")
_ORGANISATION = "[A-Za-z0-9._-]{1,255}"


@dataclass(frozen=True, slots=True)
class IssuerMetadata:
    """An identity provider's metadata, as far as we use it.

    Attributes:
        issuer: Its exact identifier; may hold one placeholder.
        jwks_url: Its keys.
        authorization_url: Where a browser signs in, or empty.
        token_url: Its token endpoint, or empty.
        proves_keys: It offers PKCE with S256, or does not say.
    """

    issuer: str
    jwks_url: str
    authorization_url: str
    token_url: str
    proves_keys: bool

    @property
    def is_template(self) -> bool:
        """Whether the issuer holds a placeholder: it then serves many organisations."""
        return is_template(self.issuer)


def is_template(issuer: str) -> bool:
    """Whether an issuer holds a placeholder, e.g. ``{tid}``."""
    return _PLACEHOLDER.search(issuer) is not None


def metadata_url(given: str, *, allow_http_loopback: bool) -> str:
    """Where the metadata is, for what an operator gave: that address, or the issuer itself (§4.1).

    Raises:
        UrlRefused: If it is no https URL, or has a query.
    """
    check_url(given, allow_http_loopback=allow_http_loopback)
    if "?" in given:
        raise UrlRefused("a discovery URL has no query")
    return given if _WELL_KNOWN in given else f"{given.removesuffix('/')}{_WELL_KNOWN}{_SUFFIXES[0]}"


def metadata_request(url: str) -> HttpRequest:
    """Ask for the metadata."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    return HttpRequest("GET", url, headers, maximum_bytes=MAXIMUM_METADATA_BYTES)


def process_metadata_response(response: HttpResponse, *, url: str, allow_http_loopback: bool) -> IssuerMetadata:
    """Read the metadata that stands at `url`.

    Raises:
        UpstreamUnavailable: At 429 and 5xx.
        UpstreamBadResponse: If it is no metadata, or of another issuer than the address says.
        UrlRefused: If a URL in it is not https, or http on loopback where that is allowed.
    """
    check_status(response, accepted=(200,))
    metadata = parse_object(response)
    issuer = metadata.get("issuer")
    if not isinstance(issuer, str) or not issuer:
        raise UpstreamBadResponse("the metadata document names no issuer")
    if not any(_fits(address, url) for address in _addresses(issuer)):
        raise UpstreamBadResponse(
            f"the metadata document is of the issuer {clean_text(issuer, 200)}, whose metadata stands elsewhere "
            "(OpenID Connect Discovery 1.0 §4.3); give the discovery URL of that issuer"
        )

    def endpoint(name: str) -> str:
        value = metadata.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise UpstreamBadResponse(f"the metadata document's {name} is not a string")
        return check_url(value, allow_http_loopback=allow_http_loopback)

    check_url(fill(issuer, "x"), allow_http_loopback=allow_http_loopback)
    jwks_url = endpoint("jwks_uri")
    if not jwks_url:
        raise UpstreamBadResponse("the metadata document names no jwks_uri, so its tokens cannot be verified")
    return IssuerMetadata(
        issuer, jwks_url, endpoint("authorization_endpoint"), endpoint("token_endpoint"), _proves_keys(metadata)
    )


def require_issuer_keys(response: HttpResponse) -> None:
    """Check that there are keys at all; each is judged when a token names it.

    Raises:
        UpstreamUnavailable: At 429 and 5xx.
        UpstreamBadResponse: If it is no key set, too large, or holds no key that we could use.
    """
    if not process_key_set_response(response):
        raise UpstreamBadResponse("the issuer's jwks_uri leads to no key that its tokens could be verified with")


def _addresses(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may be (OpenID Connect Discovery §4.1, RFC 8414 §3.1 and §5)."""
    parts = urlsplit(issuer)
    if "?" in issuer or "#" in issuer or not parts.netloc or "{" in parts.netloc:  # organisations have paths, no hosts
        return ()
    base, path = issuer.removesuffix("/"), parts.path.removesuffix("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return tuple(
        address for suffix in _SUFFIXES for address in (f"{base}{_WELL_KNOWN}{suffix}", f"{origin}{_WELL_KNOWN}{suffix}{path}")
    )


def _fits(address: str, url: str) -> bool:
    pieces = _PLACEHOLDER.split(address)
    if len(pieces) > 2:  # noqa: PLR2004 - one placeholder has two sides
        return False
    return re.fullmatch(_ORGANISATION.join(map(re.escape, pieces)), url) is not None


def _proves_keys(metadata: Fields) -> bool:
    methods = metadata.get("code_challenge_methods_supported")
    return methods is None or (isinstance(methods, list) and "S256" in methods)
