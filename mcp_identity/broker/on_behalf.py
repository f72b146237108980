"""May a user's own token be exchanged for one that acts for them, and what is it exchanged with (RFC 8693, RFC 7523)?

The token goes only to a provider that lists the issuer who vouches for it, and there to the pinned token endpoint. What comes
back is filed under the user, and answers only a call that brings a valid token of that user itself; it is served no longer
than the token lives that it was exchanged for. Nobody is asked for consent, and nothing is refreshed: who still has the user's
token exchanges it again. The token itself is kept nowhere, and told to nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcp_identity.broker.access import require_access
from mcp_identity.domain.credentials import Flow, Secret, TokenSet, parse_scopes
from mcp_identity.domain.errors import AccessDenied, TokenExpired, UnsupportedFlow
from mcp_identity.domain.identity import Principal, SubjectToken, command
from mcp_identity.oauth.on_behalf import exchange_request, process_exchange_response

if TYPE_CHECKING:
    from datetime import datetime

    from mcp_identity.broker.plan import Plan
    from mcp_identity.domain.http import HttpRequest, HttpResponse
    from mcp_identity.domain.provider import CredentialProvider, OAuthClient
    from mcp_identity.vault.records import Records

OBTAINED_BY = "on_behalf_of"


@dataclass(frozen=True, slots=True)
class Given:
    """What one exchange is made of.

    Attributes:
        subject: The user's own token.
        actor: The agent's token; None where the provider wants none.
    """

    subject: SubjectToken
    actor: Secret | None = None


def require_subject(principal: Principal, provider: CredentialProvider) -> SubjectToken:
    """The user's own token, if it may go to this provider as far as can be seen without the vault.

    Raises:
        UnsupportedFlow: If the call brought none.
        AccessDenied: If the provider does not list the token's issuer.
    """
    subject = principal.subject_token
    if subject is None or principal.user is None:
        raise UnsupportedFlow(
            f"{provider.name} exchanges the user's own token, and this call brought none; call with the user's JWT, or with a "
            "workload access token that was issued for that JWT while this provider was there (a user who is named by an id "
            "has none)"
        )
    if subject.issuer_id not in provider.subject_issuers:
        raise AccessDenied(
            f"tokens of this user's issuer may not be sent to {provider.name}; an operator can allow it: "
            f"{command(provider.tenant)} providers update {provider.name} --subject-issuer ISSUER"
        )
    return subject


def require_vouched(records: Records, principal: Principal, provider: CredentialProvider) -> SubjectToken:
    """The same inside the unit: the issuer is still there, and the token has not ended meanwhile.

    Raises:
        TokenExpired: If it has.
        IdentityError: As `require_subject`.
    """
    subject = require_subject(principal, provider)
    issuers = records.all_issuers()
    if not any(each.id == subject.issuer_id and each.tenant == provider.tenant and not each.disabled for each in issuers):
        raise AccessDenied("the issuer of the user's token was disabled or removed")
    if subject.expires_at <= records.now:
        raise TokenExpired("the user's token has ended; the user has to sign in again")
    return subject


def may_exchange(records: Records, principal: Principal, subject: SubjectToken) -> bool:
    """Whether this agent could exchange a user's token anywhere; else it has no use for it, and is not given it."""
    for provider in records.exchanging_providers(principal.tenant):
        if Flow.ON_BEHALF_OF_TOKEN_EXCHANGE not in provider.flows or subject.issuer_id not in provider.subject_issuers:
            continue
        try:
            require_access(principal, "get_token", provider, frozenset())
        except AccessDenied:
            continue
        return True
    return False


def actor_plan(plan: Plan) -> Plan | None:
    """How the token is had that says who acts: the client's own, as for M2M; None where the provider wants none."""
    if plan.flow is not Flow.ON_BEHALF_OF_TOKEN_EXCHANGE or plan.dialect.actor_token == "none":  # noqa: S105 - for no token
        return None
    scopes = parse_scopes(plan.dialect.actor_scopes.split())
    key = replace(plan.key, user="", flow=Flow.M2M, resource="", audience="", scopes=" ".join(sorted(scopes)))
    request = replace(plan.request, minimum_lifetime_seconds=None)
    return replace(plan, request=request, flow=Flow.M2M, scopes=scopes, key=key, parameters=())


def exchange(plan: Plan, client: OAuthClient, given: Given) -> HttpRequest:
    """The one request.

    Raises:
        ProviderMisconfigured: If the provider's data does not say how.
        InvalidTarget: If this server takes no resource or audience.
    """
    return exchange_request(
        plan.provider.server,
        client,
        plan.dialect,
        subject_token=given.subject.token,
        actor_token=given.actor,
        scopes=plan.scopes,
        resource=plan.key.resource,
        audience=plan.key.audience,
        parameters=plan.parameters,
    )


def read_exchange(response: HttpResponse, plan: Plan, given: Given, now: datetime) -> TokenSet:
    """What it brought.

    Raises:
        UpstreamError: If that is no token.
    """
    return process_exchange_response(
        response,
        plan.dialect,
        sent=[given.subject.token, *([given.actor] if given.actor else [])],
        requested_scopes=plan.scopes,
        now=now,
        serve_until=given.subject.expires_at,
    )
