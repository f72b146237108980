"""How is a secret read that somebody only named? From the places that the operator listed for the tenant, and nowhere else.

A path is trusted for nothing: links are resolved, what they lead to must lie in the listed folder, and it is then opened
folder by folder without following any, so that whoever may write there cannot swap one in between. The vault's own folder,
its key, its database, and whatever the settings name to reach them are refused by what they are, not by how they are called.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import anyio
import anyio.to_thread

from mcp_identity.broker.secret_sources import not_listed
from mcp_identity.domain.errors import ConfigurationError, InvalidRequest
from mcp_identity.domain.secret_source import SecretSource, parse_sources
from mcp_identity.settings import read_secret

if TYPE_CHECKING:
    from mcp_identity.domain.credentials import Secret, SecretReference
    from mcp_identity.settings import Settings

_SECONDS = 5
"""How long a file may take: a listed folder may be on a network."""
_KEY_LIMIT = 256
_REFERENCES = re.compile(r"(env|file):([^\s&;,]+)")
_PATHS = re.compile(r"=(/[^\s&;,]+)")
_CLOEXEC, _NOFOLLOW = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY, _NONBLOCK, _BINARY = getattr(os, "O_DIRECTORY", 0), getattr(os, "O_NONBLOCK", 0), getattr(os, "O_BINARY", 0)
_UNREADABLE = (
    "nothing usable is where the secret reference leads: a variable, or a file of at most 64 KiB, with one secret in a line, "
    "of at most 16 KiB; or a JSON object that has it as the text of the named key"
)


class ListedSources:
    """The places of the setting `secret_sources`."""

    def __init__(self, settings: Settings) -> None:
        """Know the places, and what is never read.

        Raises:
            ConfigurationError: If a folder that was listed is the vault's own, or in it.
        """
        self._sources = parse_sources(settings.secret_sources)
        self._home = settings.home
        kind, _, key = settings.key.partition(":")
        said = f"{settings.key} {settings.database_url}"
        references = [(kind, key), *((each, unquote(value)) for each, value in _REFERENCES.findall(said))]
        self._own_variables = {value.upper() for each, value in references if each == "env"}
        named = [value for each, value in references if each == "file"] + list(map(unquote, _PATHS.findall(said)))
        database = settings.database_path
        beside = [f"{database}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")] if database else []
        keys = [str(path) for path in (settings.tls_key, settings.tls_cert) if path]
        self._own_files = [Path(each).expanduser() for each in (*named, *beside, *keys)]
        for source in self._sources:
            if source.kind == "file" and self._is_in_home(source.prefix):
                raise ConfigurationError(
                    "MCP_IDENTITY_SECRET_SOURCES names the vault's own folder; secrets of others go elsewhere"
                )

    async def read(self, tenant: str, reference: SecretReference) -> Secret:
        """The secret that is there now.

        Raises:
            InvalidRequest: As `SecretSources.read` says.
        """
        source = next((each for each in self._sources if each.tenant == tenant and each.covers(reference.reference)), None)
        if source is None or reference.reference.partition(":")[2].upper() in self._own_variables:
            raise not_listed(tenant)
        if len(reference.json_key) > _KEY_LIMIT or not reference.json_key.isprintable():
            raise InvalidRequest(f"the key of a JSON document is at most {_KEY_LIMIT} visible characters")
        try:
            with anyio.fail_after(_SECONDS):
                return await anyio.to_thread.run_sync(self._read, source, reference, abandon_on_cancel=True)
        except (ConfigurationError, TimeoutError):
            raise InvalidRequest(_UNREADABLE) from None  # the error before names the path

    def _read(self, source: SecretSource, reference: SecretReference) -> Secret:
        def opener(path: str, _flags: int) -> int:
            return self._open(source.prefix, path)

        return read_secret(reference.reference, json_key=reference.json_key, opener=opener)

    def _open(self, folder: str, path: str) -> int:
        """Open a file of a listed folder.

        Raises:
            OSError: If there is none, or it is not one of that folder, or is one of ours.
        """
        base, real = (Path(os.path.realpath(each, strict=True)) for each in (folder, path))
        parts = real.relative_to(base).parts if real.is_relative_to(base) else ()
        if not parts or self._is_in_home(base):
            raise PermissionError
        descriptor = _open_below(base, parts, self._require_foreign)
        try:
            self._require_foreign(os.fstat(descriptor), is_file=True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _require_foreign(self, found: os.stat_result, *, is_file: bool = False) -> None:
        """Refuse what is the vault's own, under whichever name it was reached; and what should be a file and is none.

        Raises:
            PermissionError: If it is.
        """
        if is_file and not stat.S_ISREG(found.st_mode):
            raise PermissionError
        if any(os.path.samestat(found, own) for own in _stats(self._own())):
            raise PermissionError

    def _own(self) -> Iterator[Path]:
        yield self._home
        yield from self._own_files
        with suppress(OSError):
            yield from self._home.iterdir()

    def _is_in_home(self, folder: str | Path) -> bool:
        real = Path(os.path.realpath(folder))
        homes = list(_stats([self._home]))
        return any(os.path.samestat(each, home) for each in _stats([real, *real.parents]) for home in homes)


def _stats(paths: Iterator[Path] | list[Path]) -> Iterator[os.stat_result]:
    for path in paths:
        with suppress(OSError, ValueError):
            yield path.stat()


def _open_below(base: Path, parts: tuple[str, ...], require_foreign: Callable[[os.stat_result], None]) -> int:
    """Open a file by way of each folder above it, none of which may have become a link since they were resolved."""
    last = os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _CLOEXEC | _BINARY
    if os.open not in os.supports_dir_fd:  # Windows, where links are not everybody's to make
        return os.open(base.joinpath(*parts), last)
    at = os.open(base, os.O_RDONLY | _DIRECTORY | _CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | _DIRECTORY | _NOFOLLOW | _CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
            require_foreign(os.fstat(at))
        return os.open(parts[-1], last, dir_fd=at)
    finally:
        os.close(at)
