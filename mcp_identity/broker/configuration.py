"""What an operator says, made into a provider: complete, possible, and with its endpoints pinned."""

from __future__ import annotations

from dataclasses import replace

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.authorizers import check_tags
from mcp_identity.broker.discovery import Discovered, discover
from mcp_identity.broker.plan import dialect_of
from mcp_identity.domain.api_url import parse_origin
from mcp_identity.domain.credentials import Flow, Secret, parse_scopes
from mcp_identity.domain.errors import InvalidRequest, ProviderMisconfigured
from mcp_identity.domain.provider import (
    Api,
    AuthorizationServer,
    ClientAuthentication,
    CredentialProvider,
    Dialect,
    ProviderDefinition,
    ProviderKind,
    Release,
)
from mcp_identity.oauth.client_auth import check_signing_key
from mcp_identity.oauth.urls import check_url
from mcp_identity.providers import catalog
from mcp_identity.transport import Transport

_NO_KEY_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "accept-encoding",
        "user-agent",
        "expect",
        "te",
    }
)


async def configure(
    transport: Transport,
    provider: CredentialProvider,
    definition: ProviderDefinition,
    spec: ProviderSpec,
    subject_issuers: frozenset[str] | None = None,
) -> CredentialProvider:
    """`provider` with what the specification says; where that names settings, its endpoints are looked up and pinned anew.

    Whose users' tokens it may be sent is said of its endpoints: where those move, it has to be said again.

    Args:
        transport: The way to the issuer's metadata.
        provider: As it is; blank for a new one.
        definition: The vendor's facts.
        spec: What the operator says.
        subject_issuers: The rows of the issuers that it names; None where it names none.

    Raises:
        InvalidRequest: If the outcome would be incomplete or contradictory; the message says what is missing.
        UpstreamError: If the issuer's metadata cannot be had or does not stand.
    """
    loopback = provider.allow_http_loopback if spec.allow_http_loopback is None else spec.allow_http_loopback
    settings = {**provider.settings, **spec.settings}
    scopes = provider.scopes if spec.scopes is None else parse_scopes(spec.scopes)
    is_new = provider.kind is not ProviderKind.API_KEY and not provider.client_id
    resolved = catalog.resolve(definition, settings)
    common = replace(
        provider,
        kind=definition.kind,
        settings=settings,
        api_hosts=_api_hosts(provider, definition, spec, is_new=is_new, allow_http_loopback=loopback),
        release=provider.release if spec.release is None else _release(spec.release),
        scopes=scopes,
        allow_http_loopback=loopback,
        tags=provider.tags if spec.tags is None else check_tags(spec.tags),
        disabled=provider.disabled if spec.disabled is None else spec.disabled,
    )
    if definition.kind is ProviderKind.API_KEY:
        if spec.client_id or spec.client_authentication or scopes or subject_issuers:
            raise InvalidRequest("an API key has no client and no scopes, and is exchanged for no user")
        _check_placement(resolved.api)
        return common
    found = Discovered(provider.server)
    if is_new or spec.settings:
        found = await discover(transport, resolved.endpoints, allow_http_loopback=loopback)
    _check_server(found.server, allow_http_loopback=loopback)
    authentication = _authentication(provider, definition, spec, found)
    if subject_issuers is None:
        subject_issuers = provider.subject_issuers if found.server == provider.server else frozenset()
    _check_exchange(resolved.dialect, authentication, subject_issuers)
    flows = tuple(flow for flow in resolved.flows if _is_possible(flow, found.server, authentication, subject_issuers))
    if not flows:
        raise InvalidRequest(
            "no flow is possible: a user's consent needs an authorization URL, M2M a client secret, and the exchange of users' "
            "tokens somebody whose tokens these are (--subject-issuer)"
        )
    if is_new and spec.scopes is None:
        scopes = frozenset(definition.default_scopes)
    return replace(
        common,
        server=found.server,
        client_id=_client_id(provider, spec),
        client_authentication=authentication,
        subject_issuers=subject_issuers,
        flows=flows,
        scopes=scopes,
    )


def require_secret(provider: CredentialProvider, secret: Secret | None) -> None:
    """Check that a provider is given the secret that it needs, and none where it needs none.

    Raises:
        InvalidRequest: If not, or if nobody said how an API key may leave.
    """
    if provider.kind is ProviderKind.API_KEY:
        if secret is None:
            raise InvalidRequest(
                "an API key is required: --api-key-env VAR, --api-key-file PATH or --api-key-stdin, over an API its "
                "secret_reference"
            )
        if provider.release is None:
            raise InvalidRequest("an API key has no end, so say how it may leave: --release token, handle or never")
    elif (secret is None) != is_public(provider):
        raise InvalidRequest(
            "a client secret is required: --client-secret-env VAR, --client-secret-file PATH or --client-secret-stdin, over an "
            "API its secret_reference; a public client has none: --client-auth none"
        )
    elif secret is not None and provider.client_authentication is ClientAuthentication.PRIVATE_KEY_JWT:
        try:
            check_signing_key(secret, dialect_of(provider).assertion_algorithm)
        except ProviderMisconfigured as error:
            raise InvalidRequest(error.message) from None


