"""What does a strict authorization server say, now that a knob is turned? In this process, in place of the transport.

Codes work once and only with their PKCE verifier and redirect URI, refresh tokens rotate, and a reused one ends its family.
`person_consents` is the person at the browser.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import anyio
from joserfc import jws
from joserfc.jwk import RSAKey

from mcp_identity.domain.errors import UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.transport import Transport

ISSUER = "https://idp.example.com"
CLIENT_ID, CLIENT_SECRET = "the-client", "the-client-secret-canary"


@dataclass(slots=True)
class Family:
    """What one consent, or one client-credentials request, led to.

    Attributes:
        account: Who consented; empty for a client's own token.
        scopes: What is granted.
        newest: The refresh token that works; empty for none.
        access_tokens: Those that work.
        revoked: Nothing of it works any more.
    """

    account: str
    scopes: tuple[str, ...]
    newest: str = ""
    access_tokens: set[str] = field(default_factory=set[str])
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class _Code:
    family: Family
    redirect_uri: str
    challenge: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that reached the server."""

    path: str
    form: dict[str, str]

    @property
    def grant_type(self) -> str:
        return self.form.get("grant_type", "")


class _Refused(Exception):
    def __init__(self, error: str, status: int = 400) -> None:
        self.error, self.status = error, status


