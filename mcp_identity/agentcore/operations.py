"""What may be asked at this edge? One operation of the service model each: where it is, who may ask, and what answers.

Everything here is a table and a few values; the rooms beside this one fill the table, `entry.py` serves it. An operation is
given a checked shape and whoever asks, verified; it calls the broker, whose verbs decide, and says what goes back. No operation
decides by itself who somebody is, and none touches a secret but to hand it on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mcp_identity.agentcore.asker import Asker, Verifier
    from mcp_identity.broker.broker import Broker
    from mcp_identity.domain.clock import Clock

Run = Callable[["Edge", "Asker", Any], Awaitable["BaseModel | None"]]


@dataclass(frozen=True, slots=True)
class Edge:
    """What operations work with.

    Attributes:
        broker: The verbs.
        verifier: Verifies the bearers that stand inside of requests.
        clock: The clock.
        allow_http_loopback: Providers that are made here may be http on a loopback address.
    """

    broker: Broker
    verifier: Verifier
    clock: Clock
    allow_http_loopback: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        name: Its name in the service model.
        method: Of HTTP.
        path: As the model writes it; a part in braces is a member of the request.
        success: The status of its success.
        plane: Whose service it is in: ``data`` or ``control``.
        needs: ``admin`` for operators' keys alone, ``workload`` for every caller.
        writes: Asking twice with one signature has one effect.
        shape: What it is given.
        run: What answers; None has no body.
        action: The verb that the trail names.
        query: Members that are lists in the query.
    """

    name: str
    method: str
    path: str
    success: int
    plane: Literal["data", "control"]
    needs: Literal["admin", "workload"]
    writes: bool
    shape: type[BaseModel]
    run: Run
    action: str
    query: tuple[str, ...] = ()


def control(
    name: str, action: str, shape: type[BaseModel], run: Run, *, success: int = 200, path: str = "", method: str = "POST",
    query: tuple[str, ...] = (),
) -> Operation:  # fmt: skip
    """An operation of the control plane: for operators; it writes, unless its name says that it reads."""
    writes = not name.startswith(("Get", "List"))
    path = path or f"/identities/{name}"
    return Operation(name, method, path, success, "control", "admin", writes, shape, run, action, query)


def data(name: str, action: str, shape: type[BaseModel], run: Run, *, path: str = "") -> Operation:
    """An operation of the data plane, for every caller."""
    path = path or f"/identities/{name}"
    return Operation(name, "POST", path, 200, "data", "workload", not name.startswith("Get"), shape, run, action)
