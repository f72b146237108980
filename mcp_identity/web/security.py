"""May this request be answered, and what must every answer say to the browser?

Pure checks on headers, tokens and policies; no I/O, and no decision about consents. Trusts nothing that a request says
about itself: the allowed hosts are configuration, and what a browser states (Origin, Sec-Fetch-*) is used only to refuse.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping

MAXIMUM_QUERY_BYTES = 16 * 1024
MAXIMUM_BODY_BYTES = 16 * 1024
MAXIMUM_PARAMETERS = 32
CALLBACK_PATH = "/oauth2/callback/"
LOGIN_PATH = "/login/callback/"

HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Go with every answer. A page with a form sets its own Referrer-Policy: under `no-referrer` browsers send `Origin: null`."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_APP_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")
_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")


def is_token(text: str) -> bool:
    """Whether `text` has the shape of 32 random bytes in base64url."""
    return _TOKEN.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can be a provider id: short, and of characters that need no encoding in a path."""
    return _NAME.fullmatch(text) is not None


def may_fetch(method: str, headers: Mapping[str, str]) -> bool:
    """Whether the browser's own account of a request (Fetch Metadata) allows it; browsers without one pass.

    A form comes from our own page. Everything else may be opened from anywhere, as the vendor's redirect to the callback
    must, but only as a page: not as an image, a frame, a script or a prefetch of somebody else's site.
    """
    site = headers.get("sec-fetch-site", "")
    if site in {"", "same-origin"}:
        return True
    if method == "POST":
        return False
    return site == "none" or (headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document")


def is_own_origin(headers: Mapping[str, str], scheme: str, origins: frozenset[str] = frozenset()) -> bool:
    """Whether a request names no Origin, or one of ours; `null` is an origin, and not ours.

    Args:
        headers: Of the request.
        scheme: As the socket says; behind a proxy that ends TLS it is not the browser's.
        origins: Our origins, where they are configured; without them, the very origin that the request is sent to.
    """
    origin = headers.get("origin")
    if origin is None:
        return True
    return origin in origins if origins else origin == f"{scheme}://{headers.get('host', '')}".lower()


def form_token(page_key: bytes, form_cookie: str, session_id: str) -> str:
    """The hidden field of a form: of this browser's cookie, and of what the form is for, a session or the portal.

    The cookie has a fixed length, so no two pairs are joined to the same text.
    """
    digest = hmac.digest(page_key, b"consent-form" + form_cookie.encode("ascii") + session_id.encode("ascii"), hashlib.sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def is_form_token(token: str, page_key: bytes, form_cookie: str, session_id: str) -> bool:
    """Whether the form was made by us, for this browser and this session; compared in constant time."""
    if not is_token(form_cookie):
        return False
    return hmac.compare_digest(token.encode(), form_token(page_key, form_cookie, session_id).encode())


def content_policy(*form_hosts: str) -> str:
    """The Content-Security-Policy of a page.

    Args:
        form_hosts: Where the page's form leads, as the page names it: hosts, or ``scheme:`` for an app without one. None for
            pages whose form stays with us.
    """
    return "; ".join(
        (
            "default-src 'none'",
            "style-src 'self'",
            f"form-action 'self'{_form_targets([host for host in form_hosts if host])}",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )


def _form_targets(hosts: list[str]) -> str:
    """What beside ourselves a form may lead to.

    Browsers apply form-action to every redirect that follows the button, and vendors send the browser on to hosts of their
    own (a tenant's, a workspace's, a company's identity provider). Named hosts would therefore break sign-ins; any https
    host it is, plain http where one of them is on this machine, and the scheme of an app that has no host.
    """
    if not hosts:
        return ""
    local = " http://127.0.0.1:* http://localhost:*" if any(_LOOPBACK_HOST.fullmatch(host) for host in hosts) else ""
    return " https:" + local + "".join(f" {host}" for host in hosts if _APP_SCHEME.fullmatch(host))
