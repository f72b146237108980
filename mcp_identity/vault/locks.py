"""Who is alive: advisory file locks that the operating system drops when a process ends, however it ends.

Two things rest on them. A vault is made or upgraded by one process while no other has it open, and a lease of a process
that is known dead is taken over at once. Nothing is read from the files but names for people.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

from mcp_identity.domain.errors import VaultUnavailable

if sys.platform == "win32":  # pragma: no cover - the msvcrt arm runs on Windows alone
    import msvcrt

    def _try_lock(file: IO[bytes], *, shared: bool) -> bool:
        del shared  # msvcrt knows exclusive byte ranges only: each sharer takes a byte of its own
        try:
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: IO[bytes], *, shared: bool) -> bool:
        try:
            fcntl.flock(file.fileno(), (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


_PROCESS_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids of processes come out of the database too, and name files."""


def _open_private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def _locked(path: Path, *, shared: bool) -> IO[bytes] | None:
    file = _open_private(path)
    if _try_lock(file, shared=shared):
        return file
    file.close()
    return None


class ProcessLocks:
    """The locks of one process on one vault folder."""

    def __init__(self, home: Path, process_id: str, *, wait_seconds: float) -> None:
        """Name the folder and this process; nothing is locked yet.

        Args:
            home: The vault's folder.
            process_id: Random; never reused, so a free lock file means a dead process.
            wait_seconds: How long the others are waited for.
        """
        self._vault_file = home / "vault.lock"
        self._creation_file = home / "create.lock"
        self._folder = home / "processes"
        self._process_id = process_id
        self._wait_seconds = wait_seconds
        self._held: list[IO[bytes]] = []

    def hold(self) -> None:
        """Declare this process alive and share the vault with the others that have it open.

        Raises:
            VaultUnavailable: If one of them upgrades it and takes too long over it.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        try:
            mine = self._wait_for(self._claim)
            self._held.append(mine)
            mine.write(json.dumps({"pid": os.getpid(), "program": Path(sys.argv[0] or "python").name}).encode())
            mine.flush()
            self._held.append(self._wait_for(lambda: _locked(self._vault_file, shared=True)))
        except VaultUnavailable:
            self.release()
            raise

    def _claim(self) -> IO[bytes] | None:
        """Our own lock file, locked. Whoever asked after us just then may have held it, or removed it as a dead one's."""
        path = self._folder / f"{self._process_id}.lock"
        file = _locked(path, shared=False)
        with contextlib.suppress(FileNotFoundError):
            if file is not None and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        if file is not None:
            file.close()
        return None

    def release(self) -> None:
        """Let go of everything."""
        if self._held:
            for file in self._held:
                file.close()
            self._held.clear()
            (self._folder / f"{self._process_id}.lock").unlink(missing_ok=True)

    def is_being_made(self) -> bool:
        """Whether a process makes a vault here, or once did: it may be in the middle of it."""
        return self._creation_file.exists()

    @contextlib.contextmanager
    def creating(self) -> Generator[None]:
        """Be the only process that makes a key and a vault in this folder.

        Raises:
            VaultUnavailable: If another one takes too long over it.
        """
        with self._wait_for(lambda: _locked(self._creation_file, shared=False)):
            yield

    @contextlib.contextmanager
    def exclusive(self) -> Generator[None]:
        """Have the vault for ourselves, to upgrade it.

        Raises:
            VaultUnavailable: If others keep it open; they are named.
        """
        with self._wait_for(lambda: _locked(self._vault_file, shared=False)):
            yield

    def is_dead(self, process_id: str) -> bool:
        """Whether the process of this id is known to have ended."""
        if process_id == self._process_id or not _PROCESS_ID.fullmatch(process_id):
            return False
        path = self._folder / f"{process_id}.lock"
        try:
            file = path.open("r+b")
        except FileNotFoundError:
            return True
        except OSError:
            return False
        with file:
            if not _try_lock(file, shared=False):
                return False
            path.unlink(missing_ok=True)
            return True

    def others(self) -> list[str]:
        """The other processes that have the vault open, for people."""
        names: list[str] = []
        for path in sorted(self._folder.glob("*.lock")):
            if path.stem != self._process_id and not self.is_dead(path.stem):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    about = json.loads(path.read_bytes())
                    names.append(f"{about['program']} (pid {int(about['pid'])})")
        return names

    def _wait_for(self, attempt: Callable[[], IO[bytes] | None]) -> IO[bytes]:
        deadline = time.monotonic() + self._wait_seconds
        while True:
            file = attempt()
            if file is not None:
                return file
            if time.monotonic() >= deadline:
                who = ", ".join(self.others()) or "another process"
                raise VaultUnavailable(f"the vault is held by {who}; stop it and start again")
            time.sleep(0.05)
