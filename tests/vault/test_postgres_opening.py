"""Which states of key and database is a vault on PostgreSQL opened in, and what is refused with nothing changed?"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.domain.errors import IdentityError, VaultUnavailable
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.kms.local import new_key_text
from mcp_identity.vault.opening import Migration, migrate_location
from mcp_identity.vault.vault import Vault, open_vault
from mcp_identity.vault.writer import SCHEMA_VERSION
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.postgres import ROLE, Database, postgres
from tests.vault.kit import EVENT, behind_its_back, fingerprint, location, seed
from tests.vault.starts import env_key

pytestmark = pytest.mark.postgresql


@pytest.fixture
def empty() -> Generator[Database]:
    database = postgres().create_database()
    yield database
    database.drop()


def opened(home: Path, database: Database, *, key: KeySource | None = None, initialise: bool = False) -> Vault:
    where = location(home, database=database, key=key)
    return open_vault(where, FakeClock(), SystemEntropy(), initialise=initialise)


def start(home: Path, database: Database, *, key: KeySource | None = None, initialise: bool = False) -> str:
    with closing(opened(home, database, key=key, initialise=initialise)) as vault:
        return vault.id


TABLES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2
"""


def content(database: Database) -> dict[str, Any]:
    """Everything in a database, and what it is made of."""
    found: dict[str, Any] = {}
    for schema, name in database.execute(TABLES):
        found[f"{schema}.{name}"] = sorted(database.execute(f"SELECT t::text FROM {schema}.{name} t"))  # noqa: S608 - names of ours
    found["relations"] = database.execute("SELECT relname, relkind::text, relnamespace FROM pg_class ORDER BY oid")
    return found


def refusal(home: Path, database: Database, *, key: KeySource | None = None, initialise: bool = False) -> IdentityError:
    before = content(database), fingerprint(home.parent)
    with pytest.raises(IdentityError) as caught:
        start(home, database, key=key, initialise=initialise)
    assert (content(database), fingerprint(home.parent)) == before
    assert database.server.password not in str(caught.value)
    return caught.value


# --- the first start --------------------------------------------------------------------------------------------------


def test_the_first_start_makes_key_and_vault_and_the_second_opens_them(tmp_path: Path, empty: Database) -> None:
    home = tmp_path / "home"
    assert start(home, empty) == start(home, empty)
    assert [path.name for path in home.iterdir()] == ["key"]
    assert empty.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_key_elsewhere_needs_the_command_to_make_a_vault_and_no_folder(tmp_path: Path, empty: Database) -> None:
    home, key = tmp_path / "none", env_key(new_key_text(SystemEntropy()))
    assert refusal(home, empty, key=key).code == "configuration_error"
    made = start(home, empty, key=key, initialise=True)
    assert start(home, empty, key=key) == made
    assert not home.exists()


def test_a_schema_that_the_databases_owner_made_is_used(tmp_path: Path, empty: Database) -> None:
    empty.execute(f"ALTER DATABASE {empty.name} OWNER TO postgres")
    with pytest.raises(VaultUnavailable) as caught:
        start(tmp_path / "home", empty)
    assert "CREATE SCHEMA mcp_identity AUTHORIZATION" in caught.value.message
    (tmp_path / "home" / "key").unlink()
    empty.execute(f"CREATE SCHEMA mcp_identity AUTHORIZATION {ROLE}")
    start(tmp_path / "home", empty)


@pytest.mark.parametrize("shared_home", [True, False])
def test_ten_replicas_that_start_at_once_make_one_vault(tmp_path: Path, empty: Database, *, shared_home: bool) -> None:
    barrier = threading.Barrier(10)
    text = new_key_text(SystemEntropy())
    found: list[str] = []
    failed: list[BaseException] = []

    def work(number: int) -> None:
        barrier.wait()
        try:
            if shared_home:
                found.append(start(tmp_path / "home", empty))
            else:
                found.append(start(tmp_path / f"home-{number}", empty, key=env_key(text), initialise=True))
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (len(found), len(set(found))) == (10, 1)
    assert empty.execute("SELECT count(*) FROM vault_state") == [(1,)]


