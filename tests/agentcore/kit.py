"""A server with operators, agents and their keys, people and a vendor, and requests that are signed as stock clients sign."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx2

from mcp_identity import app
from mcp_identity.broker.audit import Call
from mcp_identity.broker.broker import Broker
from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.domain.access_key import AccessKeyRole
from mcp_identity.domain.identity import DEFAULT_TENANT
from tests.fakes.home import VaultHome, put_vault
from tests.fakes.identity_provider import ALICE, CLIENT, FakeIdentityProvider, Person
from tests.fakes.mcp_client import Json
from tests.fakes.vendor import Vendor, running_vendor
from tests.http.kit import Server, http_client, local_options, server_here
from tests.web.conftest import Page

REGION = "eu-central-1"
RETURN_URL = "https://app.example.com/connected"
OTHER_CLIENT = "the-other-client"
SERVICE = "bedrock-agentcore"
_auth: Any = import_module("botocore.auth")  # it has no types
_requests: Any = import_module("botocore.awsrequest")
_credentials: Any = import_module("botocore.credentials")
_FAST: dict[str, Any] = {
    "calls_per_second": 10_000,
    "requests_per_second": 10_000,
    "failed_authentications_per_minute": 100_000,
}


@dataclass(frozen=True, slots=True)
class Key:
    """An access key."""

    id: str
    secret: str = field(repr=False)


def path_of(operation: str) -> str:
    """Where an operation without members in its path is."""
    others = {
        "GetResourceOauth2Token": "oauth2/token",
        "GetResourceApiKey": "api-key",
        "GetResourcePaymentToken": "payment/token",
        "GetTokenVault": "get-token-vault",
        "SetTokenVaultCMK": "set-token-vault-cmk",
        "ResetTokenVaultKeyMaterial": "reset-token-vault-key-material",
    }
    return f"/identities/{others.get(operation, operation)}"


def signed(key: Key, method: str, url: str, body: bytes, *, region: str = REGION, service: str = SERVICE) -> dict[str, str]:
    """The headers of a request as botocore signs it."""
    headers = {"Content-Type": "application/json"} if body else {}
    request = _requests.AWSRequest(method=method, url=url, data=body, headers=headers)
    _auth.SigV4Auth(_credentials.Credentials(key.id, key.secret), service, region).add_auth(request)
    return {str(name): str(value) for name, value in request.headers.items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    json: Any
    headers: Mapping[str, str]

    @property
    def error(self) -> str:
        """The modelled name of an error; empty for a success."""
        return self.headers.get("x-amzn-errortype", "")


@dataclass(slots=True)
class World:
    """Everything that a test of this edge needs.

    Attributes:
        server: The product, in this process.
        http: A client without a will of its own.
        idp: The identity provider of the people: `agent` is reached by its tokens for `CLIENT`, `other` by those for another.
        vendor: Where `notes` (for users) and `billing` (for the client itself) get their tokens; it consents at once.
        keys: ``admin``, ``agent``, ``other`` (each of that workload), and ``trusted`` (of `agent`, may assert users).
    """

    server: Server
    http: httpx2.AsyncClient
    idp: FakeIdentityProvider
    vendor: Vendor
    keys: dict[str, Key] = field(default_factory=dict[str, Key])

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def graph(self) -> app.Graph:
        assert self.server.serving is not None
        return self.server.serving.prepared.graph

    @property
    def broker(self) -> Broker:
        return self.graph.broker

    def operator(self, action: str = "operate") -> Call:
        return self.broker.call(self.broker.directory.operator(self.graph.user), action)

    # Requests

    async def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str], *, query: str = "") -> Reply:
        """Send exactly this."""
        target = f"{self.url}{path}{query}"
        answer = await self.http.request(method, target, content=body, headers=dict(headers))
        return Reply(answer.status_code, answer.json() if answer.content else None, answer.headers)

    async def ask(self, operation: str, *, key: str = "agent", raw: bytes | None = None, **members: Any) -> Reply:
        """Call an operation with a signature."""
        body, path = json.dumps(members).encode() if raw is None else raw, path_of(operation)
        return await self.send("POST", path, body, signed(self.keys[key], "POST", self.url + path, body))

    async def ask_by_bearer(self, operation: str, bearer: str, **members: Any) -> Reply:
        """Call an operation with a bearer."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {bearer}"}
        return await self.send("POST", path_of(operation), json.dumps(members).encode(), headers)

    # What tests need on the way

    def user_token(self, person: Person = ALICE, *, client: str = CLIENT, **claims: Any) -> str:
        return self.idp.access_token(person, client=client, **claims)

    async def wat(self, person: Person | None = ALICE, *, key: str = "agent", workload: str = "agent") -> str:
        """A workload access token: for a person by their own token, or for the workload alone."""
        if person is None:
            reply = await self.ask("GetWorkloadAccessToken", key=key, workloadName=workload)
        else:
            client = CLIENT if workload == "agent" else OTHER_CLIENT
            token = self.user_token(person, client=client)
            reply = await self.ask("GetWorkloadAccessTokenForJWT", key=key, workloadName=workload, userToken=token)
        assert reply.status == 200, reply.json
        return str(reply.json["workloadAccessToken"])

    async def token(self, wat: str, *, key: str = "agent", flow: str = "USER_FEDERATION", **members: Any) -> Reply:
        """Ask for a token at `notes`, or at `billing` for the client itself."""
        asked: Json = {
            "workloadIdentityToken": wat,
            "resourceCredentialProviderName": "billing" if flow == "M2M" else "notes",
            "scopes": ["read"],
            "oauth2Flow": flow,
        }
        if flow == "USER_FEDERATION":
            asked["resourceOauth2ReturnUrl"] = RETURN_URL
        return await self.ask("GetResourceOauth2Token", key=key, **{**asked, **members})

    async def browse(self, link: str, *, says: Mapping[str, str] | None = None) -> dict[str, str]:
        """A person opens a link, presses the button, and the vendor sends them back; what the return URL was given.

        Args:
            link: Of our page.
            says: What the vendor's answer holds beside `state`, instead of a code.
        """
        async with httpx2.AsyncClient(trust_env=False, timeout=20) as browser:
            page = await browser.get(link)
            assert page.status_code == 200, page.text
            fields = {"form_token": Page(page.text).form_token}
            answer = await browser.post(link, data=fields, headers={"origin": self.url})
            while "location" in answer.headers:
                where = urljoin(str(answer.url), answer.headers["location"])
                if says is not None and where.startswith(self.vendor.url):
                    asked = dict(parse_qsl(urlsplit(where).query))
                    where = str(httpx2.URL(asked["redirect_uri"], params={**says, "state": asked["state"]}))
                if not where.startswith((self.url, self.vendor.url)):
                    return {"": where.partition("?")[0], **dict(parse_qsl(urlsplit(where).query))}
                answer = await browser.get(where)
            return {"page": answer.text, "status": str(answer.status_code)}

    async def connected(self, person: Person = ALICE) -> str:
        """The access token of a person who has consented by way of `agent`."""
        wat = await self.wat(person)
        reply = await self.token(wat, forceAuthentication=True)
        assert reply.status == 200, reply.json
        back = await self.browse(reply.json["authorizationUrl"])
        identifier = {"userToken": self.user_token(person)}
        done = await self.ask("CompleteResourceTokenAuth", sessionUri=back["session_id"], userIdentifier=identifier)
        assert done.status == 200, done.json
        given = await self.token(wat, sessionUri=reply.json["sessionUri"])
        assert given.status == 200, given.json
        return str(given.json["accessToken"])

    async def trail(self, action: str = "") -> list[Any]:
        """The events of the trail, oldest first; of one verb, or all."""
        found = await self.broker.list_audit("default", limit=10_000)
        return [event for _, event in found if not action or event.action == action]

    async def add_key(self, name: str, role: str, *workloads: str, may_assert_users: bool = False) -> None:
        await self.add_key_of(DEFAULT_TENANT, name, role, *workloads, may_assert_users=may_assert_users)

    async def add_key_of(self, tenant: str, name: str, role: str, *workloads: str, may_assert_users: bool = False) -> None:
        call = self.broker.call(self.broker.directory.operator(self.graph.user, tenant), "create_access_key")
        issued = await self.broker.access_keys.create(call, AccessKeyRole(role), workloads, may_assert_users=may_assert_users)
        self.keys[name] = Key(issued.key.access_key_id, issued.secret.reveal())

    async def add_workload(self, name: str, **spec: Any) -> None:
        await self.broker.workloads.create(self.operator("create_workload_identity"), name, WorkloadSpec(**spec))


