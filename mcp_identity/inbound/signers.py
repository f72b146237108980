"""Who signed this request, and what may they do? Access keys, looked up in the vault, and the signature that proves one.

What a key may do is read with each verification, or remembered for a minute at most and only as long as the configuration
has not changed; who is remembered is believed only until the vault has confirmed them (`domain/standing.py`). A key that is not
there costs the same work as a wrong signature. Refusals are one text for every reason; counting, limiting and auditing them is
done at the edge, which knows where they come from. That a request came encrypted is the door's to see to.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from mcp_identity.domain.access_key import AccessKey, AccessKeyRole, Signer, is_access_key_id
from mcp_identity.domain.clock import Clock
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.standing import Standing
from mcp_identity.inbound.sigv4 import (
    Claim,
    Reason,
    SignatureRefused,
    SignedRequest,
    access_key_id_of,
    is_signed,
    read_claim,
    signing_key,
)
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault

__all__ = ["SignatureRefused", "SignedRequest", "Signers", "access_key_id_of"]

REMEMBERED_SECONDS = 60.0
"""How long what a key may do is remembered."""
FRESH_SECONDS = 1.0
"""How lately this process must have looked at the vault's configuration for any key to be remembered."""
MOST_REMEMBERED = 1024
MOST_SCOPES = 4
USE_SECONDS = 60.0
_NOBODYS = Secret("mid_sk_" + "0" * 43)
"""Signs nothing; what a signature is checked with where there is no key."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A key as the vault told it, under which configuration epoch, and when by the monotonic clock."""

    key: AccessKey
    workload_ids: frozenset[str]
    secret: Secret = field(repr=False)
    epoch: int
    at: float
    signing_keys: dict[tuple[str, str], bytes] = field(default_factory=dict[tuple[str, str], bytes], repr=False)
    """What the secret signs with, by day and region."""

    def signed(self, claim: Claim) -> bool:
        """Whether this key signed what is claimed."""
        scope = claim.date, claim.region
        found = self.signing_keys.get(scope)
        if found is None:
            found = signing_key(claim, self.secret)
            if len(self.signing_keys) < MOST_SCOPES:  # the caller chooses the region
                self.signing_keys[scope] = found
        return is_signed(claim, found)


class Signers:
    """Believes signed requests, or does not."""

    def __init__(self, vault: Vault, clock: Clock, hosts: frozenset[str]) -> None:
        """Keep what it works with.

        Args:
            vault: Access keys and workloads.
            clock: For the time of signatures.
            hosts: Values of the Host header that are ours, in lower case.
        """
        self._vault = vault
        self._clock = clock
        self._hosts = hosts
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._noted: OrderedDict[str, float] = OrderedDict()

    async def verify(self, request: SignedRequest) -> Signer:
        """Who signed a request, by what the vault says now.

        Raises:
            SignatureRefused: If nobody whom we know did, for whatever reason; it is an `Unauthenticated`.
            StorageError: If that cannot be known now.
        """
        claim = self._read(request)
        known = await self._look_up(claim.access_key_id)
        signed = known.signed(claim) if known else is_signed(claim, signing_key(claim, _NOBODYS))
        if known is None:
            raise SignatureRefused(Reason.KEY)
        if not signed:
            raise SignatureRefused(Reason.SIGNATURE)
        if known.key.role is AccessKeyRole.WORKLOAD and not known.workload_ids:
            raise SignatureRefused(Reason.WORKLOAD)
        self._remember(known)
        await self._note_use(known.key)
        return _signer(claim, known)

    def recall(self, request: SignedRequest) -> tuple[Signer, Standing] | None:
        """Who signed a request, by what the vault said a moment ago, under a configuration that holds as far as is known.

        None where the key is not remembered, or did not sign: `verify` then says so. Whoever takes this word must have it
        confirmed before anything leaves.

        Raises:
            SignatureRefused: If the request is not signed as clients of this service sign.
        """
        claim = self._read(request)
        known, now = self._known.get(claim.access_key_id), self._clock.monotonic()
        if known is None or now - known.at > REMEMBERED_SECONDS or known.epoch != self._vault.recent_epoch(FRESH_SECONDS):
            return None
        return (_signer(claim, known), Standing(known.epoch)) if known.signed(claim) else None

    def _read(self, request: SignedRequest) -> Claim:
        return read_claim(request, now=self._clock.now(), hosts=self._hosts)

    async def _look_up(self, access_key_id: str) -> _Known | None:
        def unit(records: Records) -> tuple[AccessKey, frozenset[str], Secret, int] | None:
            found = records.find_access_key(access_key_id) if is_access_key_id(access_key_id) else None
            if found is None:
                records.pretend_access_key(access_key_id)
                return None
            key, secret = found
            return key, _standing_ids(records, key), secret, records.caches.epoch

        found = await self._vault.run(unit)
        return _Known(*found, self._clock.monotonic()) if found else None

    def _remember(self, known: _Known) -> None:
        self._known[known.key.access_key_id] = known
        self._known.move_to_end(known.key.access_key_id)
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def _note_use(self, key: AccessKey) -> None:
        """Write down that a key is used, once a minute."""
        now = self._clock.monotonic()
        if now - self._noted.get(key.id, -USE_SECONDS) < USE_SECONDS:
            return
        self._noted[key.id] = now
        self._noted.move_to_end(key.id)
        if len(self._noted) > MOST_REMEMBERED:
            self._noted.popitem(last=False)
        await self._vault.run(lambda records: records.note_access_key_use(key))


def _standing_ids(records: Records, key: AccessKey) -> frozenset[str]:
    """The workloads of a key that are there and may do something."""
    found = (records.find_workload_id(key.tenant, each) for each in key.workload_ids)
    return frozenset(workload.id for workload in found if workload is not None and not workload.disabled)


def _signer(claim: Claim, known: _Known) -> Signer:
    key = known.key
    return Signer(
        tenant=key.tenant,
        key_id=key.id,
        access_key_id=key.access_key_id,
        role=key.role,
        workload_ids=known.workload_ids,
        may_assert_users=key.may_assert_users,
        region=claim.region,
        signature_hash=claim.signature_hash,
    )
