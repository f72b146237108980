"""Does any argument of any tool make an agent somebody else, or show what is somebody else's?

Covers: A02, A03, A06, A17.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest

from tests.http.kit import Server, Transport
from tests.matrix.doors import remote_door, stdio_door
from tests.matrix.kit import Door, Report, attack
from tests.matrix.world import AGENTS, PEOPLE, PROVE, TENANTS, Identity, World

TRANSPORTS: tuple[Transport, ...] = ("http", "sse")
EVERYBODY = [f"{tenant}-{agent}-{person.subject}" for tenant in TENANTS for agent in AGENTS for person in PEOPLE]
HERE = [f"local-{agent}-{person.subject}" for agent in AGENTS for person in PEOPLE]
# Who tries the names; all names are tried all the same.
REMOTE = [*product(TRANSPORTS, EVERYBODY)] if PROVE else [("http", EVERYBODY[0]), ("sse", EVERYBODY[-1])]
LOCAL = HERE if PROVE else HERE[:1]


def identity(world: World, name: str) -> Identity:
    (found,) = [each for each in world.identities if each.name == name]
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack found, and what it did to the others and to the trail."""

    report: Report
    others_unchanged: bool
    written_as: set[tuple[str, str, str]]
    written: int


async def run(world: World, attacker: Identity, door: Door, *, few: bool = False) -> Outcome:
    """Attack through a door, and hold the vault and the trail against what they were before."""
    others = world.others(attacker)
    before, seen = world.rows(others), len(world.home.trail())
    report = await attack(world, attacker, door, few=few)
    trail = world.home.trail()[seen:]
    who = {(event["tenant_id"], event["workload"], event["user_key"]) for event in trail}
    return Outcome(report, world.rows(others) == before, who, len(trail))


def check(outcome: Outcome, attacker: Identity) -> None:
    """Nothing of anybody else was told, touched, or done in anybody else's name."""
    assert outcome.report.leaks == []
    assert outcome.report.differences == []
    assert outcome.others_unchanged
    assert outcome.written_as == {(attacker.tenant, attacker.agent, attacker.principal.user_key)}
    assert outcome.written >= outcome.report.calls > 300


@pytest.mark.timeout(400)  # some thousand calls
@pytest.mark.parametrize(("transport", "name"), REMOTE)
async def test_no_argument_makes_a_remote_caller_somebody_else(
    transport: Transport, name: str, world: World, server: Server
) -> None:
    attacker = identity(world, name)
    mode = "legacy" if transport == "sse" else "auto"  # both eras
    async with remote_door(world, server, transport, attacker, mode) as door:
        outcome = await run(world, attacker, door, few=transport == "sse")  # the names of all were tried over HTTP
    check(outcome, attacker)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", LOCAL)
async def test_no_argument_makes_a_local_process_somebody_else(name: str, world: World) -> None:
    attacker = identity(world, name)
    async with stdio_door(world, attacker) as door:
        outcome = await run(world, attacker, door, few=True)  # likewise
    check(outcome, attacker)
