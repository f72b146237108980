"""A key-encryption key in a hardware security module, or any other PKCS #11 token (RFC 7512).

    pkcs11:token=vault;object=mcp-identity?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/hsm-pin

The key is an AES-256 key that cannot be extracted; it is used with CKM_AES_GCM, and the context is its associated data. The
PIN is a reference (``file:`` or ``env:``), never a value: ``pin-value`` is refused. A session that broke is opened anew once.
A PIN that was not accepted is not tried a second time: after a few such attempts many tokens lock themselves for good.
"""

from __future__ import annotations

import contextlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote

from mcp_identity.domain.clock import Entropy
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.kms.backend import SecretReader, WrapContext, missing_package

_NONCE_BYTES = 12
_KEY_BITS = 256
_PATH = frozenset({"token", "serial", "object", "id"})
_QUERY = frozenset({"module-path", "pin-source"})
_FORM = "a PKCS #11 key is pkcs11:token=<label>;object=<label>?module-path=<library>&pin-source=file:<path>"

_PIN_REFUSED = (
    "the PKCS #11 token does not accept the PIN; it is not tried again until its source says another one or this process is "
    "restarted, since too many attempts may lock the token"
)


@dataclass(frozen=True, slots=True)
class Pkcs11Reference:
    """Which key of which token is meant.

    Attributes:
        token: The token's label, or empty.
        serial: The token's serial number, or empty.
        label: The key's label, or empty.
        object_id: The key's id, or empty.
        module: The library that speaks to the token.
        pin_source: Where the PIN is; empty for a token that has none.
    """

    token: str
    serial: str
    label: str
    object_id: bytes
    module: Path
    pin_source: str


def parse_pkcs11(value: str) -> Pkcs11Reference:
    """Take an RFC 7512 URI apart.

    Args:
        value: What stands behind ``pkcs11:``.

    Raises:
        ConfigurationError: If it is none, holds a PIN, or does not name token, key and library.
    """
    path, _, query = value.partition("?")
    named = _attributes(path, ";")
    asked = _attributes(query, "&")
    if "pin-value" in asked or "pin-value" in named:
        raise ConfigurationError("a PIN does not stand in a key's reference; name its source: pin-source=file:<path>")
    known = named.keys() <= _PATH and asked.keys() <= _QUERY
    module = asked.get("module-path", "")
    if not known or not module.startswith("/") or not named.keys() & {"token", "serial"} or not named.keys() & {"object", "id"}:
        raise ConfigurationError(_FORM)
    pin_source = asked.get("pin-source", "")
    if pin_source and not re.fullmatch(r"(file|env):.+", pin_source):
        raise ConfigurationError("pin-source is file:<path> or env:<name>")
    return Pkcs11Reference(
        token=named.get("token", ""),
        serial=named.get("serial", ""),
        label=named.get("object", ""),
        object_id=named.get("id", "").encode("latin-1", "replace"),
        module=Path(module),
        pin_source=pin_source,
    )


