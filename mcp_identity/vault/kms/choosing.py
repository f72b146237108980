"""Which key backend does a reference mean? One row for each.

What differs between them for whoever opens a vault: a key in a file or in the keyring is made at the first start, a key in a
variable is somebody's to set, and one in a KMS, a transit engine or a token must be there before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mcp_identity.domain.clock import Entropy
from mcp_identity.domain.errors import ConfigurationError
from mcp_identity.vault.kms.backend import KeyBackend, SecretReader
from mcp_identity.vault.kms.local import LocalKey, create_key_file, parse_key_text, read_key_file


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the key-encryption key is.

    Attributes:
        where: The reference, which names it for people too, e.g. ``env:VAULT_KEY``.
        path: The key file; None for a key that is not in a file.
        read_text: Reads a key that is in a variable; None for another.
        read_secret: Reads what a backend needs to show who we are; None for a key that needs nothing.
    """

    where: str
    path: Path | None = None
    read_text: Callable[[], str | None] | None = None
    read_secret: SecretReader | None = None

    def __post_init__(self) -> None:
        """Check the reference to a key that is held elsewhere, before anybody is told of it.

        One that does not stand may hold a PIN or a password.

        Raises:
            ConfigurationError: If it does not stand; nothing of it is repeated.
        """
        if self.is_held_elsewhere:
            _PARSERS[self.where.partition(":")[0]](self.value)

    @property
    def is_given(self) -> bool:
        """Whether the key is there, or somewhere where we make none."""
        if self.path is not None:
            return _is_there(self.path)
        return not self._in_keyring or self._entry().read_text() is not None

    def open(self, entropy: Entropy) -> KeyBackend:
        """The key's backend, ready to be asked.

        Raises:
            ConfigurationError: If the key is not there, is damaged, or its backend needs what is missing.
            VaultUnavailable: If the backend cannot be reached now.
        """
        material = self.material()
        if material is None:
            return _EXTERNAL[self.where.partition(":")[0]](self, entropy)
        return LocalKey(material, entropy)

    def material(self) -> bytes | None:
        """The key itself, where this process holds it; None where only its backend does.

        Raises:
            ConfigurationError: If it is not there, or damaged.
        """
        if self.path is not None:
            return read_key_file(self.path)
        if self.is_held_elsewhere:
            return None
        text = self._entry().read_text() if self._in_keyring else self.read_text and self.read_text()
        if not text:
            raise ConfigurationError(f"the key {self.where} is not set")
        return parse_key_text(text, self.where)

    @property
    def is_held_elsewhere(self) -> bool:
        """Whether the key never comes into this process."""
        return self.path is None and self.where.partition(":")[0] in _EXTERNAL

    def create(self, entropy: Entropy) -> None:
        """Make the key where it is not there yet and is ours to make.

        Raises:
            ConfigurationError: If it cannot be kept.
        """
        if self.is_given:
            return
        if self.path is not None:
            create_key_file(self.path, entropy)
        else:
            self._entry().create(entropy)

    @property
    def value(self) -> str:
        """What stands behind the backend's name."""
        return self.where.partition(":")[2]

    def secret_reader(self) -> SecretReader:
        """Reads what the backend needs to show who we are."""
        if self.read_secret is None:
            raise ConfigurationError(f"the key {self.where} needs a secret that nothing reads here")
        return self.read_secret

    @property
    def _in_keyring(self) -> bool:
        return self.path is None and self.read_text is None and self.where.startswith("keyring:")

    def _entry(self):  # noqa: ANN202 - its module is loaded where a keyring is used
        from mcp_identity.vault.kms.keyring import KeyringEntry

        return KeyringEntry(self.value)


def _aws(source: KeySource, _entropy: Entropy) -> KeyBackend:
    from mcp_identity.vault.kms.aws import AwsKmsKey, parse_aws_key

    return AwsKmsKey(parse_aws_key(source.value))


def _transit(source: KeySource, _entropy: Entropy) -> KeyBackend:
    from mcp_identity.vault.kms.transit import TransitKey, parse_transit

    return TransitKey(parse_transit(source.value), source.secret_reader())


def _pkcs11(source: KeySource, entropy: Entropy) -> KeyBackend:
    from mcp_identity.vault.kms.pkcs11 import Pkcs11Key, parse_pkcs11

    return Pkcs11Key(parse_pkcs11(source.value), source.secret_reader(), entropy)


_EXTERNAL: dict[str, Callable[[KeySource, Entropy], KeyBackend]] = {
    "aws-kms": _aws,
    "transit": _transit,
    "pkcs11": _pkcs11,
}
"""The backends that hold their keys themselves."""


def _check_aws(value: str) -> None:
    from mcp_identity.vault.kms.aws import parse_aws_key

    parse_aws_key(value)


def _check_transit(value: str) -> None:
    from mcp_identity.vault.kms.transit import parse_transit

    parse_transit(value)


def _check_pkcs11(value: str) -> None:
    from mcp_identity.vault.kms.pkcs11 import parse_pkcs11

    parse_pkcs11(value)


_PARSERS: dict[str, Callable[[str], None]] = {"aws-kms": _check_aws, "transit": _check_transit, "pkcs11": _check_pkcs11}


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
