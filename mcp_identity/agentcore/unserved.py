"""Which operations of the service has this server nothing behind, and what does it say?

Payments, consent portals and resource policies are of things that only the cloud has. Each is answered with an error of the
model that says so, and what is instead; what was sent is not read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mcp_identity.agentcore.errors import NotServed
from mcp_identity.agentcore.operations import Operation, control
from mcp_identity.agentcore.shapes import Nothing

if TYPE_CHECKING:
    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.operations import Edge

_PAYMENTS = (
    "payment credential providers are not served; a payment service's API key can be kept as an API key credential provider"
)
_PORTALS = "consent portals are not served; this server has its own page for users' grants, at /portal"
_POLICIES = (
    "identity resources have no resource policies; who may do what is said with the role of an access key, and with "
    "the providers that a workload may use: mcp-identity workloads update NAME --allow-provider PROVIDER"
)
_CAPITAL = re.compile("(?<!^)(?=[A-Z])")


def _operation(name: str, why: str, *, success: int, path: str = "", method: str = "POST") -> Operation:
    action = _CAPITAL.sub("_", name).lower()

    async def refuse(_edge: Edge, asker: Asker, _given: Nothing) -> None:
        asker.call(action)
        raise NotServed(why)

    return control(name, action, Nothing, refuse, success=success, path=path, method=method)


def _all(what: str, why: str, successes: dict[str, int]) -> tuple[Operation, ...]:
    return tuple(
        _operation(f"{verb}{what}{'s' if verb == 'List' else ''}", why, success=success) for verb, success in successes.items()
    )


_POLICY = "/resourcepolicy/{resourceArn}"
OPERATIONS = (
    *_all("PaymentCredentialProvider", _PAYMENTS, {"Create": 201, "Get": 200, "Update": 200, "Delete": 204, "List": 200}),
    *_all("ConsentPortal", _PORTALS, {"Create": 202, "Get": 200, "Update": 202, "Delete": 204, "List": 200}),
    _operation("PutResourcePolicy", _POLICIES, path=_POLICY, method="PUT", success=201),
    _operation("GetResourcePolicy", _POLICIES, path=_POLICY, method="GET", success=200),
    _operation("DeleteResourcePolicy", _POLICIES, path=_POLICY, method="DELETE", success=204),
)
