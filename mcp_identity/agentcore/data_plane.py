"""What does an agent ask for at run time? Workload access tokens, credentials of resources, and the end of a consent.

Each operation names the workload, or brings a workload access token that proves it; the asker must be one that may act for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_identity.agentcore import sessions
from mcp_identity.agentcore.data_shapes import (
    ApiKeyAsked,
    ApiKeyGiven,
    Completion,
    ForJwt,
    ForUserId,
    ForWorkload,
    PaymentAsked,
    TokenAsked,
    TokenGiven,
    WorkloadAccessToken,
)
from mcp_identity.agentcore.errors import NotServed
from mcp_identity.agentcore.operations import Operation, data
from mcp_identity.broker.answers import HandleIssued

if TYPE_CHECKING:
    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.operations import Edge

_ISSUE = "get_workload_access_token"


async def get_workload_access_token(edge: Edge, asker: Asker, given: ForWorkload) -> WorkloadAccessToken:
    """For the workload alone."""
    call = await asker.call_for(given.workload_name, _ISSUE)
    issued = await edge.broker.issue_workload_access_token(call, None, None)
    return WorkloadAccessToken(workload_access_token=issued.token)


async def get_workload_access_token_for_jwt(edge: Edge, asker: Asker, given: ForJwt) -> WorkloadAccessToken:
    """For a user whose own token passes the named workload's authorizer."""
    call = await asker.call_for(given.workload_name, _ISSUE)
    verified = await asker.verify_user_token(call.principal, given.user_token)
    issued = await edge.broker.issue_workload_access_token(
        call, verified.user, verified.expires_at, verified.tool_scopes, verified.subject_token
    )
    return WorkloadAccessToken(workload_access_token=issued.token)


async def get_workload_access_token_for_user_id(edge: Edge, asker: Asker, given: ForUserId) -> WorkloadAccessToken:
    """For a user by the caller's word, where the workload or the access key may give it."""
    call = await asker.call_for(given.workload_name, _ISSUE)
    user = sessions.asserted_user(asker.tenant, given.user_id)
    issued = await edge.broker.issue_workload_access_token(call, user, None)
    return WorkloadAccessToken(workload_access_token=issued.token)


async def get_resource_oauth2_token(edge: Edge, asker: Asker, given: TokenAsked) -> TokenGiven:
    """A token of an OAuth 2.0 provider, or where the user has to go for it."""
    return await sessions.give_token(edge, asker, given)


async def get_resource_api_key(edge: Edge, asker: Asker, given: ApiKeyAsked) -> ApiKeyGiven:
    """A static key."""
    call = await asker.call_by_token(given.workload_identity_token, "get_api_key")
    released = await edge.broker.get_api_key(call, given.resource_credential_provider_name)
    if isinstance(released, HandleIssued):
        raise TypeError("code of the agent's gets the value here, never a handle")
    return ApiKeyGiven(api_key=released.api_key)


async def complete_resource_token_auth(edge: Edge, asker: Asker, given: Completion) -> None:
    """Finish a consent that came back to the application."""
    await sessions.complete(edge, asker, given)


async def get_resource_payment_token(_edge: Edge, _asker: Asker, _given: PaymentAsked) -> None:
    """Nothing of the kind is served."""
    raise NotServed("payment tokens are not served here: an API key or an OAuth 2.0 provider is what there is")


OPERATIONS: tuple[Operation, ...] = (
    data("GetResourceOauth2Token", "get_token", TokenAsked, get_resource_oauth2_token, path="/identities/oauth2/token"),
    data("GetResourceApiKey", "get_api_key", ApiKeyAsked, get_resource_api_key, path="/identities/api-key"),
    data("GetWorkloadAccessToken", _ISSUE, ForWorkload, get_workload_access_token),
    data("GetWorkloadAccessTokenForJWT", _ISSUE, ForJwt, get_workload_access_token_for_jwt),
    data("GetWorkloadAccessTokenForUserId", _ISSUE, ForUserId, get_workload_access_token_for_user_id),
    data("CompleteResourceTokenAuth", "complete_consent", Completion, complete_resource_token_auth),
    data(
        "GetResourcePaymentToken",
        "get_payment_token",
        PaymentAsked,
        get_resource_payment_token,
        path="/identities/payment/token",
    ),
)
