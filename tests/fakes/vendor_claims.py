"""What do the tokens of each vendor say? Claims and headers as Cognito, Okta, Entra ID, Auth0, Google and others write them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

Claims = dict[str, Any]
Preset = Literal["oidc", "cognito", "okta", "entra", "auth0", "google"]
PRESETS: tuple[Preset, ...] = ("oidc", "cognito", "okta", "entra", "auth0", "google")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account.

    Attributes:
        subject: The provider's identifier of the account; vendors with several derive them from this one.
        name: For people.
    """

    subject: str
    name: str

    @property
    def email(self) -> str:
        return f"{self.subject}@example.com"

    @property
    def object_id(self) -> str:
        """The same account as Entra's directory names it."""
        return _uuid(f"oid {self.subject}")

    def pairwise(self, client: str) -> str:
        """The same account as Entra names it to one application."""
        return hashlib.sha256(f"{self.subject} {client}".encode()).hexdigest()[:43]


ALICE, BOB, MALLORY = Person("alice", "Alice Example"), Person("bob", "Bob Example"), Person("mallory", "Mallory Example")


class VendorClaims:
    """What a provider writes beside issuer, audience and times.

    Attributes:
        preset: Whose tokens it makes.
        client: The client that access tokens are issued to.
        login_client: The client of a browser's sign-in.
        tenant_id: The organisation that its tokens name.
    """

    preset: Preset
    client: str
    login_client: str
    tenant_id: str

    @property
    def epoch(self) -> int:
        """The time, as tokens write it."""
        raise NotImplementedError

    def access_claims(self, person: Person = ALICE, *, client: str | None = None, scopes: str = "", version: int = 2) -> Claims:  # noqa: PLR0911 - one a vendor
        """What a user's access token says beside issuer, audience and times."""
        client = client or self.client
        match self.preset:
            case "oidc":
                return {"sub": person.subject, "client_id": client, "scope": scopes or None, "name": person.name}
            case "cognito":
                return {
                    "sub": _uuid(person.subject), "client_id": client, "token_use": "access", "username": person.subject,
                    "scope": scopes or "aws.cognito.signin.user.admin", "version": 2, "auth_time": self.epoch,
                    "origin_jti": _uuid("origin"), "event_id": _uuid("event"), "cognito:groups": ["staff"],
                }  # fmt: skip
            case "okta":
                return {
                    "ver": 1, "sub": person.email, "uid": f"00u{person.subject}", "cid": client,
                    "scp": (scopes or "openid").split(), "auth_time": self.epoch,
                }  # fmt: skip
            case "entra":
                made: Claims = {
                    "tid": self.tenant_id, "oid": person.object_id, "sub": person.pairwise(client), "name": person.name,
                    "scp": scopes or "access_as_user", "uti": "uti", "rh": "0.rh", "aio": "aio", "nbf": self.epoch,
                }  # fmt: skip
                if version == 1:
                    return made | {
                        "ver": "1.0",
                        "appid": client,
                        "appidacr": "1",
                        "upn": person.email,
                        "unique_name": person.email,
                    }
                return made | {"ver": "2.0", "azp": client, "azpacr": "1", "preferred_username": person.email}
            case "auth0":
                return {
                    "sub": f"auth0|{person.subject}", "azp": client, "scope": scopes or "openid", "permissions": ["read:notes"],
                    "org_id": self.tenant_id,
                }  # fmt: skip
            case "google":
                return self.id_claims(person) | {"azp": client}

    def service_claims(self, client: str, scopes: str = "") -> Claims:
        """What a service's own token says beside issuer, audience and times."""
        match self.preset:
            case "oidc" | "cognito":
                use = {"token_use": "access", "version": 2} if self.preset == "cognito" else {}
                return {"sub": client, "client_id": client, "scope": scopes or "service/run", **use}
            case "okta":
                return {"ver": 1, "sub": client, "cid": client, "scp": (scopes or "run").split()}
            case "entra":
                principal = _uuid(f"service {client}")
                return {
                    "tid": self.tenant_id, "oid": principal, "sub": principal, "azp": client, "azpacr": "1", "idtyp": "app",
                    "roles": (scopes or "Run.All").split(), "ver": "2.0", "uti": "uti", "rh": "0.rh", "nbf": self.epoch,
                }  # fmt: skip
            case "auth0":
                return {
                    "sub": f"{client}@clients", "azp": client, "gty": "client-credentials", "scope": scopes or "run",
                    "org_id": self.tenant_id,
                }  # fmt: skip
            case "google":
                return {
                    "sub": "107000000000000000001",
                    "azp": "107000000000000000001",
                    "email": "svc@p.iam.gserviceaccount.com",
                }

    def id_claims(self, person: Person = ALICE) -> Claims:
        """What an ID token says beside issuer, audience, nonce and times."""
        common: Claims = {"name": person.name, "email": person.email, "auth_time": self.epoch}
        match self.preset:
            case "oidc":
                return {"sub": person.subject, "at_hash": "at-hash", **common}
            case "cognito":
                return {
                    "sub": _uuid(person.subject), "token_use": "id", "cognito:username": person.subject, "at_hash": "at-hash",
                    **common,
                }  # fmt: skip
            case "okta":
                return {
                    "sub": f"00u{person.subject}", "ver": 1, "amr": ["pwd"], "idp": "00oidp", "at_hash": "at-hash",
                    "preferred_username": person.email, **common,
                }  # fmt: skip
            case "entra":
                return {
                    "tid": self.tenant_id, "oid": person.object_id, "sub": person.pairwise(self.login_client), "ver": "2.0",
                    "preferred_username": person.email, "name": person.name, "rh": "0.rh", "uti": "uti", "nbf": self.epoch,
                }  # fmt: skip
            case "auth0":
                return {"sub": f"auth0|{person.subject}", "sid": "sid", "org_id": self.tenant_id, **common}
            case "google":
                numbers = str(int(hashlib.sha256(person.subject.encode()).hexdigest()[:15], 16)).zfill(21)
                return {"sub": numbers, "azp": self.login_client, "hd": self.tenant_id, "email_verified": True, **common}

    def vendor_header(self) -> Claims:
        """What stands in the headers of its tokens beside algorithm and key."""
        match self.preset:
            case "entra":
                return {"typ": "JWT", "x5t": "thumbprint"}
            case "auth0":
                return {"typ": "at+jwt"}
            case "google" | "oidc":
                return {"typ": "JWT"}
            case _:
                return {}


def _uuid(seed: str) -> str:
    text = hashlib.sha256(seed.encode()).hexdigest()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:32]}"
