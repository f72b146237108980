"""How does a vault come to hold a million grants before anybody has asked for one?

Rows are sealed as the product seals them and written many to a statement, beside the writer and into either database. What
comes out is what as many consents would have left behind, but for the trail.

    keys = user_grant_keys(workload, provider.id, 1_000_000)
    insert_grants(vault, keys, tokens(provider), now=clock.now())
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import BigInteger, Connection, Text, insert

from mcp_identity.domain.credentials import Flow, GrantKey, GrantState, Secret, TokenSet
from mcp_identity.domain.identity import User, UserKind, WorkloadIdentity
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.vault.columns import Blob
from mcp_identity.vault.envelope import KEY_ID_BYTES, RANDOM_BYTES, Place, seal
from mcp_identity.vault.keys import DataKey, KeyNotLoaded
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.grants import grant_key_hash
from mcp_identity.vault.records.moments import micros
from mcp_identity.vault.records.token_cell import encode_tokens
from mcp_identity.vault.vault import Vault

ISSUER = "https://many.example"
_GRANTS = table("grants")
_TYPES: dict[type[Any], str] = {Text: "text", BigInteger: "int8"}
_CHUNK = 5000
"""Rows of one transaction: enough that its commit does not count, few enough that the writer is not kept out for long."""


def user_of(number: int) -> User:
    """The user of that number."""
    return User(ISSUER, f"user-{number}", UserKind.OIDC, f"User {number}")


def user_grant_keys(workload: WorkloadIdentity, provider_row: str, count: int, first: int = 0) -> Iterator[GrantKey]:
    """The keys of what so many users have granted one agent at one provider."""
    for number in range(first, first + count):
        yield GrantKey(workload.tenant, workload.id, user_of(number).key, provider_row, Flow.USER_FEDERATION)


def tokens(
    provider: CredentialProvider,
    now: datetime,
    lifetime: timedelta = timedelta(hours=12),
    scopes: Iterable[str] | None = None,
    **changes: Any,
) -> TokenSet:
    """A token set that a provider's server could have issued at `now`."""
    granted = frozenset(provider.scopes if scopes is None else scopes)
    given: dict[str, Any] = {
        "access_token": Secret("many-grants-access-token-0123456789"),
        "token_type": "Bearer",
        "scopes": granted,
        "requested_scopes": granted,
        "obtained_at": now,
        "expires_at": now + lifetime,
        "refresh_token": Secret("many-grants-refresh-token-0123456789"),
        "destination": provider.destination(),
    }
    return TokenSet(**(given | changes))


def insert_grants(
    vault: Vault,
    keys: Iterable[GrantKey],
    given: TokenSet | Callable[[GrantKey], TokenSet],
    *,
    now: datetime,
    advance: Callable[[int], object] = lambda _: None,
) -> int:
    """Write an active grant for every key; call it off the event loop.

    Args:
        vault: Open.
        keys: One tenant's; no two are equal, and workload and provider are in the vault.
        given: The tokens of all, or what makes each grant's own.
        now: When they were granted.
        advance: Told how many rows were written, after each transaction.

    Returns:
        How many there are now.
    """
    engine = vault._store.writing_engine()  # pyright: ignore[reportPrivateUsage]
    written, waiting = 0, iter(keys)
    cell_of = _cells(given)
    try:
        while chunk := list(islice(waiting, _CHUNK)):
            data_key = _current_key(vault, chunk[0].tenant)
            rows = [_row(data_key, key, *cell_of(key), now) for key in chunk]
            with engine.begin() as connection:
                _add(connection, rows)
            written += len(rows)
            advance(len(rows))
    finally:
        engine.dispose()
    return written


def _add(connection: Connection, rows: list[dict[str, Any]]) -> None:
    if connection.dialect.name != "postgresql":
        connection.execute(insert(_GRANTS), rows)
        return
    driver: Any = connection.connection.driver_connection
    names = [column.name for column in _GRANTS.columns]
    with driver.cursor() as cursor, cursor.copy(f"COPY grants ({', '.join(names)}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["bytea" if isinstance(column.type, Blob) else _TYPES[type(column.type)] for column in _GRANTS.columns])
        for row in rows:
            copy.write_row([row[name] for name in names])


def _cells(given: TokenSet | Callable[[GrantKey], TokenSet]) -> Callable[[GrantKey], tuple[TokenSet, bytes]]:
    """The tokens of a key and what of them is sealed; encoded once where all have the same."""
    if isinstance(given, TokenSet):
        same = given, encode_tokens(given, "consent")
        return lambda _: same
    make = given

    def cell(key: GrantKey) -> tuple[TokenSet, bytes]:
        made = make(key)
        return made, encode_tokens(made, "consent")

    return cell


def _current_key(vault: Vault, tenant: str) -> DataKey:
    ring = vault._ring  # pyright: ignore[reportPrivateUsage]
    try:
        return ring.current(tenant)
    except KeyNotLoaded:
        vault.load_keys(tenant)
        return ring.current(tenant)


def _row(data_key: DataKey, key: GrantKey, tokens: TokenSet, plaintext: bytes, now: datetime) -> dict[str, Any]:
    random = os.urandom(KEY_ID_BYTES + RANDOM_BYTES)
    grant_id = random[:KEY_ID_BYTES].hex()
    place = Place("grants", key.tenant, grant_id, "tokens", 1, key.parts())
    return {
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
        "state": GrantState.ACTIVE.value,
        "reason": "",
        "generation": 1,
        "tokens": seal(data_key, plaintext, place, random[KEY_ID_BYTES:]),
        "granted_scopes": " ".join(sorted(tokens.scopes)),
        "expires_at": micros(tokens.expires_at),
        "obtained_by": "consent",
        "lease_owner": "",
        "lease_counter": 0,
        "lease_until": 0,
        "intent": 0,
        "created_at": micros(now),
        "updated_at": micros(now),
    }
