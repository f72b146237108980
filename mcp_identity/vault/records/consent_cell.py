"""A consent request as it is sealed, and back."""

from __future__ import annotations

import json
from typing import Any

from mcp_identity.domain.consent import Binding, ConsentRequest
from mcp_identity.domain.credentials import Flow, Reason
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.domain.identity import UserKind


def encode_request(request: ConsentRequest) -> bytes:
    """A request as it is sealed."""
    fields: dict[str, Any] = {
        "tenant": request.tenant,
        "workload_id": request.workload_id,
        "workload_epoch": request.workload_epoch,
        "user": request.user,
        "provider_row": request.provider_row,
        "configuration_digest": request.configuration_digest,
        "flow": request.flow.value,
        "scopes": sorted(request.scopes),
        "redirect_uri": request.redirect_uri,
        "binding": request.binding.value,
        "reason": request.reason.value,
        "resource": request.resource,
        "audience": request.audience,
        "parameters": list(request.parameters),
        "forced": request.forced,
        "provider": request.provider,
        "workload": request.workload,
        "workload_verified": request.workload_verified,
        "user_display": request.user_display,
        "edge": request.edge,
        "user_kind": request.user_kind.value,
        "login_issuer": request.login_issuer,
        "return_url": request.return_url,
        "custom_state": request.custom_state,
        "elicited": request.elicited,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_request(plaintext: bytes) -> ConsentRequest:
    """The request that was sealed.

    Raises:
        VaultCorrupt: If it is none.
    """
    try:
        fields: dict[str, Any] = json.loads(plaintext)
        values: dict[str, Any] = {
            **fields,
            "flow": Flow(fields["flow"]),
            "scopes": frozenset(fields["scopes"]),
            "binding": Binding(fields["binding"]),
            "reason": Reason(fields["reason"]),
            "parameters": tuple((name, value) for name, value in fields["parameters"]),
            "user_kind": UserKind(fields.get("user_kind", UserKind.LOCAL)),
        }
        return ConsentRequest(**values)
    except (KeyError, TypeError, ValueError):
        raise VaultCorrupt("a consent request is not what the product wrote") from None
