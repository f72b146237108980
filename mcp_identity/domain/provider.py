"""What a credential provider is: vendor facts, the configured provider, its authorization server and our client there.

A `ProviderDefinition` is one TOML file of `providers/data/` and holds no secret. `resolve` turns it, with the settings that an
operator filled in, into endpoints and a `Dialect`. A `CredentialProvider` is a row of the vault; it pins the endpoints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from mcp_identity.domain.credentials import Flow, Secret, SecretReference
from mcp_identity.domain.dialect import Api, Dialect, Facts


class ClientAuthentication(StrEnum):
    """How a client authenticates at the token endpoint (RFC 6749 §2.3, RFC 7591 §2, RFC 7523 §2.2)."""

    BASIC = "basic"
    POST = "post"
    NONE = "none"
    PRIVATE_KEY_JWT = "private_key_jwt"


class ProviderKind(StrEnum):
    """What a credential provider gives."""

    OAUTH2 = "oauth2"
    API_KEY = "api-key"


class Release(StrEnum):
    """How a secret may leave the product."""

    TOKEN = "token"  # noqa: S105 - the name of a mode
    HANDLE = "handle"
    NEVER = "never"


class Setting(Facts):
    """One thing that a vendor's file leaves open and `--set FIELD=VALUE` fills.

    Attributes:
        description: What to put there, for `catalog show`.
        pattern: What the whole value must match.
        choices: Or the values to choose from.
        default: Used where the operator sets none; without one the setting is required.
        example: Shown in help and errors.
    """

    description: str
    pattern: str = ""
    choices: tuple[str, ...] = ()
    default: str | None = None
    example: str = ""


class Endpoints(Facts):
    """Where a vendor's authorization server is; `{setting}` is filled from the settings.

    Attributes:
        issuer: Its exact identifier.
        discovery: Where its metadata is read, for one whose issuer is only told there.
        authorization: The authorization endpoint.
        token: The token endpoint.
        refresh: Where refresh requests go, if elsewhere.
        revocation: The revocation endpoint.
        jwks: Its keys.
    """

    issuer: str = ""
    discovery: str = ""
    authorization: str = ""
    token: str = ""
    refresh: str = ""
    revocation: str = ""
    jwks: str = ""


class Variant(Facts):
    """Facts that hold only where a setting has a value, e.g. a GitHub App among GitHub's kinds of app.

    Attributes:
        when: Setting → value; all must hold.
        endpoints: Replaces the endpoints that it names.
        dialect: Replaces the dialect fields that it names.
        api: Replaces the fields of the API that it names.
        flows: Replaces the flows, if any are named.
    """

    when: dict[str, str]
    endpoints: dict[str, str] = Field(default_factory=dict)
    dialect: dict[str, Any] = Field(default_factory=dict)
    api: dict[str, Any] = Field(default_factory=dict)
    flows: tuple[Flow, ...] = ()


class ProviderDefinition(Facts):
    """Vendor facts: one file of `providers/data/`.

    Attributes:
        name: The vendor's name on the command line.
        title: The vendor's name for people.
        generic: It describes no vendor in particular, so people see the provider's own name instead of the title.
        kind: OAuth 2.0 or API key.
        documentation: The vendor's page that the facts come from.
        checked: The date they were checked, ISO 8601.
        flows: The flows that the vendor offers.
        settings: What the file leaves open.
        endpoints: Where its authorization server is.
        client_authentication: Accepted ways; the first is the default.
        default_scopes: Asked for where neither the operator nor the agent names any.
        dialect: How it departs from the RFCs.
        api: Its API, for calls that do not show the credential.
        variants: What a setting's value changes; later ones win.
        notes: What an operator must know, one sentence each, for `catalog show` and `providers add`.
        register_url: Where an operator registers the OAuth client.
        isolated_tenants: A customer may have an authorization server of its own: the settings ``issuer``,
            ``authorization_url``, ``token_url``, ``revocation_url`` and ``jwks_url`` take the place of all of the file's
            endpoints and API hosts as soon as one of them is set.
        agentcore_vendor: What AgentCore calls it (``credentialProviderVendor``); empty where it has no name for it.
        agentcore_config: The member of AgentCore's ``oauth2ProviderConfigInput`` that describes it.
        agentcore_settings: A member of that block → the setting that it fills.
        agentcore_defaults: Settings that hold over that interface where the block names none.
    """

    name: str
    title: str
    generic: bool = False
    kind: ProviderKind = ProviderKind.OAUTH2
    documentation: str = ""
    checked: str = ""
    flows: tuple[Flow, ...] = ()
    settings: dict[str, Setting] = Field(default_factory=dict)
    endpoints: Endpoints = Endpoints()
    client_authentication: tuple[ClientAuthentication, ...] = (ClientAuthentication.BASIC,)
    default_scopes: tuple[str, ...] = ()
    dialect: Dialect = Dialect()
    api: Api = Api()
    variants: tuple[Variant, ...] = ()
    notes: tuple[str, ...] = ()
    register_url: str = ""
    isolated_tenants: bool = False
    agentcore_vendor: str = ""
    agentcore_config: str = ""
    agentcore_settings: dict[str, str] = Field(default_factory=dict)
    agentcore_defaults: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResolvedDefinition:
    """A definition with its settings filled in: what `providers.catalog.resolve` returns."""

    endpoints: Endpoints
    dialect: Dialect
    api: Api
    flows: tuple[Flow, ...]
    settings: dict[str, str]


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """The endpoints in force, pinned when the provider was added (RFC 8414 §2).

    Attributes:
        issuer: The exact issuer identifier, or empty where the vendor has none.
        authorization_url: The authorization endpoint; empty for M2M alone.
        token_url: The token endpoint.
        refresh_url: Where refresh requests go; empty for the token endpoint.
        revocation_url: The revocation endpoint, or empty.
        jwks_url: The issuer's keys, or empty.
        requires_iss: The server promised RFC 9207's ``iss`` in every authorization response.
    """

    issuer: str = ""
    authorization_url: str = ""
    token_url: str = ""
    refresh_url: str = ""
    revocation_url: str = ""
    jwks_url: str = ""
    requires_iss: bool = False


@dataclass(frozen=True, slots=True)
class Stamp:
    """What makes one assertion unlike all others (RFC 7523 §3).

    Attributes:
        token_id: Never used again.
        issued_at: Now.
    """

    token_id: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class Assertions:
    """How a client signs who it is, where it authenticates by ``private_key_jwt``.

    Attributes:
        stamp: Gives a new one for each assertion.
        audience: For whom they are; empty for the URL that is asked.
        algorithm: How they are signed; empty for what the kind of key suggests.
        key_id: The name of the key; empty for none.
    """

    stamp: Callable[[], Stamp]
    audience: str = ""
    algorithm: str = ""
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """Who we are at an authorization server.

    Attributes:
        client_id: Our name there.
        authentication: How we prove it.
        secret: What we prove it with: the client secret, or a private key in PEM; None for a public client.
        assertions: How to sign with the key; None where there is none.
    """

    client_id: str
    authentication: ClientAuthentication
    secret: Secret | None = None
    assertions: Assertions | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class CredentialProvider:
    """A configured source of credentials; a row of the vault, without its secret.

    Attributes:
        id: Row id.
        tenant: The tenant it belongs to.
        name: What agents call it; unique in its tenant.
        vendor: The name of its provider definition.
        kind: OAuth 2.0 or API key.
        provider_id: Random, in the callback path, fixed at creation, never reused.
        settings: What `--set` filled in.
        server: The pinned endpoints.
        client_id: Our client id there; empty for an API key.
        client_authentication: How we authenticate there.
        flows: The flows it offers.
        scopes: Asked for when a call names none.
        release: How its secrets may leave; None for the setting's default.
        api_hosts: Exact origins that its credential may be sent to.
        subject_issuers: The rows of the issuers whose users' tokens may be sent to it, to be exchanged; empty for none.
        allow_http_loopback: Its endpoints may be http on a loopback address.
        tags: For people.
        secret_reference: Where its secret was read when it was given last; None where it was given otherwise.
        epoch: Raised by every change.
        disabled: Serves nobody.
        created_at: When it was added; None for one that is not kept yet.
        updated_at: When it was changed last.
    """

    id: str
    tenant: str
    name: str
    vendor: str
    kind: ProviderKind
    provider_id: str
    settings: dict[str, str] = field(default_factory=dict[str, str])
    server: AuthorizationServer = field(default_factory=AuthorizationServer)
    client_id: str = ""
    client_authentication: ClientAuthentication = ClientAuthentication.BASIC
    flows: tuple[Flow, ...] = ()
    scopes: frozenset[str] = frozenset()
    release: Release | None = None
    api_hosts: tuple[str, ...] = ()
    subject_issuers: frozenset[str] = frozenset()
    allow_http_loopback: bool = False
    tags: tuple[tuple[str, str], ...] = ()
    secret_reference: SecretReference | None = None
    epoch: int = 1
    disabled: bool = False
    created_at: datetime | None = field(default=None, compare=False)
    updated_at: datetime | None = field(default=None, compare=False)

    def destination(self) -> str:
        """SHA-256 over where this provider's refresh tokens are sent, and as whom; a token set is sealed together with it."""
        server = self.server
        sent_to = [server.issuer, server.token_url, server.refresh_url, server.revocation_url, self.client_id]
        return hashlib.sha256(json.dumps([*sent_to, self.allow_http_loopback]).encode("ascii")).hexdigest()

    def configuration_digest(self) -> str:
        """SHA-256 over everything that decides where its secret goes; the context of that secret's seal."""
        server = self.server
        canonical = json.dumps(
            [
                self.kind.value,
                server.issuer,
                server.authorization_url,
                server.token_url,
                server.refresh_url,
                server.revocation_url,
                server.jwks_url,
                server.requires_iss,
                self.client_id,
                self.client_authentication.value,
                self.provider_id,
                list(self.api_hosts),
                self.release.value if self.release else "",
                self.allow_http_loopback,
                self.vendor,
                sorted(self.settings.items()),
            ],
            separators=(",", ":"),
            ensure_ascii=True,
        )
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()
