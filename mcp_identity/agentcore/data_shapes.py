"""What do operations of the data plane take and give, on the wire?

As the service model has it. What is sensitive there is a `Secret` here, or stands in no representation.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mcp_identity.agentcore.answers import Released
from mcp_identity.agentcore.shapes import OneOf, ProviderName, ReturnUrl, Scope, Shape, WorkloadName, sensitive, text
from mcp_identity.domain.credentials import Secret

_JWT = "[A-Za-z0-9_=-]+.[A-Za-z0-9_=-]+.[A-Za-z0-9_=-]+"
_TOKEN_LENGTH = 131_072
WorkloadToken = Annotated[Secret, sensitive(_TOKEN_LENGTH, 1)]
UserToken = Annotated[Secret, sensitive(_TOKEN_LENGTH, 1, _JWT)]
UserId = Annotated[str, text(1, 128)]
SessionUri = Annotated[str, text(1, 1024, "urn:ietf:params:oauth:request_uri:[a-zA-Z0-9._~-]+")]
Target = Annotated[str, text(1, 2048)]
ParameterName = Annotated[str, text(1, 256, r"[a-zA-Z0-9\-_.]+")]
ParameterValue = Annotated[str, text(1, 2048)]


class ForWorkload(Shape):
    """For a workload alone."""

    workload_name: WorkloadName


class ForJwt(Shape):
    """For a user by their own token."""

    workload_name: WorkloadName
    user_token: UserToken


class ForUserId(Shape):
    """For a user by the caller's word."""

    workload_name: WorkloadName
    user_id: UserId


class WorkloadAccessToken(Shape):
    """A workload access token."""

    workload_access_token: Released


class TokenAsked(Shape):
    """What is asked of an OAuth 2.0 provider."""

    workload_identity_token: WorkloadToken
    resource_credential_provider_name: ProviderName
    scopes: list[Scope]
    oauth2_flow: Literal["USER_FEDERATION", "M2M", "ON_BEHALF_OF_TOKEN_EXCHANGE"]
    session_uri: SessionUri | None = None
    resource_oauth2_return_url: ReturnUrl | None = None
    force_authentication: bool | None = None
    custom_parameters: Annotated[dict[ParameterName, ParameterValue] | None, Field(repr=False)] = None
    custom_state: Annotated[Annotated[str, text(1, 4096)] | None, Field(repr=False)] = None
    resources: list[Target] | None = None
    audiences: list[Target] | None = None


class TokenGiven(Shape):
    """A token, or where the user has to go for it."""

    authorization_url: str | None = None
    access_token: Released | None = None
    session_uri: str | None = None
    session_status: Literal["IN_PROGRESS", "FAILED"] | None = None


class UserIdentifier(OneOf):
    """Who is signed in at the application."""

    user_token: UserToken | None = None
    user_id: UserId | None = None


class Completion(Shape):
    """That a session is that user's."""

    user_identifier: UserIdentifier
    session_uri: SessionUri


class ApiKeyAsked(Shape):
    """What is asked of a provider of a key."""

    workload_identity_token: WorkloadToken
    resource_credential_provider_name: ProviderName


class ApiKeyGiven(Shape):
    """A key."""

    api_key: Released


class PaymentAsked(Shape):
    """A payment token; nothing of it is read."""
