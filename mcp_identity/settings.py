"""What was configured: the only reader of the environment, of `mcp-identity.toml`, and of secret references.

The environment wins over the file, which is read from the vault's own folder and nowhere else: a file in a project folder
may be anybody's. A secret is read once, where it is used, and never kept here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ConfigurationError, clean_text
from mcp_identity.domain.identity import LOCAL_ISSUER, User, UserKind
from mcp_identity.domain.provider import Release
from mcp_identity.domain.secret_source import parse_sources

PREFIX = "MCP_IDENTITY_"
CALLBACK_PORT = 8976
_SQLITE, _POSTGRES = "sqlite:///", ("postgresql://", "postgres://")
_SECRET_LIMIT = 16_384
_DOCUMENT_LIMIT = 64 * 1024
_KEY_BACKENDS = ("file", "env", "keyring", "aws-kms", "transit", "pkcs11")
Names = Annotated[tuple[str, ...], NoDecode]
"""Several values: a list in the file; with commas or spaces between them in the environment."""
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def default_home() -> Path:
    """The vault's folder: `MCP_IDENTITY_HOME`, or the platform's user data folder."""
    return Path(os.environ.get(f"{PREFIX}HOME") or platformdirs.user_data_path("mcp-identity", appauthor=False))


class Settings(BaseSettings):
    """Everything that can be configured; each is `MCP_IDENTITY_<NAME>`, or the same key in `mcp-identity.toml`.

    Attributes:
        home: The private folder of vault and key.
        database_url: ``sqlite:///<path>`` or ``postgresql://…``; empty for `vault.db` in `home`.
        key: Where the key-encryption key is: ``file:<path>``, ``env:<name>``, ``keyring:<service>/<name>``, ``aws-kms:…``,
            ``transit:…`` or ``pkcs11:…``; empty for the file `key` in `home`.
        callback_port: The loopback port of the consent page; it stands in the redirect URIs that vendors know.
        workload: The name of the agent; empty for the MCP client's own.
        user: Another name for the local user; it is then a different user, shown as asserted.
        default_release: How secrets leave where a provider does not say.
        secret_sources: Where secrets may be that are only named over an API: ``<tenant>=env:<PREFIX>_`` and
            ``<tenant>=file:<folder>``; none of them is listed unless the operator does.
        url: Where the Python client finds its server; it starts one of its own where this is empty.
        workload_key: What the Python client shows there, unless it is told otherwise.
        pending_consents: Open consents of one principal.
        links_per_minute: New consent links of one principal for one provider.
        concurrent_waits: Calls of one principal that wait for a consent.
        total_consents: Open consents of all principals together.
        refreshes_ahead: Tokens in use that are refreshed before they end, at once, in this process; 0 for none.
        public_url: Where callers and browsers reach this server, ``https://host[:port]``; needed beyond loopback.
        allowed_hosts: Further values of the Host header; the public URL's, and on loopback the address bound, always are.
        allowed_origins: Further values of the Origin header.
        trusted_proxies: Addresses or networks whose X-Forwarded-For is believed, and who may speak plain HTTP to us.
        tls_cert: The certificate chain, PEM; with `tls_key` this server speaks TLS itself.
        tls_key: Its private key, PEM.
        calls_per_second: Tool calls of one principal, in this process.
        requests_per_second: HTTP requests of one principal, in this process.
        concurrent_requests: HTTP requests that are answered, and tool calls that run, at once, of everybody.
        concurrent_requests_per_principal: The same of one principal.
        streams_per_principal: Open event streams of one principal.
        sessions: MCP sessions of everybody, for clients of protocol versions that have them.
        sessions_per_principal: The same of one principal.
        session_idle_seconds: After so long without a request a session ends.
        stream_check_seconds: How often the credential that opened a stream is looked at again.
        failed_authentications_per_minute: Bearers from one address, or of one value, that may prove nothing.
        connections: Open connections of everybody.
        connections_per_address: The same of one address that is no trusted proxy.
        request_seconds: How long a whole request may take to come.
        write_seconds: How long a peer may read nothing of an answer.
        header_bytes: The most of a request's header.
        body_bytes: The most of a request's body.
        log_level: The least level that is logged.
        log_format: ``human`` or ``json``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    home: Path = Field(default_factory=default_home)
    database_url: str = Field(default="", repr=False)  # a password may be in it
    key: str = ""
    callback_port: int = Field(default=CALLBACK_PORT, ge=1, le=65_535)
    workload: str = ""
    user: str = ""
    default_release: Release = Release.TOKEN
    secret_sources: Names = ()
    url: str = ""
    workload_key: str = Field(default="", repr=False)
    pending_consents: int = Field(default=20, ge=1, le=1000)
    links_per_minute: int = Field(default=5, ge=1, le=1000)
    concurrent_waits: int = Field(default=4, ge=1, le=1000)
    total_consents: int = Field(default=10_000, ge=1, le=10_000_000)
    refreshes_ahead: int = Field(default=8, ge=0, le=1000)
    public_url: str = ""
    allowed_hosts: Names = ()
    allowed_origins: Names = ()
    trusted_proxies: Names = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    calls_per_second: Count = 50
    requests_per_second: Count = 200
    concurrent_requests: Count = 256
    concurrent_requests_per_principal: Count = 64
    streams_per_principal: Count = 32
    sessions: Count = 10_000
    sessions_per_principal: Count = 200
    session_idle_seconds: Seconds = 1800
    stream_check_seconds: Seconds = 60
    failed_authentications_per_minute: Count = 60
    connections: Count = 1000
    connections_per_address: Count = 750
    request_seconds: Seconds = 10
    write_seconds: Seconds = 30
    header_bytes: int = Field(default=16 * 1024, ge=1024, le=1024 * 1024)
    body_bytes: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    log_format: Literal["human", "json"] = "human"

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("allowed_hosts", "allowed_origins", "trusted_proxies", "secret_sources", mode="before")
    @classmethod
    def _several(cls, given: object) -> object:
        return tuple(given.replace(",", " ").split()) if isinstance(given, str) else given

    @field_validator("public_url")
    @classmethod
    def _origin(cls, url: str) -> str:
        """Scheme, host and port: everything that we give out is made of it, so nothing else may be in it."""
        if not url:
            return url
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
        origin = f"{parts.scheme}://{host}{port}"
        if parts.scheme not in ("http", "https") or not parts.hostname or url.lower().removesuffix("/") != origin:
            raise ValueError("it is https://host or https://host:port, without a path")
        return origin.removesuffix({"https": ":443", "http": ":80"}[parts.scheme])

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for each in given:
            ip_network(each)
        return given

    @field_validator("secret_sources")
    @classmethod
    def _places(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        parse_sources(given)
        return given

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code, then the environment, then the file; no dotenv, no secrets folder."""
        del dotenv_settings, file_secret_settings
        file = TomlConfigSettingsSource(settings_cls, default_home() / "mcp-identity.toml")
        return init_settings, env_settings, file

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and not url.startswith(_POSTGRES) and (not url.startswith(_SQLITE) or url == _SQLITE):
            raise ValueError("it is sqlite:///<path>, or postgresql://<user>@<host>/<database>")
        return url

    @property
    def database_path(self) -> Path | None:
        """The SQLite file, where one is configured."""
        if not self.database_url.startswith(_SQLITE):
            return None
        return Path(self.database_url.removeprefix(_SQLITE)).expanduser().absolute()

    @property
    def postgres_url(self) -> str:
        """The URL of the PostgreSQL database, where that is what is configured; else empty.

        Raises:
            ConfigurationError: If the environment would lead the driver elsewhere, which nothing that we say overrules.
        """
        if not self.database_url.startswith(_POSTGRES):
            return ""
        if "PGSERVICE" in os.environ:
            raise ConfigurationError(
                f"PGSERVICE is set, but {PREFIX}DATABASE_URL alone says where the vault is: unset PGSERVICE"
            )
        return self.database_url

    @property
    def is_shared(self) -> bool:
        """Whether other machines may have the same vault open."""
        return self.database_url.startswith(_POSTGRES)

    def require_own_vault(self, *, trust_local_user: bool) -> None:
        """Refuse to believe this machine's user by the number alone on a vault that other machines share.

        Args:
            trust_local_user: The operator says that everybody who could start us is one and the same.

        Raises:
            ConfigurationError: If others may share the vault, and the operator did not say so.
        """
        if self.is_shared and not trust_local_user:
            raise ConfigurationError(
                "this machine's user would be believed on a vault that other machines share, where the same number may be "
                "somebody else: serve it over HTTP with bearers, or, if all of them are you, start with --trust-local-user "
                "(`mcp-identity clients install CLIENT --trust-local-user` has an MCP client do so)"
            )

    def local_user(self, vault_id: str) -> User:
        """The operating system's user, as a user of this vault; with `user` set, a different one, shown as asserted."""
        issuer = LOCAL_ISSUER + vault_id
        if self.user:
            name = clean_text(self.user, 128)
            return User(issuer, f"asserted:{name}", UserKind.LOCAL, f"{name} (asserted)")
        if sys.platform == "win32":
            name = f"{os.environ.get('USERDOMAIN', '')}\\{os.environ.get('USERNAME', '')}"
            return User(issuer, name, UserKind.LOCAL, name)
        import pwd

        uid = os.getuid()
        try:
            display = pwd.getpwuid(uid).pw_name
        except KeyError:
            display = f"uid {uid}"
        return User(issuer, str(uid), UserKind.LOCAL, display)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        **overrides: Win over the environment; None leaves a setting as it is.

    Raises:
        ConfigurationError: If a setting, or the file, is not what it should be; the message names it, never its value.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        what = "; ".join(
            f"{(name := '.'.join(map(str, each['loc'])))}: {_complaint(name, each['type'], each['msg'])}"
            for each in error.errors()
        )
        raise ConfigurationError(f"the settings do not stand: {what}") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"mcp-identity.toml cannot be read ({type(error).__name__})") from None


