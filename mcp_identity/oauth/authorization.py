"""Where do we send the user's browser to ask for consent, and what did the vendor send it back with (RFC 6749 §4.1)?

Builds the URL and reads the callback. The state is made, stored and consumed elsewhere; who owns the browser is proved
elsewhere. Trusts the pinned endpoints and the provider's data, and neither the agent's parameters nor the callback's: a
callback is either a code from the server that was asked, or an error, and never anything else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, urlsplit

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import (
    ConsentDenied,
    ConsentMismatch,
    InvalidRequest,
    InvalidTarget,
    ProviderMisconfigured,
    UpstreamBadResponse,
)
from mcp_identity.domain.provider import AuthorizationServer, Dialect
from mcp_identity.oauth.answers import is_token_text, reject
from mcp_identity.oauth.scopes import join
from mcp_identity.oauth.urls import check_resource, check_url

MAXIMUM_CODE_LENGTH = 8192
MAXIMUM_PARAMETER_LENGTH = 512

_OURS = frozenset({
    "response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method", "nonce",
    "resource", "audience", "request", "request_uri", "response_mode", "claims", "authorization_details", "dpop_jkt",
    "client_secret", "client_assertion", "client_assertion_type", "code", "iss", "registration",
})  # fmt: skip
"""Parameters that carry the protocol; no data file can hand them to agents."""
_SINGLE = frozenset({"code", "state", "iss", "error", "error_description", "error_uri"})
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """A code that came from the server that was asked, as far as the callback can show."""

    code: Secret


def check_agent_parameters(dialect: Dialect, parameters: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Check the authorization parameters that an agent wants to set.

    Returns:
        The parameters, sorted, so that equal requests are equal; without those that are sent anyway and just so.

    Raises:
        InvalidRequest: If one belongs to the protocol or is set by us, is not listed in the provider's data, stands twice,
            or its value does not match the listed pattern as a whole.
    """
    sent = dialect.authorization_parameters
    parameters = [(name, value) for name, value in parameters if sent.get(name) != value]
    names = Counter(name for name, _ in parameters)
    ours = _OURS | {dialect.scope_parameter, dialect.audience_parameter, *dialect.authorization_parameters}
    for name, value in parameters:
        pattern = dialect.agent_parameters.get(name)
        if name in ours or pattern is None:
            raise InvalidRequest(f"the authorization parameter {name[:64]!r} cannot be set for this provider")
        if names[name] > 1 or len(value) > MAXIMUM_PARAMETER_LENGTH or not re.fullmatch(pattern, value):
            raise InvalidRequest(f"the authorization parameter {name[:64]!r} stands twice or has a value that is not allowed")
    return tuple(sorted(parameters))


def authorization_url(
    server: AuthorizationServer,
    client_id: str,
    dialect: Dialect,
    *,
    redirect_uri: str,
    scopes: frozenset[str],
    state: str,
    code_verifier: Secret,
    nonce: str | None = None,
    resource: str = "",
    audience: str = "",
    parameters: tuple[tuple[str, str], ...] = (),
) -> str:
    """Build the URL of an authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3, RFC 8707 §2).

    Args:
        server: The pinned endpoints.
        client_id: Our client id there.
        dialect: How this server departs from the RFCs.
        redirect_uri: Where the browser comes back to.
        scopes: What is asked for; the data file's own scopes are added.
        state: Unguessable and single-use; the caller keeps its hash.
        code_verifier: The PKCE verifier; its S256 challenge goes into the URL.
        nonce: For an ID token, or None.
        resource: RFC 8707 resource, or empty.
        audience: Audience, or empty.
        parameters: What `check_agent_parameters` returned.

    Returns:
        An https URL (or http on loopback) that keeps the endpoint's own query.

    Raises:
        UrlRefused: If the endpoint is not a URL for a browser.
        ProviderMisconfigured: If the endpoint is missing, or its own query sets a parameter that is ours to set.
        InvalidTarget: If the resource or audience is malformed, or this server takes none.
        InvalidRequest: If an agent's parameter is not allowed.
    """
    if not server.authorization_url:
        raise ProviderMisconfigured("the provider has no authorization endpoint")
    endpoint = check_url(server.authorization_url, allow_http_loopback=True)
    if not state or not redirect_uri:
        raise InvalidRequest("an authorization request needs a state and a redirect URI")
    query = [("response_type", "code"), ("client_id", client_id), ("redirect_uri", redirect_uri)]
    asked = join(scopes | frozenset(dialect.always_scopes), dialect)
    if asked:
        query.append((dialect.scope_parameter, asked))
    query.append(("state", state))
    if dialect.pkce:
        query += [("code_challenge", _challenge(code_verifier)), ("code_challenge_method", "S256")]
    if nonce:
        query.append(("nonce", nonce))
    query += target(dialect, resource=resource, audience=audience)
    query += sorted(dialect.authorization_parameters.items())
    query += check_agent_parameters(dialect, parameters)
    theirs = {name for name, _ in parse_qsl(urlsplit(endpoint).query, keep_blank_values=True)}
    if theirs & (_OURS | {name for name, _ in query}):
        raise ProviderMisconfigured("the authorization endpoint's own query sets a parameter of the protocol")
    from authlib.common.urls import add_params_to_uri

    return add_params_to_uri(endpoint, query)


