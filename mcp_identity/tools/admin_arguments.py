"""What may be passed to an admin tool. Names are those of the broker's specifications; what they mean the broker checks.

There is no argument for a secret: whoever has one to give names a place where the server can read it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.tools.results import without_default

if TYPE_CHECKING:
    from mcp_identity.domain.credentials import SecretReference

MOST_AT_ONCE = 200
_NAME, _VALUE, _MANY = 255, 2048, 128
_HIGHEST = 2**63 - 1
_FIELD = re.compile(r"[a-z][a-z_]{0,39}")
_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_PLACE = re.compile(r"([0-9]{1,19})\.([A-Za-z0-9_-]{1,64})\.([0-9]{1,19})", re.ASCII)


def _optional(description: str, **more: Any) -> Any:
    """An argument that may be left out: then everything stays as it is, or is as it is by default."""
    return Field(description=description, json_schema_extra=without_default, **more)


class RequiredClaim(BaseModel):
    """What a token must say to speak for a workload."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    claim: str = Field(description="the claim's name", max_length=_VALUE)
    operator: Literal["equals", "contains", "contains_any"] = Field(
        description="equals: it is this one value; contains: it holds all of them; contains_any: it holds one of them"
    )
    values: list[str] = Field(description="what to compare with", max_length=_MANY)


