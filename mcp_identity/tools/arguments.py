"""What may be passed to a tool, and how it is described to models.

A description says all that a model needs; a constraint is one that an error may tell without the value. Bearers have none:
they are plain strings here and become secrets inside the tool, so that no validation can repeat them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from mcp_identity.domain.errors import UnknownProvider
from mcp_identity.domain.identity import is_resource_name
from mcp_identity.tools.results import without_default

if TYPE_CHECKING:
    from mcp_identity.broker.answers import TokenRequest

Provider = Annotated[str, Field(description="the name of a credential provider, from list_providers")]
Scopes = Annotated[list[str], Field(description="scopes that are needed, one per item; leave empty for the provider's own")]
Flow = Annotated[
    str,
    Field(description="M2M, USER_FEDERATION or ON_BEHALF_OF_TOKEN_EXCHANGE; leave empty where the provider offers only one"),
]
Resource = Annotated[str, Field(description="RFC 8707 resource: the absolute URI of the API that the token is for")]
Audience = Annotated[str, Field(description="audience, for authorization servers that take one")]
Lifetime = Annotated[
    int | SkipJsonSchema[None],
    Field(description="seconds that the token must still live", ge=0, le=86_400, json_schema_extra=without_default),
]
SessionUri = Annotated[str, Field(description="the session_uri of a consent, from get_token or start_consent")]
ReturnUrl = Annotated[str, Field(description="where the browser goes at the end; only URLs registered for this agent")]
CustomState = Annotated[str, Field(description="handed back at the return_url")]
Parameters = Annotated[dict[str, str], Field(description="further authorization parameters that this provider lets agents set")]
CompletionUri = Annotated[
    str, Field(description="the session_id that the browser brought to the return_url; not the session_uri of get_token")
]
UserToken = Annotated[
    str,
    Field(
        description="the user's own access token, as your application received it; never one that was typed into a chat",
        json_schema_extra={"format": "password", "writeOnly": True},
    ),
]
GrantFlow = Annotated[str, Field(description="only grants of this flow; leave empty for every grant at the provider")]
WaitSeconds = Annotated[int, Field(description="wait up to so long until it ends; 0 to 50", ge=0, le=50)]
PromptProvider = Annotated[str, Field(description="the credential provider's name")]
IdentityAudience = Annotated[str, Field(description="who the token is for, exactly as an operator allowed it for this agent")]
TokenLifetime = Annotated[int, Field(description="seconds until it ends; 60 to 900", ge=60, le=900)]
UserId = Annotated[str, Field(description="the user's id, only where this agent may name users by id")]


def token_request(
    provider: str,
    scopes: list[str],
    flow: str,
    resource: str,
    audience: str,
    minimum_lifetime_seconds: int | None,
    session_uri: str,
    return_url: str,
    custom_state: str,
    custom_parameters: dict[str, str],
    *,
    elicits: bool,
) -> TokenRequest:
    """What is asked for; the broker checks it."""
    from mcp_identity.broker.answers import TokenRequest

    return TokenRequest(
        provider=provider_name(provider),
        scopes=tuple(scopes),
        flow=flow,
        resource=resource,
        audience=audience,
        minimum_lifetime_seconds=minimum_lifetime_seconds,
        session_uri=session_uri,
        return_url=return_url,
        custom_state=custom_state,
        custom_parameters=tuple(custom_parameters.items()),
        elicits=elicits,
    )


def provider_name(provider: str) -> str:
    """A name that a provider may have; what cannot be one is not repeated to anybody.

    Raises:
        UnknownProvider: If there can be no provider of this name.
    """
    if not is_resource_name(provider):
        raise UnknownProvider("there is no credential provider of this name; list the providers for the names")
    return provider
