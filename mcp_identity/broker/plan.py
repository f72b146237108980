"""From what was asked to what shall be done: which provider, flow, scopes and grant key. Pure but for the lookup before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from urllib.parse import urlsplit

from mcp_identity.broker.answers import TokenRequest
from mcp_identity.broker.on_behalf import require_subject
from mcp_identity.domain.api_call import ApiRequest
from mcp_identity.domain.credentials import Flow, GrantKey, parse_scopes
from mcp_identity.domain.errors import InvalidRequest, ProviderMisconfigured, UnsupportedFlow
from mcp_identity.domain.identity import Principal, command
from mcp_identity.domain.provider import Api, CredentialProvider, Dialect, ProviderDefinition, ProviderKind, ResolvedDefinition
from mcp_identity.oauth.authorization import check_agent_parameters, target
from mcp_identity.oauth.on_behalf import check_exchange_parameters
from mcp_identity.providers import catalog

MAXIMUM_MINIMUM_LIFETIME_SECONDS = 86_400
MAXIMUM_CUSTOM_STATE_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be done for one request.

    Attributes:
        request: What was asked.
        provider: The provider, as it is configured now.
        dialect: How its authorization server speaks.
        flow: How the token is obtained.
        scopes: What is needed.
        key: Where the grant is filed.
        parameters: Checked parameters of the agent, for the authorization request or the exchange.
    """

    request: TokenRequest
    provider: CredentialProvider
    dialect: Dialect
    flow: Flow
    scopes: frozenset[str]
    key: GrantKey
    parameters: tuple[tuple[str, str], ...]


def definition_of(provider: CredentialProvider) -> ProviderDefinition:
    """The vendor facts of a configured provider.

    Raises:
        ProviderMisconfigured: If this version of the product does not know the vendor.
    """
    definition = catalog.find(provider.vendor)
    if definition is None:
        raise ProviderMisconfigured(f"{provider.name} is of the vendor {provider.vendor}, which this version does not know")
    return definition


def title_of(provider: CredentialProvider) -> str:
    """What people call a configured provider: the vendor's name, or its own where the vendor is none in particular."""
    definition = catalog.find(provider.vendor)
    return provider.name if definition is None or definition.generic else definition.title


def dialect_of(provider: CredentialProvider) -> Dialect:
    """How a configured provider's authorization server speaks."""
    return _resolved(provider).dialect


def api_of(provider: CredentialProvider) -> Api:
    """What is known of a configured provider's API."""
    return _resolved(provider).api


def _resolved(provider: CredentialProvider) -> ResolvedDefinition:
    return _filled_in(definition_of(provider).name, tuple(provider.settings.items()))


@lru_cache(maxsize=1024)  # every call of an agent asks, and the answer follows from the arguments
def _filled_in(vendor: str, settings: tuple[tuple[str, str], ...]) -> ResolvedDefinition:
    return catalog.resolve(catalog.get(vendor), dict(settings))


def make_plan(principal: Principal, provider: CredentialProvider, request: TokenRequest) -> Plan:
    """Check a request against its provider.

    Raises:
        InvalidRequest: If an argument is malformed, or in conflict with another.
        InvalidScope: If a scope is malformed.
        InvalidTarget: If resource or audience is malformed or not taken.
        UnsupportedFlow: If the flow is not offered, or several are and none was named; or if a user's own token is needed.
        AccessDenied: If the user's own token may not go to this provider.
    """
    if provider.kind is ProviderKind.API_KEY:
        raise UnsupportedFlow(f"{provider.name} holds an API key, which needs no consent and is no token; get the key itself")
    _check_return(principal, request)
    lifetime = request.minimum_lifetime_seconds
    if lifetime is not None and not 0 <= lifetime <= MAXIMUM_MINIMUM_LIFETIME_SECONDS:
        raise InvalidRequest(f"minimum_lifetime_seconds is between 0 and {MAXIMUM_MINIMUM_LIFETIME_SECONDS}")
    dialect = dialect_of(provider)
    target(dialect, resource=request.resource, audience=request.audience)
    flow = _flow(provider, request.flow, has_user=principal.user is not None)
    if flow is Flow.ON_BEHALF_OF_TOKEN_EXCHANGE:
        require_subject(principal, provider)
    scopes = parse_scopes(request.scopes) or provider.scopes
    key = GrantKey(
        tenant=principal.tenant,
        workload_id=principal.workload.id,
        user=principal.user_key if flow.of_user else "",
        provider_row=provider.id,
        flow=flow,
        resource=request.resource,
        audience=request.audience,
        scopes="" if flow.asks_user else " ".join(sorted(scopes)),
    )
    check = check_agent_parameters if flow is not Flow.ON_BEHALF_OF_TOKEN_EXCHANGE else check_exchange_parameters
    parameters = check(dialect, request.custom_parameters)
    if parameters and not flow.of_user:
        raise InvalidRequest("custom_parameters belong to a user's consent; M2M has none")
    return Plan(request, provider, dialect, flow, scopes, key, parameters)


