"""Which addresses belong together? Origins, sites and the headers that a browser derives from them (Fetch, Referrer Policy)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal
from urllib.parse import urldefrag, urlsplit

Relation = Literal["none", "same-origin", "same-site", "cross-site"]


def origin_of(url: str) -> str:
    """Serialise the origin of a URL: scheme, host, and the port where it is not the scheme's own."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in {None, default} else "")


def site_of(url: str) -> str:
    """Name the site of a URL: scheme and registrable domain (roughly: its last two labels), whatever the port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host if is_address(host) else '.'.join(host.split('.')[-2:])}"


def is_trustworthy(url: str) -> bool:
    """Say whether a browser keeps Secure cookies for this URL: https, or this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" or host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """Say whether a host is a literal IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def relation(initiator: str | None, urls: Sequence[str]) -> Relation:
    """Compare who navigates with every address on the way: the value of `Sec-Fetch-Site`.

    Args:
        initiator: The address of the page that navigates; None where the person typed.
        urls: The addresses of the navigation so far, the present one last.
    """
    if initiator is None:
        return "none"
    if any(site_of(url) != site_of(initiator) for url in urls):
        return "cross-site"
    return "same-origin" if all(origin_of(url) == origin_of(initiator) for url in urls) else "same-site"


def referrer(policy: str, page_url: str, url: str) -> str:
    """Write the `Referer` that a page's policy allows towards `url`; empty for none.

    A page without a policy has the browser's own, `strict-origin-when-cross-origin`.
    """
    full, origin = urldefrag(page_url).url, f"{origin_of(page_url)}/"
    same, downgrade = origin_of(page_url) == origin_of(url), page_url.startswith("https:") and not is_trustworthy(url)
    by_policy = {
        "no-referrer": "",
        "same-origin": full if same else "",
        "origin": origin,
        "strict-origin": "" if downgrade else origin,
        "origin-when-cross-origin": full if same else origin,
        "no-referrer-when-downgrade": "" if downgrade else full,
        "unsafe-url": full,
    }
    return by_policy.get(policy, full if same else "" if downgrade else origin)


def posting_origin(policy: str, page_url: str | None, urls: Sequence[str]) -> str:
    """Write the `Origin` header of a form that is posted: `null` where the policy or a foreign redirect hides it."""
    if page_url is None:
        return "null"
    origin, target = origin_of(page_url), urls[-1]
    tainted = any(origin_of(after) != origin_of(before) != origin for before, after in pairwise(urls))
    hidden = (
        policy == "no-referrer"
        or (policy == "same-origin" and origin != origin_of(target))
        or (
            policy not in {"origin", "origin-when-cross-origin", "unsafe-url"}
            and origin.startswith("https:")
            and not target.startswith("https:")
        )
    )
    return "null" if tainted or hidden else origin
