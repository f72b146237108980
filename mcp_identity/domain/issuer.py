"""An identity provider whose tokens callers bring, and how its tokens are to be read.

`TokenRules` are the facts of a vendor, one file of `providers/issuers/` each; they are pinned in the issuer's row when it is
added, so a new release of the product changes no issuer. An `Issuer` is a row of the vault, without its login secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"})
"""Signature algorithms with a public key: with a shared one, whoever may verify may forge."""
_MUTABLE_NAMES = frozenset({"email", "upn", "preferred_username", "unique_name", "username", "name"})
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]{1,64}\}")


def _asymmetric(algorithms: tuple[str, ...]) -> tuple[str, ...]:
    if not algorithms or not set(algorithms) <= ASYMMETRIC:
        raise ValueError("only asymmetric signature algorithms are accepted")
    return algorithms


def _immutable(claims: tuple[str, ...]) -> tuple[str, ...]:
    if not claims or set(claims) & _MUTABLE_NAMES:
        raise ValueError("a user is not identified by a name or an address that may be given to another one")
    return claims


SubjectClaims = Annotated[tuple[str, ...], AfterValidator(_immutable)]


class TokenRules(BaseModel):
    """How the tokens of an identity provider are read. Every field is closed: a new quirk is a new field here.

    Attributes:
        algorithms: Accepted JWS algorithms; asymmetric ones alone.
        access_types: Accepted ``typ`` headers of access tokens, lower case, without ``application/``; an empty string stands
            for an absent header.
        access_claims: Claims that an access token must have with exactly these values, e.g. ``token_use`` = ``access``.
        access_needs_any: An access token must have at least one of these claims (RFC 9068 or what the vendor has instead).
        access_refuses: An access token has none of these claims; an ID token does (``nonce``, ``at_hash``, …).
        access_refuses_values: An access token has none of these claims with this value; other kinds of token do.
        id_claims: The same as `access_claims` for ID tokens.
        access_subject: The claims that identify the user in access tokens, joined by a dot; never an e-mail address.
        id_subject: The same for ID tokens.
        one_subject: Whether both give the same identifier, so that a browser's sign-in can be matched with a token.
        client_claims: Where the client that a token was issued to stands; the first that is there.
        scope_claims: Where scopes stand, as a string of words or a list.
        role_claims: Where application roles stand; they count as scopes of a service's token.
        audience_required: Whether tokens have an ``aud`` that must be checked; False only where the vendor writes none.
        issuer_templates: Further exact issuers of the same tenant, e.g. Entra's v1 issuer. A placeholder in them, and in the
            issuer itself, is filled in with the discriminator's value, which must be one of the issuer's.
        keys_name_issuer: A key that names an issuer signs for that one alone; Entra's keys of all organisations stand in one
            set.
        discriminator: The claim that tells the organisations of one issuer apart, or empty.
        discriminator_in_path: The first segment of the issuer's path is the discriminator's value.
        shared_hosts: An issuer whose host is one of these serves many organisations, so a discriminator is required.
        service_claims: A token with these claims and values is a service's own: it has no user.
        service_without: A token without any of these claims is a service's own; empty to not look at that.
        service_subject_is_client: A token whose subject is its client is a service's own.
        service_subject_suffix: A token whose subject is its client followed by this is a service's own; empty to not look.
        display_claims: What to call the user before people; the first that is there. No decision reads it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    algorithms: Annotated[tuple[str, ...], AfterValidator(_asymmetric)] = (
        "RS256",
        "PS256",
        "ES256",
        "RS384",
        "ES384",
        "RS512",
        "ES512",
        "PS384",
        "PS512",
        "Ed25519",
    )
    access_types: tuple[str, ...] = ("at+jwt", "jwt", "")
    access_claims: dict[str, str] = Field(default_factory=dict)
    access_needs_any: tuple[str, ...] = ("client_id", "azp", "scope", "scp")
    access_refuses: tuple[str, ...] = ("nonce", "at_hash", "c_hash")
    access_refuses_values: dict[str, str] = Field(default_factory=lambda: {"token_use": "id", "typ": "ID"})
    id_claims: dict[str, str] = Field(default_factory=dict)
    access_subject: SubjectClaims = ("sub",)
    id_subject: SubjectClaims = ("sub",)
    one_subject: bool = True
    client_claims: tuple[str, ...] = ("client_id", "azp")
    scope_claims: tuple[str, ...] = ("scope", "scp")
    role_claims: tuple[str, ...] = ()
    audience_required: bool = True
    issuer_templates: tuple[str, ...] = ()
    keys_name_issuer: bool = False
    discriminator: str = ""
    discriminator_in_path: bool = False
    shared_hosts: tuple[str, ...] = ()
    service_claims: dict[str, str] = Field(default_factory=dict)
    service_without: tuple[str, ...] = ()
    service_subject_is_client: bool = True
    service_subject_suffix: str = ""
    display_claims: tuple[str, ...] = ("name", "preferred_username", "username", "cognito:username", "email")


