"""On which machine, with which versions, at which commit, and how fast a disk was a figure taken?

The bare commit rates are measured in the same folder and just before: they say what the disk, and not the product, decides.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kit import ROOT

JUDGED_FROM = 3000
"""Commits a second below which the ratio of one lone caller says more of the disk than of the product."""
BUSY_FROM = 0.1
"""The share of the processors that others may use before figures say little."""
_ROW = "x" * 300
_LIBRARIES = ("mcp", "uvicorn", "sqlalchemy", "psycopg", "cryptography", "pydantic")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when a figure was taken.

    Attributes:
        cpu: The processor's name.
        cores: How many this process may use.
        memory_gib: Of the machine.
        system: The kernel.
        python: Its version.
        sqlite: Its version.
        libraries: Versions of what matters.
        commit: Of this repository; with a plus sign where the product was changed since.
        date: When, UTC.
    """

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    sqlite: str
    libraries: dict[str, str]
    commit: str
    date: str


@dataclass(frozen=True, slots=True)
class Disk:
    """What one thread can make durable, one after another, a second; and whether it had the machine for itself.

    Attributes:
        sqlite_commits: Transactions of one row, WAL, synchronous=FULL.
        fsyncs: Appends of 4 KiB to a file, each with fsync.
        postgresql_commits: Transactions of one row, synchronous_commit=on; None where no PostgreSQL was part of it.
        others_share: Of the processors, what others used just before, while we did nothing.
    """

    sqlite_commits: float
    fsyncs: float
    postgresql_commits: float | None = None
    others_share: float = 0.0


def machine() -> Machine:
    """Look at this machine."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        libraries={name: found for name in _LIBRARIES if (found := _version(name))},
        commit=_commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def disk(folder: Path, postgresql_url: str | None = None, seconds: float = 1.0) -> Disk:
    """Measure the bare rates.

    Args:
        folder: On the disk that the vaults are on.
        postgresql_url: Of a server; None to leave it out.
        seconds: For each of them.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return Disk(
            sqlite_commits=_sqlite_rate(Path(place) / "bare.db", seconds),
            fsyncs=_fsync_rate(Path(place) / "bare", seconds),
            postgresql_commits=_postgresql_rate(postgresql_url, seconds) if postgresql_url else None,
            others_share=others_share(seconds),
        )


def others_share(seconds: float) -> float:
    """How much of the processors others use while this process sleeps; time that a hypervisor takes away counts, too."""
    import psutil

    psutil.cpu_times_percent(None)
    time.sleep(seconds)
    return round(1 - psutil.cpu_times_percent(None).idle / 100, 3)


def _rate(act: Callable[[], object], seconds: float) -> float:
    for _ in range(20):
        act()
    count, begun = 0, time.perf_counter()
    while (taken := time.perf_counter() - begun) < seconds:
        act()
        count += 1
    return round(count / taken)


def _sqlite_rate(path: Path, seconds: float) -> float:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, text TEXT)")
        return _rate(lambda: connection.execute("INSERT INTO bare (text) VALUES (?)", (_ROW,)), seconds)


def _fsync_rate(path: Path, seconds: float) -> float:
    block = b"x" * 4096
    with path.open("wb", buffering=0) as file:

        def act() -> None:
            file.write(block)
            os.fsync(file.fileno())

        return _rate(act, seconds)


def _postgresql_rate(url: str, seconds: float) -> float:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bare_commits")
        connection.execute("CREATE TABLE bare_commits (id bigserial PRIMARY KEY, text text)")
        try:
            return _rate(
                lambda: connection.execute("INSERT INTO bare_commits (text) VALUES (%s)", (_ROW,), prepare=True), seconds
            )
        finally:
            connection.execute("DROP TABLE bare_commits")


def _cpu() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit, where this is a checkout."""
    try:
        name = _git("rev-parse", "--short=10", "HEAD")
        return f"{name}+" if _git("status", "--porcelain", "--", "mcp_identity") else name
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S607
    return found.stdout.strip()