def _complaint(name: str, kind: str, message: str) -> str:
    if kind != "extra_forbidden":
        return message
    near = " or ".join(get_close_matches(name[:64].lower(), Settings.model_fields, n=3))
    return f"there is no such setting{f'; did you mean {near}?' if near else ''}"


def environment_for_clients() -> dict[str, str]:
    """What is set in this environment and a server started by an MCP client must know too; never a secret.

    Raises:
        ConfigurationError: If the URL of the database holds its password.
    """
    names = ("HOME", "DATABASE_URL", "KEY", "CALLBACK_PORT", "USER", "DEFAULT_RELEASE")
    found = {PREFIX + name: value for name in names if (value := os.environ.get(PREFIX + name))}
    if "env:" in found.get(f"{PREFIX}KEY", ""):
        del found[f"{PREFIX}KEY"]  # it names a variable, which the client's environment does not have
    if _holds_password(found.get(f"{PREFIX}DATABASE_URL", "")):
        raise ConfigurationError(
            f"{PREFIX}DATABASE_URL holds a password, which nobody writes into a client's configuration; "
            "keep it in a file of your own, and end the URL in ?password_from=file:/path"
        )
    if f"{PREFIX}HOME" in found:
        found[f"{PREFIX}HOME"] = str(default_home().expanduser().absolute())
    return found


