"""What an operator does with a whole vault: look at it, copy it, back it up and restore it.

None of it needs the running graph: no edge is served, no vendor is asked. It runs on the caller's own thread, so that Ctrl-C
ends it where it is; what is left then says so of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from mcp_identity.app import SystemClock, SystemEntropy, vault_location
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import ConfigurationError, InvalidRequest
from mcp_identity.domain.identity import DEFAULT_TENANT, User

if TYPE_CHECKING:
    from mcp_identity.settings import Settings
    from mcp_identity.vault.kms.backend import KeyBackend
    from mcp_identity.vault.moving.archive import Head
    from mcp_identity.vault.moving.backing_up import RestoreReport
    from mcp_identity.vault.moving.cells import Contents
    from mcp_identity.vault.moving.copying import CopyReport
    from mcp_identity.vault.moving.looking import Overview
    from mcp_identity.vault.moving.trail import Seams
    from mcp_identity.vault.opening import Migration, OpenedVault, VaultLocation

Progress = Callable[[str, str, int], None]
"""Told what is done, in which table, and how many rows more of it are."""
Begun = Callable[[int], Progress]
"""Told how many rows there are, as far as one can know; gives what is told as it goes on."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is ended in a restored vault beside what always is.

    Attributes:
        end_bearers: Workload keys, and the tokens and sessions of users.
        ask_again: The grants of users, who are asked for consent again.
    """

    end_bearers: bool = False
    ask_again: bool = False


def look(settings: Settings) -> Overview:
    """What there is, without its key; nothing is changed.

    Raises:
        ConfigurationError: If there is no vault.
        StorageError: If its database cannot be read now.
    """
    from mcp_identity.vault.moving.looking import look_at

    location = vault_location(settings)
    found = look_at(location)
    if found is None:
        raise ConfigurationError(f"there is no vault {location.name}; the first start makes it, or: mcp-identity init")
    return found


def copy(settings: Settings, to: str, begun: Begun) -> CopyReport:
    """Copy the vault of these settings into another database.

    Args:
        settings: Where it is.
        to: The URL of an empty database, without a password.
        begun: Who looks on.

    Raises:
        InvalidRequest: If the URL is no such URL, or holds a password.
        Conflict: If something else is there.
        StorageError: If one of the two cannot be used.
    """
    from mcp_identity.vault.moving.copying import COPY, copy_vault, count_source
    from mcp_identity.vault.moving.target import Target

    location, target = vault_location(settings), location_of(settings, to)
    if target.name == location.name:
        raise InvalidRequest("the vault is there already; --to names another database")
    files = location.postgres is None and target.postgres is None
    opened = _open(location)
    with closing(_Letting(opened)):
        progress = begun(sum(count_source(opened).values()))
        held = files and location.database.parent == target.database.parent
        event = _event(settings, opened.vault_id, COPY)
        return copy_vault(opened, Target(target.site(), is_held=held), event, _seams(), progress)


def back_up(settings: Settings, path: Path | None, stream: BinaryIO | None, begun: Begun) -> Contents:
    """Write an archive of the vault of these settings, which others may go on using.

    Args:
        settings: Where it is.
        path: The archive; nothing is there yet.
        stream: Where to write it instead.
        begun: Who looks on.

    Raises:
        Conflict: If there is such a file.
        StorageError: If the vault cannot be read, or the archive not be written.
    """
    from mcp_identity.vault.moving.backing_up import back_up as write
    from mcp_identity.vault.moving.backing_up import new_file
    from mcp_identity.vault.moving.copying import count_source

    opened = _open(vault_location(settings))
    with closing(_Letting(opened)):
        progress = begun(sum(count_source(opened).values()))
        event = _event(settings, opened.vault_id, "backup_vault").ending("ok", to=str(path or "standard output"))
        if stream is not None:
            return write(opened, stream, event, _seams(), progress)
        if path is None:
            raise InvalidRequest("name the file to write")
        with new_file(path, SystemEntropy().random_bytes(8).hex()) as file:
            return write(opened, file, event, _seams(), progress)


def check(settings: Settings, path: Path, begun: Begun) -> tuple[Head, Contents]:
    """Read an archive to its end and prove it, with the key of these settings; no vault is touched.

    Raises:
        ConfigurationError: If it is no archive that this version reads, or of another key.
        StorageError: If it was changed or cut off, or cannot be read.
    """
    from mcp_identity.vault.moving.backing_up import open_archive

    with _archive(path) as file:
        archive, _, contents = open_archive(file, _key(vault_location(settings)), _seams(), begun(0))
        return archive.head, contents


def restore(settings: Settings, path: Path, wish: Wish, begun: Begun) -> RestoreReport:
    """Put an archive into the empty database of these settings, with their key.

    Args:
        settings: Where to, and which key.
        path: The archive.
        wish: What is ended beside what always is.
        begun: Who looks on.

    Raises:
        ConfigurationError: If it is no archive that this version reads, or of another key.
        Conflict: If there is a vault already.
        StorageError: If it was changed or cut off, or one of the two cannot be used.
    """
    from mcp_identity.vault.moving.archive import vault_of
    from mcp_identity.vault.moving.backing_up import restore as put_back
    from mcp_identity.vault.moving.settling import Wishes
    from mcp_identity.vault.moving.target import Target

    location = vault_location(settings)
    wishes = Wishes(end_bearers=wish.end_bearers, ask_again=wish.ask_again)
    with _archive(path) as file:
        event = _event(settings, vault_of(file), "restore_vault").ending("ok", source=path.name)
        return put_back(file, _key(location), Target(location.site()), event, wishes, _seams(), begun(0))


def migrate(settings: Settings) -> Migration:
    """Bring the vault of these settings to this version's schema, and write that into its trail.

    Raises:
        ConfigurationError: If there is no vault, or key and vault do not fit together.
        StorageError: If a newer version wrote it, or it cannot be opened now.
    """
    from mcp_identity.app import migrate as upgrade
    from mcp_identity.vault.moving.copying import load_vault_key
    from mcp_identity.vault.moving.trail import write_down

    migration = upgrade(settings)
    if migration.before < migration.after:
        opened = _open(vault_location(settings))
        with closing(_Letting(opened)):
            load_vault_key(opened)
            event = _event(settings, opened.vault_id, "migrate_vault")
            versions = {"before": str(migration.before), "after": str(migration.after)}
            write_down(opened.store, opened.ring, _seams(), event.ending("ok", **versions))
    return migration


def location_of(settings: Settings, url: str) -> VaultLocation:
    """Where another database is, with the key of these settings.

    Raises:
        InvalidRequest: If the URL is none of ours, or holds a password, which everybody on the machine could read.
    """
    from mcp_identity.settings import load_settings

    try:
        parts = urlsplit(url)
        has_password = parts.password is not None or "password" in dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        raise InvalidRequest("--to is no URL") from None
    if has_password:
        raise InvalidRequest(
            "a password in an argument can be read by every program of the machine; leave it out of --to and say where it is: "
            "?password_from=env:NAME or ?password_from=file:/path"
        )
    try:
        load_settings(database_url=url)
    except ConfigurationError as error:
        raise InvalidRequest(f"--to: {error.message}") from None
    return vault_location(settings.model_copy(update={"database_url": url}))


class _Letting:
    """Lets go of a vault at the end, however that comes."""

    def __init__(self, opened: OpenedVault) -> None:
        self._opened = opened

    def close(self) -> None:
        self._opened.store.release()


def _open(location: VaultLocation) -> OpenedVault:
    """Open a vault that is there; none is made.

    Raises:
        ConfigurationError: If there is none.
    """
    from mcp_identity.app import has_vault
    from mcp_identity.vault.opening import open_location

    if not has_vault(location):
        raise ConfigurationError(f"there is no vault {location.name}; the first start makes it, or: mcp-identity init")
    return open_location(location, SystemClock(), SystemEntropy())


def _key(location: VaultLocation) -> KeyBackend:
    """The key-encryption key, which is not made here: an archive needs the one that it was made under.

    Raises:
        ConfigurationError: If it is not there.
    """
    source = location.key_source
    if not source.is_given:
        raise ConfigurationError(
            f"the key {source.where} is not there; put the key of the archive's vault there, or name it with MCP_IDENTITY_KEY"
        )
    return source.open(SystemEntropy())


def _archive(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror})") from None


def _seams() -> Seams:
    from mcp_identity.vault.moving.trail import Seams

    return Seams(SystemClock(), SystemEntropy())


def _event(settings: Settings, vault_id: str, action: str) -> AuditEvent:
    user: User = settings.local_user(vault_id)
    return AuditEvent(DEFAULT_TENANT, "operator", "", user.key, user.display, verified=False, edge="cli", action=action)
