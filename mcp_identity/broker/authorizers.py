"""What an operator says of a workload, made into one: complete, possible, and told apart from every other of its tenant."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from mcp_identity.broker.audiences import require_foreign_audience
from mcp_identity.broker.issuers import VALUE_LIMIT, check_value, find_issuer
from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.domain.authorizer import NOBODY, Authorizer, ClaimOperator, ClaimRule
from mcp_identity.domain.credentials import parse_scopes
from mcp_identity.domain.errors import Conflict, InvalidRequest, UrlRefused
from mcp_identity.domain.identity import RESOURCE_NAME_RULE, WorkloadIdentity, is_resource_name
from mcp_identity.domain.issuer import Issuer
from mcp_identity.oauth.urls import check_url
from mcp_identity.vault.records import Records

T = TypeVar("T")
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
"""A browser does not ask anybody for the address of localhost (RFC 6761 §6.3), and development tools register it."""
TEXT_LIMIT = 256


def configure_workload(records: Records, workload: WorkloadIdentity, spec: WorkloadSpec, public_url: str) -> WorkloadIdentity:
    """`workload` with what the specification says.

    Raises:
        InvalidRequest: If the outcome would be incomplete or contradictory; the message says what is missing.
        NotFound: If there is no issuer of the name.
        Conflict: If a token could be both its and another workload's.
        UrlRefused: If a return URL is none that a browser may be sent to.
    """
    after = replace(
        workload,
        authorizer=_authorizer(records, workload, spec),
        shared_authorizer=_given(spec.shared_authorizer, workload.shared_authorizer),
        allowed_providers=_providers(_given(spec.allowed_providers, tuple(workload.allowed_providers))),
        return_urls=tuple(dict.fromkeys(map(_return_url, _given(spec.return_urls, workload.return_urls)))),
        identity_audiences=tuple(dict.fromkeys(_given(spec.identity_audiences, workload.identity_audiences))),
        may_assert_users=_given(spec.may_assert_users, workload.may_assert_users),
        owner=_text("the owner", _given(spec.owner, workload.owner)),
        tags=check_tags(_given(spec.tags, workload.tags)),
        disabled=_given(spec.disabled, workload.disabled),
    )
    for audience in spec.identity_audiences or ():
        check_value("an identity audience", audience)
        require_foreign_audience(records, after.tenant, audience, public_url)
    _require_unambiguous(records, after)
    return after


def _given(said: T | None, stands: T) -> T:
    return stands if said is None else said


def _authorizer(records: Records, workload: WorkloadIdentity, spec: WorkloadSpec) -> Authorizer:
    before = workload.authorizer
    named = (spec.audiences, spec.clients, spec.scopes, spec.claims)
    if spec.issuer is None and all(each is None for each in named):
        return before
    if spec.issuer == "":
        if any(named):
            raise InvalidRequest("audiences, clients, scopes and claims are those of an issuer's tokens: name the issuer")
        return NOBODY
    issuer = find_issuer(records, workload.tenant, spec.issuer) if spec.issuer else None
    issuer_id = issuer.id if issuer else before.issuer_id
    issuer = issuer or (records.find_issuer_id(workload.tenant, issuer_id) if issuer_id else None)
    if issuer is None:
        raise InvalidRequest(
            "audiences, clients, scopes and claims are those of an issuer's tokens: name it with --issuer NAME"
        )
    after = Authorizer(
        issuer_id=issuer.id,
        audiences=before.audiences if spec.audiences is None else frozenset(spec.audiences),
        clients=before.clients if spec.clients is None else frozenset(spec.clients),
        scopes=before.scopes if spec.scopes is None else parse_scopes(spec.scopes),
        claims=_given(spec.claims, before.claims),
    )
    _check_authorizer(after, issuer)
    return after


def _check_authorizer(authorizer: Authorizer, issuer: Issuer) -> None:
    for what, values in (("an allowed audience", authorizer.audiences), ("an allowed client", authorizer.clients)):
        for value in values:
            check_value(what, value)
    for rule in authorizer.claims:
        _check_rule(rule)
    if not authorizer.is_decisive:
        raise InvalidRequest(
            f"an issuer alone would make every token of {issuer.name} one of this agent's, so it accepts none: say which with "
            "--allowed-client, --allowed-audience or --required-claim"
        )
    strange = authorizer.audiences - issuer.audiences
    if strange:
        takes = f"takes tokens for {', '.join(sorted(issuer.audiences))}" if issuer.audiences else "writes no audiences"
        raise InvalidRequest(f"no token of {issuer.name} can have this audience here: it {takes}")


def _check_rule(rule: ClaimRule) -> None:
    check_value("a claim's name", rule.claim)
    count = len(rule.values)
    if not count or (rule.operator is ClaimOperator.EQUALS and count != 1):
        raise InvalidRequest("a required claim is compared with a value: one for equals, at least one for contains")
    for value in rule.values:
        if not value or len(value) > VALUE_LIMIT or not value.isprintable():
            raise InvalidRequest(f"a claim's value is 1 to {VALUE_LIMIT} visible characters")


def _require_unambiguous(records: Records, workload: WorkloadIdentity) -> None:
    """Check that no token speaks for two workloads, unless both are marked as one principal."""
    if not workload.authorizer.is_decisive:  # none speaks for it
        return
    for other in records.workloads_with_authorizer(workload.tenant):
        shared = workload.shared_authorizer and other.shared_authorizer
        if other.id != workload.id and not shared and workload.authorizer.overlaps(other.authorizer):
            raise Conflict(
                f"one token could speak for {workload.name} and for {other.name}: give them different audiences, clients or "
                "required claims; or mark both with --shared-authorizer, which makes them one security principal"
            )


def _return_url(url: str) -> str:
    try:
        check_url(url, allow_http_loopback=True)
    except UrlRefused as error:
        raise UrlRefused(f"not a return URL: {error.message}") from None
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _THIS_MACHINE:
        raise UrlRefused("not a return URL: it must be https; http is for localhost, 127.0.0.1 and [::1] alone")
    return url


def _providers(names: tuple[str, ...]) -> frozenset[str]:
    if not all(map(is_resource_name, names)):
        raise InvalidRequest(f"an allowed provider is named as it was added; {RESOURCE_NAME_RULE}")
    return frozenset(names)


def _text(what: str, text: str) -> str:
    if len(text) > TEXT_LIMIT or not text.isprintable():
        raise InvalidRequest(f"{what} is at most {TEXT_LIMIT} visible characters")
    return text


def check_tags(tags: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Tags as they are kept, sorted.

    Raises:
        InvalidRequest: If one has no name, or is too long, or a name has two values.
    """
    if len(dict(tags)) != len(tags) or not all(name for name, _ in tags):
        raise InvalidRequest("each tag has a name, and one value")
    return tuple((_text("a tag", name), _text("a tag", value)) for name, value in sorted(tags))
