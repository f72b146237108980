"""Who sits at this browser, as the tenant's identity provider says?

A code flow of its own (OpenID Connect Core §3.1), with PKCE, nonce and a state that is used once, in the browser in which the
button was pressed: an answer that another browser brings signs nobody in. What comes of it is a sealed cookie that says who
signed in; it proves a person, never an agent, and opens nothing by itself. Trusts the endpoints that were pinned when the
issuer was added, and the vault; a cookie only as far as its seal, its time and the user's not-before.
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Clock, Entropy, random_token
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import (
    ConsentExpired,
    ConsentMismatch,
    ConsentNotFound,
    IdentityError,
    ProviderMisconfigured,
    RateLimited,
    UpstreamBadResponse,
    VaultCorrupt,
    clean_text,
)
from mcp_identity.domain.identity import DEFAULT_TENANT, User, UserKind
from mcp_identity.domain.issuer import Issuer, fill
from mcp_identity.domain.login import (
    BROWSER_SESSION_LIFETIME,
    LOGIN_LIFETIME,
    BrowserSession,
    LoginBegun,
    LoginDone,
    LoginPurpose,
    LoginTarget,
)
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Dialect, OAuthClient
from mcp_identity.oauth.answers import Fields, is_token_text
from mcp_identity.oauth.authorization import authorization_url, process_authorization_response
from mcp_identity.oauth.id_token import MAXIMUM_SUBJECT_LENGTH, jwks_request, verify_id_claims
from mcp_identity.oauth.token import authorization_code_request, process_token_response
from mcp_identity.transport import Transport
from mcp_identity.vault.envelope import RANDOM_BYTES, DataKey, Place, key_id_of, open_sealed, seal
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.logins import Login
from mcp_identity.vault.strays import Strays
from mcp_identity.vault.vault import Vault

SCOPES = frozenset({"openid", "profile"})
DISPLAY_CLAIMS = ("name", "preferred_username", "email")
"""Where a name for people stands; no decision reads it."""
MAXIMUM_DISPLAY_LENGTH = 128
MAXIMUM_PER_CONSENT, MAXIMUM_OPEN = 10, 5000
"""Sign-ins on their way for one consent, and of one purpose at all."""
_COOKIE = re.compile(r"[A-Za-z0-9_-]{1,4096}")
_NAME_LENGTH = 16
_KEY_ID = b"browser-session\0"
_DIALECT = Dialect(id_token=True)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """An answer that counts; its code is exchanged next."""

    login: Login
    issuer: Issuer
    code: Secret
    client: OAuthClient


@dataclass(frozen=True, slots=True)
class _Refused:
    """An answer that does not; written down."""

    error: IdentityError


class Logins:
    """Signs browsers in."""

    def __init__(self, vault: Vault, transport: Transport, clock: Clock, entropy: Entropy, base_url: str) -> None:
        """Keep what it works with.

        Args:
            vault: Where sign-ins and issuers are kept.
            transport: To the identity providers.
            clock: For lifetimes.
            entropy: For state, verifier, nonce and cookies.
            base_url: Scheme, host and port that browsers reach us at; configured, never taken from a request.
        """
        self._vault = vault
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._base_url = base_url.rstrip("/")
        self._strays = Strays(vault, clock)

    async def start(
        self, target: LoginTarget, purpose: LoginPurpose, consent_id: str = "", *, another_user: bool = False
    ) -> LoginBegun:
        """Begin a sign-in: the button was pressed.

        Args:
            target: Where.
            purpose: What for.
            consent_id: The consent that it is for, or empty.
            another_user: Ask the identity provider to ask again who it is.

        Raises:
            ProviderMisconfigured: If nobody can sign in there.
            RateLimited: If too many are on their way.
        """
        state, browser = random_token(self._entropy), random_token(self._entropy)
        verifier, nonce = Secret(random_token(self._entropy)), random_token(self._entropy)
        state_hash = sha256(state.encode()).digest()

        def unit(records: Records) -> str:
            issuer = _issuer(records, target.tenant, target.issuer_id)
            records.sweep_logins()
            open_at_all, for_this = records.count_logins(purpose, consent_id)
            if purpose is LoginPurpose.PORTAL:  # for anybody to begin, so whoever begins many must not keep others out
                records.drop_oldest_logins(purpose, max(0, open_at_all - MAXIMUM_OPEN + 1))
            elif open_at_all >= MAXIMUM_OPEN or (consent_id and for_this >= MAXIMUM_PER_CONSENT):
                raise RateLimited("too many sign-ins are on their way", retry_after_seconds=60)
            browser_hash, ends = sha256(browser.encode()).digest(), records.now + LOGIN_LIFETIME
            redirect_uri = f"{target.base_url or self._base_url}/login/callback/{issuer.id}"
            records.insert_login(
                Login(
                    tenant=target.tenant,
                    issuer_id=issuer.id,
                    purpose=purpose,
                    consent_id=consent_id,
                    state_hash=state_hash,
                    browser_hash=browser_hash,
                    code_verifier=verifier,
                    nonce=nonce,
                    redirect_uri=redirect_uri,
                    expires_at=ends,
                )
            )
            url = authorization_url(
                _server(issuer),
                issuer.login_client_id,
                _DIALECT,
                redirect_uri=redirect_uri,
                scopes=SCOPES,
                state=state,
                code_verifier=verifier,
                nonce=nonce,
            )
            return f"{url}&prompt=login" if another_user else url

        return LoginBegun(await self._vault.run(unit), login_name(state), Secret(browser))

    async def finish(
        self, issuer_id: str, parameters: Sequence[tuple[str, str]], browser_secrets: Mapping[str, str]
    ) -> LoginDone:
        """The identity provider sent a browser back.

        Args:
            issuer_id: From the path of the callback.
            parameters: Its query, as it came.
            browser_secrets: What this browser's sign-in cookies hold, by their names.

        Raises:
            ConsentNotFound: If the answer belongs to no sign-in on its way.
            ConsentMismatch: If another browser brings it, or it is another issuer's or sign-in's.
            ConsentDenied: If the person did not want to.
            IdentityError: If the identity provider does not say who it is.
        """
        states = [value for name, value in parameters if name == "state"]
        state = states[0] if len(states) == 1 else ""

        def unit(records: Records) -> _Accepted | _Refused | None:
            login = records.take_login(sha256(state.encode("utf-8", "replace")).digest()) if state else None
            if login is None:
                return None
            try:
                return self._accept(records, login, issuer_id, parameters, browser_secrets.get(login_name(state), ""))
            except IdentityError as error:
                records.append_audit(_event(login.tenant).ending(error.code, why=error.message))
                return _Refused(error)

        accepted = await self._vault.run(unit, _event(DEFAULT_TENANT))
        if accepted is None:
            error = ConsentNotFound("there is no such sign-in, or it has ended")
            await self._strays.note(_event(DEFAULT_TENANT).ending(error.code))
            raise error
        if isinstance(accepted, _Refused):
            raise accepted.error
        try:
            claims = await self._ask(accepted)
            user = user_of(accepted.issuer, claims)
        except IdentityError as error:
            event = _event(accepted.login.tenant).ending(error.code, why=error.message)
            await self._vault.run(lambda records: records.append_audit(event))
            raise
        return await self._begin_session(accepted.login, user, login_name(state))

    def _accept(
        self, records: Records, login: Login, issuer_id: str, parameters: Sequence[tuple[str, str]], browser_secret: str
    ) -> _Accepted:
        """Check everything that must hold before a code is exchanged."""
        presented = sha256(browser_secret.encode("utf-8", "replace")).digest()
        if not hmac.compare_digest(presented, login.browser_hash):
            raise ConsentMismatch("the answer came from another browser than the one that was asked")
        if issuer_id != login.issuer_id:
            raise ConsentMismatch("the answer came to another issuer's callback")
        if login.expires_at <= records.now:
            raise ConsentExpired("the sign-in took too long")
        issuer = _issuer(records, login.tenant, login.issuer_id)
        code = process_authorization_response(parameters, server=_server(issuer)).code
        secret = records.open_login_secret(issuer)
        method = ClientAuthentication.BASIC if secret else ClientAuthentication.NONE
        return _Accepted(login, issuer, code, OAuthClient(issuer.login_client_id, method, secret))

    async def _ask(self, accepted: _Accepted) -> Fields:
        """Exchange the code, and verify the ID token that comes for it."""
        issuer, login, server = accepted.issuer, accepted.login, _server(accepted.issuer)
        request = authorization_code_request(
            server,
            accepted.client,
            _DIALECT,
            code=accepted.code,
            redirect_uri=login.redirect_uri,
            code_verifier=login.code_verifier,
        )
        response = await self._transport.send(request, allow_http_loopback=issuer.allow_http_loopback)
        answer = process_token_response(response, _DIALECT, requested_scopes=SCOPES, now=self._clock.now())
        if answer.id_token is None:
            raise UpstreamBadResponse("the identity provider answered without an ID token")
        keys = await self._transport.send(jwks_request(server), allow_http_loopback=issuer.allow_http_loopback)
        return verify_id_claims(
            answer.id_token.reveal(),
            keys,
            issuers=_issuers(issuer),
            client_id=issuer.login_client_id,
            nonce=login.nonce,
            now=self._clock.now(),
        )

    async def _begin_session(self, login: Login, user: User, name: str) -> LoginDone:
        now = self._clock.now()
        session = BrowserSession(login.tenant, login.issuer_id, user, now, now + BROWSER_SESSION_LIFETIME)
        event = _event(login.tenant, user)

        def unit(records: Records) -> None:
            _issuer(records, login.tenant, login.issuer_id)
            records.register_user(login.tenant, user)
            records.append_audit(event)

        await self._vault.run(unit, event)
        return LoginDone(session, self.seal(session), login.purpose, login.consent_id, name)

    # The cookie

    def seal(self, session: BrowserSession) -> Secret:
        """A browser session as its cookie."""
        user = session.user
        fields = [session.tenant, session.issuer_id, user.issuer, user.subject, user.display]
        times = [session.issued_at.timestamp(), session.expires_at.timestamp()]
        sealed = seal(
            self._key(), json.dumps([*fields, *times]).encode(), self._place(), self._entropy.random_bytes(RANDOM_BYTES)
        )
        return Secret(urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii"))

    def open(self, cookie: str) -> BrowserSession | None:
        """The session that a cookie holds; None where it is none of ours, or over.

        Whether the user and the issuer still stand, `current` says, or whoever decides by it in a unit of their own.
        """
        if not _COOKIE.fullmatch(cookie):
            return None
        try:
            sealed = urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
            if key_id_of(sealed) != _KEY_ID:
                return None
            fields: list[Any] = json.loads(open_sealed(lambda _: self._key(), sealed, self._place()))
            tenant, issuer_id, issuer, subject, display, issued, expires = fields
        except (VaultCorrupt, ValueError):
            return None
        user = User(issuer, subject, UserKind.OIDC, display)
        issued_at, expires_at = (datetime.fromtimestamp(at, UTC) for at in (issued, expires))
        if not issued_at <= self._clock.now() < expires_at:
            return None
        return BrowserSession(tenant, issuer_id, user, issued_at, expires_at)

    async def current(self, cookie: str) -> BrowserSession | None:
        """The same, if the issuer still stands and nobody has ended the user's sessions since."""
        session = self.open(cookie)
        if session is None or not await self._vault.read(lambda records: records.is_session_good(session)):
            return None
        return session

    async def targets(self) -> tuple[tuple[str, LoginTarget], ...]:
        """Where people can sign in, each with the issuer's name."""
        found = await self._vault.read(lambda records: records.all_issuers())
        return tuple((issuer.name, target_of(issuer)) for issuer in found if issuer.can_log_in and not issuer.disabled)

    def _key(self) -> DataKey:
        return DataKey(_KEY_ID, self._vault.derived_key("browser-session"))

    def _place(self) -> Place:
        return Place("browser_session", "", self._vault.id, "cookie")


