"""HTTP over a unix socket, for the transit library, which knows only the network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


class _Connection(HTTPConnection):
    """A connection to a socket of this machine, whatever host the request names."""

    def __init__(self, path: Path, timeout: Any) -> None:
        super().__init__("socket", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout if isinstance(self.timeout, int | float) else None)
            made.connect(str(self._path))
        except OSError:
            made.close()
            raise
        self.sock = made


class _Pool(HTTPConnectionPool):
    def __init__(self, path: Path) -> None:
        super().__init__("socket")
        self._path = path

    def _new_conn(self) -> Any:
        return _Connection(self._path, self.timeout.connect_timeout)


class UnixSocketAdapter(HTTPAdapter):
    """Sends what it is given to one socket."""

    def __init__(self, path: Path) -> None:
        """Name the socket."""
        self._pool = _Pool(path)
        super().__init__()

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        """The one pool there is."""
        del request, verify, proxies, cert
        return self._pool

    def close(self) -> None:
        """Close what is open."""
        self._pool.close()
        super().close()