def test_a_replica_with_a_home_of_its_own_and_no_key_makes_none(home: Path, database: Database, tmp_path: Path) -> None:
    start(home, database)
    error = refusal(tmp_path / "another", database)
    assert error.code == "configuration_error"
    assert "its key" in error.message


def test_a_first_start_that_fails_leaves_no_half_vault(tmp_path: Path, empty: Database) -> None:
    empty.execute("CREATE SCHEMA mcp_identity", f"GRANT USAGE ON SCHEMA mcp_identity TO {ROLE}")
    with pytest.raises(VaultUnavailable):
        start(tmp_path / "home", empty)
    assert empty.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'mcp_identity'::regnamespace") == [(0,)]
    empty.execute(f"ALTER SCHEMA mcp_identity OWNER TO {ROLE}")
    start(tmp_path / "home", empty, initialise=True)  # the key was made


# --- key and vault ----------------------------------------------------------------------------------------------------


def test_a_vault_without_its_key_a_key_without_its_vault_a_wrong_key_and_two_keys_are_refused(
    home: Path, database: Database, empty: Database, tmp_path: Path
) -> None:
    mine = (home / "key").read_text()
    assert refusal(home, empty).code == "configuration_error"
    other = env_key(new_key_text(SystemEntropy()))
    assert refusal(home, database, key=other).code == "configuration_error"
    assert refusal(tmp_path / "none", database, key=other).code == "configuration_error"
    (home / "key").write_text(new_key_text(SystemEntropy()))
    assert refusal(home, database).code == "configuration_error"
    (home / "key").unlink()
    assert refusal(home, database).code == "configuration_error"
    start(tmp_path / "none", database, key=env_key(mine))


# --- what is not a vault of ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ("DELETE FROM vault_state", "vault_corrupt"),
        ("DROP TABLE vault_state", "vault_corrupt"),
        ("ALTER TABLE vault_state DROP COLUMN key_check", "vault_corrupt"),
        ("ALTER TABLE vault_state ALTER schema_version TYPE text", "vault_corrupt"),
        ("ALTER TABLE vault_state ALTER schema_version TYPE numeric", "vault_corrupt"),
        ("ALTER TABLE vault_state ALTER vault_id TYPE bytea USING vault_id::bytea", "vault_corrupt"),
        ("UPDATE vault_state SET vault_id = 'another'", "vault_corrupt"),
        ("UPDATE vault_state SET key_check = zeroblob(60)", "vault_corrupt"),
        ("UPDATE vault_state SET key_id = 'local:another'", "configuration_error"),
        ("UPDATE vault_state SET schema_version = schema_version + 1", "vault_unavailable"),
        ("UPDATE vault_state SET minimum_writer = minimum_writer + 1", "vault_unavailable"),
    ],
)
def test_an_edited_or_newer_state_is_refused(home: Path, database: Database, edit: str, code: str) -> None:
    behind_its_back(database, edit)
    error = refusal(home, database)
    assert error.code == code
    assert not error.retryable


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TRIGGER t BEFORE INSERT ON audit_events EXECUTE FUNCTION public.nothing()",),
        ("CREATE RULE mute AS ON INSERT TO audit_events DO INSTEAD NOTHING",),
        ("CREATE VIEW tokens AS SELECT tokens FROM grants",),
        ("CREATE MATERIALIZED VIEW tokens AS SELECT tokens FROM grants",),
        ("ALTER TABLE grants ENABLE ROW LEVEL SECURITY",),
        ("CREATE POLICY hide ON users USING (false)", "ALTER TABLE users ENABLE ROW LEVEL SECURITY"),
        ("CREATE TABLE public.more () INHERITS (users)",),
        ("ALTER TABLE users ALTER display SET DEFAULT 'x'",),
        ("ALTER TABLE users ADD copy text GENERATED ALWAYS AS (subject) STORED",),
        ("ALTER TABLE audit_heads SET UNLOGGED",),
        ("CREATE FUNCTION mcp_identity.count(text) RETURNS text LANGUAGE sql AS 'SELECT $1'",),
        ("CREATE OPERATOR mcp_identity.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.never)",),
        ("CREATE SEQUENCE numbers",),
    ],
)
def test_what_runs_or_hides_by_itself_is_refused(home: Path, database: Database, statements: tuple[str, ...]) -> None:
    behind_its_back(
        database,
        "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE FUNCTION public.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
        *statements,
    )
    error = refusal(home, database)
    assert error.code == "vault_corrupt"
    assert "none of ours" in error.message