class FakeAuthorizationServer(Transport):
    """The transport of a product that knows one authorization server.

    Attributes:
        expires_in: The lifetime of access tokens; None says nothing of it.
        rotates: A refresh gives a new refresh token; else it gives none.
        gives_refresh_tokens: A consent gives one.
        granted: Grants these scopes, whatever is asked; None grants what is asked.
        names_scopes: The answer says what is granted.
        answer: Token requests get this answer and are not processed.
        revocation_answer: Revocations get this answer and are not processed.
        refuses_connections: Nothing arrives.
        loses_answers: Everything is processed, and the answers do not come back.
        hold: An answer comes back only once this is set; `holding` says that one waits.
        nonce: Stands in ID tokens instead of the right one.
        id_tokens: A consent for `openid` gives an ID token.
        metadata: Changes to the metadata document; `None` for a server without one.
        requests: What arrived.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._now = now
        self._loopback = Transport()
        self.expires_in: int | None = 3600
        self.rotates = True
        self.gives_refresh_tokens = True
        self.granted: tuple[str, ...] | None = None
        self.names_scopes = True
        self.answer: HttpResponse | None = None
        self.revocation_answer: HttpResponse | None = None
        self.refuses_connections = False
        self.loses_answers = False
        self.hold: anyio.Event | None = None
        self.holding = anyio.Event()
        self.nonce: str | None = None
        self.id_tokens = True
        self.metadata: dict[str, Any] | None = {}
        self.requests: list[Seen] = []
        self.families: list[Family] = []
        self._codes: dict[str, _Code] = {}
        self._refresh_tokens: dict[str, Family] = {}
        self._minted = Counter[str]()

    # What tests ask

    def count(self, grant_type: str) -> int:
        """How many token requests of a kind arrived."""
        return sum(request.grant_type == grant_type for request in self.requests)

    @property
    def revocations(self) -> list[tuple[str, str]]:
        """Hint and token of each revocation that arrived, in order."""
        asked = [request.form for request in self.requests if request.path == "/revoke"]
        return [(form["token_type_hint"], form["token"]) for form in asked]

    def is_active(self, access_token: str) -> bool:
        """Whether a resource would accept this access token."""
        return any(access_token in family.access_tokens and not family.revoked for family in self.families)

    def person_consents(self, authorization_url: str, *, account: str = "alice") -> list[tuple[str, str]]:
        """A person agrees; what the browser is sent back with."""
        query = dict(parse_qsl(urlsplit(authorization_url).query, strict_parsing=True))
        assert (query["client_id"], query["response_type"]) == (CLIENT_ID, "code")
        asked = tuple(query.get("scope", "").split())
        family = Family(account, asked if self.granted is None else self.granted)
        self.families.append(family)
        code = self._mint("code")
        self._codes[code] = _Code(family, query["redirect_uri"], query["code_challenge"], query.get("nonce", ""))
        return [("code", code), ("state", query["state"]), ("iss", ISSUER)]

    def issue(self, family: Family) -> HttpResponse:
        """The answer that gives the first tokens of a family."""
        return respond_json(self._tokens(family, refresh_token=True))

    def family_of(self, refresh_token: str) -> Family:
        """The family that a refresh token, spent or not, belongs to."""
        return self._refresh_tokens[refresh_token]

    # The transport

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        """Answer as the knobs say."""
        if urlsplit(request.url).hostname == "127.0.0.1":  # a sibling on the callback port
            return await self._loopback.send(request, allow_http_loopback=allow_http_loopback)
        await anyio.lowlevel.checkpoint()
        if self.refuses_connections:
            raise UpstreamUnavailable("the server does not accept connections", may_have_been_processed=False)
        answer = self.respond(request)
        if self.hold is not None:
            self.holding.set()
            await self.hold.wait()
        if self.loses_answers:
            raise UpstreamUnavailable("no answer in time")
        return answer

    def respond(self, request: HttpRequest) -> HttpResponse:
        """Process a request."""
        path = urlsplit(request.url).path
        form = dict(parse_qsl((request.body or b"").decode(), strict_parsing=True)) if request.body else {}
        self.requests.append(Seen(path, form))
        if path.startswith("/.well-known/"):
            return self._metadata()
        if path == "/jwks":
            return respond_json({"keys": [_key().as_dict(private=False)]})
        try:
            _check_client(request, form)
            if path == "/revoke":
                return self.revocation_answer or self._revoke(form["token"])
            return self.answer or respond_json(self._token(form))
        except _Refused as refused:
            return respond_json({"error": refused.error}, refused.status)

    def _metadata(self) -> HttpResponse:
        if self.metadata is None:
            return HttpResponse(404, {"content-type": "text/html"}, b"<html>")
        return respond_json(
            {
                "issuer": ISSUER,
                "authorization_endpoint": f"{ISSUER}/authorize",
                "token_endpoint": f"{ISSUER}/token",
                "revocation_endpoint": f"{ISSUER}/revoke",
                "jwks_uri": f"{ISSUER}/jwks",
                "authorization_response_iss_parameter_supported": True,
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                **self.metadata,
            }
        )

    def _token(self, form: dict[str, str]) -> dict[str, Any]:
        match form["grant_type"]:
            case "authorization_code":
                return self._redeem(form)
            case "refresh_token":
                return self._refresh(form["refresh_token"])
            case _:
                asked = tuple(form.get("scope", "").split())
                family = Family("", asked if self.granted is None else self.granted)
                self.families.append(family)
                return self._tokens(family, refresh_token=False)

    def _redeem(self, form: dict[str, str]) -> dict[str, Any]:
        code = self._codes.pop(form["code"], None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if code is None or (code.redirect_uri, code.challenge) != (form["redirect_uri"], challenge):
            raise _Refused("invalid_grant")
        tokens = self._tokens(code.family, refresh_token=self.gives_refresh_tokens)
        if "openid" in code.family.scopes and self.id_tokens:
            nonce = code.nonce if self.nonce is None else self.nonce
            tokens["id_token"] = _id_token(code.family.account, nonce, int(self._now().timestamp()))
        return tokens

    def _refresh(self, refresh_token: str) -> dict[str, Any]:
        family = self._refresh_tokens.get(refresh_token)
        if family is None or family.revoked:
            raise _Refused("invalid_grant")
        if refresh_token != family.newest:
            family.revoked = True
            raise _Refused("invalid_grant")
        return self._tokens(family, refresh_token=self.rotates)

    def _tokens(self, family: Family, *, refresh_token: bool) -> dict[str, Any]:
        access_token = self._mint("access-token-canary")
        family.access_tokens.add(access_token)
        tokens: dict[str, Any] = {"access_token": access_token, "token_type": "Bearer"}
        if self.expires_in is not None:
            tokens["expires_in"] = self.expires_in
        if self.names_scopes:
            tokens["scope"] = " ".join(family.scopes)
        if refresh_token:
            family.newest = tokens["refresh_token"] = self._mint("refresh-token-canary")
            self._refresh_tokens[family.newest] = family
        return tokens

    def _revoke(self, token: str) -> HttpResponse:
        for family in self.families:
            if token in family.access_tokens:
                family.access_tokens.discard(token)
            if self._refresh_tokens.get(token) is family:
                family.revoked = True
        return HttpResponse(200)

    def _mint(self, kind: str) -> str:
        self._minted[kind] += 1
        return f"{kind}-{self._minted[kind]}"


def respond_json(value: dict[str, Any], status: int = 200, **headers: str) -> HttpResponse:
    """A JSON answer."""
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return HttpResponse(status, {"content-type": "application/json", **names}, json.dumps(value).encode())


def _check_client(request: HttpRequest, form: dict[str, str]) -> None:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    if scheme == "Basic":
        client_id, _, secret = map(unquote_plus, base64.b64decode(credentials).decode().partition(":"))
    if (client_id, secret) != (CLIENT_ID, CLIENT_SECRET):
        raise _Refused("invalid_client", 401)


@cache
def _key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"}, private=True)


def _id_token(subject: str, nonce: str, now: int) -> str:
    claims: dict[str, Any] = {"iss": ISSUER, "sub": subject, "aud": CLIENT_ID, "iat": now, "exp": now + 300}
    if nonce:
        claims["nonce"] = nonce
    return jws.serialize_compact({"alg": "RS256", "kid": "1"}, json.dumps(claims).encode(), _key())
