"""Who is alive: advisory file locks that the operating system drops when a process ends, however it ends.

Two things rest on them. A vault is made or upgraded by one process while no other has it open, and a lease of a process
that is known dead is taken over at once. Nothing is read from the files but names for people.
"""

from __future__ import annotations

import contextlib
import json
import os
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


def _open_private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


class ProcessLocks:
    """The locks of one process on one vault folder."""

    def __init__(self, home: Path, process_id: str, *, wait_seconds: float = 5.0) -> None:
        """Name the folder and this process; nothing is locked yet.

        Args:
            home: The vault's folder.
            process_id: Random; never reused, so a free lock file means a dead process.
            wait_seconds: How long `exclusive` waits for the others.
        """
        self._vault_file = home / "vault.lock"
        self._folder = home / "processes"
        self._process_id = process_id
        self._wait_seconds = wait_seconds
        self._held: list[IO[bytes]] = []

    def hold(self) -> None:
        """Declare this process alive and share the vault with the others that have it open."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        mine = _open_private(self._folder / f"{self._process_id}.lock")
        _try_lock(mine, shared=False)
        mine.write(json.dumps({"pid": os.getpid(), "program": Path(sys.argv[0] or "python").name}).encode())
        mine.flush()
        self._held.append(mine)
        shared = _open_private(self._vault_file)
        self._wait_for(lambda: _try_lock(shared, shared=True), shared)
        self._held.append(shared)

    def release(self) -> None:
        """Let go of everything."""
        for file in self._held:
            file.close()
        self._held.clear()
        (self._folder / f"{self._process_id}.lock").unlink(missing_ok=True)

    @contextlib.contextmanager
    def creating(self) -> Generator[None]:
        """Be the only process that makes a key and a vault in this folder.

        Raises:
            VaultUnavailable: If another one takes too long over it.
        """
        file = _open_private(self._vault_file.with_name("create.lock"))
        self._wait_for(lambda: _try_lock(file, shared=False), file)
        try:
            yield
        finally:
            file.close()

    @contextlib.contextmanager
    def exclusive(self) -> Generator[None]:
        """Have the vault for ourselves, to upgrade it.

        Raises:
            VaultUnavailable: If others keep it open; they are named.
        """
        file = _open_private(self._vault_file)
        self._wait_for(lambda: _try_lock(file, shared=False), file)
        try:
            yield
        finally:
            file.close()

    def is_dead(self, process_id: str) -> bool:
        """Whether the process of this id is known to have ended."""
        if process_id == self._process_id:
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

    def _wait_for(self, attempt: Callable[[], bool], file: IO[bytes]) -> None:
        deadline = time.monotonic() + self._wait_seconds
        while not attempt():
            if time.monotonic() >= deadline:
                file.close()
                who = ", ".join(self.others()) or "another process"
                raise VaultUnavailable(f"the vault is held by {who}; stop it and start again")
            time.sleep(0.05)
