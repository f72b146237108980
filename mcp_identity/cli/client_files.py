"""Where does each MCP client keep its configuration, and how is one server put into it without losing anything else?

A file that is not plain JSON is left alone. Others' servers may hold secrets: nothing of them is ever printed, and the
backup keeps the file's mode.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import platformdirs

from mcp_identity.domain.errors import ConfigurationError, Conflict, InvalidRequest

WORKLOAD_VARIABLE = "MCP_IDENTITY_WORKLOAD"
_LIMIT = 64 << 20


def _application_data() -> Path:
    """`~/Library/Application Support`, `%APPDATA%`, or `~/.config`."""
    return platformdirs.user_config_path(roaming=True)


@dataclass(frozen=True, slots=True)
class Client:
    """An MCP client, as far as its configuration goes.

    Attributes:
        name: Its name on the command line, and the agent's name in the vault.
        title: Its name for people.
        path: Where a person's own configuration is.
        project: Where a project's is, below the project; empty where it has none.
        key: The key of the object that holds the servers.
        typed: Each server says its transport.
    """

    name: str
    title: str
    path: Callable[[], Path]
    project: str = ""
    key: str = "mcpServers"
    typed: bool = False

    def snippet(self, server: str, command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
        """What the configuration needs to hold."""
        kind = {"type": "stdio"} if self.typed else {}
        entry = {**kind, "command": command[0], "args": command[1:], "env": dict(environment)}
        return {self.key: {server: entry}}


CLIENTS = {
    client.name: client
    for client in (
        Client("claude-desktop", "Claude Desktop", lambda: _application_data() / "Claude" / "claude_desktop_config.json"),
        Client("cursor", "Cursor", lambda: Path.home() / ".cursor" / "mcp.json", ".cursor/mcp.json"),
        Client(
            "vscode",
            "VS Code",
            lambda: _application_data() / "Code" / "User" / "mcp.json",
            ".vscode/mcp.json",
            key="servers",
            typed=True,
        ),
        Client("claude-code", "Claude Code", lambda: Path.home() / ".claude.json", ".mcp.json", typed=True),
    )
}


def find_client(name: str) -> Client:
    """A client by its name.

    Raises:
        InvalidRequest: If there is none.
    """
    if name not in CLIENTS:
        raise InvalidRequest(f"no client is called {name[:64]!r}; known are {', '.join(CLIENTS)}")
    return CLIENTS[name]


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a client's configuration; empty where the file is not there, or holds nothing.

    Raises:
        ConfigurationError: If it is not a JSON object, or one with a key twice; comments are no JSON.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT).decode("utf-8-sig")
        found: object = json.loads(text, object_pairs_hook=_without_repetition) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigurationError(f"{path} is not valid JSON{where}; nothing was changed") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} holds no JSON object; nothing was changed")
    return cast("dict[str, Any]", found)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def merge(configuration: Mapping[str, Any], snippet: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Put our server into a configuration; everything else in it stays, further variables of our own entry too.

    Raises:
        ConfigurationError: If the servers are not an object.
        Conflict: If another program's server has this name.
    """
    ((key, ours),) = snippet.items()
    servers: Any = configuration.get(key, {})
    if not isinstance(servers, dict):
        raise ConfigurationError(f"{path} has a {key} that is no JSON object; nothing was changed")
    ((name, entry),) = ours.items()
    present = cast("dict[str, Any]", servers)
    old = present.get(name)
    if old is not None:
        if not is_ours(old):
            raise Conflict(f"{path} has a server {name} already that is another program's; choose another --name")
        entry = {**old, **entry, "env": {**old.get("env", {}), **entry["env"]}}
    return {**configuration, key: {**present, name: entry}}


def is_ours(entry: object) -> bool:
    """Whether a server's entry starts this program."""
    if not isinstance(entry, dict):
        return False
    found = cast("dict[str, Any]", entry)
    command, arguments = found.get("command"), found.get("args")
    if not isinstance(command, str) or not isinstance(found.get("env", {}), dict):
        return False
    module = isinstance(arguments, list) and "mcp_identity" in arguments
    return module or command.replace("\\", "/").rpartition("/")[2].removesuffix(".exe") == "mcp-identity"


def write_configuration(path: Path, configuration: Mapping[str, Any]) -> Path | None:
    """Replace a configuration at once, its mode kept, after a backup beside it.

    Returns:
        The backup, or None where there was no file.

    Raises:
        ConfigurationError: If it cannot be written; the file is then as it was.
    """
    from mcp_identity.app import SystemClock

    path = path.resolve()  # of a link the file that it names is replaced, not the link
    # A lone surrogate has no UTF-8; `backslashreplace` writes the JSON escape that it came from.
    text = (json.dumps(configuration, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        backup = None
        if path.exists():
            backup = path.with_name(f"{path.name}.backup-{SystemClock().now():%Y%m%dT%H%M%S%fZ}")
            _write_new(backup, path.read_bytes(), mode)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            _write_new(Path(folder) / "new", text, mode)
            (Path(folder) / "new").replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}); it is as it was") from None
    return backup


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(mode)