def _check_return(principal: Principal, request: TokenRequest) -> None:
    """Whether the browser may go there at the end: one of the workload's registered URLs, character by character."""
    if request.return_url and request.return_url not in principal.workload.return_urls:
        raise InvalidRequest("return_url is not registered for this workload; leave it out, or have an operator register it")
    if request.custom_state and not request.return_url:
        raise InvalidRequest("custom_state is handed back at a return_url, and there is none")
    if len(request.custom_state) > MAXIMUM_CUSTOM_STATE_LENGTH or not is_text(request.custom_state):
        raise InvalidRequest(f"custom_state is text of at most {MAXIMUM_CUSTOM_STATE_LENGTH} characters")


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8; JSON lets half a character through."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def call_plan(principal: Principal, provider: CredentialProvider, request: ApiRequest) -> Plan | None:
    """What shall be done for a call of an API; None where the credential is an API key, which needs no plan.

    Raises:
        InvalidRequest: If something is asked of an API key that only tokens have.
        IdentityError: As `make_plan`.
    """
    if provider.kind is ProviderKind.API_KEY:
        if request.scopes or request.flow or request.resource or request.audience:
            raise InvalidRequest(f"{provider.name} holds an API key, which has no scopes, flow, resource or audience")
        return None
    asked = TokenRequest(
        provider=request.provider,
        scopes=request.scopes,
        flow=request.flow,
        resource=request.resource,
        audience=request.audience,
        elicits=request.elicits,
    )
    return make_plan(principal, provider, asked)


def _flow(provider: CredentialProvider, asked: str, *, has_user: bool) -> Flow:
    """The flow that was asked for, or the only one that fits."""
    offered = ", ".join(flow.value for flow in provider.flows) or "none"
    if asked and asked not in {flow.value for flow in provider.flows}:
        hint = ""
        if asked == Flow.ON_BEHALF_OF_TOKEN_EXCHANGE and dialect_of(provider).on_behalf_of != "no":
            hint = (
                "; an operator has to say whose users' tokens it may be sent: "
                f"{command(provider.tenant)} providers update {provider.name} --subject-issuer ISSUER"
            )
        raise UnsupportedFlow(f"{provider.name} does not offer this flow; it offers: {offered}{hint}")
    flows = [Flow(asked)] if asked else provider.flows
    fitting = [flow for flow in flows if has_user or not flow.of_user]
    if not fitting:
        raise UnsupportedFlow(f"{provider.name} gives tokens for a user, and this call names none")
    if len(fitting) > 1:
        raise UnsupportedFlow(f"{provider.name} offers several flows; name one of: {offered}")
    return fitting[0]


def consent_digest(provider: CredentialProvider, redirect_uri: str) -> str:
    """What a consent is pinned to: the provider's configuration, and where the vendor sends the browser back to."""
    return sha256(f"{provider.configuration_digest()} {redirect_uri}".encode()).hexdigest()


def host_of(url: str) -> str:
    """The host, and the port where there is one, that a URL names."""
    return urlsplit(url).netloc
