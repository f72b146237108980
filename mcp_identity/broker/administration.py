"""What operators may see and end of everybody: the grants of a whole tenant, its trail, and under which key its secrets are.

Nothing here asks whose a grant is: who may be an operator is decided at the edge, and what is not of the principal's own tenant
is never found. Everything that is looked at is written down.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp_identity.broker.answers import GrantSummary, Revoked
from mcp_identity.broker.audit import Call, audited
from mcp_identity.broker.grants import require_provider, summary_of
from mcp_identity.broker.plan import dialect_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.storage import VaultStanding, standing_of
from mcp_identity.broker.vendor import FAILED, find_client, revoke_at_vendor
from mcp_identity.broker.workloads import find_workload
from mcp_identity.domain.audit import AuditEvent, AuditQuery
from mcp_identity.domain.credentials import Grant
from mcp_identity.domain.errors import IdentityError, InvalidRequest, clean_text
from mcp_identity.domain.provider import CredentialProvider, OAuthClient
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grant_listings import GrantPlace
from mcp_identity.vault.records.owners import Owner

if TYPE_CHECKING:
    from mcp_identity.vault.records.audit import AuditPlace

_USER = re.compile(r"(?:https?://|urn:)[^ ]+ .+")
_AT_ONCE = 100
"""Grants that one transaction ends: others wait for the writer meanwhile."""


@dataclass(frozen=True, slots=True)
class GrantFilter:
    """Which grants of a tenant; all that is said must hold, and what is empty says nothing.

    Attributes:
        workload: The workload's name.
        user: The user's key: issuer and subject.
        provider: The credential provider's name.
    """

    workload: str = ""
    user: str = ""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class KnownGrant:
    """A grant, and whose it is.

    Attributes:
        workload: The workload's name; empty where that cannot be told any more.
        user: The user's key; empty for the workload's own.
        grant: The rest.
    """

    workload: str
    user: str
    grant: GrantSummary


@dataclass(frozen=True, slots=True)
class GrantPage:
    """Some grants of a tenant, the newest first.

    Attributes:
        grants: The readable ones.
        unreadable: How many of the page do not authenticate.
        next_place: Where the next page begins; None for no more.
    """

    grants: tuple[KnownGrant, ...]
    unreadable: int
    next_place: GrantPlace | None


@dataclass(frozen=True, slots=True)
class EndedGrant:
    """A grant that was ended, and whose it was."""

    workload: str
    user: str
    revoked: Revoked


@dataclass(slots=True)
class EndedGrants:
    """What a revocation has ended.

    Attributes:
        grants: The grants.
        open_consents: Consents under way that ended, too.
        unreadable: Grants that do not authenticate, and were left as they are.
    """

    grants: list[EndedGrant] = field(default_factory=list[EndedGrant])
    open_consents: int = 0
    unreadable: int = 0


_Ending = tuple[Grant, str, CredentialProvider | None, OAuthClient | None]


class Administration:
    """The whole of a tenant."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def list_grants(self, call: Call, which: GrantFilter, *, limit: int, before: GrantPlace | None = None) -> GrantPage:
        """Grants of the principal's tenant, the newest first.

        Raises:
            NotFound: If there is no such workload.
            UnknownProvider: If there is no such provider.
        """
        tenant = call.principal.tenant

        def unit(records: Records) -> GrantPage:
            page = records.page_grants(_owner(records, tenant, which), limit=limit, before=before)
            known = tuple(_known(records, grant) for grant in page.grants)
            return GrantPage(known, len(page.corrupt), page.next_place)

        async def work() -> GrantPage:
            _check(which)
            found = await self._services.vault.read(unit)
            await self._note(call, which)
            return found

        return await audited(self._services.vault, call, work, provider=which.provider)

    async def revoke_grants(self, call: Call, which: GrantFilter) -> EndedGrants:
        """End every grant of the principal's tenant that fits, here and then at the vendors; open consents end, too.

        Raises:
            InvalidRequest: If nothing says which.
            NotFound: If there is no such workload.
            UnknownProvider: If there is no such provider.
        """
        tenant = call.principal.tenant
        event = call.event(provider=which.provider).ending("ok", **_said(which))
        ended = EndedGrants()

        def unit(records: Records, before: GrantPlace | None) -> tuple[list[_Ending], GrantPlace | None, int, int]:
            owner = _owner(records, tenant, which)
            page = records.page_grants(owner, limit=_AT_ONCE, before=before, ended=False)
            consents = records.end_sessions_of(owner, "conflict") if before is None else 0
            providers: dict[str, tuple[CredentialProvider | None, OAuthClient | None]] = {}
            ending: list[_Ending] = []
            for grant in page.grants:
                row = grant.key.provider_row
                if row not in providers:
                    provider = _find_provider(records, grant)
                    providers[row] = provider, find_client(records, provider) if provider else None
                records.revoke_grant_row(grant)
                ending.append((grant, _workload_name(records, grant), *providers[row]))
            counts = {"grants": len(ending), "open_consents": consents, "unreadable": len(page.corrupt)}
            records.append_audit(event.ending("ok", **{name: str(count) for name, count in counts.items()}))
            return ending, page.next_place, consents, len(page.corrupt)

        async def some(before: GrantPlace | None) -> GrantPlace | None:
            ending, following, consents, unreadable = await self._services.vault.run(
                lambda records: unit(records, before), event
            )
            ended.open_consents += consents
            ended.unreadable += unreadable
            ended.grants += [await self._end(*each) for each in ending]
            return following

        async def work() -> EndedGrants:
            place = await some(None)
            while place is not None:
                place = await some(place)
            return ended

        async def checked() -> EndedGrants:
            if not (which.workload or which.user or which.provider):
                raise InvalidRequest("say whose grants: at least one of workload, user and provider")
            _check(which)
            return await self._services.tasks.run(work)

        return await audited(self._services.vault, call, checked, provider=which.provider)

    async def search_audit(
        self, call: Call, query: AuditQuery, *, limit: int, before: AuditPlace | None = None
    ) -> tuple[tuple[AuditEvent, ...], AuditPlace | None]:
        """Events of the principal's tenant, the newest first, and where the next page begins; None for no more."""
        tenant = call.principal.tenant

        async def work() -> tuple[tuple[AuditEvent, ...], AuditPlace | None]:
            found = await self._services.vault.read(
                lambda records: records.search_audit(tenant, query, limit=limit + 1, before=before)
            )
            event = call.event()
            await self._services.vault.run(lambda records: records.append_audit(event), event)
            place = found[limit - 1][0] if len(found) > limit else None
            return tuple(each for _, each in found[:limit]), place

        return await audited(self._services.vault, call, work)

    async def vault_standing(
        self, call: Call, check: Callable[[VaultStanding], None] = lambda _standing: None
    ) -> VaultStanding:
        """Under which key the secrets of an operator's tenant are.

        Args:
            call: Of the operator.
            check: Raises what the call is refused with, where it asks for anything else than what is.
        """

        def unit(records: Records) -> VaultStanding:
            found = standing_of(records, call.principal.tenant)
            check(found)
            records.append_audit(call.event())
            return found

        return await audited(self._services.vault, call, lambda: self._services.vault.run(unit, call.event()))

    async def _note(self, call: Call, which: GrantFilter) -> None:
        event = call.event(provider=which.provider).ending("ok", **_said(which))
        await self._services.vault.run(lambda records: records.append_audit(event), event)

    async def _end(
        self, grant: Grant, workload: str, provider: CredentialProvider | None, client: OAuthClient | None
    ) -> EndedGrant:
        outcome = FAILED
        if provider is not None:
            try:
                dialect = dialect_of(provider)
                outcome = await revoke_at_vendor(self._services.upstreams, provider, dialect, client, grant.tokens)
            except IdentityError:
                outcome = FAILED
        name = provider.name if provider else ""
        return EndedGrant(workload, grant.key.user, Revoked(name, grant.key.flow, outcome))


