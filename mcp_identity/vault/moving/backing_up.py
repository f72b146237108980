"""How is a vault backed up while it is used, and how does it come back, so that nobody is left with half of one?

A backup is written aside and gets its name once it is whole and on the disk. It is read to its end before one row of it is
put anywhere; a restore fills an empty database as a copy does, and nothing that is there is ever overwritten.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Table
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import Conflict, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.keys import VAULT
from mcp_identity.vault.kms.backend import KeyBackend
from mcp_identity.vault.kms.local import sync_folder
from mcp_identity.vault.moving.archive import Archive, Head, check_archive, write_archive
from mcp_identity.vault.moving.cells import Cell, Contents
from mcp_identity.vault.moving.copying import interrupted, load_vault_key, require_state
from mcp_identity.vault.moving.filling import fill, finish_filling, remove_strangers
from mcp_identity.vault.moving.inspecting import Findings, Inspection
from mcp_identity.vault.moving.reading import Progress, digest_key, read_contents, said, snapshot
from mcp_identity.vault.moving.sealed_stream import made_durable
from mcp_identity.vault.moving.settling import EPOCHS, Settled, Settling, Wishes
from mcp_identity.vault.moving.state import State
from mcp_identity.vault.moving.target import Target
from mcp_identity.vault.moving.trail import Seams, write_down
from mcp_identity.vault.opening import OpenedVault
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.keys import read_wrapped_keys
from mcp_identity.vault.stores.store import Store


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What came of a restore.

    Attributes:
        head: What the archive says of itself, proven by now.
        contents: What was in it, by table.
        findings: What was found in the restored vault.
        settled: What was ended.
        resumed: An earlier attempt had begun; it was begun anew.
    """

    head: Head
    contents: Contents
    findings: Findings
    settled: Settled
    resumed: bool


def back_up(opened: OpenedVault, file: BinaryIO, event: AuditEvent, seams: Seams, progress: Progress) -> Contents:
    """Write an archive of a vault that others go on using.

    Args:
        opened: The vault, opened as any process opens it; let go of at the end.
        file: Where to.
        event: What the trail says, before anything is read.
        seams: Time and randomness.
        progress: Told as it goes on.

    Raises:
        VaultUnavailable: If the vault cannot be read, or the file not be written, now.
        VaultCorrupt: If a row cannot be carried.
        AuditUnavailable: If the trail cannot be written.
    """
    try:
        load_vault_key(opened)
        write_down(opened.store, opened.ring, seams, event)
        with said(), snapshot(opened.store) as connection:
            state = require_state(connection, opened.store.name)
            opened.ring.load(VAULT, read_wrapped_keys(connection, VAULT))  # as of this very moment
            contents = write_archive(connection, state, opened.ring, file, seams, progress)
        file.flush()
    except OSError as error:
        raise VaultUnavailable(f"the archive cannot be written ({error.strerror or type(error).__name__})") from None
    else:
        return contents
    finally:
        opened.store.release()