class IssuerPreset(BaseModel):
    """One file of `providers/issuers/`.

    Attributes:
        name: What `--preset` takes.
        title: The vendor's name for people.
        documentation: The vendor's page that the facts come from.
        checked: The date they were checked, ISO 8601.
        rules: How its tokens are read.
        notes: What an operator must know, one sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    title: str
    documentation: str = ""
    checked: str = ""
    rules: TokenRules = TokenRules()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Issuer:
    """A configured identity provider; a row of the vault, without its login secret.

    Attributes:
        id: Random row id, in the path of the login callback.
        tenant: The tenant whose users it identifies.
        name: What operators call it; unique in its tenant.
        preset: The name of its preset.
        issuer: The exact issuer identifier of its discovery document; may hold a template such as ``{tenantid}`` (Entra).
        discovery_url: Where its metadata is.
        jwks_url: Its keys, pinned when it was added.
        audiences: What its tokens must be for; empty only where its tokens have no audience.
        discriminator_values: Exact values of the discriminator claim of this tenant; empty where the issuer serves one.
        rules: How its tokens are read, pinned when it was added; with the discriminator claim in force.
        login_client_id: Our client there, for a browser's sign-in; empty where login binding is not configured.
        login_issuer: The exact issuer of the login's discovery document.
        login_discovery_url: Where that is, if it is another document; empty for `discovery_url`.
        login_authorization_url: The authorization endpoint of the sign-in, pinned.
        login_token_url: Its token endpoint, pinned.
        login_jwks_url: The keys of its ID tokens, pinned.
        has_login_secret: Whether a login client secret is stored.
        require_tool_scopes: Tokens need `identity:read` or `identity:token` for each tool.
        allow_http_loopback: It may be http on a loopback address.
        epoch: Raised by every change.
        disabled: Its tokens are not accepted.
    """

    id: str
    tenant: str
    name: str
    preset: str
    issuer: str
    discovery_url: str
    jwks_url: str
    audiences: frozenset[str] = frozenset()
    discriminator_values: frozenset[str] = frozenset()
    rules: TokenRules = field(default_factory=TokenRules)
    login_client_id: str = ""
    login_issuer: str = ""
    login_discovery_url: str = ""
    login_authorization_url: str = ""
    login_token_url: str = ""
    login_jwks_url: str = ""
    has_login_secret: bool = False
    require_tool_scopes: bool = False
    allow_http_loopback: bool = False
    epoch: int = 1
    disabled: bool = False

    @property
    def can_log_in(self) -> bool:
        """Whether a browser can sign in there, and its user be matched with a token's."""
        return bool(self.login_client_id and self.login_authorization_url) and self.rules.one_subject

    def issuers_for(self, value: str) -> frozenset[str]:
        """The exact issuers (``iss``) that tokens of one organisation may name.

        Args:
            value: The discriminator's value in the token; empty for none.

        Returns:
            The issuer, and what the vendor's templates become; nothing where the value is not one of this tenant's.
        """
        if not self.discriminator_values:
            return frozenset() if _PLACEHOLDER.search(self.issuer) else frozenset({self.issuer})
        if value not in self.discriminator_values:
            return frozenset()
        return frozenset(fill(template, value) for template in (self.issuer, *self.rules.issuer_templates))

    def pinned(self) -> dict[str, Any]:
        """What of it has no column of its own, as the row's ``configuration`` keeps it."""
        return {
            "rules": self.rules.model_dump(mode="json"),
            "login_issuer": self.login_issuer,
            "login_authorization_url": self.login_authorization_url,
            "login_token_url": self.login_token_url,
            "login_jwks_url": self.login_jwks_url,
        }


def fill(template: str, value: str) -> str:
    """Put a discriminator's value where a template has its placeholder, e.g. Entra's ``{tenantid}``."""
    return _PLACEHOLDER.sub(lambda _: value, template)
