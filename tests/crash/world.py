"""What is one vault, one authorization server and one server after another, each killed in its time?

A server of the world serves until it is killed, and the next one begins on what is left. The clock of the servers only goes
forward, by hours at a time: tokens have ended, and consents too.
"""

from __future__ import annotations

import random
import resource
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.settings import Settings
from tests.crash import mutants
from tests.crash.caller import Caller, Gone, Refused
from tests.crash.control import Control
from tests.crash.ledger import CLIENT_ID, CLIENT_SECRET, MODES, Ledger
from tests.crash.looking import Snapshot, look
from tests.crash.served import Child, Nursery
from tests.fakes.home import VaultHome, put_vault
from tests.fakes.mcp_client import environment_of

T = TypeVar("T")
WORKLOAD = "agent"
OWN = "own"
"""The provider whose tokens are the client's own; those for users are named after the ledger's modes."""
NORMAL_SECONDS = 10.0
LIMITS = {"LINKS_PER_MINUTE": "1000", "PENDING_CONSENTS": "1000", "CALLS_PER_SECOND": "100000", "REQUESTS_PER_SECOND": "100000"}


def own_port() -> int:
    """A free port that stays ours between two servers: not one of those that the system gives to whoever asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(slots=True)
class World:
    """One vault and who uses it.

    Attributes:
        folder: Of everything.
        nursery: Starts servers.
        ledger: The authorization server.
        database_url: Another database than SQLite in the folder.
        mutant: A mistake that the servers have; see `mutants.py`.
        sweep_seconds: How often they end the consents that nobody will finish.
        settings_beside: More settings of theirs.
        environment_beside: More of their environment.
        hours: How far the servers' clocks are ahead.
        child: The server that runs now.
        slowest_start: The longest that a server took from its start to its first answer, in seconds.
        seen: What is in the vault, where nothing was done since somebody looked.
    """

    folder: Path
    nursery: Nursery
    ledger: Ledger
    database_url: str = ""
    mutant: str = ""
    sweep_seconds: float = 15.0
    settings_beside: dict[str, str] = field(default_factory=dict[str, str])
    environment_beside: dict[str, str] = field(default_factory=dict[str, str])
    port: int = field(default_factory=own_port)
    hours: float = 0.0
    jumped: float = 0.0
    child: Child | None = None
    slowest_start: float = 0.0
    seen: Snapshot | None = None
    _control: Control | None = None

    @property
    def control(self) -> Control:
        """What the servers look at."""
        if self._control is None:
            self._control = Control(self.folder / "control")
        return self._control

    @property
    def home(self) -> VaultHome:
        """The vault's folder."""
        return VaultHome(self.folder / "home", self.port)

    @property
    def settings(self) -> Settings:
        """The vault, for this process."""
        return self.home.settings().model_copy(update={"database_url": self.database_url})

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a process."""
        database = {"DATABASE_URL": self.database_url} if self.database_url else {}
        all_of_it = environment_of(self.home.path, self.port, **LIMITS, **database, **self.settings_beside)
        own = {name: value for name, value in all_of_it.items() if name.startswith("MCP_IDENTITY_")}
        own |= {"CRASH_SWEEP_SECONDS": str(self.sweep_seconds), **self.environment_beside}
        return {**own, mutants.NAME: self.mutant} if self.mutant else own

    @property
    def caller(self) -> Caller:
        """A client of the server that runs now."""
        return Caller(self.port)

    def make(self) -> None:
        """Make the vault and its providers."""
        if not self.database_url:
            put_vault(self.home.path)
        anyio.run(self._add_providers)

    async def _add_providers(self) -> None:
        async with app.open(self.settings) as graph:
            operator = graph.broker.directory.operator(graph.user)
            for name, flow in {**dict.fromkeys(MODES, "USER_FEDERATION"), OWN: "M2M"}.items():
                spec = ProviderSpec(
                    vendor="custom",
                    client_id=CLIENT_ID,
                    secret=Secret(CLIENT_SECRET),
                    scopes=("read",),
                    allow_http_loopback=True,
                    settings={**self.ledger.endpoints(name), "flows": flow},
                )
                await graph.broker.directory.add(graph.broker.call(operator, "create_provider"), name, spec)

    def start(self, *, wait: bool = True) -> Child:
        """Start a server and wait until it answers."""
        began = time.monotonic()
        arguments = ["serve", "--transport", "http", "--port", str(self.port), "--insecure-loopback", "--workload", WORKLOAD]
        arguments += ["--trust-local-user"] if self.database_url else []
        self.child = self.nursery.start(arguments, self.environment, self.control.path, self.folder / "log")
        if wait:
            self.child.wait_up()
        self.slowest_start = max(self.slowest_start, time.monotonic() - began)
        return self.child

    def run(self, *arguments: str, kill_at: str = "", passes: int = 1) -> Child:
        """Run a command of the command line to its end.

        Args:
            *arguments: What follows `mcp-identity`.
            kill_at: The point at which it is killed; the server that runs is not.
            passes: When it passes that for the Nth time.
        """
        control = Control(self.folder / "control-of-commands")
        control.set_clocks(wall_seconds=self.hours * 3600)
        control.arm(kill_at, passes)
        child = self.nursery.start(arguments, self.environment, control.path, self.folder / "log-of-commands")
        child.wait(60)
        return child

    def end(self) -> None:
        """Kill the server that runs."""
        if self.child is not None:
            self.child.end()

    def limit(self, what: int, most: int | None) -> None:
        """Let the server have no more of something than so much; None gives it back all that it may have."""
        assert self.child is not None
        _, hard = resource.prlimit(self.child.process, what)
        resource.prlimit(self.child.process, what, (hard if most is None else most, hard))

    def mend(self) -> None:
        """Everything works again."""
        self.control.set_fault()
        self.ledger.status = 0
        if self.child is not None and not self.child.has_ended:
            for what in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS):
                self.limit(what, None)

    def pass_time(self, *, hours: float) -> None:
        """Let the servers' clocks go on."""
        self.hours += hours
        self.control.set_clocks(wall_seconds=self.hours * 3600, monotonic_seconds=self.jumped)

    def jump_monotonic(self, seconds: float) -> None:
        """Let the servers' monotonic clock go on."""
        self.jumped += seconds
        self.pass_time(hours=0)

    def look(self) -> Snapshot:
        """What is in the vault."""
        return look(self.settings)

    def until_normal(self, act: Callable[[], T]) -> T:
        """Do something again and again while its answer says that this may help; no longer than ten seconds.

        Raises:
            Refused: If the answer says that it does not help, or the time is over.
        """
        until = time.monotonic() + NORMAL_SECONDS
        while True:
            try:
                return act()
            except Refused as refused:
                if not refused.retryable or time.monotonic() > until:
                    raise
            except Gone:
                if time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def consent(self, provider: str) -> None:
        """Have a person give a grant."""
        landing = self.until_normal(lambda: self.caller.land(provider))
        status, _ = self.caller.come_back(landing)
        assert status == 303, self.child and self.child.said()
        answer = self.caller.call("get_consent", session_uri=landing.session_uri, wait_seconds=5)
        assert answer["status"] == "completed", answer


@contextmanager
def world(folder: Path, nursery: Nursery, ledger: Ledger, database_url: str = "", mutant: str = "") -> Generator[World]:
    """A vault with providers and no grants; whatever serves it is killed at the end."""
    folder.mkdir(mode=0o700, exist_ok=True)
    made = World(folder, nursery, ledger, database_url, mutant)
    made.make()
    try:
        yield made
    finally:
        made.end()
