"""How are tokens asked for at the token endpoint, and what do its answers give us (RFC 6749 §4.1.3, §4.4, §5, §6)?

Builds requests and reads answers; sends, stores and decides nothing. Trusts the pinned endpoints and the provider's data.
An answer is a token only if everything that RFC 6749 §5.1 requires is there and well-formed: an error page, an error at
HTTP 200 or a half-answer never becomes one. What is exchanged on a user's behalf is in `on_behalf.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mcp_identity.domain.api_url import customer_origin
from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import ProviderMisconfigured, UpstreamBadResponse
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Dialect, OAuthClient
from mcp_identity.oauth.answers import Fields, at_path, check_status, is_scalar, is_token_text, raise_for_error, reject
from mcp_identity.oauth.authorization import target
from mcp_identity.oauth.client_auth import authenticate, post
from mcp_identity.oauth.fields import read_body, read_lifetime, read_text
from mcp_identity.oauth.scopes import granted, join, read

MAXIMUM_TOKEN_LENGTH = 64 * 1024
MAXIMUM_FACT_LENGTH = 512


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the token endpoint gave.

    Attributes:
        tokens: The token set.
        id_token: The raw ID token, unverified; `id_token.verify_id_token` says whose it is.
    """

    tokens: TokenSet
    id_token: Secret | None = None


def authorization_code_request(
    server: AuthorizationServer,
    client: OAuthClient,
    dialect: Dialect,
    *,
    code: Secret,
    redirect_uri: str,
    code_verifier: Secret,
    resource: str = "",
) -> HttpRequest:
    """Exchange an authorization code (RFC 6749 §4.1.3, RFC 7636 §4.5, RFC 8707 §2.2).

    Raises:
        ProviderMisconfigured: If there is no token endpoint, or no secret where one is needed.
        InvalidTarget: If the resource is malformed or this server takes none.
    """
    parameters = [("grant_type", "authorization_code"), ("code", code.reveal()), ("redirect_uri", redirect_uri)]
    if dialect.pkce:
        parameters.append(("code_verifier", code_verifier.reveal()))
    parameters += target(dialect, resource=resource, audience="")
    return token_request(server.token_url, client, dialect, parameters)


def client_credentials_request(
    server: AuthorizationServer,
    client: OAuthClient,
    dialect: Dialect,
    *,
    scopes: frozenset[str],
    resource: str = "",
    audience: str = "",
) -> HttpRequest:
    """Ask for a token for the client itself (RFC 6749 §4.4.2).

    Raises:
        ProviderMisconfigured: If there is no token endpoint, or the client is public.
        InvalidTarget: If the resource or audience is malformed or this server takes none.
    """
    if client.authentication is ClientAuthentication.NONE:
        raise ProviderMisconfigured("client credentials are for clients that authenticate (RFC 6749 §4.4)")
    parameters = list({"grant_type": "client_credentials", **dialect.client_credentials_parameters}.items())
    if scopes:
        parameters.append(("scope", join(scopes, dialect)))
    parameters += target(dialect, resource=resource, audience=audience)
    return token_request(server.token_url, client, dialect, parameters)


def refresh_request(
    server: AuthorizationServer,
    client: OAuthClient,
    dialect: Dialect,
    *,
    refresh_token: Secret,
    scopes: frozenset[str] | None = None,
    resource: str = "",
    audience: str = "",
) -> HttpRequest:
    """Refresh an access token (RFC 6749 §6). The resource is sent again, or the new token would be for another one.

    Args:
        server: The pinned endpoints.
        client: Who we are there.
        dialect: How this server departs from the RFCs.
        refresh_token: The newest refresh token.
        scopes: What to narrow the new token to; sent only where the provider's data says that this narrows it.
        resource: As in the first request.
        audience: As in the first request.

    Raises:
        ProviderMisconfigured: If there is no token endpoint, or no secret where one is needed.
        InvalidTarget: If the resource or audience is malformed or this server takes none.
    """
    parameters = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.reveal())]
    if scopes and dialect.refresh_token_scope_parameter:
        parameters.append(("scope", join(scopes, dialect)))
    parameters += target(dialect, resource=resource, audience=audience)
    return token_request(server.refresh_url or server.token_url, client, dialect, parameters)


