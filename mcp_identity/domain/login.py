"""A browser in which somebody has signed in, and the way there.

A browser session says who sits at a browser, as the tenant's identity provider said it; it is proof of a person, never of an
agent. It is kept in that browser alone, sealed, and means nothing after its end or the user's not-before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import User

LOGIN_LIFETIME = timedelta(minutes=10)
"""How long a sign-in may take from our button to our callback."""
BROWSER_SESSION_LIFETIME = timedelta(hours=8)


class LoginPurpose(StrEnum):
    """What a person signs in for."""

    CONSENT = "consent"
    PORTAL = "portal"


@dataclass(frozen=True, slots=True)
class LoginTarget:
    """Where the users of a tenant sign in.

    Attributes:
        tenant: The tenant.
        issuer_id: The row of its issuer.
        host: The host that the browser will be sent to; for the page's policy.
        base_url: Scheme, host and port of our pages that the browser is on; empty for those of the whole server.
    """

    tenant: str
    issuer_id: str
    host: str = ""
    base_url: str = ""


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """Who has signed in at a browser.

    Attributes:
        tenant: The tenant whose identity provider said so.
        issuer_id: The row of that issuer.
        user: The user, as the tokens of that issuer name it too.
        issued_at: When they signed in.
        expires_at: When they have to sign in again.
    """

    tenant: str
    issuer_id: str
    user: User
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LoginBegun:
    """What the sign-in button gives: where to send the browser, and what to mark it with.

    Attributes:
        authorization_url: The identity provider's page, with state, nonce and PKCE challenge.
        name: Tells this sign-in's cookie from those of other tabs.
        browser_secret: Goes into that cookie; the vault keeps its hash.
    """

    authorization_url: str
    name: str
    browser_secret: Secret


@dataclass(frozen=True, slots=True)
class LoginDone:
    """A sign-in that succeeded.

    Attributes:
        session: Who signed in.
        cookie: The session, sealed for that browser.
        purpose: What it was for.
        consent_id: The consent that it was for, or empty.
        name: The name of its cookie, which has done its work.
    """

    session: BrowserSession
    cookie: Secret
    purpose: LoginPurpose
    consent_id: str
    name: str
