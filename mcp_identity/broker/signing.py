"""Which key signs the identity tokens of a tenant, and which must others still know?

A new key is published a day before it signs, since others keep what they have read, and an old one a day longer than it
signed. One that has signed for 90 days is followed by a new one as soon as a token is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from mcp_identity.broker.audit import Call
from mcp_identity.broker.services import Services
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.oauth.identity_token import ALGORITHM, KEY_RANDOM_BYTES, make_signing_key
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.signing_keys import StoredSigningKey

PUBLISHED_BEFORE = timedelta(days=1)
PUBLISHED_AFTER = timedelta(days=1)
SIGNS_FOR = timedelta(days=90)


class SigningKeys:
    """The keys of the tenants."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def ensure(self, call: Call) -> None:
        """See to it that the tenant has a key, and that an old one is followed."""
        tenant, vault = call.principal.tenant, self._services.vault
        if not await vault.read(lambda records: _is_due(records, tenant)):
            return
        made = make_signing_key(self._services.entropy.random_bytes(KEY_RANDOM_BYTES))
        event = call.event(action="make_signing_key")

        def unit(records: Records) -> None:
            if _is_due(records, tenant):  # else another process was first
                until = records.now + PUBLISHED_BEFORE + PUBLISHED_AFTER
                version = records.insert_signing_key(tenant, ALGORITHM, made.public_jwk, made.private_jwk, until=until)
                records.append_audit(event.ending("ok", version=str(version)))

        await vault.run(unit, event)


def signing_key(keys: Sequence[StoredSigningKey], now: datetime) -> StoredSigningKey:
    """The key that signs now: the newest that others have had the time to read; of a tenant's first key, that one.

    Args:
        keys: Those that others may know, oldest first.
        now: The time.

    Raises:
        VaultCorrupt: If there is none.
    """
    if not keys:
        raise VaultCorrupt("the tenant has no signing key")
    return next((key for key in reversed(keys) if key.created_at + PUBLISHED_BEFORE <= now), keys[0])


def _is_due(records: Records, tenant: str) -> bool:
    keys = records.list_signing_keys(tenant)
    return not keys or keys[-1].created_at + SIGNS_FOR <= records.now
