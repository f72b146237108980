"""What do the vault's tests put into it? Values with every field set, so that none is compared with its own default."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.consent import Binding, ConsentRequest, ConsentSession, ConsentState
from mcp_identity.domain.credentials import Flow, GrantKey, Reason, Secret, TokenSet
from mcp_identity.domain.identity import DEFAULT_TENANT, User, UserKind, WorkloadIdentity
from mcp_identity.domain.provider import (
    AuthorizationServer,
    ClientAuthentication,
    CredentialProvider,
    ProviderKind,
    Release,
)
from mcp_identity.settings import read_secret
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.opening import VaultLocation
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.consents import Attempt
from mcp_identity.vault.stores.postgres_url import parse_url
from tests.fakes.clock import START
from tests.fakes.postgres import Database

ALICE = User("https://idp.example", "alice", UserKind.OIDC, "Alice")
MALLORY = User("https://idp.example", "mallory", UserKind.OIDC, "Mallory")
SCOPES = frozenset({"repo", "read:user"})
EVENT = AuditEvent(
    DEFAULT_TENANT,
    "agent",
    "workload-id",
    ALICE.key,
    "Alice",
    verified=True,
    edge="stdio",
    action="get_token",
    provider="github",
)
_numbers = count(1)


Place = Path | Database
"""Where a vault is: a file, or a database on PostgreSQL."""


def location(home: Path, *, key: KeySource | None = None, database: Place | None = None, wait: float = 5.0) -> VaultLocation:
    """A folder, as a process that has just started sees it."""
    if isinstance(database, Database):
        address = parse_url(database.url, read_secret)
        return VaultLocation(home, key, f"process-{next(_numbers)}", None, wait, address)
    return VaultLocation(home, key, f"process-{next(_numbers)}", database, wait)


def token_set(name: str = "1", **changes: Any) -> TokenSet:
    """A token set whose secrets hold `name`."""
    tokens = TokenSet(
        access_token=Secret(f"access-{name}"),
        token_type="Bearer",
        scopes=SCOPES,
        requested_scopes=SCOPES | {"gist"},
        obtained_at=START,
        expires_at=START + timedelta(hours=1),
        refresh_token=Secret(f"refresh-{name}"),
        refresh_expires_at=START + timedelta(days=30),
        account_id="42",
        extra={"instance_url": "https://eu.example"},
        destination="destination",
    )
    return replace(tokens, **changes)


def provider(name: str = "github", **changes: Any) -> CredentialProvider:
    """A provider of which every field says something."""
    made = CredentialProvider(
        id=f"row-{name}",
        tenant=DEFAULT_TENANT,
        name=name,
        vendor="github",
        kind=ProviderKind.OAUTH2,
        provider_id=f"callback-{name}",
        settings={"host": "github.example"},
        server=AuthorizationServer(
            "https://as.example",
            "https://as.example/authorize",
            "https://as.example/token",
            "https://as.example/refresh",
            "https://as.example/revoke",
            "https://as.example/jwks",
            requires_iss=True,
        ),
        client_id="client",
        client_authentication=ClientAuthentication.POST,
        flows=(Flow.USER_FEDERATION, Flow.M2M),
        scopes=SCOPES,
        release=Release.TOKEN,
        api_hosts=("https://api.example", "https://uploads.example"),
        allow_http_loopback=True,
    )
    return replace(made, **changes)


def grant_key(workload: WorkloadIdentity, user: User | None = ALICE, **changes: Any) -> GrantKey:
    """The key of a grant of a workload and a user."""
    flow = Flow.USER_FEDERATION if user else Flow.M2M
    key = GrantKey(
        DEFAULT_TENANT, workload.id, user.key if user else "", "row-github", flow, "https://api.example", "audience",
        scopes="" if user else "read:user repo",
    )  # fmt: skip
    return replace(key, **changes)


def consent_request(workload: WorkloadIdentity, user: User = ALICE, **changes: Any) -> ConsentRequest:
    """A request of which every field says something."""
    request = ConsentRequest(
        tenant=DEFAULT_TENANT,
        workload_id=workload.id,
        workload_epoch=workload.epoch,
        user=user.key,
        provider_row="row-github",
        configuration_digest="digest",
        flow=Flow.USER_FEDERATION,
        scopes=SCOPES,
        redirect_uri="http://127.0.0.1:8976/oauth2/callback/callback-github",
        binding=Binding.LOCAL,
        reason=Reason.MISSING_SCOPES,
        resource="https://api.example",
        audience="audience",
        parameters=(("login", "alice"), ("prompt", "consent")),
        forced=True,
        provider="github",
        workload="agent",
        workload_verified=True,
        user_display="Alice",
        edge="stdio",
        user_kind=UserKind.OIDC,
        login_issuer="issuer-1",
        return_url="https://app.example/back",
        custom_state="custom",
        elicited=True,
    )
    return replace(request, **changes)


def consent_session(workload: WorkloadIdentity, name: str = "a", user: User = ALICE, **changes: Any) -> ConsentSession:
    """A new session; `name` makes its id."""
    made = ConsentSession(
        (name * 43)[:43], consent_request(workload, user), ConsentState.PENDING, START, START + timedelta(minutes=10)
    )
    return replace(made, **changes)


def digest(text: str) -> bytes:
    """A hash that stands for what `text` names."""
    return hashlib.sha256(text.encode()).digest()


def attempt(name: str = "a") -> Attempt:
    """What one press of the button makes."""
    hashes = digest(f"state-{name}"), digest(f"browser-{name}")
    return Attempt(*hashes, Secret(f"verifier-{name}"), f"nonce-{name}", allow_other_account=True)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What `seed` put in."""

    agent: WorkloadIdentity
    other: WorkloadIdentity


def seed(records: Records) -> Seeded:
    """Two providers with secrets, two workloads and two users; the least that grants and consents refer to."""
    records.insert_provider(provider(), Secret("client-secret-github"))
    records.insert_provider(provider("slack"), Secret("client-secret-slack"))
    for user in (ALICE, MALLORY):
        records.register_user(DEFAULT_TENANT, user)
    return Seeded(
        records.register_workload(DEFAULT_TENANT, "agent", "stdio"), records.register_workload(DEFAULT_TENANT, "other", "stdio")
    )


def behind_its_back(database: Place, *statements: str | tuple[str, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Edit or read the database as somebody who holds it, and not the key; the rows of the last statement.

    Values stand for ``?``; bytes of zeros are ``zeroblob(<count>)``, on both databases.
    """
    if isinstance(database, Database):
        return database.execute(*map(_for_postgres, statements))
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            text, values = (statement, ()) if isinstance(statement, str) else statement
            rows = connection.execute(text, values).fetchall()
        return rows


def _for_postgres(statement: str | tuple[str, tuple[Any, ...]]) -> str | tuple[str, tuple[Any, ...]]:
    text, values = (statement, ()) if isinstance(statement, str) else statement
    text = re.sub(r"zeroblob\((\d+)\)", r"decode(repeat('00', \1), 'hex')", text)
    return (text.replace("?", "%s"), values) if values else text


def fingerprint(folder: Path) -> dict[str, str]:
    """Every name below a folder, with the hash of what the file holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def first_of(values: Iterable[tuple[Any, ...]]) -> Any:
    """The first cell of the first row."""
    return next(iter(values))[0]
