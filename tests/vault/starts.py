"""How does a process start on a vault, and how is it refused?"""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path

import pytest

from mcp_identity.domain.errors import IdentityError
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.opening import VaultLocation
from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.kit import fingerprint

posix = pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX")


def opened(where: VaultLocation, *, initialise: bool = False) -> Vault:
    return open_vault(where, FakeClock(), SystemEntropy(), initialise=initialise)


def start(where: VaultLocation, *, initialise: bool = False) -> str:
    """Start and end; the vault's id."""
    with closing(opened(where, initialise=initialise)) as vault:
        return vault.id


def refusal(where: VaultLocation, *, initialise: bool = False) -> IdentityError:
    """Start, be refused, and find that nothing was changed and no key was told."""
    root = where.home.parent
    before = fingerprint(root)
    with pytest.raises(IdentityError) as caught:
        start(where, initialise=initialise)
    assert fingerprint(root) == before
    told = str(caught.value)
    for path in root.rglob("*key*"):
        if path.is_file():
            for part in path.read_text("utf-8", "replace").strip().split(":"):
                assert len(part) < 6 or part == "mcp-identity-key" or part not in told
    return caught.value


def env_key(text: str | None) -> KeySource:
    return KeySource("env:VAULT_KEY", None, lambda: text)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def write_key(home: Path, text: str) -> None:
    (home / "key").write_text(text)
