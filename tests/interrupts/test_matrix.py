"""Is anything lost in silence when an interrupt comes between a vendor's doing and our commit? 45 cells, on real processes.

The vendor has used the code, rotated the refresh token or minted the token, and holds its answer back; the interrupt comes;
the vendor answers. Afterwards the vault holds what the vendor's ledger says it gave, the next call serves it (of another
process, where this one ended with 0 and within its grace), and whoever still listened was told.

What an interrupt is on each edge, for the agent's calls: `get_token` for a refresh and for the client's own token, and for a
callback `get_consent`, which waits for what the browser does.

| interrupt  | stdio                       | SSE                            | Streamable HTTP                                  |
|------------|-----------------------------|--------------------------------|--------------------------------------------------|
| cancel     | `notifications/cancelled`   | the same, posted               | the same in a session, and the requests closed   |
| end        | the end of the input        | the stream closed              | the session deleted                              |
| SIGINT     | to the process              | to the process                 | to the process                                   |
| SIGTERM    | to the process              | to the process                 | to the process                                   |
| disconnect | every pipe closed, as of a  | every connection reset         | every connection reset, of requests that stand   |
|            | host that was killed        |                                | alone (a cancellation in protocol 2026-07-28)    |

A callback is a browser's own request: to the loopback page of the stdio process, or to the HTTP server. For `cancel` the
browser closes it (the stop button), for `end` it ends what it sends and goes on listening, for `disconnect` it resets it, and
at a signal it keeps waiting. The agent that waits for the same consent is interrupted as the table says.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.home import VaultHome, put_postgres_vault
from tests.interrupts.lives import (
    INTERRUPTS,
    SIGNALS,
    WORKS,
    Edge,
    Interrupt,
    Life,
    PostgresHome,
    Work,
    is_the_end,
    live,
)

DRAIN_SECONDS = 10.0
HOST_KILLS_SECONDS = 4.0
"""A host waits two seconds after it has closed our input, and two more after SIGTERM; then it kills."""
SERVERS: dict[str, tuple[Edge, ...]] = {"stdio": ("stdio",), "network": ("sse", "http")}
DATABASES = ("sqlite", "postgresql") if os.environ.get("PROVE") else ("sqlite",)
CELLS = [
    pytest.param(
        database, name, interrupt, edge, work, marks=pytest.mark.xdist_group(f"interrupts-{database}-{name}-{interrupt}")
    )
    for database in DATABASES
    for interrupt in INTERRUPTS
    for name, edges in SERVERS.items()
    for edge in edges
    for work in WORKS
]
Lives = dict[tuple[str, str, Interrupt], Life | Exception]


@pytest.fixture(scope="module")
def lives() -> Lives:
    """The lives that were lived: one process goes through all that its edges may be doing."""
    return {}


@pytest.fixture
async def life(database: str, server: str, interrupt: Interrupt, lives: Lives, tmp_path: Path) -> Life:
    """The life of this cell's server."""
    name = database, server, interrupt
    if name not in lives:
        home = VaultHome(tmp_path / "home")
        if database == "postgresql":
            home = PostgresHome(tmp_path / "home", database_url=put_postgres_vault(tmp_path / "home").url)
        try:
            lives[name] = await live(home, SERVERS[server], interrupt)
        except Exception as error:  # noqa: BLE001 - each cell of this life fails with it
            lives[name] = error
    found = lives[name]
    if isinstance(found, Exception):
        raise found
    return found


@pytest.mark.parametrize(("database", "server", "interrupt", "edge", "work"), CELLS)
async def test_nothing_is_lost_in_silence(life: Life, interrupt: Interrupt, edge: Edge, work: Work) -> None:
    """covers: A14, Q13, F05, F06."""
    cell = life.cells[edge, work]
    assert cell.given == 1
    assert (cell.served["status"], cell.served["access_token"]) == ("ok", cell.access_token)
    assert cell.kept == ("" if work == "m2m" else cell.vendor.refresh_token)
    assert work != "callback" or cell.consent["status"] == "completed"
    assert life.status == (0 if is_the_end(edge, interrupt) else None)
    assert life.waited
    assert life.seconds < (DRAIN_SECONDS if interrupt in SIGNALS else HOST_KILLS_SECONDS)
    assert b"rror" not in life.log
    if interrupt in SIGNALS:
        assert work != "callback" or cell.page == 303
        assert edge == "stdio" or cell.told is not None
        assert edge == "stdio" or work == "callback" or (cell.told or {}).get("access_token") == cell.access_token
