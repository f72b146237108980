"""Vaults for tests: made once for each database, copied for each test.

Whatever uses `home` runs on both databases; what is about SQLite's files, or looks into them, is marked `sqlite`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.postgres import Database, postgres
from tests.vault.faults import Faults, faults_of
from tests.vault.kit import Place, Seeded, location, seed

Opener = Callable[[], Vault]
STORES = ("sqlite", "postgresql")


def pytest_configure(config: pytest.Config) -> None:
    """Know the marks."""
    config.addinivalue_line("markers", "sqlite: about SQLite's files; runs on no other database")
    config.addinivalue_line("markers", "postgresql: about PostgreSQL; runs on no other database")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a vault on every database."""
    if "store" in metafunc.fixturenames:
        marked = [name for name in STORES if metafunc.definition.get_closest_marker(name)]
        metafunc.parametrize("store", marked or STORES, indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """Which database this test runs on."""
    return request.param


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a vault with nothing in it."""
    home = tmp_path_factory.mktemp("made") / "home"
    open_vault(location(home), FakeClock(), SystemEntropy()).close()
    return home


@pytest.fixture(scope="session")
def made_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Database]:
    """The same on PostgreSQL: the folder of its key, and its database."""
    home, database = tmp_path_factory.mktemp("made") / "home", postgres().create_database()
    open_vault(location(home, database=database), FakeClock(), SystemEntropy()).close()
    return home, database


@pytest.fixture
def home(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the folder."""
    made: Path = request.getfixturevalue("made") if store == STORES[0] else request.getfixturevalue("made_on_postgres")[0]
    return shutil.copytree(made, tmp_path / "home")


@pytest.fixture
def database(store: str, home: Path, request: pytest.FixtureRequest) -> Generator[Place]:
    """The database of this test's vault."""
    if store == STORES[0]:
        yield home / "vault.db"
        return
    made: tuple[Path, Database] = request.getfixturevalue("made_on_postgres")
    copy = made[1].copy()
    yield copy
    copy.drop()


@pytest.fixture
def clock() -> FakeClock:
    """The time of this test."""
    return FakeClock()


@pytest.fixture
def opener(home: Path, database: Place, clock: FakeClock) -> Generator[Opener]:
    """Opens the vault of this test, any number of times, as so many processes."""
    opened: list[Vault] = []

    def opening() -> Vault:
        opened.append(open_vault(location(home, database=database, wait=0.05), clock, SystemEntropy()))
        return opened[-1]

    yield opening
    for vault in opened:
        vault.close()


@pytest.fixture
def vault(opener: Opener) -> Vault:
    """An open vault with nothing in it."""
    return opener()


@pytest.fixture
def faults(vault: Vault, database: Place) -> Faults:
    """What can be broken below its writer."""
    return faults_of(vault, database)


@pytest.fixture
async def seeded(vault: Vault) -> Seeded:
    """What `seed` puts into it."""
    return await vault.run(seed)
