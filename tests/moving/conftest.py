"""A vault with rows in every table, made once for each database and copied for each test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anyio
import pytest

from mcp_identity.app import moving
from mcp_identity.vault.vault import open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.postgres import Database, postgres
from tests.moving.kit import Somewhere, everything, nobody, url_of
from tests.vault.kit import location


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a vault with rows in every table."""
    home = tmp_path_factory.mktemp("filled") / "home"
    vault = open_vault(location(home), FakeClock(), SystemEntropy())

    async def run() -> None:
        await vault.run(everything)

    anyio.run(run)
    vault.close()
    return home


@pytest.fixture(scope="session")
def filled_on_postgres(filled: Path) -> Database:
    """The same rows on PostgreSQL."""
    database = postgres().create_database()
    moving.copy(Somewhere(filled).settings, url_of(database), nobody)
    return database


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in [name for name in os.environ if name.startswith("MCP_IDENTITY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def here(filled: Path, tmp_path: Path) -> Somewhere:
    """A vault in a file."""
    return Somewhere(shutil.copytree(filled, tmp_path / "home"))


@pytest.fixture
def there(here: Somewhere, filled_on_postgres: Database) -> Somewhere:
    """The same vault on PostgreSQL, with the same key."""
    return here.at(url_of(filled_on_postgres.copy()))


@pytest.fixture
def vault_on(request: pytest.FixtureRequest) -> Somewhere:
    """A vault on the database that the test names."""
    return request.getfixturevalue({"sqlite": "here", "postgresql": "there"}[request.param])