async def test_what_others_put_where_they_may_is_not_searched(home: Path, database: Database) -> None:
    behind_its_back(
        database,
        "CREATE TABLE public.users (id text)",
        "CREATE FUNCTION public.max(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 0'",
        f"ALTER ROLE {ROLE} IN DATABASE {database.name} SET search_path = public",
        f"ALTER ROLE {ROLE} IN DATABASE {database.name} SET synchronous_commit = off",
    )
    with closing(opened(home, database)) as vault:
        await vault.run(seed)
        await vault.run(lambda records: records.append_audit(EVENT))
        durable = "SELECT current_setting('synchronous_commit')"
        assert await vault.run(lambda records: records.connection.exec_driver_sql(durable).scalar_one()) == "on"
    assert behind_its_back(database, "SELECT count(*) FROM public.users") == [(0,)]
    assert behind_its_back(database, "SELECT count(*) FROM mcp_identity.users") == [(2,)]


# --- another schema ---------------------------------------------------------------------------------------------------


def migrate(home: Path, database: Database) -> Migration:
    return migrate_location(location(home, database=database, wait=0.2), FakeClock(), SystemEntropy())


def test_an_older_schema_is_refused_until_the_operator_migrates_it(home: Path, database: Database) -> None:
    behind_its_back(database, "UPDATE vault_state SET schema_version = 0, minimum_writer = 0")
    error = refusal(home, database)
    assert error.code == "vault_unavailable"
    assert not error.retryable
    assert "mcp-identity vault migrate" in error.message
    assert migrate(home, database) == Migration(0, SCHEMA_VERSION)
    assert migrate(home, database) == Migration(SCHEMA_VERSION, SCHEMA_VERSION)
    start(home, database)


def test_nothing_is_migrated_that_is_newer_has_another_key_or_is_not_there(
    home: Path, database: Database, empty: Database, tmp_path: Path
) -> None:
    behind_its_back(database, "UPDATE vault_state SET schema_version = 99")
    for where, place, code in (
        (home, database, "vault_unavailable"),
        (home, empty, "configuration_error"),
        (tmp_path / "none", empty, "configuration_error"),
    ):
        before = content(place)
        with pytest.raises(IdentityError) as caught:
            migrate(where, place)
        assert caught.value.code == code
        assert content(place) == before
    behind_its_back(database, "UPDATE vault_state SET schema_version = 0")
    (home / "key").write_text(new_key_text(SystemEntropy()))
    with pytest.raises(IdentityError) as caught:
        migrate(home, database)
    assert caught.value.code == "configuration_error"


def test_a_migration_waits_for_another_only_so_long(home: Path, database: Database) -> None:
    behind_its_back(database, "UPDATE vault_state SET schema_version = 0")
    held = location(home, database=database).site()
    with held.exclusive(), pytest.raises(VaultUnavailable) as caught:
        migrate(home, database)
    assert caught.value.retryable
    assert migrate(home, database).before == 0


def test_a_server_that_is_gone_makes_nothing_and_says_so(home: Path, database: Database) -> None:
    gone = Database(database.server, "nowhere")
    with pytest.raises(VaultUnavailable) as caught:
        start(home, gone)
    assert "no such database" in caught.value.message
    assert [path.name for path in home.iterdir()] == ["key"]