class OrganisationClaim(BaseModel):
    """One organisation of an identity provider that serves many."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    claim: str = Field(description="the claim that tells organisations apart", max_length=_VALUE)
    value: str = Field(description="its exact value", max_length=_VALUE)


MaybeTexts = list[str] | SkipJsonSchema[None]
MaybeFlag = bool | SkipJsonSchema[None]

WorkloadName = Annotated[str, Field(description="the workload identity's name", max_length=_NAME)]
ProviderName = Annotated[str, Field(description="the credential provider's name", max_length=_NAME)]
IssuerName = Annotated[str, Field(description="the issuer's name, lower case", max_length=_NAME)]
Limit = Annotated[int, Field(description=f"the most entries; 1 to {MOST_AT_ONCE}", ge=1, le=MOST_AT_ONCE)]
Page = Annotated[str, Field(description="next_page of the answer before; leave empty for the first page", max_length=256)]

AuthorizerIssuer = Annotated[
    str | SkipJsonSchema[None],
    _optional("the issuer whose tokens may speak for it, by name; empty for none", max_length=_NAME),
]
AllowedAudiences = Annotated[MaybeTexts, _optional("one of these must be among a token's audiences", max_length=_MANY)]
AllowedClients = Annotated[MaybeTexts, _optional("a token's client must be one of these", max_length=_MANY)]
AllowedScopes = Annotated[MaybeTexts, _optional("a token must hold all of these scopes", max_length=_MANY)]
RequiredClaims = Annotated[
    list[RequiredClaim] | SkipJsonSchema[None], _optional("claims that a token must have", max_length=_MANY)
]
SharedAuthorizer = Annotated[
    MaybeFlag, _optional("it may share its tokens with other workloads that are marked so; together they are one principal")
]
AllowedProviders = Annotated[
    MaybeTexts, _optional("the credential providers that it may use; an empty list for every one", max_length=1024)
]
ReturnUrls = Annotated[
    MaybeTexts, _optional("where a browser may be sent after a consent, each exactly; replaces the list", max_length=_MANY)
]
IdentityAudiences = Annotated[MaybeTexts, _optional("who its identity tokens may be for", max_length=_MANY)]
MayAssertUsers = Annotated[MaybeFlag, _optional("it may name a user by an id, without that user's token")]
Owner = Annotated[str | SkipJsonSchema[None], _optional("who answers for it", max_length=256)]
Tags = Annotated[dict[str, str] | SkipJsonSchema[None], _optional("tags, by name; replaces all", max_length=_MANY)]
Disabled = Annotated[MaybeFlag, _optional("true: it may do nothing, or serves nobody; false: it works again")]

Vendor = Annotated[
    str, Field(description="the vendor, e.g. github; custom for any OAuth server, api-key for a static key", max_length=_NAME)
]
VendorSettings = Annotated[
    dict[str, str] | SkipJsonSchema[None],
    _optional("what the vendor leaves open, by field, e.g. issuer or token_url of custom; an error lists them", max_length=64),
]
ClientId = Annotated[str | SkipJsonSchema[None], _optional("our client id at the vendor", max_length=512)]
ClientAuthentication = Annotated[
    str | SkipJsonSchema[None],
    _optional("how we authenticate at the vendor, e.g. basic or post; none for a public client", max_length=64),
]
Secret = Annotated[
    str | SkipJsonSchema[None],
    _optional(
        "where the server reads the client secret or API key: env:NAME or file:/PATH, in a place that its operator listed; "
        "never the secret itself",
        max_length=4096,
    ),
]
SecretKey = Annotated[str, Field(description="the key of the secret, where a JSON object is there", max_length=256)]
DefaultScopes = Annotated[MaybeTexts, _optional("asked for when a call names none", max_length=_MANY)]
Release = Annotated[
    Literal["token", "handle", "never"] | SkipJsonSchema[None],
    _optional("how its secrets may leave: token as they are, handle once to agent code, never only call_api"),
]
ApiHosts = Annotated[
    MaybeTexts,
    _optional("where call_api may send its credential: https://HOST[:PORT]; the vendor's own otherwise", max_length=64),
]
HttpLoopback = Annotated[
    MaybeFlag, _optional("accept http on a loopback address; only where the server was started with --allow-http-loopback")
]
SubjectIssuers = Annotated[
    MaybeTexts, _optional("issuers, by name, whose users' tokens may be sent to it for an on-behalf-of exchange", max_length=64)
]

DiscoveryUrl = Annotated[str, Field(description="where its metadata is, or the issuer itself", max_length=_VALUE)]
Preset = Annotated[str, Field(description="how its tokens are read: oidc, entra, okta, auth0, cognito, google", max_length=64)]
IssuerAudiences = Annotated[list[str], Field(description="what its tokens must be for", max_length=_MANY)]
IssuerClaims = Annotated[
    list[OrganisationClaim],
    Field(description="the organisations that are this tenant, where it serves many; one claim alone", max_length=_MANY),
]
LoginClientId = Annotated[str, Field(description="our client there, for a browser's sign-in; empty for none", max_length=512)]
LoginDiscoveryUrl = Annotated[
    str, Field(description="where the metadata for the sign-in is, if it is another one", max_length=_VALUE)
]
RequireToolScopes = Annotated[bool, Field(description="its tokens need identity:read, identity:token or identity:admin")]

WhoseWorkload = Annotated[str, Field(description="only of this workload identity", max_length=_NAME)]
WhoseUser = Annotated[
    str, Field(description="only of this user: issuer and subject with a space between them, as user says", max_length=_VALUE)
]
WhichProvider = Annotated[str, Field(description="only at this credential provider", max_length=_NAME)]
Who = Annotated[
    str,
    Field(
        description="only of this workload, by name, or of this user, as user or user_display say; exactly", max_length=_VALUE
    ),
]
Action = Annotated[str, Field(description="only this verb, e.g. get_token", max_length=128)]
Outcome = Annotated[
    str,
    Field(description="only with this outcome: ok, consent_required or an error's code; refused for all errors", max_length=64),
]
Since = Annotated[str, Field(description="only from this moment on; ISO 8601, UTC where no offset is given", max_length=40)]
Until = Annotated[str, Field(description="only before this moment; ISO 8601", max_length=40)]


def secret_reference(reference: str | None, json_key: str) -> SecretReference | None:
    """Where the server reads a secret; None where nothing was named.

    Raises:
        InvalidRequest: If a key is named without a document.
    """
    if not reference:
        if json_key:
            raise InvalidRequest("secret_json_key says which part of secret_reference is meant, which is missing")
        return None
    from mcp_identity.domain.credentials import SecretReference

    return SecretReference(reference, json_key)


def several(given: list[str] | None) -> tuple[str, ...] | None:
    """A list as the broker takes it."""
    return None if given is None else tuple(given)


def tags_of(given: dict[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    """Tags as the broker takes them."""
    return None if given is None else tuple(given.items())


def settings_of(given: dict[str, str] | None) -> dict[str, str]:
    """What a vendor leaves open, as the broker takes it.

    Raises:
        InvalidRequest: If a field has no name that one could have; the broker repeats the names that it does not know.
    """
    if given and not all(map(_FIELD.fullmatch, given)):
        raise InvalidRequest("a field of settings is named in lower case; an error for one that is not there lists them")
    return given or {}


def word(name: str, text: str) -> str:
    """The name of a vendor or a preset; the broker repeats one that it does not know.

    Raises:
        InvalidRequest: If it can be none.
    """
    if not _WORD.fullmatch(text):
        raise InvalidRequest(f"a {name} is named in lower case, in a word or two: see the description")
    return text


def visible(name: str, text: str) -> str:
    """A text that is compared with what stands in the vault; not every database takes a character that cannot be seen.

    Raises:
        InvalidRequest: If it has one.
    """
    if not text.isprintable():
        raise InvalidRequest(f"{name} is made of visible characters")
    return text


def moment_of(name: str, text: str) -> datetime | None:
    """A moment that was written down; None for an empty text.

    Raises:
        InvalidRequest: If it is none.
    """
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} is a moment as ISO 8601 writes it, e.g. 2026-11-28T07:00:00Z") from None


def place_text(place: tuple[int, str, int] | None) -> str | None:
    """Where a page ended, for the caller to give back."""
    return ".".join(map(str, place)) if place else None


def place_of(page: str) -> tuple[int, str, int] | None:
    """Where the page before ended; None for the first page.

    Raises:
        InvalidRequest: If no answer of ours said so.
    """
    if not page:
        return None
    found = _PLACE.fullmatch(page)
    if found is None or max(int(found[1]), int(found[3])) > _HIGHEST:
        raise InvalidRequest("page is next_page of the answer before, or empty")
    return int(found[1]), found[2], int(found[3])


def check_http_loopback(wanted: bool | None, *, allowed: bool) -> None:
    """Check that http on a loopback address is wanted only where the server was started for it.

    Raises:
        InvalidRequest: If not.
    """
    if wanted and not allowed:
        raise InvalidRequest("this server was not started with --allow-http-loopback, so endpoints are https")
