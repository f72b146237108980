"""One HTTP exchange as two values, so that protocol code can be pure.

`oauth/` builds requests and reads responses; `transport.py` alone turns the one into the other. Headers and bodies carry
secrets, so neither shows in a repr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is to be sent.

    Attributes:
        method: The method, in capitals.
        url: Absolute; https, or http on loopback where a provider allows it.
        headers: Names as they go on the wire.
        body: The encoded body, or None.
        maximum_bytes: The most bytes of the decompressed answer that are read.
        cut: What is longer than `maximum_bytes` is cut off; without it, it is no answer.
        deadline_seconds: For the whole exchange; None for the transport's own.
        keep: On whose behalf a connection may be kept for further requests and reused, for reads alone; nobody else's
            requests go over it. Empty for a connection of its own.
        allowance: Is told of every piece of the answer that was read, in bytes, and says whether there is room for it;
            without, the answer is cut there, or is none.
    """

    method: Method
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | None = field(default=None, repr=False)
    maximum_bytes: int = 1 << 20
    cut: bool = False
    deadline_seconds: float | None = None
    keep: str = ""
    allowance: Callable[[int], bool] | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """Method, host and path; the query may hold a code."""
        parts = urlsplit(self.url)
        return f"HttpRequest({self.method} {parts.scheme}://{parts.hostname}{parts.path})"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back.

    Attributes:
        status: The status code.
        headers: Lower-case names; of repeated ones, the first.
        body: The decompressed body, at most `HttpRequest.maximum_bytes` long.
        is_cut: There was more of it.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes = field(default=b"", repr=False)
    is_cut: bool = False
