"""How does a vendor depart from the RFCs, and what is known of its API? The fields that a vendor's file may fill.

Every field is closed: a new quirk is a new field here, with the one place that reads it, and never a decision by a name.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Facts(BaseModel):
    """What a file says; a field that nobody knows is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Dialect(Facts):
    """How an authorization server departs from the RFCs. Every field is closed: a new quirk is a new field here.

    Attributes:
        scope_separator: Between scopes in requests.
        response_scope_separators: Characters that separate scopes in answers.
        pkce: Whether S256 is sent; only a server that rejects it has False.
        authorization_parameters: Added to every authorization request.
        scope_parameter: The name of the scope parameter of authorization requests (Slack: ``user_scope`` for user tokens).
        token_headers: Added to every token request.
        json_requests: Token and revocation requests are JSON objects, not forms (Notion).
        client_credentials_parameters: Of client-credentials requests, instead of or beside the standard ones (Zoom).
        token_path: Where in the answer the token object is, dotted; empty for the top level.
        refreshed_token_path: The same for the answer to a refresh, where it differs (Slack's user tokens).
        success_field: A field of the answer that must be true even at HTTP 200 (Slack: ``ok``).
        error_field: Where an answer without ``error``, or with a text there that is no code, names its error (HubSpot, Twitch).
        error_codes: What stands there → the code of RFC 6749 §5.2 that it means.
        form_encoded_answers: The token endpoint may answer form-encoded.
        token_types: Accepted token types in lower case, beside ``bearer``.
        token_type_required: False takes an answer that names no token type for a bearer token (LinkedIn).
        assumed_scopes: The scopes of a token whose answer names none are those asked for (RFC 6749 §5.1); False says that
            they are unknown.
        expiry: ``reported``, or ``never`` for tokens that have no end.
        lifetime_seconds: The documented lifetime where the answer names none; 0 for unknown.
        refresh_expiry_fields: Where the answer may say when the refresh token ends.
        refresh_token_scope_parameter: The vendor narrows a token when a refresh names scopes.
        tokens_outlive_refresh: A refresh leaves the access token before it valid until its own end, so one in use may be
            refreshed ahead of time; False also for unknown.
        resource_parameter: The server understands RFC 8707.
        audience_parameter: The name of the audience parameter, or empty.
        always_scopes: Asked for in every user authorization, e.g. ``offline_access``.
        scope_aliases: What is asked → what the vendor calls it in answers.
        implied_scopes: What is granted → what that includes.
        unreported_scopes: Granted without ever standing in an answer.
        agent_parameters: Authorization parameters that agents may set → the pattern of the whole value.
        account_field: Where in the token answer the account's stable id is, dotted.
        api_host_field: Where in the token answer the customer's own API host is, dotted; fixed in the grant at consent.
        api_host_suffixes: What such a host must end with; each begins with a dot.
        extra_fields: Facts of the token answer that are kept, e.g. ``instance_url``.
        revocation_style: ``rfc7009``, ``delete-basic`` (GitHub), ``bearer-get`` (Slack), ``bearer-post`` (Dropbox), or
            ``none``.
        loopback_host: The literal loopback host that the vendor accepts in redirect URIs.
        loopback_allowed: Whether it accepts http on loopback at all.
        dead_grant_errors: Errors of a refresh, beside ``invalid_grant``, after which only a new consent helps.
        id_token: Whether the answer holds an ID token that can be verified when ``openid`` was asked for.
        on_behalf_of: How a user's own token is exchanged for one that acts for them: ``token-exchange`` (RFC 8693),
            ``jwt-bearer`` (RFC 7523 §2.1), or ``no``.
        subject_token_type: What the server is told that the user's token is (RFC 8693 §3).
        on_behalf_of_parameters: Added to every exchange.
        on_behalf_of_agent_parameters: Parameters of an exchange that agents may set → the pattern of the whole value.
        actor_token: Whether an exchange also names who acts, by the client's own token (RFC 8693 §2.1): ``m2m`` or ``none``.
        actor_scopes: What that token is asked for with, separated by spaces.
        on_behalf_of_client: Whether the client authenticates in an exchange; False leaves its id out, too.
        assertion_audience: For whom the client's assertions are (``private_key_jwt``); empty for the URL that is asked.
        assertion_algorithm: How they are signed; empty for what the kind of key suggests.
        assertion_key_id: The name of the key, as the server knows it; empty for none.
    """

    scope_separator: str = " "
    response_scope_separators: str = " "
    pkce: bool = True
    authorization_parameters: dict[str, str] = Field(default_factory=dict)
    scope_parameter: str = "scope"
    token_headers: dict[str, str] = Field(default_factory=dict)
    json_requests: bool = False
    client_credentials_parameters: dict[str, str] = Field(default_factory=dict)
    token_path: str = ""
    refreshed_token_path: str | None = None
    success_field: str = ""
    error_field: str = ""
    error_codes: dict[str, str] = Field(default_factory=dict)
    form_encoded_answers: bool = False
    token_types: tuple[str, ...] = ()
    token_type_required: bool = True
    assumed_scopes: bool = True
    expiry: Literal["reported", "never"] = "reported"
    lifetime_seconds: int = 0
    refresh_expiry_fields: tuple[str, ...] = ("refresh_token_expires_in",)
    refresh_token_scope_parameter: bool = False
    tokens_outlive_refresh: bool = False
    resource_parameter: bool = True
    audience_parameter: str = ""
    always_scopes: tuple[str, ...] = ()
    scope_aliases: dict[str, str] = Field(default_factory=dict)
    implied_scopes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    unreported_scopes: tuple[str, ...] = ()
    agent_parameters: dict[str, str] = Field(default_factory=dict)
    account_field: str = ""
    api_host_field: str = ""
    api_host_suffixes: tuple[str, ...] = ()
    extra_fields: tuple[str, ...] = ()
    revocation_style: Literal["rfc7009", "delete-basic", "bearer-get", "bearer-post", "none"] = "rfc7009"
    loopback_host: Literal["127.0.0.1", "localhost"] = "127.0.0.1"
    loopback_allowed: bool = True
    dead_grant_errors: tuple[str, ...] = ()
    id_token: bool = False
    on_behalf_of: Literal["no", "token-exchange", "jwt-bearer"] = "no"
    subject_token_type: str = "urn:ietf:params:oauth:token-type:jwt"  # noqa: S105 - the name of a kind of token
    on_behalf_of_parameters: dict[str, str] = Field(default_factory=dict)
    on_behalf_of_agent_parameters: dict[str, str] = Field(default_factory=dict)
    actor_token: Literal["none", "m2m"] = "none"  # noqa: S105 - where it comes from
    actor_scopes: str = ""
    on_behalf_of_client: bool = True
    assertion_audience: str = ""
    assertion_algorithm: str = ""
    assertion_key_id: str = ""


class Api(Facts):
    """The vendor's API, as far as `call_api` has to know it.

    Attributes:
        hosts: Exact origins that a credential may be sent to: scheme, host, and a port if one is named. A bare path is at the
            first.
        request_headers: What agents may send beside the headers that every API takes.
        response_headers: What agents are told beside the headers that every API has.
        refused_paths: ``[METHOD ]/path`` of what issues or ends credentials, or carries several requests in one; ``*`` is
            part of a segment, ``**`` any segments.
        unauthorized_means_unprocessed: A 401 says that the request had no effect (RFC 9110 §15.5.2), so it may be repeated.
        key_placement: Where an API key goes: a ``header``, a ``query`` parameter, or ``basic`` authentication.
        key_name: The header's or the parameter's name.
        key_prefix: What stands before the key in the header, separated by a space.
        key_username: The user name of basic authentication, with the key as its password; empty where the key is the user
            name and there is no password.
    """

    hosts: tuple[str, ...] = ()
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    refused_paths: tuple[str, ...] = ()
    unauthorized_means_unprocessed: bool = False
    key_placement: Literal["header", "query", "basic"] = "header"
    key_name: str = "Authorization"
    key_prefix: str = "Bearer"
    key_username: str = ""
