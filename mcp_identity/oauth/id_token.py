"""Which account did the user sign in with, as the issuer itself signed it (OpenID Connect Core §3.1.3.7)?

Verifies an ID token that came over the token endpoint; grants nothing by it. Trusts the keys at the pinned ``jwks_uri`` and
nothing in the token's header but the name of one of them: keys and key addresses that a token brings along are ignored.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import cast

from mcp_identity.domain.errors import ConsentMismatch, ProviderMisconfigured, UpstreamBadResponse
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import AuthorizationServer
from mcp_identity.oauth.answers import Fields, Json, is_token_text
from mcp_identity.oauth.jws import JwsRefused, key_set_request, parse_compact, process_key_set_response, verify_signature

MAXIMUM_SUBJECT_LENGTH = 255
SKEW_SECONDS = 60


def jwks_request(server: AuthorizationServer) -> HttpRequest:
    """Ask for the issuer's keys.

    Raises:
        ProviderMisconfigured: If the provider has none.
    """
    if not server.jwks_url:
        raise ProviderMisconfigured("the provider has no key set, so its ID tokens cannot be verified")
    return key_set_request(server.jwks_url)


def verify_id_token(
    id_token: str,
    jwks_response: HttpResponse,
    *,
    server: AuthorizationServer,
    client_id: str,
    nonce: str | None,
    now: datetime,
) -> str:
    """Verify an ID token.

    Args:
        id_token: The raw token.
        jwks_response: The answer to `jwks_request`.
        server: The server that the code was exchanged at.
        client_id: Our client id there.
        nonce: What the authorization request carried; None where it carried none.
        now: The time.

    Returns:
        The subject: the issuer's stable identifier of the account.

    Raises:
        ConsentMismatch: If the nonce is not the one of this consent.
        UpstreamUnavailable: If the key set cannot be had now.
        UpstreamBadResponse: If the token does not verify, for whatever reason.
    """
    claims = verify_id_claims(
        id_token, jwks_response, issuers=frozenset({server.issuer}), client_id=client_id, nonce=nonce, now=now
    )
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_token_text(subject, MAXIMUM_SUBJECT_LENGTH):
        raise UpstreamBadResponse("the ID token has no usable subject")
    return subject


def verify_id_claims(
    id_token: str,
    jwks_response: HttpResponse,
    *,
    issuers: frozenset[str],
    client_id: str,
    nonce: str | None,
    now: datetime,
) -> Fields:
    """Verify an ID token whose subject the caller reads itself.

    Args:
        id_token: The raw token.
        jwks_response: The answer to `jwks_request`.
        issuers: The exact issuers that it may be of.
        client_id: Our client id there.
        nonce: What the authorization request carried; None where it carried none.
        now: The time.

    Returns:
        All claims.

    Raises:
        ConsentMismatch: If the nonce is not the one of this sign-in.
        UpstreamUnavailable: If the key set cannot be had now.
        UpstreamBadResponse: If the token does not verify, for whatever reason.
    """
    claims = _verified_claims(id_token, jwks_response)
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer or issuer not in issuers:
        raise UpstreamBadResponse("the ID token is of another issuer")
    _check_audience(claims, client_id)
    _check_times(claims, now.timestamp())
    stated = claims.get("nonce")
    if nonce is not None and not (
        isinstance(stated, str) and hmac.compare_digest(stated.encode("utf-8", "replace"), nonce.encode())
    ):
        raise ConsentMismatch("the ID token belongs to another sign-in: its nonce is not ours")
    return claims


def _verified_claims(id_token: str, jwks_response: HttpResponse) -> Fields:
    keys = process_key_set_response(jwks_response)
    try:
        token = parse_compact(id_token)
        verify_signature(token, keys)
    except JwsRefused as refused:
        raise UpstreamBadResponse(f"the ID token does not stand: {refused}") from None
    return token.claims


def _check_audience(claims: Fields, client_id: str) -> None:
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = audience if isinstance(audience, list) else [audience]
    several = len(audiences) > 1
    if client_id not in audiences or (party is None and several) or (party is not None and party != client_id):
        raise UpstreamBadResponse("the ID token was issued for another client")


def _check_times(claims: Fields, now: float) -> None:
    expires, issued, begins = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    if not _is_time(expires) or not _is_time(issued) or not _is_time(begins):
        raise UpstreamBadResponse("the ID token lacks its times, or they are no whole seconds")
    if cast("int", expires) <= now - SKEW_SECONDS:
        raise UpstreamBadResponse("the ID token has expired")
    if cast("int", issued) > now + SKEW_SECONDS or cast("int", begins) > now + SKEW_SECONDS:
        raise UpstreamBadResponse("the ID token is from the future")


def _is_time(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