def environment_for_server() -> dict[str, str]:
    """The environment of a server that this process starts for itself: all of it, since keys and secrets may be named in it."""
    return {name: value for name, value in os.environ.items() if name not in (f"{PREFIX}URL", f"{PREFIX}WORKLOAD_KEY")}


def _holds_password(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return True  # whatever it is, it is not shown
    return ":" in parts.netloc.rpartition("@")[0] or any(name == "password" for name, _ in parse_qsl(parts.query))


def key_reference(
    key: str,
) -> tuple[str, Path | None, Callable[[], str | None] | None, Callable[[str], Secret]]:
    """Take the setting `key`, or another reference to a key-encryption key, apart; what it says is for its backend to judge.

    Returns:
        A name for people, the key file or None, a reader of a key that is in a variable, and the reader of what a backend
        needs to show who we are.

    Raises:
        ConfigurationError: If it names no backend.
    """
    kind, _, value = key.partition(":")
    if kind not in _KEY_BACKENDS or not value:
        raise ConfigurationError(f"a key is {', '.join(f'{each}:…' for each in _KEY_BACKENDS[:-1])} or {_KEY_BACKENDS[-1]}:…")
    path = Path(value).expanduser().absolute() if kind == "file" else None
    return key, path, (lambda: os.environ.get(value)) if kind == "env" else None, read_secret


def read_secret(reference: str, *, json_key: str = "", opener: Callable[[str, int], int] | None = None) -> Secret:
    """Read a secret by reference, once.

    Args:
        reference: ``env:<name>`` or ``file:<path>``.
        json_key: The key of the secret, where a JSON object is there.
        opener: Opens the file, as Python's own `open` has it; it may refuse.

    Raises:
        ConfigurationError: If it is not there, empty, or too long.
    """
    kind, _, value = reference.partition(":")
    text: str | None = None
    if kind == "env":
        text = os.environ.get(value)
    elif kind == "file":
        try:
            with open(Path(value).expanduser(), "rb", opener=opener) as file:
                text = file.read(_DOCUMENT_LIMIT + 1).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the secret in {reference} cannot be read ({type(error).__name__})") from None
    if text and json_key:
        text = _member(text, json_key)
    text = (text or "").strip("\r\n")
    if not text or len(text) > _SECRET_LIMIT or not (text.isprintable() or is_pem(text)):
        raise ConfigurationError(f"the secret {reference} is missing, empty, too long, or has more than one line")
    return Secret(text)


def _member(document: str, key: str) -> str | None:
    """A text out of a JSON object; None where there is none, or no such object."""
    try:
        found: object = json.loads(document) if len(document) <= _DOCUMENT_LIMIT else None
    except (ValueError, RecursionError):
        return None
    value = cast("dict[str, object]", found).get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def is_pem(text: str) -> bool:
    """Whether it is one key as PEM writes it: the only secret that has lines."""
    return text.startswith("-----BEGIN ") and all(line.isprintable() for line in text.splitlines())
