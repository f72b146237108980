"""For whom may an identity token never be? For ourselves, and for whoever takes our word as a client's.

An identity token is signed by us. At one of our own doors, or at a token endpoint where we are a client, it would prove more
than that a workload is who it is.
"""

from __future__ import annotations

from mcp_identity.broker.issuers import accepted_issuers
from mcp_identity.domain.errors import AccessDenied
from mcp_identity.oauth.urls import is_below
from mcp_identity.vault.records import Records


def require_foreign_audience(records: Records, tenant: str, audience: str, public_url: str) -> None:
    """Check that an audience is somebody else.

    Args:
        records: The open transaction.
        tenant: Whose providers to look at; the issuers of every tenant are looked at.
        audience: The audience.
        public_url: Our own URL; empty where it is not known.

    Raises:
        AccessDenied: If it is ourselves, or one that would take our signature for a client's.
    """
    taken: set[str] = set()
    for issuer in records.all_issuers():
        taken |= {*issuer.audiences, *accepted_issuers(issuer), issuer.login_issuer, issuer.login_token_url}
    for provider in records.list_providers(tenant).providers:
        server = provider.server
        taken |= {server.issuer, server.token_url, server.refresh_url, server.revocation_url}
    if is_below(audience, public_url) or audience.rstrip("/") in {each.rstrip("/") for each in taken if each}:
        raise AccessDenied(
            "an identity token is for others: this audience is this server's own, one that its callers' tokens have, or an "
            "authorization server at which it is a client"
        )
