"""Who is there to be mixed up? Two tenants, two agents in each, two people, and what each pair of them owns.

The tenants' agents have the same names, and the people are the same accounts of the same identity provider, so that nothing
but the principal tells them apart. Every identity has a grant, an open consent and a finished one, and its secrets are
canaries.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import DEFAULT_TENANT, Principal, Proof, User, UserKind
from tests.fakes.home import VaultHome, person_consents
from tests.fakes.identity_provider import (
    ALICE,
    AUDIENCE,
    BOB,
    LOGIN_CLIENT,
    LOGIN_SECRET,
    FakeIdentityProvider,
    Person,
)
from tests.fakes.vendor import CLIENT_ID, Vendor, new_secret, running_vendor

TENANTS = ("default", "globex")
AGENTS = ("deskbot", "mailbot")
PEOPLE = (ALICE, BOB)
PROVE = bool(os.environ.get("PROVE"))


@dataclass(slots=True)
class Identity:
    """One user of one agent of one tenant, as a caller may prove to be.

    Attributes:
        name: For the test's name.
        principal: As the transport would verify it.
        person: Whose account it is.
        local: On stdio: the agent and the user are settings of the process.
        own: What a call of its own needs: an open consent of its own, its own token.
        known: What somebody else may have learned of it, by kind; none of it is a credential but those named so.
        canaries: What nobody else may ever be answered.
    """

    name: str
    principal: Principal
    person: Person
    local: bool
    own: dict[str, str] = field(default_factory=dict[str, str])
    known: dict[str, str] = field(default_factory=dict[str, str])
    canaries: set[str] = field(default_factory=set[str])

    @property
    def tenant(self) -> str:
        return self.principal.tenant

    @property
    def agent(self) -> str:
        return self.principal.workload.name


@dataclass(slots=True)
class World:
    """Everything that is there.

    Attributes:
        home: The vault, and the port of its pages.
        vendor: Where the grants are of.
        idp: Where the people sign in.
        identities: Everybody.
        api_keys: By tenant.
    """

    home: VaultHome
    vendor: Vendor
    idp: FakeIdentityProvider
    identities: list[Identity] = field(default_factory=list[Identity])
    api_keys: dict[str, str] = field(default_factory=lambda: {tenant: new_secret() for tenant in TENANTS})

    def bearer(self, identity: Identity) -> str:
        """The user's own token, issued to the agent's client."""
        return self.idp.access_token(identity.person, client=identity.agent, claims={"org": identity.tenant})

    def others(self, identity: Identity) -> list[Identity]:
        """Everybody else."""
        return [each for each in self.identities if each is not identity]

    def victims(self, identity: Identity, *, few: bool = False) -> list[Identity]:
        """Those whose names are tried: who differs in one thing alone, and who in everything; with PROVE set, everybody.

        Args:
            identity: The attacker.
            few: Only who differs in everything.
        """
        if PROVE:
            return self.others(identity)
        return [each for each in self.others(identity) if _distance(identity, each) in ((4,) if few else (1, 4))]

    def obtained_by(self, agent: str) -> list[str]:
        """How the grants of an agent of the default tenant were obtained."""
        query = (
            "SELECT obtained_by FROM grants JOIN workload_identities ON workload_identities.id = grants.workload_id"
            " WHERE name = ? AND workload_identities.tenant_id = ?"
        )
        with closing(self._database()) as connection:
            return [row[0] for row in connection.execute(query, (agent, DEFAULT_TENANT))]

    def rows(self, of: Iterable[Identity]) -> dict[str, Any]:
        """What the vault holds of them: grants and consents, byte for byte where nothing else may change."""
        keys = {(each.tenant, each.principal.workload.id, each.principal.user_key) for each in of}
        queries = {
            "grants": "SELECT tenant_id, workload_id, user_key, id, state, generation, tokens FROM grants",
            "consents": "SELECT tenant_id, workload_id, user_key, id, state, attempt FROM consent_sessions",
        }
        with closing(self._database()) as connection:
            found = {name: connection.execute(query).fetchall() for name, query in queries.items()}
        return {name: sorted(row for row in rows if row[:3] in keys) for name, rows in found.items()}

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.home.path / 'vault.db'}?mode=ro", uri=True)


@asynccontextmanager
async def new_world(folder: Path) -> AsyncGenerator[World]:
    """Make a world in an empty folder."""
    async with running_vendor() as vendor, FakeIdentityProvider().serve() as idp:
        world = World(VaultHome(folder), vendor, idp)
        idp.knobs.login_claims = {"org": DEFAULT_TENANT}  # whoever signs in with a browser is of that organisation
        prepared = app.prepare(world.home.settings())
        async with app.running(prepared) as graph:
            for tenant in TENANTS:
                await _make_tenant(world, graph, tenant)
            for tenant, agent, person in itertools.product(TENANTS, AGENTS, PEOPLE):
                workload = await graph.broker.workloads.get(tenant, agent)
                user = User(idp.issuer, person.subject, UserKind.OIDC, person.name)
                principal = Principal(workload, user, Proof.JWT, verified=True, edge="http")
                world.identities.append(Identity(f"{tenant}-{agent}-{person.subject}", principal, person, local=False))
            for agent, person in itertools.product(AGENTS, PEOPLE):
                settings = world.home.settings().model_copy(update={"user": person.subject})
                user = settings.local_user(prepared.vault.id)
                principal = await graph.broker.directory.local_principal(agent, user, "stdio")
                world.identities.append(Identity(f"local-{agent}-{person.subject}", principal, person, local=True))
            for identity in world.identities:
                await _give(world, graph, identity)
        yield world


async def _make_tenant(world: World, graph: app.Graph, tenant: str) -> None:
    broker, vendor = graph.broker, world.vendor
    operator = broker.directory.operator(graph.user, tenant)
    custom: dict[str, Any] = {
        "vendor": "custom",
        "client_id": CLIENT_ID,
        "secret": Secret(vendor.client_secret),
        "scopes": ("read",),
        "allow_http_loopback": True,
    }
    specs = {
        "notes": ProviderSpec(settings={**vendor.settings, "flows": "USER_FEDERATION"}, **custom),
        "vaulted": ProviderSpec(settings={**vendor.settings, "flows": "USER_FEDERATION"}, release="handle", **custom),
        "billing": ProviderSpec(settings={**vendor.settings, "flows": "M2M"}, **custom),
        "weather": ProviderSpec(vendor="api-key", secret=Secret(world.api_keys[tenant]), release="token"),
        f"ledger-of-{tenant}": ProviderSpec(vendor="api-key", secret=Secret(world.api_keys[tenant]), release="token"),
    }
    for name, spec in specs.items():
        await broker.directory.add(broker.call(operator, "create_provider"), name, spec)
    issuer = IssuerSpec(
        world.idp.discovery_url,
        audiences=(AUDIENCE,),
        claims=(("org", tenant),),
        login_client_id=LOGIN_CLIENT,
        login_secret=Secret(LOGIN_SECRET),
        allow_http_loopback=True,
    )
    await broker.issuers.add(broker.call(operator, "create_issuer"), "company", issuer)
    for agent in AGENTS:
        spec = WorkloadSpec(issuer="company", clients=(agent,), identity_audiences=(f"https://api.{tenant}.example",))
        await broker.workloads.create(broker.call(operator, "create_workload"), agent, spec)


async def _give(world: World, graph: app.Graph, identity: Identity) -> None:
    """Let the person give the agent a grant, and leave a further consent open."""
    broker, principal = graph.broker, identity.principal
    minted = len(world.vendor.minted)
    finished = await broker.start_consent(broker.call(principal, "start_consent"), TokenRequest("notes"))
    await person_consents(finished.authorization_url)
    status = await broker.get_consent(broker.call(principal, "get_consent"), finished.session_uri)
    assert status.status == "completed", status
    released = await broker.get_token(broker.call(principal, "get_token"), TokenRequest("notes"))
    assert isinstance(released, TokenReleased)
    pending = await broker.start_consent(broker.call(principal, "start_consent"), TokenRequest("notes"))
    workload, user = principal.workload, principal.user
    assert user is not None
    identity.own = {"session_uri": pending.session_uri}
    identity.known = {
        "tenant": identity.tenant,
        "workload": identity.agent,
        "workload id": workload.id,
        "qualified workload": f"{identity.tenant}/{identity.agent}",
        "user subject": user.subject,
        "user key": principal.user_key,
        "user display": user.display,
        "open consent": pending.session_uri,
        "open consent's id": pending.session_uri.rpartition(":")[2],
        "finished consent": finished.session_uri,
        "provider": f"ledger-of-{identity.tenant}",
        "access token": released.access_token.reveal(),
    }
    if not identity.local:
        identity.own["user_token"] = identity.known["user token"] = world.bearer(identity)
    identity.canaries = {*world.vendor.minted[minted:], world.api_keys[identity.tenant], pending.session_uri}


def _distance(one: Identity, other: Identity) -> int:
    """In how many things two identities differ: tenant, agent, person, kind of door."""
    pairs = zip(_things(one), _things(other), strict=True)
    return sum(mine != theirs for mine, theirs in pairs)


def _things(identity: Identity) -> tuple[str, str, str, bool]:
    return identity.tenant, identity.agent, identity.person.subject, identity.local