def process_token_response(
    response: HttpResponse,
    dialect: Dialect,
    *,
    requested_scopes: frozenset[str],
    now: datetime,
    previous: TokenSet | None = None,
) -> TokenAnswer:
    """Read the token endpoint's answer (RFC 6749 §5).

    Args:
        response: The answer.
        dialect: How this server departs from the RFCs.
        requested_scopes: What was asked for; what is granted where the answer names no scope.
        now: When the answer arrived, aware.
        previous: After a refresh, the token set that was refreshed; what the answer leaves out is carried over from it.

    Raises:
        UpstreamRejected: If the server reports an error, at whatever status.
        UpstreamUnavailable: At 429 and 5xx.
        UpstreamBadResponse: If it is neither a token nor an error.
    """
    check_status(response, accepted=(200, 201), now=now, dialect=dialect)
    answer = read_body(response, form_encoded=dialect.form_encoded_answers)
    raise_for_error(answer)
    if dialect.success_field and answer.get(dialect.success_field) is not True:
        reject("unspecified")
    token = _token_object(answer, dialect, refreshed=previous is not None)
    access_token = read_text(token, "access_token", MAXIMUM_TOKEN_LENGTH)
    token_type = read_text(token, "token_type", 64) or (None if dialect.token_type_required else "Bearer")
    if access_token is None or token_type is None:
        raise UpstreamBadResponse("the token endpoint's answer lacks the access token or its type (RFC 6749 §5.1)")
    if token_type.lower() not in {"bearer", *dialect.token_types}:
        raise UpstreamBadResponse("the token endpoint's answer has a token type that we cannot use (RFC 6749 §7.1)")
    lifetime = read_lifetime(token.get("expires_in"))
    reported = lifetime is not None or dialect.lifetime_seconds > 0 or dialect.expiry == "never"
    if lifetime is None and dialect.lifetime_seconds:
        lifetime = dialect.lifetime_seconds
    refresh_token, refresh_expires_at = _refresh_token(token, dialect, now, previous)
    id_token = read_text(answer, "id_token", MAXIMUM_TOKEN_LENGTH) if dialect.id_token else None
    tokens = TokenSet(
        access_token=Secret(access_token),
        token_type=token_type,
        scopes=_scopes(token, dialect, requested_scopes, previous),
        requested_scopes=previous.requested_scopes if previous else requested_scopes,
        obtained_at=now,
        expires_at=None if lifetime is None else now + timedelta(seconds=lifetime),
        expiry_reported=reported,
        refresh_token=refresh_token,
        refresh_expires_at=refresh_expires_at,
        account_id=_fact(answer, dialect.account_field) or (previous.account_id if previous else ""),
        extra=(previous.extra if previous else {}) | _facts(answer, dialect),
        api_host=previous.api_host if previous else _api_host(answer, dialect),
    )
    return TokenAnswer(tokens, Secret(id_token) if id_token else None)


def token_request(url: str, client: OAuthClient | None, dialect: Dialect, parameters: list[tuple[str, str]]) -> HttpRequest:
    """A request to a token endpoint, with the client's authentication.

    Args:
        url: The endpoint.
        client: Who we are there; None to say nothing of it.
        dialect: How this server departs from the RFCs.
        parameters: Everything else.

    Raises:
        ProviderMisconfigured: If there is no token endpoint, or no secret where one is needed.
    """
    if not url:
        raise ProviderMisconfigured("the provider has no token endpoint")
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        **dialect.token_headers,
    }
    if client is not None:
        parameters, headers = authenticate(client, parameters, headers, url)
    return post(url, parameters, headers, dialect)


def _token_object(answer: Fields, dialect: Dialect, *, refreshed: bool) -> Fields:
    path = dialect.token_path
    if refreshed and dialect.refreshed_token_path is not None:
        path = dialect.refreshed_token_path
    token = at_path(answer, path) if path else answer
    if not isinstance(token, dict):
        raise UpstreamBadResponse("the token endpoint's answer holds no token where the vendor documents it")
    return token


def _scopes(token: Fields, dialect: Dialect, requested_scopes: frozenset[str], previous: TokenSet | None) -> frozenset[str]:
    reported = read(token.get("scope"), dialect)
    if reported is not None:
        return granted(reported, requested_scopes, dialect)
    if previous is None:
        return requested_scopes if dialect.assumed_scopes else frozenset()
    # Silence after a refresh means "as before" (RFC 6749 §6), or what the refresh narrowed it to.
    narrowed = requested_scopes != previous.requested_scopes and requested_scopes < previous.scopes
    return requested_scopes if narrowed else previous.scopes


def _refresh_token(
    token: Fields, dialect: Dialect, now: datetime, previous: TokenSet | None
) -> tuple[Secret | None, datetime | None]:
    value = read_text(token, "refresh_token", MAXIMUM_TOKEN_LENGTH)
    lifetime = next((token[name] for name in dialect.refresh_expiry_fields if token.get(name) is not None), None)
    # Zero says "no end" where vendors write it here, unlike in `expires_in`.
    seconds = read_lifetime(lifetime) or None
    expires_at = now + timedelta(seconds=seconds) if seconds else None
    if value is None and previous is not None:
        return previous.refresh_token, expires_at or previous.refresh_expires_at
    return (Secret(value), expires_at) if value else (None, None)


def _facts(answer: Fields, dialect: Dialect) -> dict[str, str]:
    return {name: fact for name in dialect.extra_fields if (fact := _fact(answer, name))}


def _api_host(answer: Fields, dialect: Dialect) -> str:
    """The customer's own API host; what an answer to a refresh says moves no credential to another one."""
    return customer_origin(_fact(answer, dialect.api_host_field), dialect.api_host_suffixes)


def _fact(answer: Fields, path: str) -> str:
    value = at_path(answer, path) if path else None
    text = str(value) if is_scalar(value) else ""
    return text if is_token_text(text, MAXIMUM_FACT_LENGTH) else ""
