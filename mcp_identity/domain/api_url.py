"""Which URL is meant? One strict reading of an API's address, which policy, the trail and the wire then share.

Whatever two parsers could read differently is refused: user information, fragments, backslashes, control characters, dot
segments, encoded slashes and dots, names outside ASCII. Syntax alone; whose host it is, and where its name leads, is decided
elsewhere. Trusts nobody: URLs come from agents, from vendors' redirects and from configuration.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote, unquote_to_bytes, urlencode, urljoin

from mcp_identity.domain.errors import UrlRefused

MAXIMUM_URL_LENGTH = 8192

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_PATH = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*"
_QUERY = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]]|%[0-9A-Fa-f]{2})*"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[1-9][0-9]{{0,4}}))?"
    rf"(?P<path>(?:/{_PATH})?)(?:\?(?P<query>{_QUERY}))?"
)
_REFERENCE = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
"""What may stand in a redirect before it is resolved: no fragment, backslash, space or control character."""
_SCHEME_ALONE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!//).*")
"""`https:host` is a path to some parsers and a host to others."""
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_HIDDEN = re.compile(r"%(?:25)*(?:2[eEfF]|5[cC]|[01][0-9A-Fa-f]|7[fF])")
"""A dot, slash, backslash or control character behind one or more layers of percent-encoding."""
_PORTS = {"https": 443, "http": 80}
_HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class ApiUrl:
    """An address that everybody reads in the same way.

    Attributes:
        origin: Scheme, host in lower case, and the port unless it is the scheme's own.
        path: The path as it goes on the wire; at least a slash.
        query: The query as it goes on the wire, without its question mark; it may hold anything, so no trail has it.
    """

    origin: str
    path: str
    query: str = ""

    @property
    def text(self) -> str:
        """The whole URL."""
        return f"{self.origin}{self.path}{'?' + self.query if self.query else ''}"

    @property
    def host(self) -> str:
        """The host, and the port where one is named."""
        return self.origin.partition("://")[2]

    def __repr__(self) -> str:
        """Host and path."""
        return f"ApiUrl({self.origin}{self.path})"

    def with_query(self, parameters: Sequence[tuple[str, str]]) -> ApiUrl:
        """The same address, asked with further parameters."""
        more = urlencode(parameters, quote_via=quote, safe="")
        return parse_api_url(ApiUrl(self.origin, self.path, "&".join(filter(None, (self.query, more)))).text, http=True)

    def resolve(self, reference: str) -> ApiUrl:
        """Where a redirect from here leads.

        Raises:
            UrlRefused: If that is not a URL that everybody reads in the same way.
        """
        plain = len(reference) <= MAXIMUM_URL_LENGTH and _REFERENCE.fullmatch(reference)
        if not plain or _SCHEME_ALONE.fullmatch(reference):
            raise UrlRefused("the redirect is no plain URL")
        try:
            absolute = urljoin(self.text, reference)
        except ValueError:
            raise UrlRefused("the redirect is no plain URL") from None
        return parse_api_url(absolute, http=self.origin.startswith("http:"))

    @property
    def parameter_names(self) -> frozenset[str]:
        """The names of the query's parameters, decoded, in lower case."""
        names = (part.partition("=")[0] for part in re.split("[&;]", self.query))
        return frozenset(unquote_to_bytes(name.replace("+", " ")).decode("utf-8", "replace").lower() for name in names)


