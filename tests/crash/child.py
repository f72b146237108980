"""A process that is ready to become the product: everything is loaded, nothing runs. It forks for each server or command.

    python -m tests.crash.child

Reads one JSON object a line: `{"arguments": [...], "environment": {...}, "control": PATH, "log": PATH}`; says one a line:
`{"started": PID}` and `{"ended": PID, "status": STATUS}`. It ends with its input, and so does everything that it started.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from tests.crash.control import Control

LOADED = (
    "anyio._backends._asyncio",
    "httpx2",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.h11_impl",
    "alembic.command",
    "mcp_identity.app.http_process",
    "mcp_identity.broker.broker",
    "mcp_identity.cli.application",
    "mcp_identity.cli.serve",
    "mcp_identity.vault.vault",
    "mcp_identity.web.application",
    "tests.crash.faults",
    "tests.crash.mutants",
    "tests.crash.points",
)
"""All that a server needs, and what puts the points into it."""


def load() -> None:
    """Import it; no thread may be started by that."""
    for name in LOADED:
        import_module(name)
    from mcp_identity.transport import default_context

    default_context()
    gc.collect()
    gc.freeze()


def say(**what: Any) -> None:
    """One line, whole."""
    os.write(1, json.dumps(what).encode() + b"\n")


def become(order: dict[str, Any]) -> NoReturn:
    """Be the product, in a process of its own; does not return."""
    from mcp_identity import app
    from mcp_identity.app import http
    from mcp_identity.cli import main
    from tests.crash import faults, mutants, points

    status = 1
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        for name in [name for name in os.environ if name.startswith("MCP_IDENTITY_")]:
            del os.environ[name]
        os.environ.update(order["environment"])
        control = Control(Path(order["control"]))
        http._SWEEP_SECONDS = float(os.environ.pop("CRASH_SWEEP_SECONDS"))  # pyright: ignore[reportPrivateUsage]
        points.install(control)
        faults.install(control, app)
        mutants.install(os.environ.get(mutants.NAME, ""))
        sys.argv = ["mcp-identity", *order["arguments"]]
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - whatever it is, it is told, and the process ends
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            sys.stdout.flush()
        os._exit(status)


def main() -> None:
    """Fork as told."""
    load()
    alive: set[int] = set()

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, os.WNOHANG)
                if not process:
                    return
                alive.discard(process)
                say(ended=process, status=os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    say(ready=os.getpid())
    while line := sys.stdin.readline():
        order = json.loads(line)
        with _held_back():
            process = os.fork()
            if process == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                become(order)
            alive.add(process)
            say(started=process)
    for process in alive:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class _held_back:  # noqa: N801 - a context manager
    """No child is reported as ended before it is reported as started."""

    def __enter__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


if __name__ == "__main__":
    main()
