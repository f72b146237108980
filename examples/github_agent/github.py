"""What does GitHub look like to an agent? A small one on this machine, with what is peculiar about the real one.

    python examples/github_agent/github.py --clients CLIENTS.json [--port 0]

Its OAuth: answers are form-encoded unless JSON is asked for; errors come with HTTP 200; scopes are separated by commas; tokens
of an OAuth app have no end and no refresh token, those of a GitHub App last eight hours, and a refresh ends the token and the
refresh token before it; a token is taken back by DELETE with the client's password. Its API: `/user`, repositories, issues
(pull requests stand among them, as at GitHub) and pull requests; a private repository does not exist for a token without
`repo`; a caller without a User-Agent is turned away.

It listens on 127.0.0.1 only and prints one JSON line with its URLs when it is ready. People: alice / wonderland and
bob / builder. It is a demonstration: the passwords are public, and so nothing of value belongs behind it.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlencode

from serving import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

PEOPLE = {"alice": "wonderland", "bob": "builder"}
COOKIE = "octocat_session"
CODE_SECONDS, TOKEN_SECONDS, REFRESH_SECONDS = 600, 28_800, 15_811_200
INCLUDED = {"repo": ("public_repo", "repo:status"), "user": ("read:user", "user:email")}
REPOSITORIES: dict[str, list[dict[str, Any]]] = {
    "alice": [
        {"name": "wonderland", "private": False, "issues": ["The cat vanishes too slowly"], "pulls": ["Mend the clock"]},
        {"name": "looking-glass", "private": True, "issues": ["Everything is mirrored", "Jam tomorrow"], "pulls": []},
    ],
    "bob": [{"name": "crane", "private": False, "issues": [], "pulls": ["Can we fix it"]}],
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · a small GitHub</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 26rem; margin: 10vh auto; padding: 0 1rem; }}
  label {{ display: block; font-weight: 600; margin-top: 1rem; }}
  input {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; }}
  button {{ font: inherit; margin: 1.5rem .5rem 0 0; padding: .5rem 1.25rem; }}
  :focus-visible {{ outline: 3px solid orange; outline-offset: 2px; }}
</style>
</head>
<body><main><h1>{title}</h1>{body}</main></body>
</html>
"""
SIGN_IN = """<form method="post">
<label for="login">User name</label>
<input id="login" name="login" type="text" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button type="submit">Sign in</button>
</form>"""
CONSENT = """<p>Signed in as <b>{login}</b>.</p><ul>{scopes}</ul>
<form method="post">
<button type="submit" name="authorize" value="1">Authorize {client}</button>
<button type="submit" name="authorize" value="0">Cancel</button>
</form>"""


@dataclass(frozen=True, slots=True)
class Client:
    """One registered application."""

    client_id: str
    client_secret: str
    callback: str
    app: str = "oauth-app"


@dataclass(slots=True)
class Granted:
    """What a code or a token stands for."""

    client_id: str
    login: str
    scopes: frozenset[str]
    redirect_uri: str = ""
    challenge: str = ""
    ends_at: float = 0
    access_token: str = ""
    """Of a refresh token: the token that it came with."""


