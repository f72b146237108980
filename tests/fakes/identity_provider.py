"""What does a company's identity provider say, now that a knob is turned? In this process, or on a port of this machine.

It speaks as each preset's vendor does: the same claims and headers, the same places of metadata and keys, access tokens, ID
tokens and tokens of services. `transport` stands in place of the product's own; `serve` answers on 127.0.0.1 for processes and
browsers, with an authorization endpoint that lets the configured person in at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

import anyio
import anyio.to_thread
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from mcp_identity.domain.errors import UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.transport import Transport
from tests.fakes.vendor_claims import ALICE, BOB, MALLORY, PRESETS, Claims, Person, Preset, VendorClaims

__all__ = [
    "ALICE",
    "AUDIENCE",
    "BOB",
    "CLIENT",
    "LOGIN_CLIENT",
    "LOGIN_SECRET",
    "MALLORY",
    "OTHER_TENANT_ID",
    "PRESETS",
    "TENANT_ID",
    "Claims",
    "FakeIdentityProvider",
    "FakeIdentityTransport",
    "Knobs",
    "Person",
    "Preset",
    "SigningKey",
    "respond_json",
    "signing_key",
]

AUDIENCE, CLIENT = "https://identity.example.com/mcp", "the-agent-client"
LOGIN_CLIENT, LOGIN_SECRET = "the-login-client", "the-login-secret-canary"
TENANT_ID = "11111111-2222-4333-8444-555555555555"
OTHER_TENANT_ID = "99999999-2222-4333-8444-555555555555"
LIFETIME_SECONDS = 3600
POOL = "/eu-west-1_EXAMPLE"
DISCOVERY = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a vendor's provider is, below `origin`.

    Attributes:
        origin: Scheme and host of the real one; `serve` puts its own in place.
        path: Of the issuer, as it stands in `iss`.
        keys: The path of the key set.
    """

    origin: str
    path: str
    keys: str


SITES: dict[Preset, Site] = {
    "oidc": Site("https://idp.example.com", "", "/jwks.json"),
    "cognito": Site("https://cognito-idp.eu-west-1.amazonaws.com", POOL, f"{POOL}/.well-known/jwks.json"),
    "okta": Site("https://example.okta.com", "/oauth2/default", "/oauth2/default/v1/keys"),
    "entra": Site("https://login.microsoftonline.com", f"/{TENANT_ID}/v2.0", f"/{TENANT_ID}/discovery/v2.0/keys"),
    "auth0": Site("https://example.eu.auth0.com", "/", "/.well-known/jwks.json"),
    "google": Site("https://accounts.google.com", "", "/oauth2/v3/certs"),
}  # fmt: skip


SigningKey = RSAKey | ECKey | OKPKey


@cache
def signing_key(kid: str) -> SigningKey:
    """The key of this name, the same in the whole process.

    Its beginning says of which kind: ``ec-``, ``es384-``, ``es512-``, ``ed-``, ``any-`` for RSA with any algorithm; any other
    is RSA for RS256 alone.
    """
    match kid.partition("-")[0]:
        case "ec":
            return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"}, private=True)
        case "es384":
            return ECKey.generate_key("P-384", {"kid": kid, "use": "sig", "alg": "ES384"}, private=True)
        case "es512":
            return ECKey.generate_key("P-521", {"kid": kid, "use": "sig", "alg": "ES512"}, private=True)
        case "ed":
            return OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig", "alg": "Ed25519"}, private=True)
        case "any":
            return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"}, private=True)
        case _:
            return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}, private=True)


@dataclass(slots=True)
class Knobs:
    """How the provider misbehaves; each is off.

    Attributes:
        down: Nothing answers: no connection in this process, HTTP 503 on a port.
        loses_answers: Requests are counted, and their answers do not come back (in this process alone).
        hold: An answer comes back only once this is set; `holding` says that one waits (in this process alone).
        holding: Set when an answer is held.
        jwks_answer: The key set's place answers with this.
        jwks_padding: So many further bytes in the key set's document.
        jwks_redirect: The key set's place redirects there.
        extra_keys: Further members of the key set, whatever they are.
        metadata: Changes to the metadata document; None for a server without one.
        denies: The person at the authorization endpoint says no.
        login_nonce: Stands in ID tokens of a sign-in instead of the nonce that was sent.
        login_claims: Changes to the claims of ID tokens of a sign-in.
        login_iss: Stands in the authorization answer's ``iss`` instead of the issuer; empty for none.
        token_answer: The token endpoint answers with this and processes nothing.
    """

    down: bool = False
    loses_answers: bool = False
    hold: anyio.Event | None = None
    holding: anyio.Event = field(default_factory=anyio.Event)
    jwks_answer: HttpResponse | None = None
    jwks_padding: int = 0
    jwks_redirect: str = ""
    extra_keys: list[Any] = field(default_factory=list[Any])
    metadata: Claims | None = field(default_factory=dict[str, Any])
    denies: bool = False
    login_nonce: str | None = None
    login_claims: Claims = field(default_factory=dict[str, Any])
    login_iss: str | None = None
    token_answer: HttpResponse | None = None


