"""Does any argument of any tool make an agent somebody else, or show what is somebody else's?

Covers: A02, A03, A06, A17.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest

from mcp_identity import app
from tests.matrix.doors import memory_door, stdio_door
from tests.matrix.kit import Door, Report, attack
from tests.matrix.world import AGENTS, PEOPLE, TENANTS, Identity, World

REMOTE = [f"{tenant}-{agent}-{person.subject}" for tenant in TENANTS for agent in AGENTS for person in PEOPLE]
LOCAL = [f"local-{agent}-{person.subject}" for agent in AGENTS for person in PEOPLE]


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


async def run(world: World, attacker: Identity, door: Door) -> Outcome:
    """Attack through a door, and hold the vault and the trail against what they were before."""
    others = world.others(attacker)
    before, seen = world.rows(others), len(world.home.trail())
    report = await attack(world, attacker, door)
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


@pytest.fixture(scope="session")
async def graph(world: World) -> AsyncGenerator[app.Graph]:
    """The vault in this process."""
    async with app.open(world.home.settings()) as graph:
        yield graph


@pytest.mark.parametrize("name", REMOTE)
async def test_no_argument_makes_a_remote_caller_somebody_else(name: str, world: World, graph: app.Graph) -> None:
    verifier: Any = None
    attacker = identity(world, name)
    async with memory_door(graph.broker, verifier, attacker) as door:
        outcome = await run(world, attacker, door)
    check(outcome, attacker)


@pytest.mark.parametrize("name", LOCAL)
async def test_no_argument_makes_a_local_process_somebody_else(name: str, world: World) -> None:
    attacker = identity(world, name)
    async with stdio_door(world, attacker) as door:
        outcome = await run(world, attacker, door)
    check(outcome, attacker)