def needs_other_secret(before: CredentialProvider, after: CredentialProvider) -> bool:
    """Whether what proves who we are is of another kind now: a key must never be sent, nor a secret be taken for a key."""
    signs = ClientAuthentication.PRIVATE_KEY_JWT
    became_one = (before.client_authentication is signs) != (after.client_authentication is signs)
    return not is_public(after) and (is_public(before) or became_one)


def is_public(provider: CredentialProvider) -> bool:
    """Whether its client has no secret."""
    return provider.kind is ProviderKind.OAUTH2 and provider.client_authentication is ClientAuthentication.NONE


def _api_hosts(
    provider: CredentialProvider, definition: ProviderDefinition, spec: ProviderSpec, *, is_new: bool, allow_http_loopback: bool
) -> tuple[str, ...]:
    """The API hosts in force: those that were named, else the vendor's, which follow its settings."""
    before = () if is_new else catalog.resolve(definition, provider.settings).api.hosts
    if spec.api_hosts is not None:
        hosts = spec.api_hosts
    elif is_new or (spec.settings and provider.api_hosts == before):
        hosts = catalog.resolve(definition, {**provider.settings, **spec.settings}).api.hosts
    else:
        hosts = provider.api_hosts
    return tuple(dict.fromkeys(parse_origin(host, http=allow_http_loopback) for host in hosts))


def _check_placement(api: Api) -> None:
    if api.key_placement == "header" and api.key_name.lower() in _NO_KEY_HEADERS:
        raise InvalidRequest(f"the header {api.key_name} is not one that a key goes into")


def _client_id(provider: CredentialProvider, spec: ProviderSpec) -> str:
    client_id = provider.client_id if spec.client_id is None else spec.client_id
    if not client_id or len(client_id) > 512 or not client_id.isprintable():  # noqa: PLR2004 - a bound, like the others
        raise InvalidRequest("a client id is required: --client-id ID, as the vendor shows it")
    return client_id


def _release(text: str) -> Release:
    try:
        return Release(text)
    except ValueError:
        raise InvalidRequest("release is one of: token, handle, never") from None


def _authentication(
    provider: CredentialProvider, definition: ProviderDefinition, spec: ProviderSpec, found: Discovered
) -> ClientAuthentication:
    accepted = definition.client_authentication
    if spec.client_authentication is not None:
        if spec.client_authentication not in {way.value for way in accepted}:
            raise InvalidRequest(
                f"{definition.title} accepts client authentication: {', '.join(way.value for way in accepted)}"
            )
        return ClientAuthentication(spec.client_authentication)
    if provider.client_id:
        return provider.client_authentication
    offered = [way for way in accepted if way in found.client_authentication and way is not ClientAuthentication.NONE]
    return offered[0] if offered else accepted[0]


def _is_possible(
    flow: Flow, server: AuthorizationServer, authentication: ClientAuthentication, subject_issuers: frozenset[str]
) -> bool:
    match flow:
        case Flow.M2M:
            return authentication is not ClientAuthentication.NONE
        case Flow.USER_FEDERATION:
            return bool(server.authorization_url)
        case Flow.ON_BEHALF_OF_TOKEN_EXCHANGE:
            return bool(subject_issuers)


def _check_exchange(dialect: Dialect, authentication: ClientAuthentication, subject_issuers: frozenset[str]) -> None:
    if dialect.on_behalf_of == "no":
        if subject_issuers:
            raise InvalidRequest(
                "users' tokens are sent only where the vendor exchanges them; for a server of your own say how: "
                "--set on_behalf_of=token-exchange, or jwt-bearer"
            )
    elif dialect.actor_token == "m2m":  # noqa: S105 - where it comes from
        parse_scopes(dialect.actor_scopes.split())
        if authentication is ClientAuthentication.NONE:
            raise InvalidRequest("an actor token is the client's own, and a public client gets none")


def _check_server(server: AuthorizationServer, *, allow_http_loopback: bool) -> None:
    if not server.token_url:
        raise InvalidRequest("the provider needs an issuer whose metadata can be read (--issuer), or a --token-url")
    if server.jwks_url and not server.issuer:
        raise InvalidRequest("keys verify ID tokens of an issuer: give the issuer with the jwks_url, or leave both out")
    for url in (server.authorization_url, server.token_url, server.refresh_url, server.revocation_url, server.jwks_url):
        if url:
            check_url(url, allow_http_loopback=allow_http_loopback)
