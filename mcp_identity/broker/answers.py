"""What the verbs take and give: plain values, the same for every edge."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from mcp_identity.domain.consent import ConsentState
from mcp_identity.domain.credentials import Flow, GrantState, Reason, Secret, SecretReference
from mcp_identity.domain.provider import CredentialProvider


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What `get_token` and `start_consent` are asked.

    Attributes:
        provider: The credential provider's name.
        scopes: What is needed; empty for the provider's configured scopes.
        flow: How to obtain it; None where only one fits.
        resource: RFC 8707 resource, or empty.
        audience: Audience, or empty.
        minimum_lifetime_seconds: How long the token must still live.
        session_uri: Answer from this consent session alone, or empty.
        return_url: Where the browser goes at the end; only URLs registered for the workload.
        custom_state: Handed back at the return URL.
        custom_parameters: Further authorization parameters that the provider's data lets agents set.
        elicits: The caller's client can show a link by URL-mode elicitation; where the provider's release is not ``token``,
            the consent is then an elicited one, and its grant is marked so.
    """

    provider: str
    scopes: tuple[str, ...] = ()
    flow: str = ""
    resource: str = ""
    audience: str = ""
    minimum_lifetime_seconds: int | None = None
    session_uri: str = ""
    return_url: str = ""
    custom_state: str = ""
    custom_parameters: tuple[tuple[str, str], ...] = ()
    elicits: bool = False


@dataclass(frozen=True, slots=True)
class TokenReleased:
    """An access token that may leave; its audit row is committed.

    Attributes:
        access_token: The token.
        token_type: As the vendor wrote it.
        scopes: What it may do.
        missing_scopes: What was asked for and declined at the last consent.
        expires_at: When it ends; None if it has no end or none is known.
        provider: The credential provider's name.
        flow: How it was obtained.
        extra: Facts that belong to it, e.g. Salesforce's ``instance_url``.
        refreshed: It was obtained within this call.
    """

    access_token: Secret
    token_type: str
    scopes: tuple[str, ...]
    missing_scopes: tuple[str, ...]
    expires_at: datetime | None
    provider: str
    flow: Flow
    extra: dict[str, str] = field(default_factory=dict[str, str])
    refreshed: bool = False


@dataclass(frozen=True, slots=True)
class ConsentRequired:
    """The user has to be asked first.

    Attributes:
        reason: Why.
        authorization_url: Our consent page; the user opens it.
        session_uri: Names the attempt, for `get_consent`.
        expires_at: When the link ends.
        missing_scopes: What the user would be asked for beyond what is granted.
        provider: The credential provider's name.
        elicited: The link is to be shown by URL-mode elicitation: the session was made for it, and its grant is marked.
    """

    reason: Reason
    authorization_url: str
    session_uri: str
    expires_at: datetime
    missing_scopes: tuple[str, ...]
    provider: str
    elicited: bool = False


@dataclass(frozen=True, slots=True)
class ConsentStatus:
    """Where a consent stands.

    Attributes:
        status: ``pending``, ``completed``, ``denied``, ``failed`` or ``expired``.
        error_code: Why it ended otherwise than completed, or empty.
        expires_at: When an unfinished one ends.
        provider: The credential provider's name.
    """

    status: str
    error_code: str
    expires_at: datetime
    provider: str


@dataclass(frozen=True, slots=True)
class ApiKeyReleased:
    """A static key that may leave; its audit row is committed."""

    api_key: Secret
    provider: str


