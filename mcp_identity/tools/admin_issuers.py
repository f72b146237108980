"""Admin tools for issuers: the identity providers whose tokens callers bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult

from mcp_identity.domain.errors import InvalidRequest, NotFound
from mcp_identity.domain.identity import NAME_RULE, is_name
from mcp_identity.tools import admin_arguments as given
from mcp_identity.tools import hints
from mcp_identity.tools.admin_results import IssuerFacts, IssuerResult, IssuersResult, issuer_facts
from mcp_identity.tools.admin_texts import DESCRIPTIONS
from mcp_identity.tools.results import answer

if TYPE_CHECKING:
    from mcp_identity.tools.edge import IdentityServer


def add(server: IdentityServer, *, allow_http_loopback: bool) -> None:
    """Add them.

    Args:
        server: Serves them to nobody but operators.
        allow_http_loopback: Issuers made here may be http on a loopback address.
    """
    may_be_http = allow_http_loopback

    @server.tool(title="List issuers", description=DESCRIPTIONS["list_issuers"], annotations=hints.reads())
    async def list_issuers() -> Annotated[CallToolResult, IssuersResult]:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_issuers")
        found = await broker.issuers.list(call.principal.tenant)
        await broker.note(call)
        facts = [IssuerFacts.model_validate(issuer_facts(broker, each)) for each in found]
        return answer(IssuersResult(status="ok", issuers=facts))

    @server.tool(title="Trust an issuer", description=DESCRIPTIONS["create_issuer"], annotations=hints.makes())
    async def create_issuer(  # pyright: ignore[reportUnusedFunction]
        name: given.IssuerName,
        discovery_url: given.DiscoveryUrl,
        preset: given.Preset = "oidc",
        audiences: given.IssuerAudiences = [],  # noqa: B006 - the schema's default; never changed
        claims: given.IssuerClaims = [],  # noqa: B006 - likewise
        login_client_id: given.LoginClientId = "",
        secret_reference: given.Secret = None,
        secret_json_key: given.SecretKey = "",
        login_discovery_url: given.LoginDiscoveryUrl = "",
        require_tool_scopes: given.RequireToolScopes = False,
        allow_http_loopback: given.HttpLoopback = None,
    ) -> Annotated[CallToolResult, IssuerResult]:
        from mcp_identity.broker.specifications import IssuerSpec

        broker, call = await server.begin("create_issuer")
        if not is_name(name):
            raise InvalidRequest(NAME_RULE)
        given.check_http_loopback(allow_http_loopback, allowed=may_be_http)
        spec = IssuerSpec(
            discovery_url=discovery_url,
            preset=given.word("preset", preset),
            audiences=tuple(audiences),
            claims=tuple((each.claim, each.value) for each in claims),
            login_client_id=login_client_id,
            login_secret_reference=given.secret_reference(secret_reference, secret_json_key),
            login_discovery_url=login_discovery_url,
            require_tool_scopes=require_tool_scopes,
            allow_http_loopback=bool(allow_http_loopback),
        )
        made = await broker.issuers.add(call, name, spec)
        return answer(IssuerResult.model_validate({"status": "ok", **issuer_facts(broker, made)}))

    @server.tool(
        title="Stop trusting an issuer",
        description=DESCRIPTIONS["delete_issuer"],
        annotations=hints.changes(asks_others=False),
    )
    async def delete_issuer(  # pyright: ignore[reportUnusedFunction]
        name: given.IssuerName,
    ) -> Annotated[CallToolResult, IssuerResult]:
        broker, call = await server.begin("delete_issuer")
        if not is_name(name):
            raise NotFound("there is no issuer of this name; call list_issuers for the names")
        ended = await broker.issuers.remove(call, name)
        return answer(IssuerResult.model_validate({"status": "ok", **issuer_facts(broker, ended)}))
