"""Who does a bearer speak for? The user's JWT is checked here, before any agent code runs.

Signature, algorithm, issuer, audience, client and times are checked against the identity provider's published keys.
mcp-identity checks the same token once more when it is asked for a workload access token; a runtime that left everything to
that would start agents for anybody who can reach it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import anyio
import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

ALGORITHMS = ["RS256", "ES256"]
"""Never what the token itself says, and never a symmetric one: the public key would be its secret."""
LEEWAY_SECONDS = 30
REFETCH_SECONDS = 60


class InvalidToken(Exception):
    """The bearer speaks for nobody here. The reason is for the log, not for the caller."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom a token speaks for.

    Attributes:
        issuer: Who says so.
        subject: The account; never the name or the e-mail address, which can change hands.
        name: For people.
    """

    issuer: str
    subject: str
    name: str


@dataclass(frozen=True, slots=True)
class Company:
    """The company's identity provider, and what its tokens must say.

    Attributes:
        issuer: Its exact issuer.
        authorization_url: Where people sign in.
        token_url: Where the application exchanges the code.
        keys_url: The keys that its tokens are signed with.
        client_id: The application: a public client with PKCE.
        audience: What its access tokens are for.
    """

    issuer: str
    authorization_url: str
    token_url: str
    keys_url: str
    client_id: str
    audience: str

    @classmethod
    async def discover(cls, http: httpx2.AsyncClient, discovery_url: str, *, client_id: str, audience: str) -> Company:
        """Read the provider's metadata (OpenID Connect Discovery §4)."""
        found: dict[str, Any] = (await http.get(discovery_url)).raise_for_status().json()
        endpoints = (found["issuer"], found["authorization_endpoint"], found["token_endpoint"], found["jwks_uri"])
        return cls(*endpoints, client_id=client_id, audience=audience)


class UserTokens:
    """Checks users' access tokens of one identity provider."""

    def __init__(self, http: httpx2.AsyncClient, company: Company) -> None:
        """Keep what it works with; the keys are fetched when they are first needed."""
        self._http = http
        self._company = company
        self._keys: KeySet | None = None
        self._fetched_at = -inf
        rules: Any = {name: {"essential": True, "value": value} for name, value in _required(company).items()}
        self._rules: Any = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS, exp={"essential": True}, sub={"essential": True}, **rules
        )

    async def verify(self, token: str) -> User:
        """Whom a token speaks for.

        Raises:
            InvalidToken: If anything about it is not as it must be.
        """
        try:
            claims = await self._claims(token)
            self._rules.validate(claims)
        except (JoseError, ValueError) as error:
            raise InvalidToken(type(error).__name__) from None
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject:
            raise InvalidToken("no subject")
        return User(self._company.issuer, subject, str(claims.get("name") or subject))

    async def _claims(self, token: str) -> dict[str, Any]:
        keys = self._keys or await self._fetch()
        try:
            return jwt.decode(token, keys, ALGORITHMS).claims
        except (JoseError, ValueError):
            # The key may be a new one. Strangers must not make us fetch for each of their tokens, so this is rare.
            if anyio.current_time() - self._fetched_at < REFETCH_SECONDS:
                raise
            return jwt.decode(token, await self._fetch(), ALGORITHMS).claims

    async def _fetch(self) -> KeySet:
        self._fetched_at = anyio.current_time()
        self._keys = KeySet.import_key_set((await self._http.get(self._company.keys_url)).raise_for_status().json())
        return self._keys


def _required(company: Company) -> dict[str, str]:
    """What the claims must say; the client too, or a token that another application got would do."""
    return {"iss": company.issuer, "aud": company.audience, "client_id": company.client_id}
