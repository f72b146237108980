"""The key-encryption key in this process: read from a file, or from an environment variable.

The text of a key is ``mcp-identity-key:v1:<43 characters>:<8 characters of checksum>``. A key that is truncated, edited or
readable by others is refused before the vault is touched. Whoever can read the key and the vault can read everything.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_identity.domain.clock import Entropy
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt
from mcp_identity.vault.envelope import KEY_BYTES, derive
from mcp_identity.vault.kms.backend import WrapContext

_PREFIX = "mcp-identity-key:v1:"
_NONCE_BYTES = 12
_MAXIMUM_TEXT = 4096
# No link is followed, and a named pipe is refused without waiting for its writer.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class LocalKey:
    """A key-encryption key held in memory."""

    def __init__(self, material: bytes, entropy: Entropy) -> None:
        """Keep 32 bytes of key."""
        self._cipher = AESGCM(derive(material, "wrap"))
        self._key_id = "local:" + derive(material, "key-id").hex()[:32]
        self._entropy = entropy

    @property
    def key_id(self) -> str:
        """Derived one-way from the key."""
        return self._key_id

    def wrap(self, key: bytes, context: WrapContext) -> bytes:
        """Wrap under AES-256-GCM with the context as associated data."""
        nonce = self._entropy.random_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, context.associated_data())

    def unwrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Unwrap what `wrap` made.

        Raises:
            VaultCorrupt: If the context or the key differs, or the bytes were changed.
        """
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context.associated_data())
        except (InvalidTag, ValueError):
            raise VaultCorrupt("a wrapped key was changed, moved, or made by another key-encryption key") from None

    def rewrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """A key of this kind has one version; see `KeyBackend`."""
        self.unwrap(wrapped, context)
        return wrapped


def _checksum(encoded: str) -> str:
    return sha256(encoded.encode("ascii")).hexdigest()[:8]


def new_key_text(entropy: Entropy) -> str:
    """Make a new key-encryption key, as the text that a file or a variable holds."""
    encoded = urlsafe_b64encode(entropy.random_bytes(KEY_BYTES)).rstrip(b"=").decode("ascii")
    return f"{_PREFIX}{encoded}:{_checksum(encoded)}\n"


def parse_key_text(text: str, where: str) -> bytes:
    """Read a key's text.

    Args:
        text: What the file or variable holds.
        where: Names it in the error; the text itself never stands there.

    Raises:
        ConfigurationError: If it is empty, truncated, edited, or no key at all.
    """
    fields = text.strip().removeprefix(_PREFIX).split(":")
    intact = text.startswith(_PREFIX) and len(fields) == 2 and fields[0].isascii()  # noqa: PLR2004 - key and checksum
    if intact and hmac.compare_digest(_checksum(fields[0]), fields[1].encode("ascii", "replace").decode("ascii")):
        with contextlib.suppress(ValueError):
            material = urlsafe_b64decode(fields[0] + "=")
            if len(material) == KEY_BYTES:
                return material
    raise ConfigurationError(
        f"the key in {where} is truncated, damaged, or not a key of mcp-identity; restore it from your backup"
    )


def read_key_file(path: Path) -> bytes:
    """Read a key file that nobody else can read.

    Raises:
        ConfigurationError: If it is a link, belongs to somebody else, can be read by others, or holds no intact key.
    """
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be opened ({error.strerror}); a link is not followed") from None
    try:
        if os.name == "posix":
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid():
                raise ConfigurationError(f"the key file {path} is not a regular file of yours")
            if state.st_mode & 0o077:
                raise ConfigurationError(f"the key file {path} can be read by others; run: chmod 600 {path}")
        return parse_key_text(os.read(descriptor, _MAXIMUM_TEXT).decode("ascii", "replace"), str(path))
    finally:
        os.close(descriptor)


def create_key_file(path: Path, entropy: Entropy) -> None:
    """Write a new key, readable by its owner alone, and make it durable before anything depends on it.

    Raises:
        ConfigurationError: If the file is there already or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be created ({error.strerror})") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(new_key_text(entropy).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)  # half a key would be refused at every later start
        raise ConfigurationError(f"the key file {path} cannot be written ({error.strerror})") from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (POSIX; elsewhere the file system does it)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