@dataclass(slots=True)
class GitHub:
    """Everything that it knows; it lives as long as the process."""

    clients_file: Path
    codes: dict[str, Granted] = field(default_factory=dict[str, Granted])
    tokens: dict[str, Granted] = field(default_factory=dict[str, Granted])
    refresh_tokens: dict[str, Granted] = field(default_factory=dict[str, Granted])
    sessions: dict[str, str] = field(default_factory=dict[str, str])
    issued: int = 0

    def find_client(self, client_id: str) -> Client | None:
        """A registered application; the file is read anew each time, so that one can be registered while this runs."""
        for each in json.loads(self.clients_file.read_text()):
            if each["client_id"] == client_id:
                return Client(**each)
        return None

    def issue(self, client: Client, granted: Granted) -> dict[str, Any]:
        """A fresh token, as the kind of app gets it."""
        self.issued += 1
        scopes = ",".join(sorted(granted.scopes))
        kind = Granted(client.client_id, granted.login, granted.scopes)
        if client.app == "oauth-app":
            token = f"gho_{secrets.token_hex(18)}"
            self.tokens[token] = kind
            return {"access_token": token, "scope": scopes, "token_type": "bearer"}
        token, refresh = f"ghu_{secrets.token_hex(18)}", f"ghr_{secrets.token_hex(38)}"
        kind.ends_at = time.time() + TOKEN_SECONDS
        self.tokens[token] = kind
        self.refresh_tokens[refresh] = Granted(client.client_id, granted.login, frozenset(), access_token=token)
        ends = {"expires_in": TOKEN_SECONDS, "refresh_token_expires_in": REFRESH_SECONDS}
        return {"access_token": token, "refresh_token": refresh, "scope": "", "token_type": "bearer", **ends}

    def bearer(self, request: Request) -> Granted | None:
        """Whom a request speaks for."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        found = self.tokens.get(token) if scheme.lower() in {"bearer", "token"} else None
        return found if found and (not found.ends_at or time.time() < found.ends_at) else None


class OAuth:
    """`https://github.com/login/oauth/…` and what ends a token."""

    def __init__(self, github: GitHub) -> None:
        self._github = github

    async def authorize(self, request: Request) -> Response:
        """The pages that a person sees."""
        github, asked = self._github, request.query_params
        client = github.find_client(asked.get("client_id", ""))
        redirect_uri = asked.get("redirect_uri") or (client.callback if client else "")
        if client is None or redirect_uri != client.callback:
            return _page("The redirect_uri is not associated with this application.", status=404)
        form = {name: str(value) for name, value in (await request.form()).items()} if request.method == "POST" else {}
        login = github.sessions.get(request.cookies.get(COOKIE, ""))
        if login is None:
            return self._sign_in(form, str(request.url)) if "login" in form else _page("Sign in", SIGN_IN)
        if "authorize" not in form:
            scopes = "".join(f"<li>{escape(scope)}</li>" for scope in _scopes(asked.get("scope", "")))
            body = CONSENT.format(login=escape(login), scopes=scopes, client=escape(client.client_id))
            return _page(f"Authorize {escape(client.client_id)}", body)
        if form["authorize"] != "1":
            return _back(redirect_uri, asked.get("state", ""), error="access_denied", error_description="declined")
        code = secrets.token_hex(10)
        # The permissions of a GitHub App are its own: what it asks for as scopes is not looked at.
        scopes = frozenset(_scopes(asked.get("scope", ""))) if client.app == "oauth-app" else frozenset[str]()
        challenge = asked.get("code_challenge", "") if asked.get("code_challenge_method") == "S256" else ""
        github.codes[code] = Granted(
            client.client_id, login, scopes, redirect_uri, challenge, ends_at=time.time() + CODE_SECONDS
        )
        return _back(redirect_uri, asked.get("state", ""), code=code)

    def _sign_in(self, form: dict[str, str], on: str) -> Response:
        if not secrets.compare_digest(PEOPLE.get(form["login"], "").encode(), form.get("password", "").encode()):
            return _page("Incorrect username or password.", SIGN_IN, status=403)
        session = secrets.token_urlsafe(24)
        self._github.sessions[session] = form["login"]
        answer = RedirectResponse(on, 303)
        answer.set_cookie(COOKIE, session, httponly=True, samesite="lax")
        return answer

    async def access_token(self, request: Request) -> Response:
        """The token endpoint; whatever it says, it says with HTTP 200."""
        form = {name: str(value) for name, value in (await request.form()).items()}
        answer = self._exchange(form)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(answer)
        return Response(urlencode(answer), media_type="application/x-www-form-urlencoded")

    def _exchange(self, form: dict[str, str]) -> dict[str, Any]:
        github, client = self._github, self._github.find_client(form.get("client_id", ""))
        if client is None or not secrets.compare_digest(client.client_secret, form.get("client_secret", "")):
            return _error("incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect.")
        if form.get("grant_type") == "refresh_token":
            return self._refresh(client, form)
        code = github.codes.pop(form.get("code", ""), None)
        if code is None or code.client_id != client.client_id or time.time() >= code.ends_at:
            return _error("bad_verification_code", "The code passed is incorrect or expired.")
        if form.get("redirect_uri", code.redirect_uri) != code.redirect_uri:
            return _error("redirect_uri_mismatch", "The redirect_uri MUST match the registered callback URL.")
        challenge = urlsafe_b64encode(sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=").decode()
        if code.challenge and not secrets.compare_digest(challenge, code.challenge):
            return _error("bad_verification_code", "The code_verifier does not match the code_challenge.")
        return github.issue(client, code)

    def _refresh(self, client: Client, form: dict[str, str]) -> dict[str, Any]:
        spent = self._github.refresh_tokens.pop(form.get("refresh_token", ""), None)
        if spent is None or spent.client_id != client.client_id:
            return _error("bad_refresh_token", "The refresh token passed is incorrect or expired.")
        self._github.tokens.pop(spent.access_token, None)
        return self._github.issue(client, spent)

    async def delete_token(self, request: Request) -> Response:
        """Take a token back: DELETE with the client's password."""
        client = self._github.find_client(request.path_params["client_id"])
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        name, _, password = b64decode(credential).decode().partition(":") if scheme.lower() == "basic" else ("", "", "")
        if client is None or (unquote_plus(name), unquote_plus(password)) != (client.client_id, client.client_secret):
            return JSONResponse({"message": "Bad credentials"}, 401)
        token = (await request.json()).get("access_token", "")
        if self._github.tokens.pop(token, None) is None:
            return JSONResponse({"message": "Not Found"}, 404)
        return Response(status_code=204)


