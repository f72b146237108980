"""A key-encryption key in the transit engine of OpenBao or HashiCorp Vault.

    transit:https://bao.example.com/transit/mcp-identity?token_file=/run/secrets/bao-token
    transit:https://bao.example.com/transit/mcp-identity?role_id=ROLE&secret_id_file=/run/secrets/bao-secret-id
    transit:unix:/run/bao-agent.sock?mount=transit&key=mcp-identity

Further parameters: ``namespace``, ``ca_file`` (PEM) and ``auth_mount`` (where AppRole is mounted). Over a unix socket an agent
may bring the token. Nothing is taken from the environment: no address, token, certificate, proxy or namespace.

The context is the associated data of each wrapped key. The server's own rewrap takes none (tried with OpenBao 2.7: it cannot
open what has it), so a key is brought to the server's newest version by unwrapping and wrapping it here. An unknown key would
be made by the server when it is first used; it is therefore asked for before anything is wrapped.
"""

from __future__ import annotations

import re
import socket
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from mcp_identity.domain.errors import ConfigurationError, IdentityError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.kms.backend import SecretReader, WrapContext, missing_package

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2.0, 5.0, 2
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_PARAMETERS = frozenset({"token_file", "role_id", "secret_id_file", "auth_mount", "namespace", "ca_file"})
_FORM = "a transit key is transit:https://<host>/<mount>/<key>?token_file=<path>, or ?role_id=<id>&secret_id_file=<path>"
_WRONG_KIND = re.compile(r"derived key|non-AEAD|not support|disallowed|too old")
_PROBE = "vault:v1:AAAA"


@dataclass(frozen=True, slots=True)
class TransitReference:
    """Which key of which server is meant, and how we show who we are.

    Attributes:
        url: Scheme, host and port; empty for a unix socket.
        socket: The unix socket; None over the network.
        mount: Where the transit engine is mounted.
        key: The key's name.
        parameters: The rest, as it was given.
    """

    url: str
    socket: Path | None
    mount: str
    key: str
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])


def parse_transit(value: str) -> TransitReference:
    """Take a transit reference apart.

    Args:
        value: What stands behind ``transit:``.

    Raises:
        ConfigurationError: If it is none, is not protected on its way, or does not say who we are.
    """
    address, _, query = value.partition("?")
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        parts = urlsplit(address)
        host, port, userinfo = parts.hostname or "", parts.port, "@" in parts.netloc
    except ValueError:
        raise ConfigurationError(_FORM) from None
    if parts.scheme == "unix":
        socket, url = Path(parts.path), ""
        mount, key = given.pop("mount", "transit"), given.pop("key", "")
        sound = parts.path.startswith("/") and not host
    else:
        socket, url = None, f"{parts.scheme}://{f'[{host}]' if ':' in host else host}" + (f":{port}" if port else "")
        mount, _, key = parts.path.strip("/").rpartition("/")
        sound = bool(host) and not userinfo and "#" not in value
        if parts.scheme != "https":
            raise ConfigurationError("a transit key is reached over https, or by a unix socket: transit:unix:/<path>?key=<key>")
    names = [*mount.split("/"), key, *filter(None, given.get("namespace", "").split("/"))]
    if not sound or given.keys() - _PARAMETERS or not all(_SEGMENT.fullmatch(each) for each in names):
        raise ConfigurationError(_FORM)
    ways = "token_file" in given, "role_id" in given and "secret_id_file" in given
    if sum(ways) != 1 and (socket is None or any(ways)):
        raise ConfigurationError(_FORM)
    return TransitReference(url, socket, mount, key, given)


