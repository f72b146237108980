"""An access key, with which a caller signs requests: what it looks like, what it may do, and whom its signature proves.

A key is of one tenant. With the role ``admin`` it stands for an operator of that tenant and for every workload of it; with the
role ``workload`` for the workloads that were named when it was made, and for nothing else. A `Signer` is verified data: it is
made where a signature was checked (`inbound/signers.py`), and nowhere else.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mcp_identity.domain.clock import Entropy, random_token
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import WorkloadIdentity

ACCESS_KEY_PREFIX = "MID"
"""Tells our keys from those of a cloud, for people and for scanners that look for leaked ones."""
SECRET_PREFIX = "mid_sk_"  # noqa: S105 - how every secret begins, for the same reason
_ACCESS_KEY_ID = re.compile(r"MID[A-Z2-7]{17}")
_RANDOM_CHARACTERS = 17
_RANDOM_BYTES = 15
"""Give 24 base32 characters, of which the first 17 stand in the id: a name of 85 random bits, no secret."""


class AccessKeyRole(StrEnum):
    """What a key may do."""

    ADMIN = "admin"
    WORKLOAD = "workload"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key, without its secret.

    Attributes:
        id: Row id; names it in the trail.
        tenant: Whose it is.
        access_key_id: What stands in signed requests; unique in the vault, no secret.
        role: What it may do.
        workload_ids: The workloads that it stands for; empty for an administrator's, which stands for all.
        may_assert_users: It may name a user by an id, also where the workload may not.
        created_at: When it was made.
        last_used_at: When it last signed something, to about a minute; None for never.
    """

    id: str
    tenant: str
    access_key_id: str
    role: AccessKeyRole
    workload_ids: frozenset[str]
    may_assert_users: bool
    created_at: datetime
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed a request, verified.

    Attributes:
        tenant: The key's tenant.
        key_id: The key's row; names it in the trail.
        access_key_id: As it stands in the request.
        role: What the key may do.
        workload_ids: The workloads that it stands for now, without those that are disabled or gone; empty for an administrator.
        may_assert_users: It may name a user by an id.
        region: As it was signed; any name.
        signature_hash: SHA-256 that tells this signature of this key from every other.
    """

    tenant: str
    key_id: str
    access_key_id: str
    role: AccessKeyRole
    workload_ids: frozenset[str]
    may_assert_users: bool
    region: str
    signature_hash: bytes

    @property
    def is_admin(self) -> bool:
        """Whether it acts as an operator of its tenant."""
        return self.role is AccessKeyRole.ADMIN

    def may_act_for(self, workload: WorkloadIdentity) -> bool:
        """Whether it may stand for this workload; a disabled one nobody stands for."""
        if workload.tenant != self.tenant or workload.disabled:
            return False
        return self.is_admin or workload.id in self.workload_ids


def new_access_key_id(entropy: Entropy) -> str:
    """A name for a new key: 20 characters, as clients expect them."""
    random = base64.b32encode(entropy.random_bytes(_RANDOM_BYTES)).decode("ascii")
    return ACCESS_KEY_PREFIX + random[:_RANDOM_CHARACTERS]


def new_access_key_secret(entropy: Entropy) -> Secret:
    """A secret of 256 random bits."""
    return Secret(SECRET_PREFIX + random_token(entropy))


def is_access_key_id(text: str) -> bool:
    """Whether `text` can name a key of ours."""
    return _ACCESS_KEY_ID.fullmatch(text) is not None
