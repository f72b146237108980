"""What was configured: the only reader of the environment, of `mcp-identity.toml`, and of secret references.

The environment wins over the file, which is read from the vault's own folder and nowhere else: a file in a project folder
may be anybody's. A secret is read once, where it is used, and never kept here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ConfigurationError, clean_text
from mcp_identity.domain.identity import LOCAL_ISSUER, User, UserKind
from mcp_identity.domain.provider import Release

PREFIX = "MCP_IDENTITY_"
CALLBACK_PORT = 8976
_SECRET_LIMIT = 16_384


def default_home() -> Path:
    """The vault's folder: `MCP_IDENTITY_HOME`, or the platform's user data folder."""
    return Path(os.environ.get(f"{PREFIX}HOME") or platformdirs.user_data_path("mcp-identity", appauthor=False))


class Settings(BaseSettings):
    """Everything that can be configured; each is `MCP_IDENTITY_<NAME>`, or the same key in `mcp-identity.toml`.

    Attributes:
        home: The private folder of vault and key.
        database_url: ``sqlite:///<path>``; empty for `vault.db` in `home`.
        key: Where the key-encryption key is: ``file:<path>`` or ``env:<name>``; empty for the file `key` in `home`.
        callback_port: The loopback port of the consent page; it stands in the redirect URIs that vendors know.
        workload: The name of the agent; empty for the MCP client's own.
        user: Another name for the local user; it is then a different user, shown as asserted.
        default_release: How secrets leave where a provider does not say.
        pending_consents: Open consents of one principal.
        links_per_minute: New consent links of one principal for one provider.
        concurrent_waits: Calls of one principal that wait for a consent.
        log_level: The least level that is logged.
        log_format: ``human`` or ``json``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    home: Path = Field(default_factory=default_home)
    database_url: str = ""
    key: str = ""
    callback_port: int = Field(default=CALLBACK_PORT, ge=1, le=65_535)
    workload: str = ""
    user: str = ""
    default_release: Release = Release.TOKEN
    pending_consents: int = Field(default=20, ge=1, le=1000)
    links_per_minute: int = Field(default=5, ge=1, le=1000)
    concurrent_waits: int = Field(default=4, ge=1, le=1000)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    log_format: Literal["human", "json"] = "human"

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

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

    @property
    def database_path(self) -> Path | None:
        """The SQLite file, where one is configured.

        Raises:
            ConfigurationError: If the URL is of another database.
        """
        if not self.database_url:
            return None
        scheme, _, path = self.database_url.partition(":///")
        if scheme != "sqlite" or not path:
            raise ConfigurationError(f"{PREFIX}DATABASE_URL is sqlite:///<path>; this version serves no other database")
        return Path(path).expanduser().absolute()

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
            f"{'.'.join(map(str, each['loc']))}: {_complaint(each['type'], each['msg'])}" for each in error.errors()
        )
        raise ConfigurationError(f"the settings do not stand: {what}") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"mcp-identity.toml cannot be read ({type(error).__name__})") from None


def _complaint(kind: str, message: str) -> str:
    known = ", ".join(sorted(Settings.model_fields))
    return f"there is no such setting; there are: {known}" if kind == "extra_forbidden" else message


def environment_for_clients() -> dict[str, str]:
    """What is set in this environment and a server started by an MCP client must know too; never a secret."""
    names = ("HOME", "DATABASE_URL", "KEY", "CALLBACK_PORT", "USER", "DEFAULT_RELEASE")
    found = {PREFIX + name: value for name in names if (value := os.environ.get(PREFIX + name))}
    if not found.get(f"{PREFIX}KEY", "file:").startswith("file:"):
        del found[f"{PREFIX}KEY"]  # it names a variable, which the client's environment does not have
    if f"{PREFIX}HOME" in found:
        found[f"{PREFIX}HOME"] = str(default_home().expanduser().absolute())
    return found


def key_reference(key: str) -> tuple[str, Path | None, Callable[[], str | None] | None]:
    """Take the setting `key` apart.

    Returns:
        A name for people, the key file or None, and a reader of a key that is not in a file.

    Raises:
        ConfigurationError: If it is neither ``file:<path>`` nor ``env:<name>``.
    """
    kind, _, value = key.partition(":")
    if kind == "file" and value:
        return key, Path(value).expanduser().absolute(), None
    if kind == "env" and value:
        return key, None, lambda: os.environ.get(value)
    raise ConfigurationError(f"{PREFIX}KEY is file:<path> or env:<name>; this version serves no other key backend")


def read_secret(reference: str) -> Secret:
    """Read a secret by reference, once.

    Args:
        reference: ``env:<name>`` or ``file:<path>``.

    Raises:
        ConfigurationError: If it is not there, empty, or too long.
    """
    kind, _, value = reference.partition(":")
    text: str | None = None
    if kind == "env":
        text = os.environ.get(value)
    elif kind == "file":
        try:
            text = Path(value).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the secret in {reference} cannot be read ({type(error).__name__})") from None
    text = (text or "").strip("\r\n")
    if not text or len(text) > _SECRET_LIMIT or not text.isprintable():
        raise ConfigurationError(f"the secret {reference} is missing, empty, too long, or has more than one line")
    return Secret(text)