def parse_api_url(text: str, *, http: bool = False) -> ApiUrl:
    """Read a URL, in the one way there is.

    Args:
        text: The absolute URL.
        http: Also accept http, for hosts that are literally loopback.

    Raises:
        UrlRefused: If a rule forbids it. The message names the rule, never the URL.
    """
    if len(text) > MAXIMUM_URL_LENGTH:
        raise UrlRefused(f"a URL is longer than {MAXIMUM_URL_LENGTH} characters")
    found = _URL.fullmatch(text)
    if found is None:
        raise UrlRefused(
            "the URL is not an absolute https URL in plain characters: no user information, fragment, backslash or space, "
            "and everything else percent-encoded"
        )
    scheme, host = found["scheme"], found["host"].lower()
    port = int(found["port"]) if found["port"] else _PORTS[scheme]
    if port > _HIGHEST_PORT or not _is_host(host):
        raise UrlRefused("the URL has no usable host or port")
    if scheme == "http" and not (http and _is_loopback(host)):
        raise UrlRefused("the URL must be https; http is for loopback addresses, where they are allowed")
    path = found["path"] or "/"
    _check_path(path)
    named = "" if port == _PORTS[scheme] else f":{port}"
    return ApiUrl(f"{scheme}://{host}{named}", path, found["query"] or "")


def parse_origin(text: str, *, http: bool = False) -> str:
    """Read an API host: scheme, host, and a port if one is named.

    Raises:
        UrlRefused: If it is anything else.
    """
    url = parse_api_url(text, http=http)
    if url.path != "/" or "?" in text or text.endswith("/"):
        raise UrlRefused("an API host is https://HOST or https://HOST:PORT, without a path")
    return url.origin


def customer_origin(text: str, suffixes: Sequence[str]) -> str:
    """The API host of one customer, as a vendor's token answer names it; empty where it is none of the vendor's.

    Args:
        text: The URL in the answer.
        suffixes: What the host must end with; each begins with a dot.
    """
    try:
        url = parse_api_url(text)
    except UrlRefused:
        return ""
    if url.path != "/" or url.query or ":" in url.host or not any(url.host.endswith(suffix) for suffix in suffixes):
        return ""
    return url.origin


def same_path(one: str, other: str) -> bool:
    """Whether two paths may be the same one to a lenient server."""
    return _plain(one) == _plain(other)


def path_matches(pattern: str, method: str, path: str) -> bool:
    """Whether a request falls under a pattern of a vendor's file.

    Args:
        pattern: ``[METHOD ]/path``; in it ``*`` stands for any characters of a segment and ``**`` for any segments.
        method: The request's method.
        path: The request's path; letter case, encoding, empty segments and ``;parameters`` do not matter.
    """
    only, _, glob = pattern.rpartition(" ")
    return only in ("", method) and _pattern(glob).fullmatch(_plain(path)) is not None


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    parts = ["(?:/[^/]*)*" if segment == "**" else "/" + _segment(segment) for segment in glob.lower().strip("/").split("/")]
    return re.compile("".join(parts))


def _segment(segment: str) -> str:
    return "[^/]*".join(re.escape(part) for part in segment.split("*"))


def _plain(path: str) -> str:
    """A path as the most lenient server would read it; only for comparing."""
    segments = [_decoded(segment).partition(";")[0].strip() for segment in path.split("/")]
    return "".join(f"/{segment.lower()}" for segment in segments if segment)


def _decoded(segment: str) -> str:
    try:
        return unicodedata.normalize("NFKC", unquote_to_bytes(segment).decode("utf-8"))
    except UnicodeDecodeError:
        raise UrlRefused("the URL's path holds bytes that are no UTF-8") from None


def _check_path(path: str) -> None:
    if _HIDDEN.search(path):
        raise UrlRefused("the URL's path holds an encoded slash, dot, backslash or control character")
    for segment in path.split("/"):
        text = _decoded(segment)
        if _HIDDEN.search(text):  # a layer of encoding that encodes the next one in a way of its own
            raise UrlRefused("the URL's path holds an encoded slash, dot, backslash or control character")
        if text.partition(";")[0].strip() in (".", "..") or set(text) & {"/", "\\"}:
            raise UrlRefused("the URL's path holds a dot segment, or what some servers take for a slash")


def _is_host(host: str) -> bool:
    bare = host.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        # 127.1, 2130706433 and 0x7f.1 are addresses to some parsers and names to others: only the dotted quad is one to all.
        return not host.startswith("[") and not _NUMBER.fullmatch(host.rpartition(".")[2])
    return host.startswith("[") == (":" in bare)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
