"""What does a strict authorization server say that exchanges users' tokens, now that a knob is turned?

It speaks RFC 8693 and RFC 7523: every parameter is looked at and none is overlooked, the user's token has to be one of the
identity providers that it trusts, for its audience and alive, and a client proves itself in the way that was registered for
it, by a signed assertion too. In this process, reached through `FakeIdentityTransport`.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from mcp_identity.domain.http import HttpRequest, HttpResponse
from tests.fakes.identity_provider import AUDIENCE, FakeIdentityProvider, Knobs, respond_json, signing_key

ORIGIN = "https://exchange.example.com"
TOKEN_URL, REVOCATION_URL = f"{ORIGIN}/token", f"{ORIGIN}/revoke"
CLIENT_ID, CLIENT_SECRET = "the-agents-client", "the-agents-client-secret-canary"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
_EVERYWHERE = {"grant_type", "scope", "client_id", "client_secret", "client_assertion", "client_assertion_type"}
_TARGETS = {"resource", "audience"}
_PARAMETERS: dict[str, set[str]] = {
    "client_credentials": set(),
    TOKEN_EXCHANGE: {"subject_token", "subject_token_type", "actor_token", "actor_token_type"} | _TARGETS,
    JWT_BEARER: {"assertion"} | _TARGETS,
}
Method = Literal["basic", "post", "none", "absent", "private_key_jwt"]


@dataclass(slots=True)
class ExchangeKnobs(Knobs):
    """How it misbehaves, or what it is set to, beside what every fake has.

    Attributes:
        answer: Token requests get this answer and are not processed.
        client_method: How the client has to prove itself in an exchange; ``absent`` for a client that must not say who it is.
        key: The client's public key, for ``private_key_jwt``.
        audience: For whom assertions have to be; None for the URL that is asked.
        subject_token_type: What the user's token has to be called.
        wants: Further parameters that an exchange must have, exactly.
        wants_actor: An exchange must name who acts, by a token that was issued here to the client itself.
        refuses_reuse: A user's token is good for one exchange.
        expires_in: The lifetime of what it issues; None says nothing of it.
        gives: Changes to the answer of an exchange; a member that is None is left out.
    """

    answer: HttpResponse | None = None
    client_method: Method = "basic"
    key: RSAKey | ECKey | None = None
    audience: str | None = None
    subject_token_type: str = JWT_TYPE
    wants: dict[str, str] = field(default_factory=dict[str, str])
    wants_actor: bool = False
    refuses_reuse: bool = False
    expires_in: int | None = 600
    gives: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What a token stands for.

    Attributes:
        subject: The user; empty for the client's own token.
        scopes: What it may do.
        actor: The actor token that it was issued with, or empty.
    """

    subject: str
    scopes: tuple[str, ...]
    actor: str = ""


class _Refused(Exception):
    def __init__(self, error: str, status: int = 400) -> None:
        self.error, self.status = error, status


