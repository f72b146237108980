"""Which cookies does a browser keep, and which does it send along? (RFC 6265bis)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx2

from .origins import is_address, is_trustworthy

SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Cookie:
    """One cookie with the rules of RFC 6265bis under which it is sent."""

    name: str
    value: str
    host: str
    host_only: bool
    path: str
    secure: bool
    http_only: bool
    same_site: str
    expires_at: float | None

    @classmethod
    def parse(cls, header: str, url: str) -> Cookie | None:
        """Read one `Set-Cookie` header that came with `url`; None where a browser would refuse the cookie."""
        pair, *rest = header.split(";")
        name, _, value = (part.strip() for part in pair.partition("="))
        attributes = {key.strip().lower(): text.strip() for key, _, text in (item.partition("=") for item in rest)}
        request = urlsplit(url)
        asked, host = attributes.get("domain", "").lstrip(".").lower(), request.hostname or ""
        path = attributes.get("path", "")
        if not path.startswith("/"):
            path = request.path.rpartition("/")[0] or "/"
        secure, same_site = "secure" in attributes, attributes.get("samesite", "lax").lower()
        refused = (
            not name
            or (asked and asked != host and (is_address(host) or not host.endswith(f".{asked}")))
            or (secure and not is_trustworthy(url))
            or (same_site == "none" and not secure)
            or (name.startswith(("__Secure-", "__Host-")) and not secure)
            or (name.startswith("__Host-") and (asked or attributes.get("path") != "/"))
        )
        if refused:
            return None
        expires_at = None
        if "max-age" in attributes:
            expires_at = time.time() + int(attributes["max-age"])
        elif "expires" in attributes:
            expires_at = parsedate_to_datetime(attributes["expires"]).timestamp()
        return cls(name, value, asked or host, not asked, path, secure, "httponly" in attributes, same_site, expires_at)

    def is_for(self, url: str, *, cross_site: bool, method: str) -> bool:
        """Say whether this cookie goes with a navigation to `url`."""
        request = urlsplit(url)
        host, path = request.hostname or "", request.path or "/"
        host_matches = host == self.host or (not self.host_only and host.endswith(f".{self.host}"))
        path_matches = path == self.path or path.startswith(self.path if self.path.endswith("/") else f"{self.path}/")
        crosses = not cross_site or self.same_site == "none" or (self.same_site == "lax" and method in SAFE_METHODS)
        return host_matches and path_matches and crosses and (not self.secure or is_trustworthy(url))


class CookieJar:
    """The cookies of one browser profile; as in any browser, all ports of a host share them."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str, str], Cookie] = {}

    def __iter__(self) -> Iterator[Cookie]:
        return iter(tuple(self._cookies.values()))

    def store(self, response: httpx2.Response) -> None:
        """Keep, replace or delete what the response's `Set-Cookie` headers say."""
        for header in response.headers.get_list("set-cookie"):
            cookie = Cookie.parse(header, str(response.url))
            if cookie is not None:
                key = (cookie.host, cookie.path, cookie.name)
                self._cookies.pop(key, None)
                if cookie.expires_at is None or cookie.expires_at > time.time():
                    self._cookies[key] = cookie

    def header(self, url: str, *, cross_site: bool, method: str) -> str:
        """Write the `Cookie` header of a navigation, longer paths first; empty if there is nothing to send."""
        now = time.time()
        cookies = [
            cookie
            for cookie in self
            if cookie.is_for(url, cross_site=cross_site, method=method) and (cookie.expires_at or now + 1) > now
        ]
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in sorted(cookies, key=lambda each: -len(each.path)))

    def clear(self) -> None:
        """Forget everything."""
        self._cookies.clear()