class TransitKey:
    """A key-encryption key that never leaves the transit engine."""

    def __init__(self, reference: TransitReference, read_secret: SecretReader) -> None:
        """Prepare; the server is asked on first use.

        Args:
            reference: Which key, and who we are.
            read_secret: Reads the token or the secret id, each time that one is needed: its file may be renewed.

        Raises:
            ConfigurationError: If hvac is not installed.
        """
        self._reference = reference
        self._read_secret = read_secret
        self._client: Any = _client(reference)
        self._logging_in = Lock()
        self._exists = False

    @property
    def key_id(self) -> str:
        """Namespace, mount and name; not the host, so that a server may move or be replicated with its keys."""
        namespace = self._reference.parameters.get("namespace", "").strip("/")
        return f"transit:{namespace}{'/' if namespace else ''}{self._reference.mount}/{self._reference.key}"

    def wrap(self, key: bytes, context: WrapContext) -> bytes:
        """Wrap it on the server; see `KeyBackend`."""
        if not self._exists:
            self._ask("decrypt", ciphertext=_PROBE)
            self._exists = True
        return str(self._ask("encrypt", context, plaintext=b64encode(key).decode())["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Unwrap it on the server; see `KeyBackend`."""
        answer = self._ask("decrypt", context, ciphertext=wrapped.decode("ascii", "replace"))
        self._exists = True
        return b64decode(str(answer["plaintext"]), validate=True)

    def rewrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Bring it to the key's newest version; see `KeyBackend`."""
        return self.wrap(self.unwrap(wrapped, context), context)

    def _ask(self, verb: str, context: WrapContext | None = None, **values: str) -> Mapping[str, Any]:
        """Ask the transit engine; without a context only whether it has the key."""
        if context is not None:
            values["associated_data"] = b64encode(context.associated_data()).decode()
        path = f"/v1/{self._reference.mount}/{verb}/{self._reference.key}"
        from hvac import exceptions

        refused = (exceptions.InvalidRequest, exceptions.InternalServerError)  # by the kind of key, the server says either
        for is_last in (False, True):
            used = self._token(anew="")
            try:
                return self._post(path, values, used)["data"]
            except exceptions.Forbidden:
                if is_last:
                    raise ConfigurationError(f"the transit server does not let us {verb} with {self.key_id}") from None
                self._token(anew=used)  # it may have ended
            except refused as error:
                return self._refused(verb, str(error), is_probe=context is None)
            except exceptions.InvalidPath:
                raise ConfigurationError(f"the transit server has no transit engine at {self._reference.mount}") from None
        raise AssertionError

    def _refused(self, verb: str, why: str, *, is_probe: bool) -> Mapping[str, Any]:
        if "not found" in why:
            raise ConfigurationError(f"the transit server has no key {self.key_id}; make it there first") from None
        if is_probe:
            return {}
        if _WRONG_KIND.search(why):
            raise ConfigurationError(
                f"the transit server does not {verb} with {self.key_id}: it takes a key of the type aes256-gcm96 that is not "
                "derived, and whose min_decryption_version leaves the version that is used"
            ) from None
        if verb == "encrypt":
            raise VaultUnavailable("the key backend transit cannot answer now") from None
        raise VaultCorrupt("a wrapped key was changed, moved, or made by another key-encryption key") from None

    def _post(self, path: str, values: Mapping[str, str], token: str) -> Mapping[str, Any]:
        from hvac.exceptions import Forbidden, InternalServerError, InvalidPath, InvalidRequest, VaultError

        headers = {"X-Vault-Token": token} if token else {}
        for left in range(ATTEMPTS - 1, -1, -1):
            try:
                answer: Any = self._client.adapter.post(path, json=dict(values), headers=headers)
                if not isinstance(answer, dict):  # what is no JSON, the library hands over as it came
                    raise ValueError("no JSON")  # noqa: TRY301, TRY004
                return cast("dict[str, Any]", answer)
            except (Forbidden, InvalidPath, InvalidRequest, InternalServerError):
                raise
            except (OSError, ValueError):  # the library's own errors of the network are of the first kind
                if not left:
                    raise VaultUnavailable("the key backend transit cannot be reached now") from None
            except VaultError:
                raise VaultUnavailable("the key backend transit cannot answer now; is it sealed?") from None
        raise AssertionError

    def _token(self, *, anew: str) -> str:
        """The token to ask with; `anew` names one that does not do any more."""
        given = self._reference.parameters
        if not given.keys() & {"token_file", "role_id"}:
            return ""
        with self._logging_in:
            known: str = self._client.token or ""
            if known and known != anew:
                return known
            self._client.token = token = self._log_in(given)
            return token

    def _log_in(self, given: Mapping[str, str]) -> str:
        if "token_file" in given:
            return self._read_secret(f"file:{given['token_file']}").reveal()
        from hvac.exceptions import VaultError

        secret_id = self._read_secret(f"file:{given['secret_id_file']}").reveal()
        path = f"/v1/auth/{given.get('auth_mount', 'approle')}/login"
        try:
            return str(self._post(path, {"role_id": given["role_id"], "secret_id": secret_id}, "")["auth"]["client_token"])
        except IdentityError:
            raise
        except (VaultError, KeyError, TypeError):
            raise ConfigurationError("the transit server does not accept our role and secret id") from None


def _client(reference: TransitReference) -> Any:
    """A client that the environment tells nothing."""
    try:
        import hvac
    except ImportError:
        raise missing_package("transit", "transit") from None
    given = reference.parameters
    library: Any = hvac
    client = library.Client(
        url=reference.url or "http://socket",
        token="",
        cert=(),
        verify=given.get("ca_file", True),
        timeout=(CONNECT_SECONDS, READ_SECONDS),
        proxies={},
        allow_redirects=False,
        namespace=given.get("namespace") or None,
    )
    client.session.trust_env = False
    if reference.socket is not None:
        _lead_through(client.session, reference.socket)
    return client


def _lead_through(session: Any, path: Path) -> None:
    """Let the library's own session reach its server by a unix socket, whatever host the URL names."""
    manager = session.get_adapter("http://").poolmanager
    pool: Any = manager.pool_classes_by_scheme["http"]

    class Connection(pool.ConnectionCls):
        def _new_conn(self) -> socket.socket:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.settimeout(CONNECT_SECONDS)
            try:
                made.connect(str(path))
            except OSError:
                made.close()
                raise
            return made

    class Pool(pool):
        ConnectionCls = Connection

    manager.pool_classes_by_scheme = {"http": Pool}