def _check(which: GrantFilter) -> None:
    """Check that a user is named by what names users; anything else is written down nowhere.

    Raises:
        InvalidRequest: If not.
    """
    if which.user and _USER.fullmatch(which.user) is None:
        raise InvalidRequest("a user is named by issuer and subject, with a space between them")


def _said(which: GrantFilter) -> dict[str, str]:
    """What was asked for, for the trail."""
    said = {"workload_identity": which.workload, "of_user": clean_text(which.user, 512)}
    return {name: value for name, value in said.items() if value}


def _owner(records: Records, tenant: str, which: GrantFilter) -> Owner:
    """Whose grants are meant, by ids.

    Raises:
        NotFound: If there is no such workload.
        UnknownProvider: If there is no such provider.
    """
    workload = find_workload(records, tenant, which.workload).id if which.workload else ""
    provider = require_provider(records, tenant, which.provider).id if which.provider else ""
    return Owner(tenant, workload, which.user, provider)


def _known(records: Records, grant: Grant) -> KnownGrant:
    provider = _find_provider(records, grant)
    summary = summary_of(grant, provider.name if provider else "")
    return KnownGrant(_workload_name(records, grant), grant.key.user, summary)


def _find_provider(records: Records, grant: Grant) -> CredentialProvider | None:
    try:
        return records.find_provider_row(grant.key.tenant, grant.key.provider_row)
    except IdentityError:  # its row does not stand; the grant does
        return None


def _workload_name(records: Records, grant: Grant) -> str:
    try:
        workload = records.find_workload_id(grant.key.tenant, grant.key.workload_id)
    except IdentityError:
        return ""
    return workload.name if workload else ""