def login_name(state: str) -> str:
    """What tells the cookie of one sign-in from those of other tabs; says nothing about its state."""
    return sha256(state.encode("utf-8", "replace")).hexdigest()[:_NAME_LENGTH]


def target_of(issuer: Issuer) -> LoginTarget:
    """Where the users of an issuer sign in."""
    return LoginTarget(issuer.tenant, issuer.id, urlsplit(issuer.login_authorization_url).netloc)


def user_of(issuer: Issuer, claims: Fields) -> User:
    """The user that verified claims of an ID token name; the same as that issuer's access tokens give.

    Raises:
        UpstreamBadResponse: If it is no ID token of this issuer, of another organisation, or names nobody.
    """
    rules = issuer.rules
    if any(claims.get(name) != value for name, value in rules.id_claims.items()):
        raise UpstreamBadResponse("the token is not an ID token of this issuer")
    if issuer.discriminator_values:
        organisation = claims.get(rules.discriminator)
        if not isinstance(organisation, str) or organisation not in issuer.discriminator_values:
            raise UpstreamBadResponse("the person belongs to another organisation")
    parts = [claims.get(name) for name in rules.id_subject]
    texts = [part for part in parts if isinstance(part, str) and is_token_text(part, MAXIMUM_SUBJECT_LENGTH)]
    if not texts or len(texts) != len(parts):
        raise UpstreamBadResponse("the ID token has no usable subject")
    subject = ".".join(texts)
    shown = next((text for name in DISPLAY_CLAIMS if isinstance(text := claims.get(name), str) and text.strip()), subject)
    return User(issuer.issuer, subject, UserKind.OIDC, clean_text(shown, MAXIMUM_DISPLAY_LENGTH) or subject)


def _issuer(records: Records, tenant: str, issuer_id: str) -> Issuer:
    issuer = records.find_issuer_id(tenant, issuer_id)
    if issuer is None or issuer.disabled or not issuer.can_log_in:
        raise ProviderMisconfigured("nobody can sign in at this issuer; an operator has to configure a login client")
    return issuer


def _issuers(issuer: Issuer) -> frozenset[str]:
    """The exact issuers of its ID tokens: one, or one for each organisation where its identifier is a template."""
    return frozenset(fill(issuer.login_issuer, value) for value in issuer.discriminator_values or {""})


def _server(issuer: Issuer) -> AuthorizationServer:
    templated = "{" in issuer.login_issuer  # it stands for many, so only a token says which; the callback's path names the row
    return AuthorizationServer(
        issuer="" if templated else issuer.login_issuer,
        authorization_url=issuer.login_authorization_url,
        token_url=issuer.login_token_url,
        jwks_url=issuer.login_jwks_url,
    )


def _event(tenant: str, user: User | None = None) -> AuditEvent:
    """What the trail says of a sign-in: a person, and no agent."""
    key, display = (user.key, user.display) if user else ("", "")
    return AuditEvent(tenant, "", "", key, display, verified=True, edge="web", action="sign_in")
