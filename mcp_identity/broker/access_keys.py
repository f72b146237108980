"""The keys that sign requests, as operators make and end them: for an operator of a tenant, or for workloads by name.

A secret is shown once, when it is made, after the trail has it; it is kept, sealed, since a signature cannot be checked
without it. A key ends at once, in every process. What a key may do is fixed: to change that, make another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcp_identity.broker.audit import NAME_LIMIT, Call, audited
from mcp_identity.broker.services import Services
from mcp_identity.broker.workloads import find_workload
from mcp_identity.domain.access_key import (
    AccessKey,
    AccessKeyRole,
    is_access_key_id,
    new_access_key_id,
    new_access_key_secret,
)
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import InvalidRequest, NotFound, clean_text
from mcp_identity.vault.records import Records

MOST_WORKLOADS = 100


@dataclass(frozen=True, slots=True)
class AccessKeyIssued:
    """A new access key; its audit row is committed. Nothing can show the secret again.

    Attributes:
        key: The key.
        secret: What signs.
        workloads: The names of its workloads, sorted.
    """

    key: AccessKey
    secret: Secret
    workloads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessKeyListing:
    """The access keys of a tenant.

    Attributes:
        keys: Oldest first.
        names: The names of the workloads that are there, by id.
    """

    keys: tuple[AccessKey, ...]
    names: Mapping[str, str]

    def workloads_of(self, key: AccessKey) -> tuple[str, ...]:
        """The names of a key's workloads, sorted; those that are gone are left out."""
        return tuple(sorted(self.names[each] for each in key.workload_ids if each in self.names))


class AccessKeys:
    """The access keys of the tenants."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def list(self, tenant: str) -> AccessKeyListing:
        """The access keys of a tenant, without their secrets."""

        def unit(records: Records) -> AccessKeyListing:
            keys = records.list_access_keys(tenant)
            ids = {each for key in keys for each in key.workload_ids}
            found = [records.find_workload_id(tenant, each) for each in ids]
            return AccessKeyListing(keys, {each.id: each.name for each in found if each})

        return await self._services.vault.read(unit)

    async def create(
        self, call: Call, role: AccessKeyRole, workloads: Sequence[str] = (), *, may_assert_users: bool = False
    ) -> AccessKeyIssued:
        """Make an access key.

        Args:
            call: Of the operator.
            role: What it may do.
            workloads: The names of those that it stands for; for the role ``workload``, at least one.
            may_assert_users: It may name a user by an id, also where the workload may not.

        Raises:
            InvalidRequest: If role and workloads do not fit.
            NotFound: If there is no such workload.
        """
        tenant, names = call.principal.tenant, tuple(sorted(set(workloads)))
        access_key_id, secret = new_access_key_id(self._services.entropy), new_access_key_secret(self._services.entropy)
        detail = {
            "role": role.value,
            "workloads": clean_text(" ".join(names), NAME_LIMIT),
            "may_assert_users": "yes" if may_assert_users else "no",
        }
        event = call.event().ending("ok", **detail)

        def find_ids(records: Records) -> frozenset[str]:
            return frozenset(find_workload(records, tenant, name).id for name in names)

        def unit(records: Records) -> AccessKey:
            made = records.insert_access_key(
                tenant, access_key_id, secret, role=role, workload_ids=find_ids(records), may_assert_users=may_assert_users
            )
            records.append_audit(event.ending("ok", access_key=access_key_id, key=made.id))
            return made

        async def work() -> AccessKeyIssued:
            _check(role, names)
            await self._services.vault.read(find_ids)
            await self._services.vault.ensure_tenant(tenant)  # only now: what is refused makes no tenant
            return AccessKeyIssued(await self._services.vault.run(unit, event), secret, names)

        return await audited(self._services.vault, call, work, detail=event.detail)

    async def remove(self, call: Call, access_key_id: str) -> None:
        """End an access key, at once and in every process.

        Raises:
            NotFound: If the tenant has no such key.
        """
        event = call.event().ending("ok", access_key=clean_text(access_key_id, NAME_LIMIT))

        def unit(records: Records) -> None:
            records.delete_access_key(call.principal.tenant, access_key_id)
            records.append_audit(event)

        async def work() -> None:
            if not is_access_key_id(access_key_id):
                raise NotFound("there is no such access key; see: mcp-identity access-keys list")
            await self._services.vault.run(unit, event)

        await audited(self._services.vault, call, work, detail=event.detail)


def _check(role: AccessKeyRole, names: Sequence[str]) -> None:
    if role is AccessKeyRole.ADMIN and names:
        raise InvalidRequest("a key of the role admin stands for every workload of its tenant: name none")
    if role is AccessKeyRole.WORKLOAD and not names:
        raise InvalidRequest("a key of the role workload stands for workloads: name at least one (--workload NAME)")
    if len(names) > MOST_WORKLOADS:
        raise InvalidRequest(f"a key stands for at most {MOST_WORKLOADS} workloads")
