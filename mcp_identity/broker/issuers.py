"""Who may say who callers are: the identity providers of each tenant, as operators set them up.

Metadata is read once, when an issuer is added, and pinned; what it says later changes nothing. A token finds its tenant by
its issuer and, where one issuer serves many organisations, by one claim more: so no two issuers of the whole vault may be
able to take one token, and an issuer that serves many organisations needs that claim.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from mcp_identity.broker.audit import NAME_LIMIT, Call, audited
from mcp_identity.broker.services import Services
from mcp_identity.broker.specifications import IssuerSpec
from mcp_identity.domain.errors import Conflict, InvalidRequest, NotFound, ProviderMisconfigured, clean_text
from mcp_identity.domain.identity import NAME_RULE, RESERVED_PREFIX, command, is_name
from mcp_identity.domain.issuer import Issuer, IssuerPreset, TokenRules, fill
from mcp_identity.oauth.issuer_metadata import (
    IssuerMetadata,
    metadata_request,
    metadata_url,
    process_metadata_response,
    require_issuer_keys,
)
from mcp_identity.oauth.jws import key_set_request
from mcp_identity.oauth.urls import is_below
from mcp_identity.providers import presets
from mcp_identity.vault.records import Records

T = TypeVar("T")
VALUE_LIMIT = 512
"""Characters of an audience, a claim's value, or the like."""