@dataclass(frozen=True, slots=True)
class HandleIssued:
    """A one-time handle in place of a secret; code of the agent redeems it with a workload access token.

    Attributes:
        handle: The handle; it is a bearer for one redemption by the same workload and user.
        handle_expires_at: When it ends.
        provider: The credential provider's name.
        flow: How the token was obtained; None for an API key.
        scopes: What the token may do.
        missing_scopes: What was asked for and declined at the last consent.
        expires_at: When the token ends; None if it has no end or none is known.
    """

    handle: Secret
    handle_expires_at: datetime
    provider: str
    flow: Flow | None = None
    scopes: tuple[str, ...] = ()
    missing_scopes: tuple[str, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WorkloadTokenIssued:
    """A workload access token; its audit row is committed."""

    token: Secret
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class IdentityTokenIssued:
    """A signed JWT by which others recognise a workload; its audit row is committed."""

    token: Secret
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class GrantSummary:
    """A grant without its secrets.

    Attributes:
        provider: The credential provider's name.
        flow: How it was obtained.
        state: Where it stands.
        reason: Why it needs consent, if it does.
        scopes: What is granted.
        declined_scopes: What was asked for and not granted.
        expires_at: When the access token ends.
        refreshable: Whether it can be refreshed without the user.
        resource: RFC 8707 resource, or empty.
        audience: Audience, or empty.
        account_id: The vendor's id of the account, where it is known.
        created_at: When it was first made.
        updated_at: When it last changed.
    """

    provider: str
    flow: Flow
    state: GrantState
    reason: Reason | None
    scopes: tuple[str, ...]
    declined_scopes: tuple[str, ...]
    expires_at: datetime | None
    refreshable: bool
    resource: str
    audience: str
    account_id: str
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class GrantListing:
    """A principal's grants; `unreadable` counts rows that do not authenticate."""

    grants: tuple[GrantSummary, ...]
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class ProviderSummary:
    """A provider as a principal sees it; no secrets."""

    provider: CredentialProvider
    title: str
    scopes: tuple[str, ...]
    grants: tuple[GrantSummary, ...]


@dataclass(frozen=True, slots=True)
class ProviderListing:
    """The providers that a principal may use; `unreadable` counts rows that do not authenticate."""

    providers: tuple[ProviderSummary, ...]
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Revoked:
    """One grant that was ended.

    Attributes:
        provider: The credential provider's name.
        flow: How it had been obtained.
        at_vendor: ``revoked``, ``unsupported`` (the vendor has no way), ``failed``, or ``nothing`` to revoke there.
    """

    provider: str
    flow: Flow
    at_vendor: str


@dataclass(frozen=True, slots=True)
class ProviderCheck:
    """One check of `providers test`."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What a look at the whole vault found.

    Attributes:
        schema_version: The version of its tables.
        problems: What SQLite's own check says is damaged; empty for an intact file.
        unreadable: How many providers and grants do not authenticate.
    """

    schema_version: int
    problems: tuple[str, ...]
    unreadable: int


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """What an operator says of a provider; None leaves a field as it is (update) or at its default (add).

    Attributes:
        vendor: A name of the catalog.
        settings: Fields that the vendor's file leaves open, and for ``custom`` its endpoints.
        client_id: Our client id there.
        client_authentication: How we authenticate there.
        secret: The client secret or API key, read once.
        secret_reference: Instead of it, where the server reads it, in a place that an operator listed for the tenant.
        scopes: Asked for when a call names none.
        release: How its secrets may leave.
        api_hosts: Exact origins that its credential may be sent to, instead of those of the vendor's file.
        subject_issuers: The names of the issuers whose users' tokens may be sent to it, to be exchanged; ``*`` alone for each
            that the tenant has now.
        allow_http_loopback: Accept http endpoints on loopback addresses.
        disabled: Serve nobody.
        tags: For people.
    """

    vendor: str | None = None
    settings: dict[str, str] = field(default_factory=dict[str, str])
    client_id: str | None = None
    client_authentication: str | None = None
    secret: Secret | None = None
    secret_reference: SecretReference | None = None
    scopes: tuple[str, ...] | None = None
    release: str | None = None
    api_hosts: tuple[str, ...] | None = None
    subject_issuers: tuple[str, ...] | None = None
    allow_http_loopback: bool | None = None
    disabled: bool | None = None
    tags: tuple[tuple[str, str], ...] | None = None


OPEN_STATUS = "pending"


def consent_status(state: ConsentState) -> str:
    """The five words that callers see."""
    final = {ConsentState.COMPLETED, ConsentState.DENIED, ConsentState.FAILED, ConsentState.EXPIRED}
    return state.value if state in final else OPEN_STATUS
