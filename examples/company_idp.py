"""Which identity provider does the company of the examples have? A small OpenID provider, on this machine.

Sign-in page, authorization code with PKCE, client credentials, signed JWT access tokens (RFC 9068) and ID tokens, discovery
and keys. It shares no code with mcp-identity, so what works with it works because both follow the standards.

    python examples/company_idp.py --clients CLIENTS.json [--port 0] [--audience AUDIENCE]

It listens on 127.0.0.1 only and prints one JSON line with its URLs when it is ready. People: alice / wonderland and
bob / builder. It is a demonstration: the passwords are public, and so nothing of value belongs behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import threading
import time
from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

HOST = "127.0.0.1"
PEOPLE = {"alice": "wonderland", "bob": "builder"}
COOKIE = "company_session"
TOKEN_SECONDS = 600

SIGN_IN_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · Example Company</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 24rem; margin: 10vh auto; padding: 0 1rem; }}
  label {{ display: block; font-weight: 600; margin-top: 1rem; }}
  input {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; }}
  button {{ font: inherit; margin-top: 1.5rem; padding: .5rem 1.25rem; }}
  :focus-visible {{ outline: 3px solid orange; outline-offset: 2px; }}
</style>
</head>
<body>
<main>
<h1>Example Company</h1>
<p>{message}</p>
<form method="post">
<label for="username">User name</label>
<input id="username" name="username" type="text" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button type="submit">Sign in</button>
</form>
</main>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Client:
    """One registered application; without a secret it is a public client."""

    client_id: str
    client_secret: str = ""
    redirect_uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """An authorization code that was given and not exchanged yet."""

    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str
    scope: str
    username: str


@dataclass(slots=True)
class Company:
    """The provider's state; it lives as long as the process."""

    issuer: str
    audience: str
    clients_file: Path
    key: ECKey
    codes: dict[str, Code] = field(default_factory=dict[str, Code])
    sessions: dict[str, str] = field(default_factory=dict[str, str])

    def find_client(self, client_id: str) -> Client | None:
        """A registered application; the file is read anew each time, so that one can be registered while this runs."""
        for each in json.loads(self.clients_file.read_text()):
            if each["client_id"] == client_id:
                return Client(client_id, each.get("client_secret", ""), tuple(each.get("redirect_uris", ())))
        return None

    def sign(self, claims: dict[str, Any], kind: str) -> str:
        """Sign claims as a token of this issuer."""
        now = int(time.time())
        times = {"iss": self.issuer, "iat": now, "exp": now + TOKEN_SECONDS}
        return jwt.encode({"alg": "ES256", "typ": kind, "kid": self.key.kid}, {**times, **claims}, self.key)

    def access_token(self, subject: str, client_id: str, scope: str, name: str = "") -> str:
        """A token for the API that the provider was started with (RFC 9068)."""
        claims = {
            "sub": subject,
            "aud": self.audience,
            "client_id": client_id,
            "scope": scope,
            "jti": secrets.token_urlsafe(12),
        }
        return self.sign(claims | ({"name": name} if name else {}), "at+jwt")


def subject_of(username: str) -> str:
    """The stable identifier of a person."""
    return f"u-{sha256(username.encode()).hexdigest()[:16]}"


