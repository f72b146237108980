"""How is a user's own token exchanged for one that acts for them at somebody else's API (RFC 8693, RFC 7523 §2.1)?

Builds the request and reads the answer; whether this token may go to this server is decided elsewhere. Trusts the pinned
endpoint and the provider's data. Of the answer only the access token is kept: nothing outlives the user's token, so a refresh
token is not wanted, and a server that gives back what it was sent has given nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import InvalidRequest, ProviderMisconfigured, UpstreamBadResponse
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import AuthorizationServer, Dialect, OAuthClient
from mcp_identity.oauth.authorization import MAXIMUM_PARAMETER_LENGTH, target
from mcp_identity.oauth.fields import read_body, read_text
from mcp_identity.oauth.scopes import join
from mcp_identity.oauth.token import process_token_response, token_request

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - the name of a grant
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SUBJECT_TOKEN_TYPE = "subject_token_type"  # noqa: S105 - the name of a parameter
_ACCESS_TOKEN, _JWT = "urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"
_OURS = frozenset({
    "grant_type", "subject_token", "actor_token", "actor_token_type", "assertion", "scope", "resource", "audience", "client_id",
    "client_secret", "client_assertion", "client_assertion_type", "requested_token_type",
})  # fmt: skip
"""Parameters that carry the protocol; no data file can hand them to agents."""


def check_exchange_parameters(dialect: Dialect, parameters: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Check the parameters that an agent wants to set in an exchange. One that says what is sent anyway is no matter.

    Returns:
        Those that change something, sorted.

    Raises:
        InvalidRequest: If one belongs to the protocol, is not listed in the provider's data, stands twice, or its value does
            not match the listed pattern as a whole.
    """
    if not parameters:
        return ()
    fixed = {SUBJECT_TOKEN_TYPE: dialect.subject_token_type, **dialect.on_behalf_of_parameters}
    names = Counter(name for name, _ in parameters)
    found: list[tuple[str, str]] = []
    for name, value in parameters:
        if names[name] > 1 or len(value) > MAXIMUM_PARAMETER_LENGTH:
            raise InvalidRequest(f"the parameter {name[:64]!r} stands twice or is too long")
        if fixed.get(name) == value:
            continue
        pattern = dialect.on_behalf_of_agent_parameters.get(name)
        if name in _OURS or name in dialect.on_behalf_of_parameters or pattern is None or not re.fullmatch(pattern, value):
            raise InvalidRequest(f"the parameter {name[:64]!r} of an exchange cannot be set so for this provider")
        found.append((name, value))
    return tuple(sorted(found))


def exchange_request(
    server: AuthorizationServer,
    client: OAuthClient,
    dialect: Dialect,
    *,
    subject_token: Secret,
    actor_token: Secret | None = None,
    scopes: frozenset[str],
    resource: str = "",
    audience: str = "",
    parameters: tuple[tuple[str, str], ...] = (),
) -> HttpRequest:
    """Ask for a token that acts for the user (RFC 8693 §2.1, RFC 7523 §2.1).

    Args:
        server: The pinned endpoints.
        client: Who we are there.
        dialect: How this server departs from the RFCs, and which of the two grants it speaks.
        subject_token: The user's own token.
        actor_token: The agent's token; None for none.
        scopes: What is asked for.
        resource: RFC 8707 resource, or empty.
        audience: Audience, or empty.
        parameters: What `check_exchange_parameters` returned.

    Raises:
        ProviderMisconfigured: If this server exchanges nothing, or what it needs is not there.
        InvalidTarget: If the resource or audience is malformed or this server takes none.
    """
    chosen = dict(parameters)
    subject_token_type = chosen.pop(SUBJECT_TOKEN_TYPE, dialect.subject_token_type)
    match dialect.on_behalf_of:
        case "token-exchange":
            asked = [
                ("grant_type", TOKEN_EXCHANGE),
                ("subject_token", subject_token.reveal()),
                (SUBJECT_TOKEN_TYPE, subject_token_type),
            ]
            if actor_token is not None:
                asked += [("actor_token", actor_token.reveal()), ("actor_token_type", _ACCESS_TOKEN)]
        case "jwt-bearer":
            asked = [("grant_type", JWT_BEARER), ("assertion", subject_token.reveal())]
        case "no":
            raise ProviderMisconfigured("the provider's data does not say how its server exchanges a user's token")
    if scopes:
        asked.append(("scope", join(scopes, dialect)))
    asked += target(dialect, resource=resource, audience=audience)
    asked += sorted({**dialect.on_behalf_of_parameters, **chosen}.items())
    return token_request(server.token_url, client if dialect.on_behalf_of_client else None, dialect, asked)


def process_exchange_response(
    response: HttpResponse,
    dialect: Dialect,
    *,
    sent: Iterable[Secret],
    requested_scopes: frozenset[str],
    now: datetime,
    serve_until: datetime,
) -> TokenSet:
    """Read the answer (RFC 8693 §2.2, RFC 6749 §5).

    Args:
        response: The answer.
        dialect: As in the request.
        sent: The tokens that the request held.
        requested_scopes: What was asked for.
        now: When the answer arrived, aware.
        serve_until: When the user's own token ends.

    Raises:
        UpstreamRejected: If the server reports an error, at whatever status.
        UpstreamUnavailable: At 429 and 5xx.
        UpstreamBadResponse: If it is neither an error nor an access token, or repeats what it was sent.
    """
    tokens = process_token_response(response, dialect, requested_scopes=requested_scopes, now=now).tokens
    if dialect.on_behalf_of == "token-exchange":
        answer = read_body(response, form_encoded=dialect.form_encoded_answers)
        if read_text(answer, "issued_token_type", 256) not in (_ACCESS_TOKEN, _JWT):
            raise UpstreamBadResponse("the exchange gave no access token: its answer names no such type (RFC 8693 §2.2.1)")
    if any(_is_in(tokens, secret) for secret in sent):
        raise UpstreamBadResponse("the exchange gave back the token that it was sent")
    return replace(tokens, refresh_token=None, refresh_expires_at=None, serve_until=serve_until)


def _is_in(tokens: TokenSet, secret: Secret) -> bool:
    """Whether anything that would be kept or told repeats a secret; of a JWT its signature is enough."""
    tell = secret.reveal().rpartition(".")[2]
    kept = [tokens.access_token.reveal(), tokens.token_type, tokens.account_id, tokens.api_host]
    return any(tell in each for each in (*kept, *tokens.scopes, *tokens.extra.values()))