def target(dialect: Dialect, *, resource: str, audience: str) -> list[tuple[str, str]]:
    """The parameters that say for whom the token shall be (RFC 8707 §2); the same in every request of a grant.

    Raises:
        InvalidTarget: If one is malformed or this server takes none: dropping it would give a token for everybody.
    """
    parameters: list[tuple[str, str]] = []
    if resource:
        if not dialect.resource_parameter:
            raise InvalidTarget("this provider's authorization server takes no resource (RFC 8707)")
        parameters.append(("resource", check_resource(resource)))
    if audience:
        if not dialect.audience_parameter:
            raise InvalidTarget("this provider's authorization server takes no audience")
        if not is_token_text(audience, MAXIMUM_PARAMETER_LENGTH):
            raise InvalidTarget("an audience is printable ASCII")
        parameters.append((dialect.audience_parameter, audience))
    return parameters


def process_authorization_response(parameters: Sequence[tuple[str, str]], *, server: AuthorizationServer) -> AuthorizationCode:
    """Read the parameters that the vendor sent the browser back with (RFC 6749 §4.1.2, RFC 9207 §2.4).

    The issuer is compared before anything else is believed, the error included: an answer of another server says nothing
    about this request.

    Raises:
        ConsentMismatch: If the answer names another issuer, or none although the server promised to.
        ConsentDenied: If the user, or the vendor for them, said no.
        UpstreamRejected: If the vendor reports any other error.
        UpstreamBadResponse: If a parameter is repeated, or there is neither a code nor an error.
    """
    counts = Counter(name for name, _ in parameters)
    if any(counts[name] > 1 for name in _SINGLE):
        raise UpstreamBadResponse("the vendor's answer repeats a parameter (RFC 6749 §3.1)")
    fields = dict(parameters)
    issuer = fields.get("iss")
    if server.issuer and issuer is not None and issuer != server.issuer:
        raise ConsentMismatch("the answer names another issuer than the one that was asked (RFC 9207 §2.4)")
    if server.requires_iss and issuer is None:
        raise ConsentMismatch("the answer does not name its issuer, although the server promised to (RFC 9207 §2.4)")
    if "error" in fields:
        if fields["error"] == "access_denied":
            raise ConsentDenied("the user, or the vendor on their behalf, declined")
        reject(fields["error"] or "unspecified", fields.get("error_description", ""))
    code = fields.get("code", "")
    if not is_token_text(code, MAXIMUM_CODE_LENGTH):
        raise UpstreamBadResponse("the vendor's answer holds no authorization code")
    return AuthorizationCode(Secret(code))


def _challenge(code_verifier: Secret) -> str:
    verifier = code_verifier.reveal()
    if not _VERIFIER.fullmatch(verifier):
        raise InvalidRequest("a PKCE verifier has 43 to 128 unreserved characters (RFC 7636 §4.1)")
    from authlib.oauth2.rfc7636 import create_s256_code_challenge  # pyright: ignore[reportUnknownVariableType] - untyped

    return cast("str", create_s256_code_challenge(verifier))