class Endpoints:
    """What the provider serves."""

    def __init__(self, company: Company) -> None:
        self._company = company

    async def discovery(self, _request: Request) -> Response:
        """OpenID Connect Discovery §4."""
        company = self._company
        return JSONResponse(
            {
                "issuer": company.issuer,
                "authorization_endpoint": f"{company.issuer}/authorize",
                "token_endpoint": f"{company.issuer}/token",
                "jwks_uri": f"{company.issuer}/keys",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def keys(self, _request: Request) -> Response:
        """The keys that tokens are signed with."""
        company = self._company
        return JSONResponse({"keys": [company.key.as_dict(private=False, use="sig", alg="ES256")]})

    async def authorize(self, request: Request) -> Response:
        """The authorization endpoint, with its sign-in page."""
        company = self._company
        asked = request.query_params
        client = company.find_client(asked.get("client_id", ""))
        if client is None or asked.get("redirect_uri") not in client.redirect_uris:
            return HTMLResponse("unknown client or redirect URI", 400)
        if asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            return _back(company, asked["redirect_uri"], asked.get("state", ""), error="invalid_request")
        username = company.sessions.get(request.cookies.get(COOKIE, ""))
        if request.method == "POST":
            form = await request.form()
            username = str(form.get("username", ""))
            password = str(form.get("password", ""))
            if username not in PEOPLE or not secrets.compare_digest(PEOPLE[username].encode(), password.encode()):
                return HTMLResponse(SIGN_IN_PAGE.format(message="These do not belong together."), 403)
        elif asked.get("prompt") == "login":
            username = None
        if not username:
            return HTMLResponse(SIGN_IN_PAGE.format(message=f"Sign in to go on to {escape(client.client_id)}."))
        code = secrets.token_urlsafe(24)
        company.codes[code] = Code(
            client.client_id,
            asked["redirect_uri"],
            asked["code_challenge"],
            asked.get("nonce", ""),
            asked.get("scope", ""),
            username,
        )
        answer = _back(company, asked["redirect_uri"], asked.get("state", ""), code=code)
        if request.method == "POST":
            session = secrets.token_urlsafe(24)
            company.sessions[session] = username
            answer.set_cookie(COOKIE, session, httponly=True, samesite="lax")
        return answer

    async def token(self, request: Request) -> Response:
        """The token endpoint."""
        company = self._company
        form = {name: str(value) for name, value in (await request.form()).items()}
        client = _authenticated(company, request, form)
        if client is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("grant_type") == "client_credentials" and client.client_secret:
            scope = form.get("scope", "")
            return _token_answer({"access_token": company.access_token(client.client_id, client.client_id, scope)})
        code = company.codes.pop(form.get("code", ""), None) if form.get("grant_type") == "authorization_code" else None
        challenge = urlsafe_b64encode(sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=").decode()
        known = code and code.client_id == client.client_id and code.redirect_uri == form.get("redirect_uri")
        if code is None or not known or not secrets.compare_digest(challenge, code.challenge):
            return JSONResponse({"error": "invalid_grant"}, 400)
        subject = subject_of(code.username)
        claims = {"sub": subject, "aud": client.client_id, "preferred_username": code.username, "name": code.username.title()}
        if code.nonce:
            claims["nonce"] = code.nonce
        tokens = {
            "access_token": company.access_token(subject, client.client_id, code.scope, code.username.title()),
            "id_token": company.sign(claims, "JWT"),
        }
        return _token_answer(tokens)

    def routes(self) -> list[Route]:
        """Where it serves it."""
        return [
            Route("/.well-known/openid-configuration", self.discovery),
            Route("/keys", self.keys),
            Route("/authorize", self.authorize, methods=["GET", "POST"]),
            Route("/token", self.token, methods=["POST"]),
        ]


def _token_answer(tokens: dict[str, str]) -> Response:
    answer = {**tokens, "token_type": "Bearer", "expires_in": TOKEN_SECONDS}
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _back(company: Company, redirect_uri: str, state: str, **answer: str) -> Response:
    query = urlencode({**answer, "state": state, "iss": company.issuer})
    return RedirectResponse(f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{query}", 303)


def _authenticated(company: Company, request: Request, form: dict[str, str]) -> Client | None:
    from base64 import b64decode
    from urllib.parse import unquote_plus

    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    if scheme == "Basic":
        client_id, _, secret = (unquote_plus(part) for part in b64decode(credential).decode().partition(":"))
    client = company.find_client(client_id)
    return client if client and secrets.compare_digest(client.client_secret.encode(), secret.encode()) else None


def main() -> None:
    """Serve until interrupted, or until standard input closes if asked to."""
    parser = argparse.ArgumentParser(description="A demonstration OpenID provider on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--clients", type=Path, required=True, help='a file: [{"client_id": …, "client_secret": …, "redirect_uris": […]}]'
    )
    parser.add_argument("--audience", default="mcp-identity", help="what its access tokens are for")
    parser.add_argument("--stop-when-input-ends", action="store_true", help="exit when standard input closes")
    options = parser.parse_args()
    config = uvicorn.Config(Starlette(), HOST, options.port, log_level="error", lifespan="off")
    socket = config.bind_socket()
    issuer = f"http://{HOST}:{socket.getsockname()[1]}"
    key = ECKey.generate_key("P-256", auto_kid=True)
    config.app = Starlette(routes=Endpoints(Company(issuer, options.audience, options.clients, key)).routes())
    if options.stop_when_input_ends:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    print(json.dumps({"issuer": issuer, "discovery_url": f"{issuer}/.well-known/openid-configuration"}), flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    main()