@asynccontextmanager
async def running_world(home: Path, **settings: Any) -> AsyncGenerator[World]:
    """The whole of it, while the block lasts."""
    idp = FakeIdentityProvider()
    vault = VaultHome(home)
    async with running_vendor() as vendor, idp.serve(), http_client() as http:
        put_vault(home)
        await vault.add_providers(vendor)
        options = local_options(allow_http_loopback=True)
        async with server_here(vault, options, agents=(), **{**_FAST, **settings}) as server:
            world = World(server, http, idp, vendor)
            spec = IssuerSpec(idp.discovery_url, audiences=(idp.audience,), allow_http_loopback=True)
            await world.broker.issuers.add(world.operator("create_issuer"), "corp", spec)
            urls = (RETURN_URL,)
            await world.add_workload("agent", issuer="corp", clients=(CLIENT,), return_urls=urls)
            await world.add_workload("other", issuer="corp", clients=(OTHER_CLIENT,), return_urls=urls)
            await world.add_key("admin", "admin")
            await world.add_key("agent", "workload", "agent")
            await world.add_key("other", "workload", "other")
            await world.add_key("trusted", "workload", "agent", may_assert_users=True)
            yield world


def boto(world: World, plane: str, key: str = "agent") -> Any:
    """A stock client; ``bedrock-agentcore`` or ``bedrock-agentcore-control``. It blocks: use it in a thread.

    Each costs a good part of a second to make, so a module makes one.
    """
    boto3: Any = import_module("boto3")
    made = world.keys[key]
    return boto3.Session(made.id, made.secret, region_name=REGION).client(plane, endpoint_url=world.url)
