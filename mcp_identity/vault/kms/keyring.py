"""A key-encryption key in the operating system's keyring: ``keyring:<service>/<name>``.

Only a keyring that the operating system protects is used: the macOS Keychain, the Windows Credential Manager, the Secret
Service (GNOME Keyring, KWallet) or KWallet itself. Neither the environment nor a configuration file chooses another one, since
those that keep passwords in a plain file, or nowhere, look the same to a caller. The entry's text is that of a key file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from mcp_identity.domain.clock import Entropy
from mcp_identity.domain.errors import ConfigurationError, VaultUnavailable
from mcp_identity.vault.kms.backend import missing_package
from mcp_identity.vault.kms.local import new_key_text, parse_key_text

PATIENCE_SECONDS = 60.0
"""How long a person may take to unlock it."""
_REAL = {"darwin": ("macOS.Keyring",), "win32": ("Windows.WinVaultKeyring",)}
_REAL_ELSEWHERE = ("SecretService.Keyring", "libsecret.Keyring", "kwallet.DBusKeyring")


class Keyring(Protocol):
    """What we use of a keyring."""

    def get_password(self, service: str, username: str) -> str | None:
        """An entry's text; None where there is none."""
        ...

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep an entry."""
        ...


class KeyringEntry:
    """One entry of the keyring, which holds a key's text."""

    def __init__(self, value: str, keyring: Keyring | None = None) -> None:
        """Name the entry.

        Args:
            value: ``<service>/<name>``.
            keyring: Another keyring, in tests; None for the operating system's.

        Raises:
            ConfigurationError: If it names no entry, the package is missing, or there is no real keyring.
        """
        self.where = f"keyring:{value}"
        self._service, separator, self._name = value.partition("/")
        if not separator or not self._service or not self._name or not value.isprintable():
            raise ConfigurationError("a key in the keyring is keyring:<service>/<name>, e.g. keyring:mcp-identity/default")
        self._keyring = keyring or system_keyring()

    def read_text(self) -> str | None:
        """The entry's text; None where there is none.

        Raises:
            VaultUnavailable: If the keyring is locked, or does not answer.
        """
        try:
            return _patiently(lambda: self._keyring.get_password(self._service, self._name))
        except Exception:  # noqa: BLE001 - each keyring raises its own
            raise VaultUnavailable(f"the keyring cannot be read now, is it locked? ({self.where})") from None

    def create(self, entropy: Entropy) -> None:
        """Put a new key there, and see that it can be read again before anything depends on it.

        Raises:
            ConfigurationError: If it cannot be kept.
        """
        text = new_key_text(entropy)

        def keep() -> str | None:
            self._keyring.set_password(self._service, self._name, text)
            return self._keyring.get_password(self._service, self._name)

        try:
            kept = _patiently(keep)
        except Exception:  # noqa: BLE001 - each keyring raises its own
            raise ConfigurationError(f"the key cannot be kept in the keyring, is it locked? ({self.where})") from None
        if kept is None or parse_key_text(kept, self.where) != parse_key_text(text, self.where):
            raise ConfigurationError(f"the keyring did not keep the key ({self.where})")


def _patiently(work: Callable[[], str | None]) -> str | None:
    """Ask the keyring, which may ask a person to unlock it, and would wait for ever for one who is not there."""
    answered: SimpleQueue[str | Exception | None] = SimpleQueue()

    def ask() -> None:
        try:
            answered.put(work())
        except Exception as error:  # noqa: BLE001 - handed over to who asked
            answered.put(error)

    Thread(target=ask, name="keyring", daemon=True).start()
    answer = answered.get(timeout=PATIENCE_SECONDS)
    if isinstance(answer, Exception):
        raise answer
    return answer


def system_keyring() -> Keyring:
    """The operating system's keyring.

    Raises:
        ConfigurationError: If the package is missing, or there is none that protects what it keeps.
    """
    try:
        import_module("keyring.backend")
    except ImportError:
        raise missing_package("keyring", "keyring") from None
    for name in _REAL.get(sys.platform, _REAL_ELSEWHERE):
        module, _, kind = name.partition(".")
        found: Any = getattr(import_module(f"keyring.backends.{module}"), kind)
        if found.viable:
            return found()
    raise ConfigurationError(
        "there is no keyring of the operating system here that protects what it keeps; use a key file, or another backend"
    )
