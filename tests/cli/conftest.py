"""A vault of one test's own, and a command line on it: within the process, or as a program."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mcp_identity.cli.application import application
from tests.peers.servers import DjangoOAuthServer

PROGRAM = (sys.executable, "-m", "mcp_identity")


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said.

    Attributes:
        code: The exit status.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, read as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The command line on one vault.

    Attributes:
        home: The vault's folder.
        port: The callback port.
        environment: What the commands find in the environment.
    """

    home: Path
    port: int
    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Answer:
        """Run a command within this process."""
        done = CliRunner().invoke(application, list(arguments), input=stdin, env=environment, prog_name="mcp-identity")
        return Answer(done.exit_code, done.stdout, done.stderr)

    def succeed(self, *arguments: str, stdin: str = "", **environment: str) -> Answer:
        """Run a command that must succeed."""
        answer = self(*arguments, stdin=stdin, **environment)
        assert answer.code == 0, answer
        return answer

    def program(self, *arguments: str, stdin: str = "", **environment: str) -> Answer:
        """Run a command as a program."""
        done = subprocess.run(
            [*PROGRAM, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=self.environment | environment,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Generator[subprocess.Popen[str]]:
        """A command that runs while the block lasts."""
        command = [*PROGRAM, *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def with_api_key(self, name: str = "weather", *, release: str = "token") -> None:
        """Add a provider of an API key."""
        self.succeed(
            "providers", "add", name, "--kind", "api-key", "--api-key-stdin", "--release", release, stdin="sk-made-up\n"
        )

    def digest(self) -> str:
        """SHA-256 of the vault's bytes."""
        return hashlib.sha256((self.home / "vault.db").read_bytes()).hexdigest()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """A command line on a vault that is not made yet, for a person whose home is empty."""
    for name in [name for name in os.environ if name.startswith("MCP_IDENTITY_")]:
        monkeypatch.delenv(name)
    port, person = free_port(), tmp_path / "person"
    person.mkdir()
    given = {
        "MCP_IDENTITY_HOME": str(tmp_path / "vault"),
        "MCP_IDENTITY_CALLBACK_PORT": str(port),
        "HOME": str(person),
        "XDG_CONFIG_HOME": str(person / ".config"),
        "COLUMNS": "120",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield CommandLine(tmp_path / "vault", port, dict(os.environ))
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a vault that is made, and of nobody yet."""
    home = tmp_path_factory.mktemp("made") / "vault"
    subprocess.run([*PROGRAM, "init"], env=os.environ | {"MCP_IDENTITY_HOME": str(home)}, check=True, capture_output=True)
    return home


@pytest.fixture
def vault(cli: CommandLine, made: Path) -> CommandLine:
    """A command line on a vault that is made."""
    shutil.copytree(made, cli.home)
    return cli


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DjangoOAuthServer]:
    """A real authorization server."""
    with DjangoOAuthServer.start(tmp_path_factory.mktemp("authorization-server")) as running:
        yield running