class FakeExchangeServer(FakeIdentityProvider):
    """An authorization server that is no identity provider of ours.

    Attributes:
        knobs: How it misbehaves.
        trusts: Whose users' tokens it takes.
        forms: The forms of the token requests that arrived, in order.
        issued: What each token that it issued stands for.
        revoked: The tokens that were given back.
    """

    def __init__(self, now: Callable[[], datetime], *trusts: FakeIdentityProvider) -> None:
        super().__init__("oidc", now=now)
        self.origin = ORIGIN
        self.knobs: ExchangeKnobs = ExchangeKnobs()
        self.trusts = trusts
        self.forms: list[dict[str, str]] = []
        self.issued: dict[str, Exchanged] = {}
        self.revoked: list[str] = []
        self._used: set[str] = set()
        self._minted = Counter[str]()

    def count(self, grant_type: str) -> int:
        """How many token requests of a kind arrived."""
        return sum(form.get("grant_type") == grant_type for form in self.forms)

    def respond(self, request: HttpRequest) -> HttpResponse:
        """Process a request."""
        path = urlsplit(request.url).path
        self.requests.append(path)
        try:
            return self._process(path, request)
        except _Refused as refused:
            return respond_json({"error": refused.error}, refused.status)

    def _process(self, path: str, request: HttpRequest) -> HttpResponse:
        pairs = parse_qsl((request.body or b"").decode(), strict_parsing=True)
        form = dict(pairs)
        if len(form) != len(pairs):
            raise _Refused("invalid_request")
        if path == "/revoke":
            self._check_client(request, form)
            self.revoked.append(form["token"])
            return HttpResponse(200)
        self.forms.append(form)
        return self.knobs.answer or respond_json(self._issue(request, form))

    def _issue(self, request: HttpRequest, form: dict[str, str]) -> dict[str, Any]:
        grant = form.get("grant_type", "")
        if grant not in _PARAMETERS:
            raise _Refused("unsupported_grant_type")
        exchange = grant != "client_credentials"
        if form.keys() - _EVERYWHERE - _PARAMETERS[grant] - (self.knobs.wants.keys() if exchange else set()):
            raise _Refused("invalid_request")
        self._check_client(request, form, absent=exchange and self.knobs.client_method == "absent")
        scopes = tuple(sorted(form.get("scope", "").split()))
        if not exchange:
            return self._answer("actor", Exchanged("", scopes), {})
        if any(form.get(name) != value for name, value in self.knobs.wants.items()):
            raise _Refused("invalid_request")
        raw = form.get("assertion" if grant == JWT_BEARER else "subject_token", "")
        given = {"issued_token_type": ACCESS_TOKEN_TYPE} if grant == TOKEN_EXCHANGE else {}
        if grant == TOKEN_EXCHANGE:
            self._check_exchange(form)
        exchanged = Exchanged(self._subject(raw), scopes, form.get("actor_token", ""))
        return self._answer("on-behalf-canary", exchanged, {**given, **self.knobs.gives})

    def _check_exchange(self, form: dict[str, str]) -> None:
        actor, kind = form.get("actor_token"), form.get("actor_token_type")
        if form.get("subject_token_type") != self.knobs.subject_token_type or (actor is None) != (kind is None):
            raise _Refused("invalid_request")
        if (actor is not None) != self.knobs.wants_actor:
            raise _Refused("invalid_request")
        if actor is not None and (kind != ACCESS_TOKEN_TYPE or self.issued.get(actor, Exchanged("nobody", ())).subject):
            raise _Refused("invalid_grant")

    def _subject(self, raw: str) -> str:
        """Whose token it is, if it stands."""
        for provider in self.trusts:
            try:
                key = signing_key(provider.keys[0])
                claims = json.loads(jws.deserialize_compact(raw, key, [key.alg or "RS256"]).payload)
            except (JoseError, ValueError):
                continue
            audience = claims.get("aud")
            is_ours = AUDIENCE in ([audience] if isinstance(audience, str) else audience or [])
            if claims["iss"] != provider.issuer or not is_ours or claims["exp"] <= self.epoch:
                break
            if self.knobs.refuses_reuse and raw in self._used:
                break
            self._used.add(raw)
            return str(claims["sub"])
        raise _Refused("invalid_grant")

    def _check_client(self, request: HttpRequest, form: dict[str, str], *, absent: bool = False) -> None:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        named = {"client_id", "client_secret", "client_assertion", "client_assertion_type"} & form.keys()
        if absent:
            if scheme or named:
                raise _Refused("invalid_request")
            return
        match "basic" if self.knobs.client_method == "absent" else self.knobs.client_method:
            case "basic":
                pair = tuple(map(unquote_plus, base64.b64decode(credentials).decode().split(":"))) if scheme == "Basic" else ()
                right = pair == (CLIENT_ID, CLIENT_SECRET) and not named
            case "post":
                right = not scheme and (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
            case "private_key_jwt":
                right = not scheme and "client_secret" not in form and self._is_signed(request.url, form)
            case _:
                right = not scheme and named == {"client_id"} and form["client_id"] == CLIENT_ID
        if not right:
            raise _Refused("invalid_client", 401)

    def _is_signed(self, url: str, form: dict[str, str]) -> bool:
        raw, key = form.get("client_assertion", ""), self.knobs.key
        if form.get("client_assertion_type") != ASSERTION_TYPE or form.get("client_id") != CLIENT_ID or key is None:
            return False
        try:
            signed = jws.deserialize_compact(raw, key, ["RS256", "PS256", "ES256"])
        except (JoseError, ValueError):
            return False
        claims = json.loads(signed.payload)
        lives = 0 < claims["exp"] - self.epoch <= 60 and claims["iat"] <= self.epoch
        fresh = claims["jti"] not in self._used and len(claims["jti"]) >= 16
        self._used.add(claims["jti"])
        mine = (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT_ID, CLIENT_ID, self.knobs.audience or url)
        return mine and lives and fresh

    def _answer(self, kind: str, exchanged: Exchanged, changes: dict[str, Any]) -> dict[str, Any]:
        self._minted[kind] += 1
        token = f"{kind}-{self._minted[kind]}"
        self.issued[token] = exchanged
        given = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.knobs.expires_in,
            "scope": " ".join(exchanged.scopes) or None,
            **changes,
        }
        return {name: value for name, value in given.items() if value is not None}
