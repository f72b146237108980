"""The agents of each tenant, as operators set them up: which tokens speak for them, what they may do, and their own keys.

A change raises the workload's epoch, so that what was issued before ends; its keys are its own and stay. A key is shown
once, when it is issued, after the trail has it; what is kept of it is a digest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from mcp_identity.broker.answers import Revoked
from mcp_identity.broker.audit import NAME_LIMIT, Call, audited
from mcp_identity.broker.authorizers import TEXT_LIMIT, configure_workload
from mcp_identity.broker.plan import dialect_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.signing import SigningKeys
from mcp_identity.broker.specifications import WorkloadKeyIssued, WorkloadSpec
from mcp_identity.broker.vendor import FAILED, find_client, revoke_at_vendor
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Grant, GrantState, Secret
from mcp_identity.domain.errors import Conflict, IdentityError, InvalidRequest, NotFound, clean_text
from mcp_identity.domain.identity import RESOURCE_NAME_RULE, WorkloadIdentity, command, is_resource_name
from mcp_identity.domain.provider import CredentialProvider, OAuthClient
from mcp_identity.domain.workload_key import new_workload_key, workload_key_digest
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.workload_keys import StoredWorkloadKey
from mcp_identity.vault.records.workloads import WorkloadList

T = TypeVar("T")
LONGEST_KEY_DAYS = 3650
_Ending = tuple[Grant, CredentialProvider, OAuthClient | None]


class Workloads:
    """The agents of the tenants."""

    def __init__(self, services: Services, signing_keys: SigningKeys) -> None:
        """Keep what it works with."""
        self._services = services
        self._signing_keys = signing_keys

    async def list(self, tenant: str) -> WorkloadList:
        """The workloads of a tenant, by name; those that do not authenticate are named by id."""
        return await self._services.vault.read(lambda records: records.list_workloads(tenant))

    async def get(self, tenant: str, name: str) -> WorkloadIdentity:
        """A workload by its name.

        Raises:
            NotFound: If there is none.
        """
        return await self._services.vault.read(lambda records: find_workload(records, tenant, name))

    async def find(self, tenant: str, name: str) -> tuple[WorkloadIdentity | None, int]:
        """A workload by its name as the writer has it, and the configuration epoch that it was read under."""
        return await self._services.vault.run(
            lambda records: (records.find_workload(tenant, name) if is_resource_name(name) else None, records.caches.epoch)
        )

    async def issuer_name(self, workload: WorkloadIdentity) -> str:
        """The name of the issuer whose tokens speak for it, or empty."""
        issuer_id = workload.authorizer.issuer_id
        if not issuer_id:
            return ""
        found = await self._services.vault.read(lambda records: records.find_issuer_id(workload.tenant, issuer_id))
        return found.name if found else ""

    async def keys(self, tenant: str, name: str) -> tuple[StoredWorkloadKey, ...]:
        """The keys of a workload, without the keys themselves.

        Raises:
            NotFound: If there is no such workload.
        """

        def unit(records: Records) -> tuple[StoredWorkloadKey, ...]:
            return records.list_workload_keys(tenant, find_workload(records, tenant, name).id)

        return await self._services.vault.read(unit)

    async def create(self, call: Call, name: str, spec: WorkloadSpec) -> WorkloadIdentity:
        """Register a workload.

        Raises:
            InvalidRequest: If the specification is incomplete or contradictory.
            NotFound: If it names an issuer that is not there.
            Conflict: If the name is taken, or a token could be another workload's too.
        """
        return await self._audited(call, name, lambda: self._create(call, name, spec, None))

    async def create_with_key(self, call: Call, name: str, spec: WorkloadSpec) -> WorkloadKeyIssued:
        """Register a workload and issue its first key; both or neither.

        Raises:
            IdentityError: As `create`.
        """

        async def work() -> WorkloadKeyIssued:
            key, issued = new_workload_key(self._services.entropy), list[StoredWorkloadKey]()

            def issue(records: Records, made: WorkloadIdentity) -> None:
                stored = _keep(records, made, key)
                records.append_audit(_event(call, name, action="issue_workload_key").ending("ok", key=stored.id))
                issued.append(stored)

            workload = await self._create(call, name, spec, issue)
            return WorkloadKeyIssued(workload, issued[-1].id, key, None)

        return await self._audited(call, name, work)

    async def _create(
        self, call: Call, name: str, spec: WorkloadSpec, also: Callable[[Records, WorkloadIdentity], None] | None
    ) -> WorkloadIdentity:
        if not is_resource_name(name):
            raise InvalidRequest(RESOURCE_NAME_RULE)
        tenant, event = call.principal.tenant, _event(call, name)
        blank = WorkloadIdentity(self._services.entropy.random_bytes(16).hex(), tenant, name)

        def configure(records: Records) -> WorkloadIdentity:
            if like := records.find_workload_like(tenant, name):
                raise Conflict(f"there is a workload {like} already; change it: {command(tenant)} workloads update {like}")
            return configure_workload(records, blank, spec, self._services.public_url)

        def unit(records: Records) -> WorkloadIdentity:
            made = configure(records)
            records.insert_workload(made, call.principal.authenticated_by)
            records.append_audit(event)
            if also:
                also(records, made)
            return made

        await self._services.vault.read(configure)
        await self._services.vault.ensure_tenant(tenant)  # only now: what is refused makes no tenant
        await self._make_signing_key(call, spec)
        return await self._services.vault.run(unit, event)

    async def update(self, call: Call, name: str, spec: WorkloadSpec) -> WorkloadIdentity:
        """Change a workload; what the specification leaves out stays. What was issued to it before ends, its keys do not.

        Raises:
            IdentityError: As `create`, and `NotFound` where there is no such workload.
        """
        event = _event(call, name)

        def unit(records: Records) -> WorkloadIdentity:
            before = find_workload(records, call.principal.tenant, name)
            after = records.update_workload(configure_workload(records, before, spec, self._services.public_url))
            records.append_audit(event)
            return after

        async def work() -> WorkloadIdentity:
            await self.get(call.principal.tenant, name)
            await self._make_signing_key(call, spec)
            return await self._services.vault.run(unit, event)

        return await self._audited(call, name, work)

    async def remove(self, call: Call, name: str) -> tuple[Revoked, ...]:
        """Remove a workload with its keys and grants, of whomever; the grants are revoked at the vendor.

        Raises:
            NotFound: If there is none.
        """
        event = _event(call, name)

        def unit(records: Records) -> list[_Ending]:
            workload = find_workload(records, call.principal.tenant, name)
            found = records.list_workload_grants(workload.tenant, workload.id)
            ending: list[_Ending] = []
            for grant in found.grants:
                provider = _provider_of(records, grant)
                if provider is not None and grant.state is not GrantState.REVOKED:
                    ending.append((grant, provider, find_client(records, provider)))
            records.delete_workload(workload)
            keys = records.delete_access_keys_of(workload)
            counts = {"grants": len(found.grants) + len(found.corrupt), "access_keys": len(keys)}
            records.append_audit(event.ending("ok", **{name: str(count) for name, count in counts.items()}))
            return ending

        async def work() -> tuple[Revoked, ...]:
            return tuple([await self._end(*each) for each in await self._services.vault.run(unit, event)])

        return await self._audited(call, name, lambda: self._services.tasks.run(work))

    async def _end(self, grant: Grant, provider: CredentialProvider, client: OAuthClient | None) -> Revoked:
        try:
            dialect = dialect_of(provider)
        except IdentityError:
            return Revoked(provider.name, grant.key.flow, FAILED)
        outcome = await revoke_at_vendor(self._services.upstreams, provider, dialect, client, grant.tokens)
        return Revoked(provider.name, grant.key.flow, outcome)

    async def issue_key(
        self, call: Call, name: str, *, label: str = "", expires_in_days: int | None = None
    ) -> WorkloadKeyIssued:
        """Issue a key of a workload's own.

        Args:
            call: Of the operator.
            name: The workload's name.
            label: What operators call the key.
            expires_in_days: When it ends; None for no end.

        Raises:
            NotFound: If there is no such workload.
            InvalidRequest: If the label or the lifetime is none.
        """
        event = _event(call, name)

        def unit(records: Records) -> WorkloadKeyIssued:
            workload = find_workload(records, call.principal.tenant, name)
            stored = _keep(records, workload, key, label, expires_in_days)
            records.append_audit(event.ending("ok", key=stored.id))
            return WorkloadKeyIssued(workload, stored.id, key, stored.expires_at)

        async def work() -> WorkloadKeyIssued:
            if len(label) > TEXT_LIMIT or not label.isprintable():
                raise InvalidRequest(f"a label is at most {TEXT_LIMIT} visible characters")
            if expires_in_days is not None and not 1 <= expires_in_days <= LONGEST_KEY_DAYS:
                raise InvalidRequest(f"a key lives 1 to {LONGEST_KEY_DAYS} days, or without an end")
            return await self._services.vault.run(unit, event)

        key = new_workload_key(self._services.entropy)
        return await self._audited(call, name, work)

    async def revoke_key(self, call: Call, name: str, key_id: str) -> None:
        """End a key of a workload.

        Raises:
            NotFound: If there is no such workload, or it has no such key.
        """
        event = _event(call, name)
        event = event.ending("ok", key=clean_text(key_id, NAME_LIMIT))

        def unit(records: Records) -> None:
            workload = find_workload(records, call.principal.tenant, name)
            records.revoke_workload_key(workload.tenant, workload.id, key_id)
            records.append_audit(event)

        await self._audited(call, name, lambda: self._services.vault.run(unit, event))

    async def _make_signing_key(self, call: Call, spec: WorkloadSpec) -> None:
        """Whoever is to trust identity tokens looks for the keys before the first token comes."""
        if spec.identity_audiences:
            await self._signing_keys.ensure(call)

    async def _audited(self, call: Call, name: str, work: Callable[[], Awaitable[T]]) -> T:
        return await audited(self._services.vault, call, work, detail=_event(call, name).detail)


def find_workload(records: Records, tenant: str, name: str) -> WorkloadIdentity:
    """A workload by its name.

    Raises:
        NotFound: If there is none.
    """
    workload = records.find_workload(tenant, name) if is_resource_name(name) else None
    if workload is None:
        raise NotFound("there is no workload of this name; see: mcp-identity workloads list")
    return workload


def _event(call: Call, name: str, *, action: str = "") -> AuditEvent:
    return call.event(action=action).ending("ok", workload_identity=clean_text(name, NAME_LIMIT))


def _keep(
    records: Records, workload: WorkloadIdentity, key: Secret, label: str = "", expires_in_days: int | None = None
) -> StoredWorkloadKey:
    digest = workload_key_digest(key)
    if digest is None:
        raise InvalidRequest("this is no workload key")
    ends = records.now + timedelta(days=expires_in_days) if expires_in_days else None
    return records.insert_workload_key(workload.tenant, workload.id, digest, label=label, expires_at=ends)


def _provider_of(records: Records, grant: Grant) -> CredentialProvider | None:
    try:
        return records.find_provider_row(grant.key.tenant, grant.key.provider_row)
    except IdentityError:
        return None