class Issuers:
    """The identity providers of the tenants."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def list(self, tenant: str) -> tuple[Issuer, ...]:
        """The issuers of a tenant, by name.

        Raises:
            VaultCorrupt: If one was changed outside the product.
        """
        return await self._services.vault.read(lambda records: records.list_issuers(tenant))

    async def get(self, tenant: str, name: str) -> Issuer:
        """An issuer by its name.

        Raises:
            NotFound: If there is none.
        """
        return await self._services.vault.read(lambda records: find_issuer(records, tenant, name))

    def login_redirect_uri(self, issuer: Issuer) -> str:
        """What to register at the identity provider for a browser's sign-in; empty where nobody signs in."""
        base = self._services.public_url
        return f"{base}/login/callback/{issuer.id}" if base and issuer.can_log_in else ""

    def notes(self, issuer: Issuer) -> tuple[str, ...]:
        """What the operator must know about an issuer as it is configured."""
        notes: list[str] = []
        if issuer.can_log_in and not self._services.public_url:
            notes.append("Set MCP_IDENTITY_PUBLIC_URL: browsers sign in only where it is known.")
        if not issuer.can_log_in:
            notes.append("Browsers cannot sign in there, so its users give consent only through a workload's --return-url.")
        preset = presets.find(issuer.preset)
        return (*notes, *(preset.notes if preset else ()))

    async def add(self, call: Call, name: str, spec: IssuerSpec) -> Issuer:
        """Add an identity provider; its endpoints are looked up now and pinned.

        Raises:
            InvalidRequest: If the specification is incomplete or contradictory; the message says what to do.
            Conflict: If the name is taken, or another issuer could take the same tokens.
            UpstreamError: If its metadata or its keys cannot be had, or do not stand.
        """
        return await self._audited(call, name, lambda: self._add(call, name, spec))

    async def _add(self, call: Call, name: str, spec: IssuerSpec) -> Issuer:
        if not is_name(name):
            raise InvalidRequest(NAME_RULE)
        preset = presets.get(spec.preset)
        if spec.login_secret_reference is not None:
            secret = await self._services.secret_sources.read(call.principal.tenant, spec.login_secret_reference)
            spec = replace(spec, login_secret=secret, login_secret_reference=None)
        _check_audiences(preset, spec)
        _check_login(preset, spec)
        url = self._address(spec.discovery_url, spec)
        found = await self._metadata(url, spec)
        await self._require_keys(found.jwks_url, spec)
        claim, values = _organisations(preset.rules, found, spec.claims)
        login_url = self._address(spec.login_discovery_url or url, spec)
        login = found if login_url == url else await self._metadata(login_url, spec)
        issuer = Issuer(
            id=self._services.entropy.random_bytes(16).hex(),
            tenant=call.principal.tenant,
            name=name,
            preset=preset.name,
            issuer=_of_organisations(found.issuer, values),
            discovery_url=url,
            jwks_url=found.jwks_url,
            audiences=frozenset(spec.audiences),
            discriminator_values=values,
            rules=preset.rules.model_copy(update={"discriminator": claim}),
            require_tool_scopes=spec.require_tool_scopes,
            allow_http_loopback=spec.allow_http_loopback,
        )
        if spec.login_client_id:
            issuer = await self._with_login(issuer, spec, login, login_url)
        self._require_foreign(issuer)
        event = call.event().ending("ok", issuer=name)

        def unit(records: Records) -> None:
            if records.find_issuer(issuer.tenant, name) is not None:
                raise Conflict(
                    f"there is an issuer {name} already; remove it first: {command(issuer.tenant)} issuers remove {name}"
                )
            _require_unambiguous(records, issuer)
            records.insert_issuer(issuer, spec.login_secret)
            records.append_audit(event)

        await self._services.vault.ensure_tenant(issuer.tenant)
        await self._services.vault.run(unit, event)
        return issuer

    async def remove(self, call: Call, name: str) -> Issuer:
        """Remove an issuer; from then on its tokens vouch for nobody.

        Raises:
            NotFound: If there is none.
            Conflict: If a workload's authorizer names it.
        """
        event = call.event().ending("ok", issuer=clean_text(name, NAME_LIMIT))

        def unit(records: Records) -> Issuer:
            issuer = find_issuer(records, call.principal.tenant, name)
            using = [each.name for each in records.list_workloads(issuer.tenant) if each.authorizer.issuer_id == issuer.id]
            if using:
                raise Conflict(
                    f"the issuer {name} still speaks for: {', '.join(using)}; first give each another one, or none: "
                    f"{command(issuer.tenant)} workloads update {using[0]} --no-authorizer"
                )
            records.delete_issuer(issuer)
            records.append_audit(event)
            return issuer

        return await self._audited(call, name, lambda: self._services.vault.run(unit, event))

    def _address(self, given: str, spec: IssuerSpec) -> str:
        if given.strip().casefold().startswith(RESERVED_PREFIX):
            raise InvalidRequest(f"{RESERVED_PREFIX}… is reserved: this server alone vouches for users below it")
        url = metadata_url(given, allow_http_loopback=spec.allow_http_loopback)
        if is_below(url, self._services.public_url):
            raise _own()
        return url

    async def _metadata(self, url: str, spec: IssuerSpec) -> IssuerMetadata:
        loopback = spec.allow_http_loopback
        response = await self._services.transport.send(metadata_request(url), allow_http_loopback=loopback)
        return process_metadata_response(response, url=url, allow_http_loopback=loopback)

    async def _require_keys(self, url: str, spec: IssuerSpec) -> None:
        request = key_set_request(url)
        require_issuer_keys(await self._services.transport.send(request, allow_http_loopback=spec.allow_http_loopback))

    async def _with_login(self, issuer: Issuer, spec: IssuerSpec, found: IssuerMetadata, url: str) -> Issuer:
        if not (found.authorization_url and found.token_url):
            raise InvalidRequest("the metadata document names no authorization endpoint, or no token endpoint, to sign in at")
        if not found.proves_keys:
            raise ProviderMisconfigured(
                "the identity provider offers PKCE, but not with S256, so browsers cannot sign in there"
            )
        await self._require_keys(found.jwks_url, spec)
        return replace(
            issuer,
            login_client_id=spec.login_client_id,
            login_issuer=_of_organisations(found.issuer, issuer.discriminator_values),
            login_discovery_url=url if spec.login_discovery_url else "",
            login_authorization_url=found.authorization_url,
            login_token_url=found.token_url,
            login_jwks_url=found.jwks_url,
            has_login_secret=spec.login_secret is not None,
        )

    def _require_foreign(self, issuer: Issuer) -> None:
        """Check that it is not us: our identity tokens are for others, and must open nothing here."""
        used = (issuer.jwks_url, issuer.login_issuer, issuer.login_token_url, issuer.login_jwks_url)
        if any(is_below(url, self._services.public_url) for url in (*accepted_issuers(issuer), *used)):
            raise _own()

    async def _audited(self, call: Call, name: str, work: Callable[[], Awaitable[T]]) -> T:
        return await audited(self._services.vault, call, work, detail={"issuer": clean_text(name, NAME_LIMIT)})


def find_issuer(records: Records, tenant: str, name: str) -> Issuer:
    """An issuer by its name.

    Raises:
        NotFound: If there is none.
    """
    issuer = records.find_issuer(tenant, name) if is_name(name) else None
    if issuer is None:
        raise NotFound("there is no issuer of this name; see: mcp-identity issuers list")
    return issuer