def _attributes(text: str, separator: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in filter(None, text.split(separator)):
        name, equals, value = each.partition("=")
        if not equals or not value or name in found:
            raise ConfigurationError(_FORM)
        found[name] = unquote(value, "latin-1" if name == "id" else "utf-8")
    return found


class Pkcs11Key:
    """A key-encryption key that never leaves its token."""

    def __init__(self, reference: Pkcs11Reference, read_secret: SecretReader, entropy: Entropy) -> None:
        """Open a session and find the key.

        Args:
            reference: Which key.
            read_secret: Reads the PIN, whenever a session is opened.
            entropy: For nonces.

        Raises:
            ConfigurationError: If the package, the library, the token or the key is not there, or the key can be extracted.
            VaultUnavailable: If the token does not answer now.
        """
        self._reference = reference
        self._read_secret = read_secret
        self._entropy = entropy
        self._lock = Lock()  # a session does one thing at a time
        self._key: Any = None
        self._session: Any = None
        self._refused_pin = b""
        try:
            import pkcs11
        except ImportError:
            raise missing_package("pkcs11", "pkcs11") from None
        self._library: Any = pkcs11
        with self._lock:
            self._open()

    @property
    def key_id(self) -> str:
        """Token and object, as they were named."""
        token = self._reference.token or f"serial {self._reference.serial}"
        return f"pkcs11:{token}/{self._reference.label or self._reference.object_id.hex()}"

    def wrap(self, key: bytes, context: WrapContext) -> bytes:
        """Wrap it in the token; see `KeyBackend`."""
        nonce = self._entropy.random_bytes(_NONCE_BYTES)
        return nonce + self._do(lambda held: held.encrypt(key, **self._mechanism(nonce, context)))

    def unwrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Unwrap it in the token; see `KeyBackend`."""
        nonce, ciphertext = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        if len(ciphertext) <= 16:  # noqa: PLR2004 - no more than the tag
            raise VaultCorrupt("a wrapped key is truncated")
        return self._do(lambda held: held.decrypt(ciphertext, **self._mechanism(nonce, context)))

    def rewrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """A token's key has one version; see `KeyBackend`."""
        self.unwrap(wrapped, context)
        return wrapped

    def _mechanism(self, nonce: bytes, context: WrapContext) -> dict[str, Any]:
        parameters = self._library.GCMParams(nonce, context.associated_data(), 128)
        return {"mechanism": self._library.Mechanism.AES_GCM, "mechanism_param": parameters}

    def _do(self, work: Callable[[Any], Any]) -> bytes:
        from pkcs11 import exceptions

        wrong = (exceptions.EncryptedDataInvalid, exceptions.EncryptedDataLenRange, exceptions.ArgumentsBad)
        with self._lock:
            for is_last in (False, True):
                try:
                    if self._key is None:
                        self._open()
                    return bytes(work(self._key))
                except wrong:
                    raise VaultCorrupt("a wrapped key was changed, moved, or made by another key-encryption key") from None
                except exceptions.MechanismInvalid:
                    raise ConfigurationError("the token does not do AES-GCM, which a key-encryption key needs") from None
                except exceptions.PKCS11Error as error:
                    self._close()
                    # Some tokens name a wrong tag only so; one that is broken says it to the next session, too.
                    if is_last and isinstance(error, exceptions.GeneralError | exceptions.FunctionFailed):
                        raise VaultCorrupt("a wrapped key was refused by its token") from None
                    if is_last:
                        raise VaultUnavailable("the PKCS #11 token does not answer now") from None
        raise AssertionError

    def _open(self) -> None:
        from pkcs11 import exceptions

        reference, library = self._reference, self._library
        pin = self._read_secret(reference.pin_source).reveal() if reference.pin_source else None
        if self._refused_pin and pin and hmac.compare_digest(pin.encode(), self._refused_pin):
            raise ConfigurationError(_PIN_REFUSED)
        try:
            found = library.lib(str(reference.module))
        except (RuntimeError, OSError):
            raise ConfigurationError(f"the PKCS #11 library {reference.module} cannot be loaded") from None
        try:
            which = {"token_label": reference.token, "token_serial": reference.serial.encode()}
            token = found.get_token(**{name: value for name, value in which.items() if value})
            try:
                self._session = token.open(user_pin=pin)
            except exceptions.UserAlreadyLoggedIn:  # one login holds for all sessions of a process
                self._session = token.open()
            named = {"label": reference.label, "id": reference.object_id}
            self._key = self._session.get_key(
                object_class=library.ObjectClass.SECRET_KEY,
                key_type=library.KeyType.AES,
                **{name: value for name, value in named.items() if value},
            )
            self._check()
        except (exceptions.NoSuchToken, exceptions.MultipleTokensReturned):
            raise ConfigurationError("there is no such PKCS #11 token, or more than one") from None
        except (exceptions.NoSuchKey, exceptions.MultipleObjectsReturned):
            self._close()
            raise ConfigurationError("the PKCS #11 token has no such AES key, or more than one") from None
        except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange, exceptions.UserPinNotInitialized):
            self._refused_pin = (pin or "").encode()
            raise ConfigurationError(_PIN_REFUSED) from None
        except exceptions.PinLocked:
            raise ConfigurationError("the PIN of the PKCS #11 token is locked") from None
        except exceptions.PKCS11Error:
            self._close()
            raise VaultUnavailable("the PKCS #11 token does not answer now") from None

    def _check(self) -> None:
        attribute = self._library.Attribute
        key = self._key
        if key[attribute.EXTRACTABLE] or not key[attribute.SENSITIVE] or key.key_length != _KEY_BITS:
            self._close()
            raise ConfigurationError("the PKCS #11 key is not one of 256 bits that is sensitive and cannot be extracted")

    def _close(self) -> None:
        from pkcs11 import exceptions

        session, self._session, self._key = self._session, None, None
        if session is not None:
            with contextlib.suppress(exceptions.PKCS11Error):
                session.close()
