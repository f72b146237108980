"""A vault of every schema that ever landed: made by the product of its day, kept as files, opened by the product of today.

`python -m tests.vault.schemas` adds those of the schema that the product has now: `fixtures/schema-<n>.db`, the same on
PostgreSQL as SQL (`schema-<n>.sql`), and their keys. Run it once before a migration is written; never again for that schema.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import open_vault
from mcp_identity.vault.writer import SCHEMA_VERSION
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.postgres import SUPERUSER, Database, postgres
from tests.vault.kit import (
    ALICE,
    EVENT,
    MALLORY,
    Place,
    attempt,
    consent_session,
    digest,
    grant_key,
    location,
    provider,
    seed,
    token_set,
)

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = tuple(sorted(int(path.stem.removeprefix("schema-")) for path in FIXTURES.glob("schema-*.db")))
"""The schemas that there is a vault of."""


def fill(records: Records) -> None:
    """Something of everything that a vault keeps sealed, and a trail."""
    seeded = seed(records)
    records.complete_grant(grant_key(seeded.agent), token_set("alice"), "consent")
    records.complete_grant(grant_key(seeded.agent, None), token_set("client", refresh_token=None), "client")
    records.revoke_grant_row(records.complete_grant(grant_key(seeded.agent, MALLORY), token_set("mallory"), "consent"))
    session = consent_session(seeded.agent)
    records.insert_session(session, digest("request"))
    records.start_attempt(session, attempt())
    records.insert_workload_key(DEFAULT_TENANT, seeded.agent.id, digest("key"))
    for action in ("start_consent", "get_token", "revoke_grant"):
        records.append_audit(replace(EVENT, action=action))


def read(records: Records) -> dict[str, Any]:
    """What `fill` put in, as it is read back: every sealed cell opened, every row that decides something verified."""
    agent = records.find_workload(DEFAULT_TENANT, "agent")
    found = records.find_provider(DEFAULT_TENANT, "github")
    kept = records.find_attempt(attempt().state_hash)
    key = records.find_workload_key(digest("key"))
    assert agent is not None
    assert found is not None
    assert kept is not None
    assert key is not None
    secret = records.open_provider_secret(found)
    assert secret is not None
    listed = records.list_provider_grants(DEFAULT_TENANT, "row-github")
    return {
        "corrupt": (
            listed.corrupt,
            records.list_workloads(DEFAULT_TENANT).corrupt,
            records.list_providers(DEFAULT_TENANT).corrupt,
        ),
        "provider": found == provider(),
        "secret": secret.reveal(),
        "tokens": sorted(grant.tokens.access_token.reveal() for grant in listed.grants if grant.tokens),
        "states": sorted((grant.state.value, grant.generation) for grant in listed.grants),
        "request": kept[0].request.user == ALICE.key,
        "verifier": kept[1] == attempt(),
        "workload key": key.workload_id == agent.id,
        "trail": [event.action for _, event in records.list_audit(DEFAULT_TENANT, limit=99)],
    }


EXPECTED: dict[str, Any] = {
    "corrupt": ((), (), ()),
    "provider": True,
    "secret": "client-secret-github",
    "tokens": ["access-alice", "access-client"],
    "states": [("active", 1), ("active", 1), ("revoked", 2)],
    "request": True,
    "verifier": True,
    "workload key": True,
    "trail": ["start_consent", "get_token", "revoke_grant"],
}


def put(version: int, home: Path, *, on_postgres: bool) -> Place:
    """Put the vault of a schema where a test may open it."""
    home.mkdir(mode=0o700)
    name = f"schema-{version}"
    copyfile(FIXTURES / f"{name}.{'sql' if on_postgres else 'db'}.key", home / "key")
    (home / "key").chmod(0o600)
    if not on_postgres:
        copyfile(FIXTURES / f"{name}.db", home / "vault.db")
        (home / "vault.db").chmod(0o600)
        return home / "vault.db"
    database = postgres().create_database()
    with database.server.connect(database.name) as connection:
        connection.execute((FIXTURES / f"{name}.sql").read_bytes())
    return database


def make() -> None:
    """Keep vaults of the schema that the product has now."""
    for on_postgres in (False, True):
        with TemporaryDirectory() as folder:
            home = Path(folder) / "home"
            database: Place = postgres().create_database() if on_postgres else home / "vault.db"
            where = replace(location(home, database=database), process_id="of-that-day")
            vault = open_vault(where, FakeClock(), SystemEntropy())
            anyio.run(vault.run, fill)
            vault.close()
            target = FIXTURES / f"schema-{SCHEMA_VERSION}.{'sql' if on_postgres else 'db'}"
            copyfile(home / "key", target.with_name(f"{target.name}.key"))
            if isinstance(database, Database):
                target.write_text(dump(database))
            else:
                copyfile(database, target)


def dump(database: Database) -> str:
    """A database as SQL."""
    server = database.server
    done = subprocess.run(
        [
            str(server.binaries / "pg_dump"), "--host", str(server.folder), "--port", str(server.port), "--username", SUPERUSER,
            "--inserts", "--no-comments", database.name,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # What begins with a backslash is for psql, and what is set at the beginning would outlast the dump.
    return "".join(
        f"{line}\n" for line in done.stdout.splitlines() if line and not line.startswith(("\\", "--", "SET ", "SELECT "))
    )


if __name__ == "__main__":
    sys.exit(make())