def accepted_issuers(issuer: Issuer) -> frozenset[str]:
    """Every ``iss`` that its tokens may have."""
    return frozenset(each for value in issuer.discriminator_values or {""} for each in issuer.issuers_for(value))


def check_value(what: str, value: str) -> str:
    """Check something that is compared as an exact string.

    Raises:
        InvalidRequest: If it is empty, too long, or holds a space or a character that cannot be seen.
    """
    if not value or len(value) > VALUE_LIMIT or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidRequest(f"{what} is 1 to {VALUE_LIMIT} visible ASCII characters without a space")
    return value


def _check_audiences(preset: IssuerPreset, spec: IssuerSpec) -> None:
    for audience in spec.audiences:
        check_value("an audience", audience)
    if preset.rules.audience_required and not spec.audiences:
        raise InvalidRequest(
            "say what its tokens must be for: --audience AUD, as the identity provider writes it into `aud`; "
            "else a token for any other service would be accepted here"
        )


def _check_login(preset: IssuerPreset, spec: IssuerSpec) -> None:
    if not spec.login_client_id:
        if spec.login_secret is not None or spec.login_discovery_url:
            raise InvalidRequest("a sign-in needs our client there: --login-client-id ID")
        return
    check_value("a login client id", spec.login_client_id)
    if not preset.rules.one_subject:
        raise InvalidRequest(
            f"{preset.title} names a user differently in access tokens and in ID tokens, so a browser's sign-in cannot be "
            "matched with a token: leave --login-client-id out, and let consents come back through a workload's --return-url"
        )


def _organisations(rules: TokenRules, found: IssuerMetadata, claims: tuple[tuple[str, str], ...]) -> tuple[str, frozenset[str]]:
    """Which organisations are the tenant: what the operator said, or what the issuer itself says.

    Returns:
        The claim that tells them apart, or nothing; and its values, none for an issuer that serves one organisation.

    Raises:
        InvalidRequest: If the issuer serves many and none was named, or what was named does not fit.
    """
    names = {claim for claim, _ in claims}
    values = frozenset(check_value("a claim's value", value) for _, value in claims)
    if len(names) > 1:
        raise InvalidRequest("one claim tells the organisations of an issuer apart; --claim names several")
    claim = check_value("a claim's name", names.pop()) if names else rules.discriminator
    if rules.discriminator and claim != rules.discriminator:
        raise InvalidRequest(f"the claim that tells the organisations of this issuer apart is {rules.discriminator}")
    parts = urlsplit(found.issuer)
    if rules.discriminator_in_path and not found.is_template:
        own = parts.path.lstrip("/").partition("/")[0]
        if not own or not values <= {own}:
            raise InvalidRequest(
                f"this issuer serves one organisation, so its {claim} is {own or 'in its path'}; leave --claim out"
            )
        values = frozenset({own})
    serves_many = found.is_template or parts.hostname in rules.shared_hosts
    if serves_many and not values:
        raise InvalidRequest(
            f"the issuer {found.issuer} serves many organisations, so say which of them this tenant is: "
            f"--claim '{claim or 'CLAIM'}=VALUE'"
        )
    return claim, values


def _of_organisations(issuer: str, values: frozenset[str]) -> str:
    """The issuer; of one organisation alone, with that filled in where it has a placeholder."""
    return fill(issuer, *values) if len(values) == 1 else issuer


def _require_unambiguous(records: Records, issuer: Issuer) -> None:
    """Check that no token could be of two issuers, whosever they are.

    Raises:
        Conflict: If one could.
    """
    for other in records.all_issuers():
        if accepted_issuers(issuer).isdisjoint(accepted_issuers(other)):
            continue
        same_claim = issuer.rules.discriminator == other.rules.discriminator
        both = issuer.discriminator_values and other.discriminator_values
        if not (same_claim and both and issuer.discriminator_values.isdisjoint(other.discriminator_values)):
            whose = other.name if other.tenant == issuer.tenant else "of another tenant"
            raise Conflict(
                f"its tokens would also be those of the issuer {whose}, so nobody could tell whose they are; one issuer takes "
                "several audiences, and --claim, given for each of the two, tells organisations apart"
            )


def _own() -> InvalidRequest:
    return InvalidRequest("this server's own identity tokens are for others; it cannot be its own issuer")
