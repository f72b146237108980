"""Does this edge keep to the service model, operation by operation: what it refuses, how it says so, and what it answers?

The tables are made of the model that botocore ships. Requests are signed and sent raw, since clients check some themselves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.agentcore.conversation import conversation
from tests.agentcore.kit import Reply, World, signed
from tests.agentcore.model import (
    Violation,
    all_operations,
    anything,
    check,
    plane_of,
    violations,
    wire,
)

UNSERVED = frozenset(
    {
        "GetResourcePaymentToken",
        *(f"{verb}PaymentCredentialProvider" for verb in ("Create", "Get", "Update", "Delete")),
        "ListPaymentCredentialProviders",
        *(f"{verb}ConsentPortal" for verb in ("Create", "Get", "Update", "Delete")),
        "ListConsentPortals",
        *(f"{verb}ResourcePolicy" for verb in ("Put", "Get", "Delete")),
    }
)
"""What there is nothing of: payments, consent portals, and policies, which no identity has in the service either."""
NEVER_GRANTED = frozenset({"ResetTokenVaultKeyMaterial"})
"""Refused also where it is served, since the key of a vault that answers is not lost."""
SERVED = [name for name in sorted(all_operations()) if name not in UNSERVED]
NOT_READ = ("privateEndpoint", "privateEndpointOverrides", "certificateConfigurations")
"""Blocks that are refused as a whole, whatever stands in them."""


async def send(world: World, name: str, members: dict[str, Any], *, key: str = "") -> Reply:
    """Send an operation's request exactly so, signed."""
    method, target, body = wire(all_operations()[name], members)
    content = json.dumps(body).encode() if method in ("POST", "PUT") else b""
    made = world.keys[key or ("admin" if plane_of(name).endswith("control") else "trusted")]
    headers = signed(made, method, world.url + target, content)
    path, _, query = target.partition("?")
    return await world.send(method, path, content, headers, query=f"?{query}" if query else "")


def problems_of_error(name: str, reply: Reply) -> list[str]:
    """What of an error is not as the model says."""
    shapes = {shape.name: shape for shape in all_operations()[name].error_shapes}
    if reply.error not in shapes:
        return [f"{reply.error or 'no error'} is no error of {name}"]
    shape = shapes[reply.error]
    body = {member: value for member, value in reply.json.items() if member != "__type"}
    expected = shape.metadata["error"]["httpStatusCode"]
    wrong = [] if reply.status == expected else [f"{reply.error} with {reply.status} instead of {expected}"]
    wrong += [] if reply.json["__type"] == reply.error else ["__type is not what the header says"]
    wrong += [] if reply.headers.get("x-amzn-requestid") else ["no request id"]
    return wrong + list(check(shape, body, (), of_output=True))


def is_named(violation: Violation, reply: Reply) -> bool:
    """Whether an error names the member, or something above it; below what is not read, the refused block will do."""
    path = ".".join(map(str, violation.path))
    named = [each["name"] for each in reply.json.get("fieldList") or ()]
    below = any(part in NOT_READ for part in violation.path)
    return below or any(f"{path}.".startswith(f"{each}.") for each in named if each)


@pytest.mark.parametrize("name", SERVED)
async def test_each_rule_that_is_broken_is_refused_as_the_model_says(world: World, name: str) -> None:
    wrong: list[str] = []
    room = anyio.CapacityLimiter(32)

    async def try_(violation: Violation) -> None:
        async with room:
            reply = await send(world, name, violation.members)
        found = problems_of_error(name, reply)
        if reply.error != "ValidationException" or found:
            wrong.append(f"{violation.name}: {reply.status} {reply.error} {found}")
        elif reply.json["reason"] != "FieldValidationFailed" or not is_named(violation, reply):
            wrong.append(f"{violation.name}: {reply.json}")

    async with anyio.create_task_group() as tasks:
        for violation in violations(all_operations()[name]):
            # What stands in the path or the query is text, whatever it was.
            if violation.rule != "type" or violation.path[0] not in ("resourceArn", "tagKeys"):
                tasks.start_soon(try_, violation)
    assert wrong == []


def test_the_table_is_long_enough_to_mean_something(record_property: Callable[[str, object], None]) -> None:
    made = Counter(violation.rule.split()[0] for name in SERVED for violation in violations(all_operations()[name]))
    assert len(SERVED) == 27
    assert made.total() > 900
    record_property("broken rules", dict(made))
    assert made.keys() == {"required", "min", "max", "pattern", "enum", "union", "type"}


@pytest.mark.parametrize("name", sorted(UNSERVED))
async def test_what_is_not_served_says_so_in_an_error_of_the_model(world: World, name: str) -> None:
    reply = await send(world, name, anything(all_operations()[name].input_shape))
    assert problems_of_error(name, reply) == []
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert "not served" in reply.json["message"] or "no resource policies" in reply.json["message"]


@pytest.mark.parametrize("name", sorted(name for name in all_operations() if plane_of(name).endswith("control")))
async def test_a_key_of_a_workload_cannot_do_what_admin_may(world: World, name: str) -> None:
    for key in ("agent", "trusted"):
        reply = await send(world, name, anything(all_operations()[name].input_shape), key=key)
        assert (reply.status, reply.error) == (403, "AccessDeniedException")
        assert problems_of_error(name, reply) == []


async def test_every_answer_is_what_the_model_says(world: World) -> None:
    wrong, answered = list[str](), set[str]()
    for name, members in await conversation(world):
        operation = all_operations()[name]
        reply = await send(world, name, members)
        answered.add(name)
        if reply.status != operation.http["responseCode"]:
            wrong.append(f"{name}: {reply.status} {reply.json}")
        elif operation.output_shape is not None:
            wrong += [f"{name}: {each}" for each in check(operation.output_shape, reply.json or {}, (), of_output=True)]
    assert wrong == []
    assert answered | NEVER_GRANTED == set(SERVED)
