"""What does a plain OAuth client send? The requests of the peers' own tests, written by hand so that they can be wrong."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx2

from tests.fakes.browser import Browser, Decision, Page
from tests.peers.servers import Peer, PeerClient


@dataclass(frozen=True, slots=True)
class Pkce:
    """A code verifier and its S256 challenge (RFC 7636)."""

    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorization_url(peer: Peer, client: PeerClient, pkce: Pkce | None, **parameters: str) -> str:
    """Write an authorization request; a keyword replaces or adds a parameter."""
    request = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": client.redirect_uri,
        "scope": "read write",
        "state": secrets.token_urlsafe(16),
        **({"code_challenge": pkce.challenge, "code_challenge_method": "S256"} if pkce else {}),
        **parameters,
    }
    return f"{peer.authorization_url}?{urlencode(request)}"


def send(url: str, client: PeerClient, **form: str) -> httpx2.Response:
    """Post a form as the client: HTTP Basic with the parts form-urlencoded (RFC 6749 §2.3.1), in the body, or only its id."""
    headers: dict[str, str] = {}
    if client.auth_method == "client_secret_basic":
        credentials = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
        headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    else:
        form["client_id"] = client.client_id
        if client.client_secret:
            form["client_secret"] = client.client_secret
    return httpx2.post(url, data=form, headers=headers, trust_env=False)


def consent(
    peer: Peer,
    client: PeerClient,
    pkce: Pkce | None,
    *,
    decision: Decision = "allow",
    username: str = "alice",
    **parameters: str,
) -> Page:
    """Send a person with a fresh browser through the authorization endpoint, up to the client's redirect URI."""
    if username != "alice" or decision == "deny":
        parameters.setdefault("login_hint", "deny" if decision == "deny" else username)
    with Browser(stop_at=client.redirect_uri) as browser:
        url = authorization_url(peer, client, pkce, **parameters)
        password = {"alice": "wonderland", "bob": "builder"}.get(username, "")
        return browser.consent(url, username=username, password=password, decision=decision)


def exchange(peer: Peer, client: PeerClient, code: str, verifier: str | None, **form: str) -> httpx2.Response:
    """Exchange an authorization code."""
    request = {"grant_type": "authorization_code", "code": code, "redirect_uri": client.redirect_uri, **form}
    return send(peer.token_url, client, **request, **({"code_verifier": verifier} if verifier else {}))


def refresh(peer: Peer, client: PeerClient, refresh_token: str) -> httpx2.Response:
    """Refresh."""
    return send(peer.token_url, client, grant_type="refresh_token", refresh_token=refresh_token)


def tokens(peer: Peer, client: PeerClient, *, username: str = "alice", **parameters: str) -> dict[str, Any]:
    """Go the whole way, from the authorization request to the token response."""
    pkce = Pkce()
    page = consent(peer, client, pkce, decision="allow", username=username, **parameters)
    return exchange(peer, client, page.query["code"], pkce.verifier).raise_for_status().json()


def me(peer: Peer, access_token: str) -> httpx2.Response:
    """Use an access token."""
    return httpx2.get(peer.me_url, headers={"Authorization": f"Bearer {access_token}"}, trust_env=False)


def is_active(peer: Peer, client: PeerClient, token: str) -> bool:
    """Ask the server whether a token is good (RFC 7662)."""
    return send(peer.introspection_url, client, token=token).raise_for_status().json()["active"]
