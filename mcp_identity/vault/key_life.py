"""What operators do with keys: see them, make a new version, move to another key-encryption key, erase one.

Each step is one transaction with its entry in the trail; the key backend is asked outside of it. A move is announced before it
is made and checkpointed before it is finished, so that a process that is killed anywhere leaves a vault that opens with the
old reference or with the new one, and a command that, run again, finishes what it began.

The vault's own key has one version. The trail is chained under it, and its rows do not say under which one: a second version
would leave everything before it unverifiable. It can be brought under another key-encryption key, as every key can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Entropy
from mcp_identity.domain.errors import ConfigurationError, Conflict, NotFound, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.keys import ERASED, VAULT, KeyRing, WrappedKey
from mcp_identity.vault.kms.backend import KeyBackend
from mcp_identity.vault.making import check_context, new_check
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.moments import moment
from mcp_identity.vault.rewrap import Advance, Rewrapped, count_by_key, count_left, rewrap_records
from mcp_identity.vault.stores.store import Store

if TYPE_CHECKING:
    from mcp_identity.vault.vault import Vault

T = TypeVar("T")
SETTLED = timedelta(minutes=1)
"""After so long nobody writes under the version before any more: every transaction begins by reading the epoch."""
_ATTEMPTS = 5
_TWO_MOVES = "somebody else moves the vault to another key-encryption key at the same time; look at: mcp-identity keys status"


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a tenant's key.

    Attributes:
        version: Counted from 1.
        state: ``active`` for new records and old ones, ``retired`` for old ones alone, ``erased`` for none any more.
        created_at: When it was made.
        records: How many rows are under it still.
    """

    version: int
    state: str
    created_at: datetime | None
    records: int


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What there is of keys.

    Attributes:
        key_id: The key-encryption key.
        coming_key_id: The one that the vault is being moved to; empty where it is not.
        tenants: The versions of each tenant's key.
        vault: The vault's own key.
    """

    key_id: str
    coming_key_id: str
    tenants: Mapping[str, tuple[KeyVersion, ...]]
    vault: tuple[KeyVersion, ...]


class KeyLife:
    """The life of one vault's keys."""

    def __init__(self, vault: Vault, ring: KeyRing, store: Store, entropy: Entropy) -> None:
        """Use `Vault.key_life`."""
        self._vault = vault
        self._ring = ring
        self._store = store
        self._entropy = entropy

    async def status(self, tenant: str | None = None) -> KeyStatus:
        """The keys, and how much is under each.

        Raises:
            NotFound: If there is no such tenant.
        """

        def unit(records: Records) -> KeyStatus:
            tenants = dict[str, tuple[KeyVersion, ...]]()
            own: tuple[KeyVersion, ...] = ()
            stored, holder = records.list_keys(tenant), records.key_holder()
            for name in sorted({each.key.tenant for each in stored}):
                counts = count_by_key(records, name) if name != VAULT else {}
                versions = tuple(
                    KeyVersion(each.key.version, each.key.state, moment(each.created_at), counts.get(_id_of(each.key), 0))
                    for each in stored
                    if each.key.tenant == name
                )
                if name == VAULT:
                    own = versions
                else:
                    tenants[name] = versions
            return KeyStatus(holder.key_id, holder.coming_key_id, tenants, own)

        found = await self._vault.read(unit)
        if tenant is not None and not found.tenants:
            raise NotFound("there is no such tenant")
        return found

    async def rotate(self, tenant: str, event: AuditEvent) -> int:
        """Make a new version of a tenant's key; from now on everything is sealed with it, and what was sealed stays readable.

        Returns:
            The new version.

        Raises:
            NotFound: If there is no such tenant.
            Conflict: If its key was erased, or others rotate it all the time.
        """
        for _ in range(_ATTEMPTS):
            newest = (await self._usable(tenant))[-1].version
            key = await anyio.to_thread.run_sync(self._ring.make, tenant, self._entropy, newest + 1)

            def unit(records: Records, key: WrappedKey = key) -> bool:
                known = [each.key for each in records.list_keys(tenant)]
                if max(each.version for each in known) >= key.version or all(each.state == ERASED for each in known):
                    return False
                records.add_key(key)
                records.append_audit(event.ending("ok", version=str(key.version)))
                return True

            if await self._vault.run(unit, event):
                return key.version
        raise Conflict("others rotate this tenant's key at the same time", retryable=True)

    async def rewrap(
        self, tenant: str, event: AuditEvent, *, page: int, advance: Advance = lambda _table, _rows: None
    ) -> Rewrapped:
        """Bring a tenant's keys under the backend's newest version, and its records under the tenant's newest key.

        Raises:
            NotFound: If there is no such tenant.
            Conflict: If its key was erased.
        """
        keys = await self._usable(tenant)
        await self._refresh(keys)
        await self._write(event.ending("begun", version=str(keys[-1].version)))
        done = await rewrap_records(self._vault, tenant, page=page, advance=advance)
        facts = {"moved": str(done.moved), "unreadable": str(sum(done.unreadable.values())), "left": str(done.left)}
        await self._write(event.ending("ok", **facts))
        return done

    async def refresh_own(self) -> None:
        """Bring the vault's own key, and the check of the key-encryption key, under the backend's newest version."""

        def read(records: Records) -> list[WrappedKey]:
            return [each.key for each in records.list_keys(VAULT)]

        await self._refresh(await self._vault.read(read))
        holder = await self._vault.read(lambda records: records.key_holder())
        context = check_context(self._ring.vault_id)
        again = await self._ask(lambda: self._ring.backend.rewrap(holder.key_check, context))
        if again != holder.key_check:
            await self._vault.run(lambda records: records.put_key_holder(holder.key_id, again))
            await anyio.to_thread.run_sync(self._store.checkpoint)

    async def remove_old(self, tenant: str, event: AuditEvent) -> int:
        """Erase the versions of a tenant's key that no record is under any more.

        Returns:
            How many were erased.

        Raises:
            Conflict: If records are under them still, or the newest version is so new that somebody may yet write under
                the one before.
        """
        keys = await self._usable(tenant)

        def look(records: Records) -> tuple[bool, int]:
            newest = records.list_keys(tenant)[-1]
            made = moment(newest.created_at)
            return made is not None and records.now - made >= SETTLED, count_left(records, tenant)

        settled, left = await self._vault.read(look)
        old = [key.id for key in keys[:-1]]
        if not old:
            return 0
        if not settled:
            raise Conflict("the newest version is not a minute old: another replica may still write under the one before it")
        if left:
            raise Conflict(f"{left} records are under older versions still; run: mcp-identity keys rewrap")

        def unit(records: Records) -> int:
            if records.list_keys(tenant)[-1].key.id != keys[-1].id:
                raise Conflict("the tenant's key was rotated meanwhile; run it again", retryable=True)
            gone = records.erase_keys(tenant, old)
            records.append_audit(event.ending("ok", versions=str(gone)))
            return gone

        gone = await self._vault.run(unit, event)
        await anyio.to_thread.run_sync(self._store.checkpoint)
        return gone

    async def erase(self, tenant: str, event: AuditEvent) -> int:
        """Erase every version of a tenant's key: nobody can read what it protected any more, whoever holds the database.

        The trail says so before it happens, and when it has.

        Returns:
            How many versions were erased.

        Raises:
            NotFound: If there is no such tenant.
            Conflict: If it was erased before.
        """
        await self._usable(tenant)
        await self._write(event.ending("begun"))

        def unit(records: Records) -> int:
            gone = records.erase_keys(tenant, [each.key.id for each in records.list_keys(tenant)])
            records.append_audit(event.ending("ok", versions=str(gone)))
            return gone

        gone = await self._vault.run(unit, event)
        self._ring.drop(tenant)
        await anyio.to_thread.run_sync(self._store.checkpoint)
        return gone

    async def move(self, target: KeyBackend, event: AuditEvent, advance: Advance = lambda _table, _rows: None) -> int:
        """Bring every key under another key-encryption key, or finish a move that was begun.

        Other processes go on with what they have unwrapped, for 15 minutes; until then they have to be restarted with the new
        reference. No record is touched.

        Returns:
            How many keys were brought there; 0 where they were there already.

        Raises:
            VaultUnavailable: If either backend cannot be used now; nothing was moved.
            Conflict: If others change the keys all the time.
        """
        holder = await self._vault.read(lambda records: records.key_holder())
        if holder.key_id == target.key_id:
            await self._finish_move()
            return 0
        check = await self._ask(lambda: new_check(target, self._ring.vault_id))

        def announce(records: Records) -> None:
            if records.key_holder().key_id != holder.key_id:
                raise Conflict(_TWO_MOVES)
            records.announce_key(target.key_id)
            records.append_audit(event.ending("begun", source=holder.key_id, to=target.key_id))

        await self._vault.run(announce, event)
        await anyio.to_thread.run_sync(self._store.checkpoint)
        ready = dict[str, tuple[bytes, bytes]]()
        for _ in range(_ATTEMPTS):
            await self._wrap_anew(target, ready, advance)

            def unit(records: Records) -> bool:
                now = records.key_holder()
                if (now.key_id, now.coming_key_id) != (holder.key_id, target.key_id):
                    raise Conflict(_TWO_MOVES)
                keys = _left(records)
                if any(ready.get(key.id, (b"",))[0] != key.wrapped for key in keys):
                    return False
                for key in keys:
                    records.put_wrapping(key, ready[key.id][1], target.key_id)
                records.put_key_holder(target.key_id, check)
                records.append_audit(event.ending("ok", source=holder.key_id, to=target.key_id, keys=str(len(keys))))
                return True

            if await self._vault.run(unit, event):
                self._ring.backend = target
                await self._finish_move()
                return len(ready)
        raise Conflict("others make or rotate keys all the time; run it again", retryable=True)

    async def _wrap_anew(self, target: KeyBackend, ready: dict[str, tuple[bytes, bytes]], advance: Advance) -> None:
        """Wrap for the other key-encryption key what is not ready yet, and see that it can be unwrapped there."""
        for key in await self._vault.read(_left):
            if ready.get(key.id, (b"",))[0] == key.wrapped:
                continue

            def work(key: WrappedKey = key) -> bytes:
                material, context = self._ring.unwrap(key), key.context(self._ring.vault_id)
                wrapped = target.wrap(material, context)
                if target.unwrap(wrapped, context) != material:
                    raise VaultCorrupt("the other key backend does not give back what it was given")
                return wrapped

            ready[key.id] = key.wrapped, await self._ask(work)
            advance("vault_keys", 1)

    async def _finish_move(self) -> None:
        # In this order: as long as the file alone may say the old key, the announcement must be in it.
        await anyio.to_thread.run_sync(self._store.checkpoint)
        await self._vault.run(lambda records: records.forget_announcement())
        await anyio.to_thread.run_sync(self._store.checkpoint)

    async def _refresh(self, keys: Sequence[WrappedKey]) -> None:
        """Bring keys to the newest version of their key-encryption key, where its backend has versions."""
        for key in keys:
            context = key.context(self._ring.vault_id)
            again = await self._ask(lambda key=key, context=context: self._ring.backend.rewrap(key.wrapped, context))

            def unit(records: Records, key: WrappedKey = key, again: bytes = again) -> None:
                if key in [each.key for each in records.list_keys(key.tenant)]:
                    records.put_wrapping(key, again, key.backend_key_id)

            if again != key.wrapped:
                await self._vault.run(unit)

    async def _usable(self, tenant: str) -> list[WrappedKey]:
        """The versions of a tenant's key that are not erased, oldest first."""
        keys = [each.key for each in await self._vault.read(lambda records: records.list_keys(tenant))] if tenant else []
        if not keys:
            raise NotFound("there is no such tenant")
        left = [key for key in keys if key.state != ERASED]
        if not left:
            raise Conflict("the key of this tenant was erased; there is nothing left to do with it")
        return left

    async def _ask(self, work: Callable[[], T]) -> T:
        """Ask a key backend, beside the event loop."""
        try:
            return await anyio.to_thread.run_sync(work)
        except ConfigurationError as error:
            raise VaultUnavailable(error.message, retryable=False) from None

    async def _write(self, event: AuditEvent) -> None:
        await self._vault.run(lambda records: records.append_audit(event))


def _left(records: Records) -> list[WrappedKey]:
    return [each.key for each in records.list_keys() if each.key.state != ERASED]


def _id_of(key: WrappedKey) -> bytes:
    try:
        return bytes.fromhex(key.id)
    except ValueError:
        raise VaultCorrupt("a tenant key was changed outside the product") from None
