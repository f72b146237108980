"""What kind of token is wanted, and what came? Plain values, for callers and for the steps between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

from mcp_identity.sdk.errors import BAD_ANSWER, IdentityClientError

_WITHOUT_USER = frozenset({"M2M", "ON_BEHALF_OF_TOKEN_EXCHANGE"})


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token.

    Attributes:
        access_token: The token; send it as `Authorization: Bearer`.
        token_type: Usually ``Bearer``.
        scopes: What it may do.
        missing_scopes: What was asked for and not granted.
        expires_at: When it ends; None where that is not known.
        provider: The credential provider's name.
        flow: How it was obtained.
        extra: Facts that belong to it, e.g. Salesforce's ``instance_url``.
    """

    access_token: str = field(repr=False)
    token_type: str
    scopes: tuple[str, ...]
    missing_scopes: tuple[str, ...]
    expires_at: datetime | None
    provider: str
    flow: str
    extra: Mapping[str, str] = field(default_factory=dict[str, str])


class TokenOptions(TypedDict, total=False):
    """What kind of token is wanted; what is left out is the provider's or the server's own.

    Attributes:
        scopes: What it must be able to do.
        auth_flow: ``M2M``, ``USER_FEDERATION`` or ``ON_BEHALF_OF_TOKEN_EXCHANGE``.
        resource: RFC 8707 resource.
        audience: Audience.
        minimum_lifetime_seconds: How long it must still live.
        callback_url: Where the browser goes at the end; one that is registered for the workload.
        force_authentication: Ask the user anew, whatever is there.
        custom_state: Handed back at the callback URL.
        custom_parameters: Further authorization parameters that the provider lets agents set.
    """

    scopes: Sequence[str] | None
    auth_flow: str | None
    resource: str | None
    audience: str | None
    minimum_lifetime_seconds: int | None
    callback_url: str | None
    force_authentication: bool
    custom_state: str | None
    custom_parameters: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class TokenWish:
    """`TokenOptions` with a provider, and nothing left out."""

    provider: str
    scopes: tuple[str, ...] = ()
    auth_flow: str = ""
    resource: str = ""
    audience: str = ""
    minimum_lifetime_seconds: int | None = None
    callback_url: str = ""
    force_authentication: bool = False
    custom_state: str = ""
    custom_parameters: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def asks_user(self) -> bool:
        """Whether a user may have to agree."""
        return self.auth_flow not in _WITHOUT_USER

    def arguments(self) -> dict[str, Any]:
        """As arguments of `get_token`; a flow without a user has no page to return to."""
        given: dict[str, Any] = {
            "provider": self.provider,
            "scopes": list(self.scopes),
            "flow": self.auth_flow,
            "resource": self.resource,
            "audience": self.audience,
            "minimum_lifetime_seconds": self.minimum_lifetime_seconds,
            "custom_parameters": dict(self.custom_parameters),
        }
        if self.asks_user:
            given |= {"return_url": self.callback_url, "custom_state": self.custom_state}
        return {name: value for name, value in given.items() if value not in ("", None, [], {})}


def wish_of(provider: str, options: TokenOptions) -> TokenWish:
    """What is wanted, out of what was said.

    Raises:
        IdentityClientError: If there is no such option, or scopes are one string.
    """
    unknown = [name for name in options if name not in TokenWish.__dataclass_fields__ or name == "provider"]
    if unknown:
        raise IdentityClientError("invalid_request", f"there is no option {unknown[0]}")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    scopes = given.pop("scopes", ())
    if isinstance(scopes, str):
        raise IdentityClientError("invalid_scope", "scopes are a list, one per item")
    return TokenWish(provider, tuple(scopes), **given)


def access_token_of(said: Mapping[str, Any]) -> AccessToken:
    """The token in an answer.

    Raises:
        IdentityClientError: If there is none.
    """
    expires_at = said.get("expires_at")
    return AccessToken(
        access_token=text_of(said, "access_token"),
        token_type=str(said.get("token_type", "Bearer")),
        scopes=_texts(said.get("scopes", ())),
        missing_scopes=_texts(said.get("missing_scopes", ())),
        expires_at=datetime.fromisoformat(expires_at) if isinstance(expires_at, str) else None,
        provider=str(said.get("provider", "")),
        flow=str(said.get("flow", "")),
        extra=said.get("extra") or {},
    )


def text_of(said: Mapping[str, Any], name: str) -> str:
    """A text that an answer must have.

    Raises:
        IdentityClientError: If it has none.
    """
    value = said.get(name)
    if not isinstance(value, str) or not value:
        raise IdentityClientError(BAD_ANSWER, f"the server's answer has no {name}")
    return value


def _texts(value: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(each) for each in value)
