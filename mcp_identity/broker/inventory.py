"""What is set up, as an operator sees it who came over a network: one thing, or a page of them, and the tags that they bear.

A page costs what is on it, however many there are. Whatever is looked at stands in the trail. Tags are for people, so changing
them ends nothing: no token, no consent, no sealed secret is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from mcp_identity.broker.audit import NAME_LIMIT, Call, audited
from mcp_identity.broker.authorizers import check_tags
from mcp_identity.broker.grants import unknown_provider
from mcp_identity.broker.services import Services
from mcp_identity.broker.workloads import find_workload
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import InvalidRequest, clean_text
from mcp_identity.domain.identity import WorkloadIdentity, is_resource_name
from mcp_identity.domain.provider import CredentialProvider, ProviderKind
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.providers import ProviderList
from mcp_identity.vault.records.rows import Page
from mcp_identity.vault.records.workloads import WorkloadList
from mcp_identity.vault.writer import Unit

T = TypeVar("T")
MAXIMUM_TAGS = 50
_Tags = tuple[tuple[str, str], ...]


class TooManyTags(InvalidRequest):
    """More tags than one thing may bear."""


class Inventory:
    """The workloads and the providers of the tenants."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def provider(self, call: Call, name: str, kind: ProviderKind | None = None) -> CredentialProvider:
        """A provider by its name.

        Args:
            call: Of the operator.
            name: The provider's name.
            kind: Of which kind it must be; None for any.

        Raises:
            UnknownProvider: If there is none.
        """
        return await self._run(call, lambda records: _provider(records, call, name, kind), call.event(provider=name))

    async def providers(self, call: Call, kind: ProviderKind | None = None, *, limit: int, after: str = "") -> ProviderList:
        """One page of the providers, by name.

        Args:
            call: Of the operator.
            kind: Of which kind they are; None for any.
            limit: How many at most.
            after: `next` of the page before; empty for the first one.
        """
        page = Page(limit, after)
        return await self._run(call, lambda records: records.list_providers(call.principal.tenant, kind, page), call.event())

    async def workload(self, call: Call, name: str) -> WorkloadIdentity:
        """A workload by its name.

        Raises:
            NotFound: If there is none.
        """
        return await self._run(
            call, lambda records: find_workload(records, call.principal.tenant, name), _workload_event(call, name)
        )

    async def workloads(self, call: Call, *, limit: int, after: str = "") -> WorkloadList:
        """One page of the workloads, by name; as `providers`."""
        page = Page(limit, after)
        return await self._run(call, lambda records: records.list_workloads(call.principal.tenant, page), call.event())

    async def tag_provider(
        self,
        call: Call,
        name: str,
        kind: ProviderKind | None = None,
        *,
        add: Mapping[str, str],
        remove: Collection[str] = (),
    ) -> None:
        """Change the tags of a provider; two who do so at once do not undo one another.

        Args:
            call: Of the operator.
            name: The provider's name.
            kind: Of which kind it must be; None for any.
            add: New tags, and new values of old ones.
            remove: Names of tags to take away.

        Raises:
            UnknownProvider: If there is no such provider.
            InvalidRequest: If a tag is none.
            TooManyTags: If they would be more than `MAXIMUM_TAGS`.
        """

        def unit(records: Records) -> None:
            before = _provider(records, call, name, kind)
            records.tag_provider(replace(before, tags=_changed(before.tags, add, remove)))

        await self._run(call, unit, call.event(provider=name))

    async def tag_workload(self, call: Call, name: str, *, add: Mapping[str, str], remove: Collection[str] = ()) -> None:
        """Change the tags of a workload; as `tag_provider`.

        Raises:
            NotFound: If there is no such workload.
            InvalidRequest: If a tag is none.
            TooManyTags: If they would be more than `MAXIMUM_TAGS`.
        """

        def unit(records: Records) -> None:
            before = find_workload(records, call.principal.tenant, name)
            records.tag_workload(replace(before, tags=_changed(before.tags, add, remove)))

        await self._run(call, unit, _workload_event(call, name))

    async def _run(self, call: Call, work: Unit[T], event: AuditEvent) -> T:
        def unit(records: Records) -> T:
            found = work(records)
            records.append_audit(event)
            return found

        return await audited(
            self._services.vault,
            call,
            lambda: self._services.vault.run(unit, event),
            provider=event.provider,
            detail=event.detail,
        )


def _provider(records: Records, call: Call, name: str, kind: ProviderKind | None) -> CredentialProvider:
    provider = records.find_provider(call.principal.tenant, name) if is_resource_name(name) else None
    if provider is None or kind not in (None, provider.kind):
        raise unknown_provider()
    return provider


def _workload_event(call: Call, name: str) -> AuditEvent:
    return call.event().ending("ok", workload_identity=clean_text(name, NAME_LIMIT))


def _changed(tags: _Tags, add: Mapping[str, str], remove: Collection[str]) -> _Tags:
    kept = {name: value for name, value in {**dict(tags), **add}.items() if name not in remove}
    if len(kept) > MAXIMUM_TAGS:
        raise TooManyTags(f"one thing bears at most {MAXIMUM_TAGS} tags")
    return check_tags(tuple(kept.items()))
