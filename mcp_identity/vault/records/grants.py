"""Grants: found by the hash of their whole key, opened only under that key, changed only by compare-and-swap.

The rules of a refresh are in `broker/tokens.py`; here are the conditional updates that they rest on. A row is never deleted
by a failure, and revocation overwrites what was sealed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

from sqlalchemy import insert, select, update

from mcp_identity.domain.credentials import Flow, Grant, GrantKey, GrantState, Reason, TokenSet
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.envelope import Place, key_id_of, length_prefixed
from mcp_identity.vault.prepared import RowsByDigest
from mcp_identity.vault.records.base import AnyRow, RecordsBase, intact, table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.protected import Protected, SealedColumn
from mcp_identity.vault.records.token_cell import decode_tokens, encode_tokens

LEASE = timedelta(seconds=15)
_GRANTS = table("grants")
_BY_DIGEST = RowsByDigest(_GRANTS, "key_hash")
_TOKENS = _BY_DIGEST.columns.index("tokens")
MOST_OPENED = 2048
"""Opened grants that a process keeps, until the configuration or the tenant's key changes; each only for the very same row."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to refresh one generation of a grant.

    Attributes:
        grant: The grant as it was when the lease was taken.
        owner: This process.
        counter: With the owner it names this lease.
        after_open_intent: Somebody began a refresh of this generation and was never seen to end it.
    """

    grant: Grant
    owner: str
    counter: int
    after_open_intent: bool


@lru_cache(maxsize=4096)  # asked several times in every call
def grant_key_hash(key: GrantKey) -> bytes:
    """What a grant is found by: SHA-256 over its length-prefixed key."""
    return sha256(length_prefixed(*(part.encode() for part in key.parts()))).digest()


def key_of_row(row: AnyRow) -> GrantKey:
    """Whose grant a row says that it is.

    Raises:
        VaultCorrupt: If it says what the product does not write.
    """
    return _owner_of(intact("grants", row))


def _owner_of(row: AnyRow) -> GrantKey:
    try:
        flow = Flow(row["flow"])
    except ValueError:
        raise VaultCorrupt("a grant names an unknown flow") from None
    return GrantKey(
        tenant=row["tenant_id"],
        workload_id=row["workload_id"],
        user=row["user_key"],
        provider_row=row["provider_row"],
        flow=flow,
        resource=row["resource"],
        audience=row["audience"],
        scopes=row["scope_key"],
    )


def _place(grant_id: str, key: GrantKey, generation: int) -> Place:
    return Place("grants", key.tenant, grant_id, "tokens", generation, key.parts())


PROTECTED = Protected("grants", (SealedColumn("tokens", lambda row: _place(row["id"], _owner_of(row), row["generation"])),))


class GrantRecords(RecordsBase):
    """What users, and the client itself, have given us."""

    def find_grant(self, key: GrantKey) -> Grant | None:
        """The grant of exactly this key.

        Raises:
            VaultCorrupt: If the row's owner columns, hints or sealed tokens do not belong together.
        """
        # By the hash alone, which is over tenant and owner: a row that was moved to another tenant is found, and refused.
        digest = grant_key_hash(key)
        row = self.foreseen[digest] if digest in self.foreseen else self._rows_of([digest])[digest]
        return self._opened(digest, row, key) if row else None

    def _opened(self, digest: bytes, row: tuple[Any, ...], key: GrantKey) -> Grant:
        """The grant of a row: the one of last time, if every cell and the tenant's key are the same as then."""
        sealed = row[_TOKENS]
        if type(sealed) is not bytes:  # there is nothing to open, or it is not what the product writes
            self.caches.grants.pop(digest, None)
            return self._grant(_named(row), key)
        data_key = self.ring.find(key.tenant, key_id_of(sealed))
        known = self.caches.grants.get(digest)
        if known is not None and known[0] == row and known[1] is data_key:
            self.caches.grants.move_to_end(digest)
            return known[2]
        grant = self._grant(_named(row), key)
        self.caches.grants[digest] = (row, data_key, grant)
        if len(self.caches.grants) > MOST_OPENED:
            self.caches.grants.popitem(last=False)
        return grant

    def foresee_grants(self, digests: Sequence[bytes]) -> None:
        """Read what units of this batch will ask for, in one statement.

        Args:
            digests: The hashes of their grants' keys.
        """
        self.foreseen = self._rows_of(digests)

    def _rows_of(self, digests: Sequence[bytes]) -> dict[bytes, tuple[Any, ...] | None]:
        return {**dict.fromkeys(digests), **_BY_DIGEST.run(self.connection, digests)}

    def find_grant_row(self, tenant: str, grant_id: str) -> Grant | None:
        """A grant by its row id."""
        query = select(_GRANTS).where(_GRANTS.c.tenant_id == tenant, _GRANTS.c.id == grant_id)
        row = self.connection.execute(query).mappings().first()
        return self._grant(row, key_of_row(row)) if row else None

    def insert_pending(self, key: GrantKey) -> Grant:
        """Make the row before the first request, so that the lease exists before the token."""
        now, grant_id = micros(self.now), self.new_id()
        self.connection.execute(
            insert(_GRANTS),
            {
                "id": grant_id,
                "tenant_id": key.tenant,
                "workload_id": key.workload_id,
                "user_key": key.user,
                "provider_row": key.provider_row,
                "flow": key.flow.value,
                "resource": key.resource,
                "audience": key.audience,
                "scope_key": key.scopes,
                "key_hash": grant_key_hash(key),
                "state": GrantState.PENDING.value,
                "reason": "",
                "generation": 0,
                "tokens": None,
                "granted_scopes": "",
                "expires_at": 0,
                "obtained_by": "",
                "lease_owner": "",
                "lease_counter": 0,
                "lease_until": 0,
                "intent": 0,
                "created_at": now,
                "updated_at": now,
            },
        )
        return Grant(grant_id, key, GrantState.PENDING, 0, None, created_at=self.now, updated_at=self.now)

    def reopen_grant(self, grant: Grant) -> Grant:
        """Begin anew after a revocation; only for grants that need no user."""
        generation = grant.generation + 1
        self._update(grant, {"state": GrantState.PENDING.value, "reason": "", "generation": generation, "intent": 0})
        return replace(grant, state=GrantState.PENDING, reason=None, generation=generation, intent=0, updated_at=self.now)

    def take_lease(self, grant: Grant, owner: str, *, intent: bool, from_lease: tuple[str, int] | None = None) -> Lease | None:
        """Become the only refresher of this generation.

        Args:
            grant: As it was read.
            owner: This process.
            intent: Mark that a refresh of this generation was begun; for requests that rotate something.
            from_lease: The owner and counter of a lease that may be taken over.

        Returns:
            The lease; None where somebody else holds one or the grant has moved on.
        """
        free = _GRANTS.c.lease_owner == ""
        if from_lease is not None:
            free |= (_GRANTS.c.lease_owner == from_lease[0]) & (_GRANTS.c.lease_counter == from_lease[1])
        counter = grant.lease_counter + 1
        values: dict[str, Any] = {
            "lease_owner": owner,
            "lease_counter": counter,
            "lease_until": micros(self.now + LEASE),
            "updated_at": micros(self.now),
        }
        if intent:
            values["intent"] = grant.generation + 1
        changed = self.connection.execute(
            update(_GRANTS)
            .where(
                _GRANTS.c.id == grant.id,
                _GRANTS.c.generation == grant.generation,
                _GRANTS.c.state != GrantState.REVOKED.value,
                _GRANTS.c.lease_counter == grant.lease_counter,
                free,
            )
            .values(values)
        )
        if changed.rowcount != 1:
            return None
        return Lease(
            replace(grant, lease_owner=owner, lease_counter=counter), owner, counter, grant.intent == grant.generation + 1
        )

    def renew_lease(self, lease: Lease) -> Lease | None:
        """Take the same lease again, because its two seconds to start passed."""
        held = (lease.owner, lease.counter)
        return self.take_lease(lease.grant, lease.owner, intent=False, from_lease=held)

    def release_lease(self, lease: Lease, *, keep_intent: bool) -> None:
        """Let others refresh; keep the intent where the server may have processed the request unseen."""
        values: dict[str, Any] = {"lease_owner": "", "lease_until": 0, "updated_at": micros(self.now)}
        if not keep_intent:
            values["intent"] = 0
        self.connection.execute(update(_GRANTS).where(*self._held(lease)).values(values))

    def put_tokens(self, lease: Lease, tokens: TokenSet, obtained_by: str) -> Grant | None:
        """Store what a refresh brought: where the generation is still ours and nothing was revoked, lease or not.

        Returns:
            The new grant; None where a newer generation stands or the grant was revoked.
        """
        return self._store(lease.grant, tokens, obtained_by, _GRANTS.c.state != GrantState.REVOKED.value)

    def complete_grant(self, key: GrantKey, tokens: TokenSet, obtained_by: str) -> Grant:
        """Store what a consent brought; it replaces whatever stood."""
        grant = self.find_grant(key) or self.insert_pending(key)
        stored = self._store(grant, tokens, obtained_by)
        if stored is None:
            raise VaultCorrupt("a grant changed inside its own transaction")
        return stored

    def mark_needs_consent(self, lease: Lease, reason: Reason) -> bool:
        """Note that a refresh was refused for good; only the current lease of the current generation may.

        Returns:
            Whether it was noted; not where the lease was lost, or where there are no tokens that a refresh could be of.
        """
        values = {
            "state": GrantState.NEEDS_CONSENT.value,
            "reason": reason.value,
            "lease_owner": "",
            "lease_until": 0,
            "intent": 0,
        }
        changed = self.connection.execute(
            update(_GRANTS)
            .where(*self._held(lease), _GRANTS.c.tokens.is_not(None))
            .values(**values, updated_at=micros(self.now))
        )
        return changed.rowcount == 1

    def revoke_grant_row(self, grant: Grant) -> None:
        """End a grant here: the generation rises, so late writers lose, and the sealed tokens are overwritten."""
        self._update(
            grant,
            {
                "state": GrantState.REVOKED.value,
                "reason": Reason.REVOKED.value,
                "generation": grant.generation + 1,
                "tokens": None,
                "granted_scopes": "",
                "expires_at": 0,
                "lease_owner": "",
                "lease_until": 0,
                "intent": 0,
            },
        )

    def _store(self, grant: Grant, tokens: TokenSet, obtained_by: str, *conditions: Any) -> Grant | None:
        generation = grant.generation + 1
        sealed = self._seal(encode_tokens(tokens, obtained_by), _place(grant.id, grant.key, generation))
        changed = self.connection.execute(
            update(_GRANTS)
            .where(_GRANTS.c.id == grant.id, _GRANTS.c.generation == grant.generation, *conditions)
            .values(
                state=GrantState.ACTIVE.value,
                reason="",
                generation=generation,
                tokens=sealed,
                granted_scopes=" ".join(sorted(tokens.scopes)),
                expires_at=micros(tokens.expires_at),
                obtained_by=obtained_by,
                lease_owner="",
                lease_until=0,
                intent=0,
                updated_at=micros(self.now),
            )
        )
        if changed.rowcount != 1:
            return None
        return replace(
            grant,
            state=GrantState.ACTIVE,
            reason=None,
            generation=generation,
            tokens=tokens,
            obtained_by=obtained_by,
            lease_owner="",
            intent=0,
            updated_at=self.now,
        )

    def _held(self, lease: Lease) -> tuple[Any, ...]:
        return (
            _GRANTS.c.id == lease.grant.id,
            _GRANTS.c.generation == lease.grant.generation,
            _GRANTS.c.lease_owner == lease.owner,
            _GRANTS.c.lease_counter == lease.counter,
        )

    def _update(self, grant: Grant, values: dict[str, Any]) -> None:
        change = update(_GRANTS).where(_GRANTS.c.id == grant.id).values(**values, updated_at=micros(self.now))
        if self.connection.execute(change).rowcount != 1:
            raise VaultCorrupt("a grant cannot be changed: the database swallows it")

    def _grant(self, row: AnyRow, key: GrantKey) -> Grant:
        if key_of_row(row) != key or row["key_hash"] != grant_key_hash(key):
            raise VaultCorrupt("a grant was moved to another owner")
        try:
            state, reason = GrantState(row["state"]), Reason(row["reason"]) if row["reason"] else None
        except ValueError:
            raise VaultCorrupt("a grant is in an unknown state") from None
        tokens: TokenSet | None = None
        obtained_by = ""
        if row["tokens"] is not None:
            tokens, obtained_by = decode_tokens(self._open(row["tokens"], _place(row["id"], key, row["generation"])))
            hints = (row["granted_scopes"], row["expires_at"], row["obtained_by"])
            if hints != (" ".join(sorted(tokens.scopes)), micros(tokens.expires_at), obtained_by):
                raise VaultCorrupt("a grant's columns differ from what is sealed")
        if (tokens is None) != (state in (GrantState.PENDING, GrantState.REVOKED)):
            raise VaultCorrupt("a grant's state and its sealed tokens do not belong together")
        return Grant(
            id=row["id"],
            key=key,
            state=state,
            generation=row["generation"],
            tokens=tokens,
            reason=reason,
            lease_owner=row["lease_owner"],
            lease_counter=row["lease_counter"],
            intent=row["intent"],
            obtained_by=obtained_by,
            created_at=moment(row["created_at"]),
            updated_at=moment(row["updated_at"]),
        )


def _named(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(_BY_DIGEST.columns, row, strict=True))
