"""How do the pages get into the HTTP server?

As routes behind a door of their own: the same checks as on the loopback port, with the server's configured hosts and origins.
The rest of the server (MCP, metadata, health) does not come through this door, since its callers are no browsers. Knows no
tool and no gate. Trusts the configuration for what our origins are, and no header for anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.routing import Route

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.web import security
from mcp_identity.web.browser_session import Cookies
from mcp_identity.web.consent import Consents, page_application, page_route
from mcp_identity.web.guard import Guard
from mcp_identity.web.login import PORTAL_PATH, SignIns
from mcp_identity.web.portal import Portal

if TYPE_CHECKING:
    from mcp_identity.web.desk import ConsentDesk, SignInDesk
    from mcp_identity.web.portal import PortalDesk

_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost"})


def web_routes(
    desk: ConsentDesk,
    sign_in: SignInDesk,
    own_grants: PortalDesk,
    *,
    allowed_hosts: frozenset[str],
    origins: frozenset[str],
    clock: Clock,
    entropy: Entropy,
) -> list[Route]:
    """Make the routes of the pages, for an application that has others beside.

    Args:
        desk: What the pages ask and tell.
        sign_in: Signs browsers in.
        own_grants: What a signed-in user sees and ends.
        allowed_hosts: Exact values of the Host header, lower case, with the port where it is not the scheme's own.
        origins: Where browsers find us: scheme, host and port, from the configured public URL. Of one scheme.
        clock: For the minutes that a link still works.
        entropy: For the cookie that a form is tied to.
    """
    cookies = cookies_of(origins)
    sign_ins = SignIns(sign_in, cookies)
    consents = Consents(desk, clock, entropy, cookies, sign_ins)
    portal = Portal(own_grants, sign_in, sign_ins, cookies, desk.page_key(), entropy)
    behind = page_application(
        [*consents.routes(), *portal.routes(), page_route(security.LOGIN_PATH + "{issuer_id}", sign_ins.callback, "GET")],
        Middleware(Guard, allowed_hosts=allowed_hosts, origins=origins),
    )
    places = ("/consent/{rest:path}", security.CALLBACK_PATH + "{rest:path}", security.LOGIN_PATH + "{rest:path}")
    return [Route(place, behind) for place in (*places, PORTAL_PATH)]


def own_origins(public_url: str) -> frozenset[str]:
    """Where browsers find us, as they write it: the public URL's origin, on this machine by either of its names.

    Args:
        public_url: Scheme, host and port, configured.
    """
    parts = urlsplit(public_url)
    hosts = {parts.netloc.lower()}
    if parts.hostname in _LOOPBACK_NAMES:
        port = f":{parts.port}" if parts.port else ""
        hosts |= {name + port for name in _LOOPBACK_NAMES}
    return frozenset(f"{parts.scheme}://{host}" for host in hosts)


def cookies_of(origins: frozenset[str]) -> Cookies:
    """The cookies of these origins; secure unless we are on plain http, which is for loopback alone."""
    return Cookies(secure=not any(origin.startswith("http://") for origin in origins))
