"""How is a token given back to the vendor (RFC 7009, or the vendor's own way)?

Builds the request and reads the answer; what happens to our own copy is decided elsewhere. Trusts the pinned endpoint and
the provider's data.
"""

from __future__ import annotations

import json
from typing import Literal
from urllib.parse import quote

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import UpstreamRejected
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import AuthorizationServer, Dialect, OAuthClient
from mcp_identity.oauth.answers import check_status, parse_object, raise_for_error, reject
from mcp_identity.oauth.client_auth import authenticate, basic, post

TokenTypeHint = Literal["access_token", "refresh_token"]


def revocation_request(
    server: AuthorizationServer,
    client: OAuthClient,
    dialect: Dialect,
    *,
    token: Secret,
    token_type_hint: TokenTypeHint,
) -> HttpRequest | None:
    """Build the request that revokes a token; None where the vendor has no way to.

    ``delete-basic`` deletes ``{revocation endpoint}/{client id}/token``; ``bearer-get`` presents the token itself,
    ``bearer-post`` the access token alone.

    Raises:
        ProviderMisconfigured: If the client needs a secret and there is none.
    """
    url = server.revocation_url
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if not url or dialect.revocation_style == "none":
        return None
    if dialect.revocation_style == "bearer-get":
        return HttpRequest("GET", url, {**headers, "Authorization": f"Bearer {token.reveal()}"})
    if dialect.revocation_style == "bearer-post":
        if token_type_hint == "refresh_token":  # noqa: S105 - a kind of token; it is no bearer, and ends with the access token
            return None
        return HttpRequest("POST", url, {**headers, "Authorization": f"Bearer {token.reveal()}"})
    if dialect.revocation_style == "delete-basic":
        headers |= {"Authorization": basic(client), "Content-Type": "application/json"}
        body = json.dumps({"access_token": token.reveal()}).encode("ascii")
        return HttpRequest("DELETE", f"{url}/{quote(client.client_id, safe='')}/token", headers, body)
    parameters = [("token", token.reveal()), ("token_type_hint", token_type_hint)]
    parameters, headers = authenticate(client, parameters, headers, url)
    return post(url, parameters, headers, dialect)


def process_revocation_response(response: HttpResponse, dialect: Dialect) -> None:
    """Read whether the token is revoked (RFC 7009 §2.2).

    A vendor that calls the token invalid has done what was asked: the RFC wants 200 there, some answer an error.

    Raises:
        UpstreamRejected: If the vendor refuses.
        UpstreamUnavailable: At 429 and 5xx; the token must be taken as still alive.
        UpstreamBadResponse: If the answer is neither.
    """
    try:
        check_status(response, accepted=(200, 204), dialect=dialect)
    except UpstreamRejected as refusal:
        if refusal.error != "invalid_token":
            raise
        return
    if dialect.success_field:
        answer = parse_object(response)
        raise_for_error(answer)
        if answer.get(dialect.success_field) is not True:
            reject("unspecified")
