"""What does the URL of a PostgreSQL database mean, and what does the driver take from elsewhere?

Nothing: every parameter that the driver would read from the environment, or from a file in the user's home, is given, so
that the URL alone says where the vault is and how it is reached. `PGSERVICE`, which cannot be overruled, is refused where the
environment is read. The password is read when a connection is made and is kept nowhere; no error, name or log holds it.

Over a network TLS is required unless the URL says otherwise; `sslmode=verify-full` also proves who the server is. A server
that was not proved may not ask for the password itself: it gets a proof of it (SCRAM), which is worth nothing elsewhere.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ConfigurationError

_FORM = "postgresql://<user>[:<password>]@<host>[:<port>]/<database>[?<parameter>=<value>&…]"
_UNREADABLE = f"the database URL cannot be read; it is {_FORM}, with %XX for what means something"
_PASSWORD_FROM = "password_from"  # noqa: S105 - the name of a parameter
_ALLOWED = frozenset(
    {
        "host", "hostaddr", "port", "user", "password", "dbname", "passfile", "connect_timeout", "application_name", "sslmode",
        "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "ssl_min_protocol_version",
        "channel_binding", "require_auth", "target_session_attrs", "load_balance_hosts", "gssencmode", "krbsrvname",
    }
)  # fmt: skip
"""What a URL may say; whatever else the driver knows is ours to say."""
_CONNECT_SECONDS = 5
_NOWHERE = f"{os.devnull}/none"
"""A file that is not there; an empty name would mean one in the user's home."""
_OURS = {
    "application_name": "mcp-identity",
    "client_encoding": "utf8",
    "connect_timeout": str(_CONNECT_SECONDS),
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "tcp_user_timeout": "9000",
    "passfile": _NOWHERE,
    "sslrootcert": _NOWHERE,
    "sslcertmode": "disable",
    "gssencmode": "disable",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
    "target_session_attrs": "read-write",  # after a failover the other one is waited for, and no copy is written to
}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where a database is, and how it is reached.

    Attributes:
        name: For people; no password, user or file is in it.
        parameters: What the driver is told, but for the password.
        password: Reads it; None where it comes from a file, or none is needed.
    """

    name: str
    parameters: dict[str, str]
    password: Callable[[], Secret] | None = None

    def driver_parameters(self) -> dict[str, str]:
        """Everything that the driver is told, the password included.

        Raises:
            ConfigurationError: If the password cannot be read where the URL says that it is.
        """
        return {**self.parameters, "password": self.password().reveal() if self.password else ""}


def parse_url(url: str, read_secret: Callable[[str], Secret]) -> PostgresAddress:
    """Take a URL apart.

    Args:
        url: As PostgreSQL writes them; ``?password_from=env:NAME`` or ``file:/path`` says where the password is.
        read_secret: Reads such a reference.

    Raises:
        ConfigurationError: If the URL does not stand, or the driver is not installed; the message repeats nothing of it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(_UNREADABLE) from None
    query = parse_qsl(parts.query, keep_blank_values=True)
    references = [value for name, value in query if name == _PASSWORD_FROM]
    plain = urlunsplit(parts._replace(query=urlencode([pair for pair in query if pair[0] != _PASSWORD_FROM])))
    given, defaults, known = _parsed(plain)
    if strange := sorted(given.keys() - _ALLOWED):
        raise ConfigurationError(f"the database URL may not say {', '.join(strange)}; it may say {', '.join(sorted(_ALLOWED))}")
    if missing := [name for name in ("host", "user", "dbname") if not given.get(name)]:
        raise ConfigurationError(f"the database URL names no {' and no '.join(missing)}; it is {_FORM}")
    text = given.pop("password", "")
    if len(references) + bool(text) + ("passfile" in given) > 1:
        raise ConfigurationError("the database URL says more than once what the password is")
    password: Callable[[], Secret] | None = None
    if references:
        password = lambda: read_secret(references[0])  # noqa: E731 - as short as it is
    elif text:
        secret = Secret(text)
        password = lambda: secret  # noqa: E731 - likewise
    parameters = {**defaults, **_OURS, "sslmode": _default_tls(given), **given}
    if "sslcert" in given:
        parameters["sslcertmode"] = "allow"
    if "require_auth" not in given and parameters["sslmode"] != "verify-full":
        parameters["require_auth"] = "!password,!md5"
    host = given["host"] + (f" port {given['port']}" if given.get("port") else "")
    name = f"PostgreSQL database {given['dbname']} on {host}"
    return PostgresAddress(name, {key: value for key, value in parameters.items() if key in known}, password)


def _parsed(url: str) -> tuple[dict[str, str], dict[str, str], frozenset[str]]:
    """What the driver reads in a URL.

    Returns:
        What the URL says; the built-in default of everything that the driver would otherwise read in the environment; and
        all parameters that it knows.
    """
    try:
        from psycopg import OperationalError
        from psycopg.pq import Conninfo
    except ImportError:
        raise ConfigurationError(
            "the vault is on PostgreSQL, and its driver is not installed; run: pip install 'mcp-identity[postgres]'"
        ) from None
    try:
        options = Conninfo.parse(url.encode())
    except (OperationalError, UnicodeError):  # the driver's own text repeats what it does not like
        raise ConfigurationError(_UNREADABLE) from None
    given = {each.keyword.decode(): each.val.decode() for each in options if each.val is not None}
    defaults = {each.keyword.decode(): (each.compiled or b"").decode() for each in options if each.envvar}
    for name in ("service", "password"):  # an empty service is one that is looked for
        del defaults[name]
    return given, defaults, frozenset(each.keyword.decode() for each in options)


def _default_tls(given: dict[str, str]) -> str:
    hosts = (given.get("hostaddr") or given["host"]).split(",")
    return "prefer" if all(_is_local(host) for host in hosts) else "require"


def _is_local(host: str) -> bool:
    """Whether no network lies between: a socket's folder, or an address of this machine's own."""
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
