"""How is a token asked for here, and how does a client hear that its user has to be asked first?

As the stock clients poll: a link and a session's name while the user has not finished, the same for the same request; then the
token. A session that failed ends the poll at once, with why, since a client that is told nothing asks on for ten minutes.
`forceAuthentication` makes a fresh session, and the polls that follow name it. The application completes with what its own
return URL received, which is another name than the one that polls (`session_id` is not `sessionUri`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_identity.agentcore.data_shapes import TokenGiven
from mcp_identity.agentcore.errors import Fields
from mcp_identity.broker.answers import ConsentRequired, ConsentStatus, HandleIssued, TokenRequest
from mcp_identity.broker.binding import NoBinding
from mcp_identity.broker.progress import ending
from mcp_identity.domain.consent import ConsentState
from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.errors import Conflict, ConsentNotFound
from mcp_identity.domain.identity import ASSERTED_ISSUER, User, UserKind, command

if TYPE_CHECKING:
    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.data_shapes import Completion, TokenAsked
    from mcp_identity.agentcore.operations import Edge
    from mcp_identity.domain.identity import Principal

REGISTER = "You must register and use at least one ResourceOauth2ReturnUrl on your workload identity to use this flow"
PROVIDE = "You must provide a ResourceOauth2ReturnUrl to proceed with this flow"
"""The service's own words, which people look for."""
_RETURN_URL = "resourceOauth2ReturnUrl"
_ENDED = {ConsentState.DENIED.value, ConsentState.FAILED.value, ConsentState.EXPIRED.value}
_GONE = (
    "there is no such consent session of this caller's: pass on what the browser brought to the return URL as session_id, "
    "within a minute; the sessionUri that is polled with finishes nothing"
)
_UNREGISTERED = "this URL is not registered for this workload"


async def give_token(edge: Edge, asker: Asker, asked: TokenAsked) -> TokenGiven:
    """Serve a token, or the link at which the user can consent.

    Raises:
        Fields: If the members do not go together, or the user has nowhere to come back to.
        IdentityError: As the broker says; of a session, how it ended.
    """
    for_user = asked.oauth2_flow == Flow.USER_FEDERATION
    forced = for_user and bool(asked.force_authentication)
    call = await asker.call_by_token(asked.workload_identity_token, "start_consent" if forced else "get_token")
    request = _request(call.principal, asked, for_user=for_user, forced=forced)
    try:
        outcome = await (edge.broker.start_consent if forced else edge.broker.get_token)(call, request)
    except NoBinding as error:
        told = _nowhere_to_return(call.principal, error.message)
        told.audited = error.audited
        raise told from None
    if isinstance(outcome, ConsentRequired):
        return _link(request, outcome)
    if isinstance(outcome, HandleIssued):
        raise TypeError("code of the agent's gets the value here, never a handle")
    return TokenGiven(access_token=outcome.access_token)


async def complete(edge: Edge, asker: Asker, given: Completion) -> None:
    """Finish a consent that came back to the application: its user is the one that it was asked for.

    Raises:
        ConsentNotFound: If there is no such completion URI, or it is of a workload that is none of the asker's.
        IdentityError: As the broker says; where it ended otherwise than completed, how.
    """
    workload = await edge.broker.completion.workload_of(asker.tenant, given.session_uri)
    if workload is None or not asker.may_act_for(workload):
        raise ConsentNotFound(_GONE)
    call = asker.call_as(workload, "complete_consent")
    token, user_id = given.user_identifier.user_token, given.user_identifier.user_id
    if token is not None:
        user = (await asker.verify_user_token(call.principal, token)).user
    else:
        user = asserted_user(asker.tenant, user_id or "")
    try:
        status = await edge.broker.complete_consent(call, given.session_uri, user)
    except ConsentNotFound as error:
        gone = ConsentNotFound(_GONE)
        gone.audited = error.audited
        raise gone from None
    _require_completed(status)


def asserted_user(tenant: str, user_id: str) -> User:
    """A user by the caller's word; whether that counts is the broker's to say."""
    if not user_id.isprintable() or user_id != user_id.strip():
        raise Fields(("userId", "printable characters, without spaces around them"))
    return User(ASSERTED_ISSUER + tenant, user_id, UserKind.ASSERTED, user_id)


def _request(principal: Principal, asked: TokenAsked, *, for_user: bool, forced: bool) -> TokenRequest:
    """What the broker is asked; what belongs to a user's consent is left out where no user is asked."""
    return_url = (asked.resource_oauth2_return_url or "") if for_user else ""
    if return_url and return_url not in principal.workload.return_urls:
        raise _nowhere_to_return(principal, _UNREGISTERED)
    parameters = () if asked.oauth2_flow == Flow.M2M else tuple(sorted((asked.custom_parameters or {}).items()))
    return TokenRequest(
        provider=asked.resource_credential_provider_name,
        scopes=tuple(asked.scopes),
        flow=asked.oauth2_flow,
        resource=_one("resources", asked.resources),
        audience=_one("audiences", asked.audiences),
        session_uri="" if forced else asked.session_uri or "",
        return_url=return_url,
        custom_state=(asked.custom_state or "") if for_user else "",
        custom_parameters=parameters,
    )


def _one(name: str, given: list[str] | None) -> str:
    if given is not None and len(given) > 1:
        raise Fields((name, "one at a time is served"))
    return given[0] if given else ""


def _nowhere_to_return(principal: Principal, why: str) -> Fields:
    """That a browser has no registered place to come back to, in the words of the service, and what to do."""
    workload, registered = principal.workload, bool(principal.workload.return_urls)
    if why == _UNREGISTERED:
        how = (
            f"register it: {command(principal.tenant)} workloads update {workload.name} --return-url URL, or "
            "UpdateWorkloadIdentity with allowedResourceOauth2ReturnUrls"
        )
    else:  # which says how to register, in the words of our own tools
        how = "here that is resourceOauth2ReturnUrl, the SDK's callback_url"
    what = PROVIDE if registered and why != _UNREGISTERED else REGISTER
    return Fields((_RETURN_URL, why), message=f"{what} ({why}; {how})")


def _link(request: TokenRequest, required: ConsentRequired) -> TokenGiven:
    if request.session_uri and required.session_uri != request.session_uri:
        # Whoever polls looks at one session alone, and would never show another one's link.
        raise Conflict("the consent was given, and what it granted is gone already; ask again without sessionUri")
    return TokenGiven(
        authorization_url=required.authorization_url, session_uri=required.session_uri, session_status="IN_PROGRESS"
    )


def _require_completed(status: ConsentStatus) -> None:
    """A consent that is finished is told by an empty answer, and one that ended otherwise by why; the trail has both."""
    if status.status in _ENDED:
        error = ending(ConsentState(status.status), status.error_code)
        error.audited = True
        raise error