@dataclass(frozen=True, slots=True)
class _Code:
    person: Person
    query: Mapping[str, str]


class FakeIdentityProvider(VendorClaims):
    """One identity provider.

    Attributes:
        preset: Whose tokens it makes.
        knobs: How it misbehaves.
        origin: Scheme, host and port.
        audience: What its access tokens are for, where nobody says otherwise.
        client: The client that they are issued to.
        login_client: The client of a browser's sign-in.
        login_secret: Its secret; empty for a public client.
        signed_in: Who is signed in, in a browser without the cookie ``idp_user``.
        people: Whom that cookie may name, by subject.
        keys: The names of the published keys; the first one signs.
        requests: The paths that were asked, in order.
        tenant_id: The organisation that its tokens name (Entra ``tid``, Google ``hd``, Auth0 ``org_id``).
        multi_tenant: Its metadata has Entra's templated issuer.
    """

    def __init__(self, preset: Preset = "oidc", *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """A provider in good health.

        Args:
            preset: Whose tokens it makes.
            now: The time that tokens are issued at.
        """
        self.preset: Preset = preset
        self.knobs = Knobs()
        self.origin = SITES[preset].origin
        self.audience = "" if preset == "cognito" else AUDIENCE
        self.client = CLIENT
        self.login_client, self.login_secret = LOGIN_CLIENT, LOGIN_SECRET
        self.signed_in = ALICE
        self.people = {person.subject: person for person in (ALICE, BOB, MALLORY)}
        self.keys = ["1"]
        self.requests: list[str] = []
        self.tenant_id = {"entra": TENANT_ID, "google": "example.com", "auth0": "org_example"}.get(preset, "")
        self.multi_tenant = False
        self.now = now
        self._codes: dict[str, _Code] = {}
        self._lock = threading.Lock()
        self._numbers = 0

    # Where it is

    @property
    def issuer(self) -> str:
        """The exact issuer of its tokens (Entra: of version 2)."""
        return self.origin + SITES[self.preset].path.replace(TENANT_ID, self.tenant_id or TENANT_ID)

    @property
    def metadata_issuer(self) -> str:
        """The issuer that its metadata document names."""
        return f"{self.origin}/{{tenantid}}/v2.0" if self.multi_tenant else self.issuer

    @property
    def discovery_url(self) -> str:
        """Where its metadata is."""
        base = f"{self.origin}/organizations/v2.0" if self.multi_tenant else self.issuer.rstrip("/")
        return base + DISCOVERY

    @property
    def jwks_url(self) -> str:
        """Where its keys are."""
        return f"{self.origin}/common/discovery/v2.0/keys" if self.multi_tenant else self.origin + SITES[self.preset].keys

    @property
    def authorization_url(self) -> str:
        return f"{self.origin}/authorize"

    @property
    def token_url(self) -> str:
        return f"{self.origin}/token"

    # What tests ask

    @property
    def epoch(self) -> int:
        """The time, as tokens write it."""
        return int(self.now().timestamp())

    @property
    def jwks_fetches(self) -> int:
        """How often its keys were asked for."""
        path = urlsplit(self.jwks_url).path
        return sum(each == path for each in self.requests)

    @property
    def transport(self) -> FakeIdentityTransport:
        """The transport of a product in this process."""
        return FakeIdentityTransport(self)

    def rotate(self, kid: str, *, keep: bool = True) -> None:
        """Sign with a new key from now on.

        Args:
            kid: Its name, see `signing_key`.
            keep: Whether the old ones stay published.
        """
        self.keys = [kid, *(self.keys if keep else [])]

    def jwks(self) -> Claims:
        """Its key set."""
        found = [signing_key(kid).as_dict(private=False) for kid in self.keys]
        if self.preset == "entra":
            found = [{**each, "issuer": f"{self.origin}/{{tenantid}}/v2.0", "x5c": ["MIIDCERTIFICATE"]} for each in found]
        padding = {"padding": "x" * self.knobs.jwks_padding} if self.knobs.jwks_padding else {}
        return {"keys": [*found, *self.knobs.extra_keys], **padding}

    def publish(self, *kids: str) -> None:
        """Add keys to the key set; what signs stays."""
        self.keys += [kid for kid in kids if kid not in self.keys]

    # What it issues

    def access_token(
        self,
        person: Person = ALICE,
        *,
        audience: str | list[str] | None = None,
        client: str | None = None,
        scopes: str = "",
        version: int = 2,
        lifetime_seconds: int = LIFETIME_SECONDS,
        claims: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """A user's access token, as the vendor makes them. At Google, which has none that others can read, an ID token for us.

        Args:
            person: The user.
            audience: Another audience than the usual one; the empty string for none.
            client: Another client than the usual one.
            scopes: Words.
            version: Entra's: 1 or 2.
            lifetime_seconds: Until it ends; negative for one that has.
            claims: Changes; a claim that is None is left out.
            header: Changes to the header, likewise.
        """
        made = self.access_claims(person, client=client, scopes=scopes, version=version)
        made |= self._common(audience, lifetime_seconds)
        if version == 1:
            made["iss"] = f"https://sts.windows.net/{self.tenant_id}/"
        return self.sign({**made, **(claims or {})}, header)

    def service_token(
        self,
        client: str | None = None,
        *,
        audience: str | list[str] | None = None,
        scopes: str = "",
        lifetime_seconds: int = LIFETIME_SECONDS,
        claims: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """The access token of a service on its own (client credentials)."""
        made = self.service_claims(client or self.client, scopes) | self._common(audience, lifetime_seconds)
        return self.sign({**made, **(claims or {})}, header)

    def id_token(
        self,
        person: Person = ALICE,
        *,
        client: str | None = None,
        nonce: str = "n0nce",
        version: int = 2,
        lifetime_seconds: int = LIFETIME_SECONDS,
        claims: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """The ID token of a sign-in."""
        made = self.id_claims(person) | self._common(client or self.login_client, lifetime_seconds)
        made |= {"nonce": nonce} if nonce else {}
        if version == 1:
            made |= {"iss": f"https://sts.windows.net/{self.tenant_id}/", "ver": "1.0"}
        return self.sign({**made, **(claims or {})}, header)

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None, *, kid: str | None = None) -> str:
        """A compact token of these claims; a claim or a header that is None is left out."""
        name = self.keys[0] if kid is None else kid
        key = signing_key(name)
        fields: Claims = {"alg": key.alg or "RS256", "kid": name, **self.vendor_header(), **(header or {})}
        fields = {each: value for each, value in fields.items() if value is not None}
        body = json.dumps({each: value for each, value in claims.items() if value is not None}).encode()
        registry = jws.JWSRegistry(algorithms=[fields["alg"]], strict_check_header=False)
        registry.max_header_length = 1 << 20
        return jws.serialize_compact(fields, body, key, [fields["alg"]], registry)

    def _common(self, audience: str | list[str] | None, lifetime_seconds: int) -> Claims:
        audience = self.audience if audience is None else audience
        now = self.epoch
        issued = min(now, now + lifetime_seconds - 1)
        return {
            "iss": self.issuer,
            "aud": audience or None,
            "iat": issued,
            "exp": now + lifetime_seconds,
            "jti": self._mint("jti"),
        }

    def _mint(self, kind: str) -> str:
        with self._lock:
            self._numbers += 1
            return f"{kind}-{self._numbers}-{secrets.token_urlsafe(8)}"

    # What it answers

    def respond(self, request: HttpRequest) -> HttpResponse:
        """Process a request, as the knobs say."""
        parts = urlsplit(request.url)
        query = dict(parse_qsl(parts.query))
        self.requests.append(parts.path)
        if parts.path.endswith(DISCOVERY) or parts.path.startswith("/.well-known/oauth-authorization-server"):
            return self._metadata()
        if parts.path == urlsplit(self.jwks_url).path:
            return self._keys()
        match parts.path:
            case "/authorize":
                return self._authorize(query, request.headers)
            case "/token":
                return self.knobs.token_answer or self._token(request)
            case _:
                return HttpResponse(404, {"content-type": "text/plain"}, b"not here")

    def _metadata(self) -> HttpResponse:
        if self.knobs.metadata is None:
            return HttpResponse(404, {"content-type": "text/html"}, b"<html>")
        return respond_json(
            {
                "issuer": self.metadata_issuer,
                "authorization_endpoint": self.authorization_url,
                "token_endpoint": self.token_url,
                "jwks_uri": self.jwks_url,
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "scopes_supported": ["openid", "profile", "email"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "authorization_response_iss_parameter_supported": True,
                **self.knobs.metadata,
            }
        )

    def _keys(self) -> HttpResponse:
        if self.knobs.jwks_redirect:
            return HttpResponse(302, {"location": self.knobs.jwks_redirect}, b"")
        return self.knobs.jwks_answer or respond_json(self.jwks())

    def _authorize(self, query: dict[str, str], headers: Mapping[str, str]) -> HttpResponse:
        asked = (query.get("client_id"), query.get("response_type"), query.get("code_challenge_method"))
        if asked != (self.login_client, "code", "S256") or not query.get("redirect_uri") or not query.get("code_challenge"):
            return HttpResponse(400, {"content-type": "text/plain"}, b"the authorization request is not one of ours")
        cookies = SimpleCookie(headers.get("cookie", ""))
        named = cookies["idp_user"].value if "idp_user" in cookies else ""
        person = self.people.get(named, self.signed_in)
        answer = {"state": query.get("state", ""), "iss": self.issuer if self.knobs.login_iss is None else self.knobs.login_iss}
        if self.knobs.denies:
            answer["error"] = "access_denied"
        else:
            answer["code"] = self._mint("code")
            self._codes[answer["code"]] = _Code(person, query)
        target = query["redirect_uri"]
        joint = "&" if urlsplit(target).query else "?"
        location = target + joint + urlencode({name: value for name, value in answer.items() if value})
        return HttpResponse(302, {"location": location, "cache-control": "no-store"}, b"")

    def _token(self, request: HttpRequest) -> HttpResponse:
        form = dict(parse_qsl((request.body or b"").decode()))
        headers = {name.lower(): value for name, value in request.headers.items()}
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if scheme == "Basic":
            client, _, secret = map(unquote_plus, base64.b64decode(credentials).decode().partition(":"))
        if (client, secret) != (self.login_client, self.login_secret):
            return respond_json({"error": "invalid_client"}, 401)
        code = self._codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            form.get("grant_type") != "authorization_code"
            or code is None
            or code.query["redirect_uri"] != form.get("redirect_uri")
            or code.query["code_challenge"] != challenge
        ):
            return respond_json({"error": "invalid_grant"}, 400)
        nonce = code.query.get("nonce", "") if self.knobs.login_nonce is None else self.knobs.login_nonce
        return respond_json(
            {
                "access_token": self.access_token(code.person, client=client, scopes=code.query.get("scope", "")),
                "id_token": self.id_token(code.person, nonce=nonce, claims=self.knobs.login_claims),
                "token_type": "Bearer",
                "expires_in": LIFETIME_SECONDS,
                "scope": code.query.get("scope", ""),
            }
        )

    # On a port

    @contextmanager
    def serving(self, port: int = 0) -> Generator[FakeIdentityProvider]:
        """Answer on a port of 127.0.0.1 until the block ends; from then on `issuer` and the other URLs are there."""
        server = _Server(("127.0.0.1", port), _handler(self))
        before, self.origin = self.origin, f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
            self.origin = before

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncGenerator[FakeIdentityProvider]:
        """The same, from an event loop."""
        block = self.serving(port)
        yield_value = block.__enter__()
        try:
            yield yield_value
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(block.__exit__, None, None, None)


class FakeIdentityTransport(Transport):
    """The transport of a product that knows these identity providers, each by its origin."""

    def __init__(self, *providers: FakeIdentityProvider) -> None:
        super().__init__()
        self.providers = providers

    def know(self, provider: FakeIdentityProvider) -> None:
        """Reach this one too."""
        if provider not in self.providers:
            self.providers = (*self.providers, provider)

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        """Answer as the knobs say."""
        del allow_http_loopback
        await anyio.lowlevel.checkpoint()
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        provider = next((each for each in self.providers if each.origin == origin), None)
        if provider is None:
            raise UpstreamUnavailable("the host's name does not resolve", may_have_been_processed=False)
        knobs = provider.knobs
        if knobs.down:
            provider.requests.append(parts.path)
            raise UpstreamUnavailable("the server does not accept connections", may_have_been_processed=False)
        answer = provider.respond(request)
        if knobs.hold is not None:
            knobs.holding.set()
            await knobs.hold.wait()
        if knobs.loses_answers:
            raise UpstreamUnavailable("no answer in time")
        if len(answer.body) > request.maximum_bytes:
            return replace(answer, body=answer.body[: request.maximum_bytes + 1])
        return answer


def respond_json(value: Mapping[str, Any], status: int = 200) -> HttpResponse:
    """A JSON answer."""
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(value).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(provider: FakeIdentityProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            self._answer("GET", None)

        def do_POST(self) -> None:
            self._answer("POST", self.rfile.read(int(self.headers.get("content-length", "0"))))

        def _answer(self, method: Literal["GET", "POST"], body: bytes | None) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = HttpResponse(503, {"content-type": "text/plain"}, b"down")
            if not provider.knobs.down:
                answer = provider.respond(HttpRequest(method, provider.origin + self.path, headers, body))
            self.send_response(answer.status)
            for name, value in {**answer.headers, "content-length": str(len(answer.body)), "connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    return Handler
