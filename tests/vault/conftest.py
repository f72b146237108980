"""Vaults for tests: made once, copied for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.faults import Faults
from tests.vault.kit import Seeded, location, seed

Opener = Callable[[], Vault]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a vault with nothing in it."""
    home = tmp_path_factory.mktemp("made") / "home"
    open_vault(location(home), FakeClock(), SystemEntropy()).close()
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "home")


@pytest.fixture
def clock() -> FakeClock:
    """The time of this test."""
    return FakeClock()


@pytest.fixture
def opener(home: Path, clock: FakeClock) -> Generator[Opener]:
    """Opens the vault of this test, any number of times, as so many processes."""
    opened: list[Vault] = []

    def opening() -> Vault:
        opened.append(open_vault(location(home, wait=0.05), clock, SystemEntropy()))
        return opened[-1]

    yield opening
    for vault in opened:
        vault.close()


@pytest.fixture
def vault(opener: Opener) -> Vault:
    """An open vault with nothing in it."""
    return opener()


@pytest.fixture
def database(home: Path) -> Path:
    """The file of this test's vault."""
    return home / "vault.db"


@pytest.fixture
def faults(vault: Vault, database: Path) -> Faults:
    """What can be broken below its writer."""
    return Faults(vault, database)


@pytest.fixture
async def seeded(vault: Vault) -> Seeded:
    """What `seed` puts into it."""
    return await vault.run(seed)