class Api:
    """`https://api.github.com/…`."""

    def __init__(self, github: GitHub) -> None:
        self._github = github

    async def user(self, request: Request) -> Response:
        """The account."""

        def find(granted: Granted) -> dict[str, Any]:
            return {"login": granted.login, "id": 1 + list(PEOPLE).index(granted.login)}

        return self._for(request, find)

    async def repositories(self, request: Request) -> Response:
        """The account's repositories that the token may see."""

        def find(granted: Granted) -> list[dict[str, Any]]:
            return [_repository(granted.login, each) for each in _visible(granted)]

        return self._for(request, find)

    async def issues(self, request: Request) -> Response:
        """The issues of a repository, its pull requests among them."""
        return self._of_repository(request, ("issues", "pulls"))

    async def pulls(self, request: Request) -> Response:
        """The pull requests of a repository."""
        return self._of_repository(request, ("pulls",))

    async def state(self, _request: Request) -> Response:
        """For demonstrations: how many tokens it gave, and how many of them are still good. No token."""
        github = self._github
        return JSONResponse({"issued": github.issued, "alive": len(github.tokens), "refreshable": len(github.refresh_tokens)})

    def _of_repository(self, request: Request, kinds: tuple[str, ...]) -> Response:
        owner, name = request.path_params["owner"], request.path_params["repository"]

        def find(granted: Granted) -> list[dict[str, Any]] | None:
            found = next((each for each in _visible(granted, owner) if each["name"] == name), None)
            if found is None:
                return None
            listed = [(kind, title) for kind in kinds for title in found[kind]]
            return [
                {"number": number, "title": title, "state": "open"} | ({"pull_request": {}} if kind == "pulls" else {})
                for number, (kind, title) in enumerate(listed, 1)
            ]

        return self._for(request, find)

    def _for(self, request: Request, answer: Callable[[Granted], Any]) -> Response:
        headers = {"X-GitHub-Request-Id": secrets.token_hex(8).upper()}
        if not request.headers.get("user-agent"):
            return Response("Request forbidden by administrative rules.", 403, headers)
        granted = self._github.bearer(request)
        if granted is None:
            return JSONResponse({"message": "Bad credentials"}, 401, headers)
        found = answer(granted)
        headers["X-OAuth-Scopes"] = ", ".join(sorted(granted.scopes))
        return JSONResponse({"message": "Not Found"}, 404, headers) if found is None else JSONResponse(found, headers=headers)


def _visible(granted: Granted, owner: str = "") -> list[dict[str, Any]]:
    owner = owner or granted.login
    private = owner == granted.login and ("repo" in granted.scopes or not granted.scopes)
    return [each for each in REPOSITORIES.get(owner, []) if private or not each["private"]]


def _repository(owner: str, each: dict[str, Any]) -> dict[str, Any]:
    issues = len(each["issues"]) + len(each["pulls"])  # GitHub counts pull requests too
    return {"full_name": f"{owner}/{each['name']}", "private": each["private"], "open_issues_count": issues}


def _scopes(text: str) -> list[str]:
    """The scopes of a request, by spaces or commas, without those that another one includes."""
    asked = set(text.replace(",", " ").split())
    return sorted(asked - {each for scope in asked for each in INCLUDED.get(scope, ())})


def _error(error: str, description: str) -> dict[str, Any]:
    return {"error": error, "error_description": description, "error_uri": "https://docs.github.com/apps"}


def _page(title: str, body: str = "", status: int = 200) -> Response:
    return HTMLResponse(PAGE.format(title=title, body=body), status)


def _back(redirect_uri: str, state: str, **answer: str) -> Response:
    return RedirectResponse(f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{urlencode({**answer, 'state': state})}", 303)


def routes(github: GitHub) -> list[Route]:
    """Where it serves."""
    oauth, api = OAuth(github), Api(github)
    return [
        Route("/login/oauth/authorize", oauth.authorize, methods=["GET", "POST"]),
        Route("/login/oauth/access_token", oauth.access_token, methods=["POST"]),
        Route("/applications/{client_id}/token", oauth.delete_token, methods=["DELETE"]),
        Route("/user", api.user),
        Route("/user/repos", api.repositories),
        Route("/repos/{owner}/{repository}/issues", api.issues),
        Route("/repos/{owner}/{repository}/pulls", api.pulls),
        Route("/state", api.state),
    ]


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description="A small GitHub.")
    parser.add_argument("--clients", type=Path, required=True, help="a JSON list of the registered applications")
    options, _ = parser.parse_known_args()
    serve(
        Starlette(routes=routes(GitHub(options.clients))),
        authorization_url="/login/oauth/authorize",
        token_url="/login/oauth/access_token",  # noqa: S106 - a path
        revocation_url="/applications",
    )


if __name__ == "__main__":
    main()
