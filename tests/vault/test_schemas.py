"""Does a vault of every schema that ever landed open, and what is left of one whose upgrade ends in the middle?"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest

from mcp_identity.domain.errors import IdentityError, VaultUnavailable
from mcp_identity.vault import making, opening, writer
from mcp_identity.vault.opening import Migration, migrate_location
from mcp_identity.vault.vault import open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.postgres import Database
from tests.vault import schemas
from tests.vault.kit import EVENT, Place, behind_its_back, fingerprint, location
from tests.vault.test_records_audit import verify

OLD, NEW = writer.SCHEMA_VERSION, writer.SCHEMA_VERSION + 1
REVISION = '''
"""A schema that nobody has."""
import os, signal
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "invented", "{head}", None, None
def upgrade():
    op.create_table("invented", sa.Column("id", sa.Text(), primary_key=True))
    op.add_column("users", sa.Column("nickname", sa.Text(), nullable=True))
    op.execute("UPDATE users SET nickname = display")
    {end}
'''


@pytest.fixture
def place(store: str, tmp_path: Path) -> Generator[tuple[Path, Place]]:
    """A vault of today's schema with something of everything in it, made by an earlier build."""
    home = tmp_path / "home"
    database = schemas.put(OLD, home, on_postgres=store == "postgresql")
    yield home, database
    if isinstance(database, Database):
        database.drop()


@pytest.mark.parametrize("version", schemas.VERSIONS)
async def test_a_vault_of_every_schema_opens_and_everything_in_it_is_read(store: str, tmp_path: Path, version: int) -> None:
    home = tmp_path / "home"
    database = schemas.put(version, home, on_postgres=store == "postgresql")
    where = location(home, database=database)
    migrate_location(where, FakeClock(), SystemEntropy())
    with closing(open_vault(where, FakeClock(), SystemEntropy())) as vault:
        assert await vault.read(schemas.read) == schemas.EXPECTED
        await vault.run(lambda records: records.append_audit(EVENT))
        assert sorted(verify(vault, database).values()) == [1, 3]


def test_there_is_a_vault_of_todays_schema() -> None:
    assert OLD in schemas.VERSIONS
    assert tuple(range(1, OLD + 1)) == schemas.VERSIONS


# --- an upgrade to a schema that nobody has yet -----------------------------------------------------------------------


def become_newer(folder: Path, end: str) -> Path:
    """The lineage with one revision more."""
    lineage = shutil.copytree(making.REVISIONS, folder / "lineage", ignore=shutil.ignore_patterns("__pycache__"))
    (lineage / "versions" / "v9999_invented.py").write_text(REVISION.format(head="0001", end=end))
    return lineage


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process one of the version after this one."""

    def become(end: str) -> None:
        monkeypatch.setattr(making, "REVISIONS", become_newer(tmp_path, end))
        for module in (making, opening, writer):
            monkeypatch.setattr(module, "SCHEMA_VERSION", NEW)

    return become


async def require_whole(home: Path, database: Place) -> None:
    """The vault is one of the older schema, and nothing in it was lost."""
    with closing(open_vault(location(home, database=database), FakeClock(), SystemEntropy())) as vault:
        assert await vault.read(schemas.read) == schemas.EXPECTED
    assert behind_its_back(database, "SELECT schema_version FROM vault_state") == [(OLD,)]
    assert behind_its_back(database, "SELECT version_num FROM alembic_version") == [("0001",)]


async def test_an_upgrade_keeps_everything_and_the_older_version_refuses_what_it_made(
    place: tuple[Path, Place], newer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, database = place
    where = location(home, database=database)
    with monkeypatch.context():
        newer("pass")
        assert migrate_location(where, FakeClock(), SystemEntropy()) == Migration(OLD, NEW)
        with closing(open_vault(where, FakeClock(), SystemEntropy())) as vault:
            assert await vault.read(schemas.read) == schemas.EXPECTED
    assert behind_its_back(database, "SELECT nickname FROM users ORDER BY nickname") == [("Alice",), ("Mallory",)]
    monkeypatch.undo()
    before = fingerprint(home)
    for refused in (open_vault, migrate_location):
        with pytest.raises(VaultUnavailable) as caught:
            refused(where, FakeClock(), SystemEntropy())
        assert not caught.value.retryable
        assert "newer version" in caught.value.message
    assert fingerprint(home) == before


async def test_an_upgrade_that_fails_in_the_middle_leaves_the_older_vault(
    place: tuple[Path, Place], newer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, database = place
    newer('op.execute("INSERT INTO nowhere VALUES (1)")')
    with pytest.raises(IdentityError) as caught:
        migrate_location(location(home, database=database), FakeClock(), SystemEntropy())
    assert caught.value.code == "vault_unavailable"
    monkeypatch.undo()
    await require_whole(home, database)


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from mcp_identity.vault import making, opening, writer
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.kit import VaultLocation, parse_url, read_secret
making.REVISIONS = Path(sys.argv[2])
for module in (making, opening, writer):
    module.SCHEMA_VERSION = int(sys.argv[3])
address = parse_url(sys.argv[5], read_secret) if sys.argv[5] else None
where = VaultLocation(Path(sys.argv[4]), None, "killed", None, 5.0, address)
opening.migrate_location(where, FakeClock(), SystemEntropy())
"""


async def test_an_upgrade_that_is_killed_in_the_middle_leaves_the_older_vault(
    place: tuple[Path, Place], tmp_path: Path
) -> None:
    home, database = place
    lineage = become_newer(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    url = database.url if isinstance(database, Database) else ""
    root = str(Path(__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", _KILLED, root, str(lineage), str(NEW), str(home), url], check=False)  # noqa: ASYNC221
    assert killed.returncode == -signal.SIGKILL
    await require_whole(home, database)