@contextlib.contextmanager
def new_file(path: Path, name: str) -> Generator[BinaryIO]:
    """A file that nobody else can read, and that has its name only once it is whole; else nothing is left of it.

    Args:
        path: Where it will be; nothing is there yet.
        name: Random; names what is written meanwhile.

    Raises:
        Conflict: If something is there.
        VaultUnavailable: If it cannot be made.
    """
    partial = path.with_name(f".{path.name}.{name}.partial")
    taken = Conflict(f"{path} is there already; nothing was overwritten")
    if path.exists() or path.is_symlink():
        raise taken
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as error:
        raise VaultUnavailable(f"{path} cannot be written ({error.strerror})", retryable=False) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            made_durable(file)
        _give_name(partial, path)
        sync_folder(path.parent)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise VaultUnavailable(f"{path} cannot be written ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)


def _give_name(partial: Path, path: Path) -> None:
    """Name the file, if nobody took the name meanwhile; a rename would overwrite it."""
    try:
        os.link(partial, path)
    except (PermissionError, NotImplementedError, AttributeError):  # a file system without links
        if path.exists():
            raise FileExistsError from None
        partial.rename(path)


def open_archive(file: BinaryIO, backend: KeyBackend, seams: Seams, progress: Progress) -> tuple[Archive, State, Contents]:
    """Read an archive to its end, and prove it.

    Raises:
        ConfigurationError: If it is no archive, of a newer format, or of another key.
        VaultUnavailable: If it is of another schema, or cannot be read now.
        VaultCorrupt: If it was changed or cut off.
    """
    try:
        archive = Archive(file, backend, seams.clock)
        return archive, *check_archive(archive, progress)
    except OSError as error:
        raise VaultUnavailable(f"the archive cannot be read ({error.strerror or type(error).__name__})") from None


def restore(
    file: BinaryIO, backend: KeyBackend, target: Target, event: AuditEvent, wishes: Wishes, seams: Seams, progress: Progress
) -> RestoreReport:
    """Put a vault from an archive into an empty database.

    Args:
        file: The archive.
        backend: Holds its key-encryption key.
        target: An empty database, or one that an earlier attempt began to fill.
        event: What the trail of the restored vault says.
        wishes: What the operator wants to end.
        seams: Time and randomness.
        progress: Told as it goes on.

    Raises:
        ConfigurationError: If the file is no archive that can be read, or of another key; nothing was written.
        Conflict: If there is a vault already; nothing was written.
        VaultUnavailable: If file or database cannot be used now.
        VaultCorrupt: If the archive was changed or cut off; nothing was written.
    """
    archive, state, contents = open_archive(file, backend, seams, progress)
    try:
        resumed = target.begin(state)
        with target.alone(state) as store:
            carry_back(archive, store, progress, resumed=resumed)
            findings = verify_restored(archive, contents, store, seams, progress)
            settled = settle(archive, state, store, event, wishes, seams)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise interrupted(error) from None
    return RestoreReport(archive.head, contents, findings, settled, resumed)


def carry_back(archive: Archive, store: Store, progress: Progress, *, resumed: bool) -> None:
    """Put every row into the target; what an earlier attempt left there may be of another archive, and goes first."""
    engine = store.writing_engine()
    try:
        with engine.connect() as connection:
            if resumed:
                remove_strangers(connection, _nothing_stays)
            fill(connection, archive, progress)
    finally:
        engine.dispose()


def _nothing_stays(_table: Table, keys: list[Cell]) -> list[Cell]:
    return keys


def verify_restored(archive: Archive, contents: Contents, store: Store, seams: Seams, progress: Progress) -> Findings:
    """Read every row back, compare it with what the archive says at its end, and open everything.

    Raises:
        VaultCorrupt: If it is not the same; the target stays marked.
    """
    with snapshot(store) as connection:
        found = read_contents(connection, digest_key(archive.ring), progress, "compared")
        if differing := contents.differing(found):
            raise VaultCorrupt(f"the restored vault differs from the archive in {', '.join(differing)}; run the command again")
        return Inspection(connection, archive.ring, seams).inspect(progress)


def settle(archive: Archive, state: State, store: Store, event: AuditEvent, wishes: Wishes, seams: Seams) -> Settled:
    """End what must not come back, write it down, and let the vault be opened: one transaction."""
    outcome: list[Settled] = []
    raised = replace(state, configuration_epoch=state.configuration_epoch + EPOCHS)

    def work(records: Records) -> AuditEvent:
        outcome.append(Settling(records, seams).settle(wishes))
        finish_filling(records.connection, raised)
        made = archive.head.made.isoformat(timespec="seconds")
        return event.ending("ok", archive_of=made, **outcome[-1].detail())

    with snapshot(store) as connection:
        archive.ring.load(VAULT, read_wrapped_keys(connection, VAULT))
    write_down(store, archive.ring, seams, event, work, unmarked=False)
    return outcome[-1]
