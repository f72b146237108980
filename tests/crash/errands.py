"""What is left of a vault when a command is killed: one that rotates keys, seals anew, upgrades, copies, backs up or restores?

A command is killed at the Nth durable thing that it does: a COMMIT, before it and after it, a file that reaches the disk, a
file that gets its name. Every row must then be readable, the servers go on, and the same command, run again, ends what was
begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_identity.domain.credentials import Grant, GrantState
from mcp_identity.domain.errors import IdentityError
from mcp_identity.vault.writer import SCHEMA_VERSION
from tests.crash.caller import Gone, Refused
from tests.crash.kills import KILLED, Report
from tests.crash.ledger import MODES
from tests.crash.looking import look
from tests.crash.world import OWN, World
from tests.vault.kit import behind_its_back

Tokens = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Errand:
    """One command.

    Attributes:
        name: What it is called in results.
        arguments: Makes what follows `mcp-identity`, from a path that is this kill's own.
        online: A server goes on beside it.
        prepare: Brings the world to the moment before.
        fault: Says what is not as the finished command must leave it; empty for nothing.
    """

    name: str
    arguments: Callable[[Path], tuple[str, ...]]
    online: bool
    prepare: Callable[[World], object]
    fault: Callable[[World, Path, Tokens], str]


def tokens_of(grants: Mapping[str, Grant]) -> Tokens:
    """What must survive: of each grant its access and refresh token."""
    found: dict[str, tuple[str, str]] = {}
    for name, grant in grants.items():
        if grant.tokens is not None:
            refresh = grant.tokens.refresh_token
            found[name] = grant.tokens.access_token.reveal(), refresh.reveal() if refresh else ""
    return found


def _nothing(_world: World) -> None:
    return


def _no_fault(_world: World, _file: Path, _tokens: Tokens) -> str:
    return ""


def _not_rewrapped(world: World, _file: Path, _tokens: Tokens) -> str:
    """One more run finds nothing to do."""
    child = world.run("keys", "rewrap", "--json")
    return "" if child.wait() == 0 and '"moved": 0' in child.said() else f"rewrap is not done: {child.said()}"


def _not_copied(world: World, file: Path, tokens: Tokens) -> str:
    """The copy holds the same, under the same key."""
    found = look(world.settings.model_copy(update={"database_url": f"sqlite:///{file}"}))
    return "; ".join(found.problems) or ("" if tokens_of(found.grants) == tokens else "the copy holds other tokens")


def _not_backed_up(world: World, file: Path, _tokens: Tokens) -> str:
    """The archive is whole."""
    child = world.run("vault", "backup", "--verify", str(file))
    return "" if child.wait() == 0 else f"the archive is not whole: {child.said()}"


def _not_upgraded(world: World, _file: Path, _tokens: Tokens) -> str:
    """It has our schema."""
    state = behind_its_back(world.home.path / "vault.db", "SELECT schema_version FROM vault_state")
    return "" if state == [(SCHEMA_VERSION,)] else f"the vault has schema {state}"


def _make_older(world: World) -> None:
    """Let the vault be one of an older version."""
    behind_its_back(world.home.path / "vault.db", "UPDATE vault_state SET schema_version = 0, minimum_writer = 0")


ERRANDS = {
    each.name: each
    for each in (
        Errand("rotate", lambda _: ("keys", "rotate"), True, _nothing, _no_fault),
        Errand(
            "rewrap",
            lambda _: ("keys", "rewrap", "--batch", "2"),
            True,
            lambda world: world.run("keys", "rotate"),
            _not_rewrapped,
        ),
        Errand("migrate", lambda _: ("vault", "migrate"), False, _make_older, _not_upgraded),
        Errand("copy", lambda file: ("vault", "copy", "--to", f"sqlite:///{file}"), False, _nothing, _not_copied),
        Errand("backup", lambda file: ("vault", "backup", str(file)), True, _nothing, _not_backed_up),
    )
}


def run(world: World, errand: Errand, point: str, passes: int) -> Report | None:
    """Kill a command at the Nth time that it passes a point, look, and run it again.

    Returns:
        None where it ended before it had passed so often.
    """
    began, report = time.monotonic(), Report()
    try:
        killed = _kill(world, errand, point, passes, report)
    except (Gone, Refused, AssertionError, TimeoutError, IdentityError) as error:
        report.violations.append(f"I5: {type(error).__name__}: {error}")
        killed = True
    report.seconds = time.monotonic() - began
    return report if killed else None


def _kill(world: World, errand: Errand, point: str, passes: int, report: Report) -> bool:
    tokens = _prepare(world, errand)
    file = world.folder / f"{errand.name}-{point}-{passes}"
    command = world.run(*errand.arguments(file), kill_at=point, passes=passes)
    if command.wait() != KILLED:
        assert command.wait() == 0, command.said()
        return False
    if errand.name != "migrate":  # before it is upgraded, nothing but the upgrade opens it
        _compare(world, tokens, report)
    if errand.online:
        _serve(world, tokens, report)  # the server that runs has not noticed
    again = world.run(*errand.arguments(file))
    ended = again.wait() == 0 or "is there already" in again.said()  # an archive that has its name is whole
    report.require(ended, f"I5: the command does not end what was begun: {again.said()}")
    fault = errand.fault(world, file, tokens)
    report.require(not fault, fault)
    _compare(world, tokens, report)
    if not errand.online:
        world.start()
    _serve(world, tokens, report)
    report.outcome = "goes on"
    return True


def _prepare(world: World, errand: Errand) -> Tokens:
    """Bring the world to the moment before; the tokens that must be the same after it."""
    if world.child is None or world.child.has_ended:
        world.start()
    have = world.look().grants
    for mode in MODES:
        if mode not in have or have[mode].state is not GrantState.ACTIVE:
            world.consent(mode)
    for provider in (*MODES, OWN):
        world.caller.get_token(provider)
    if not errand.online:
        world.end()
    tokens = tokens_of(world.look().grants)
    errand.prepare(world)
    world.seen = None
    return tokens


def _serve(world: World, tokens: Tokens, report: Report) -> None:
    """Everybody is served what they had."""
    for provider, (access_token, _) in tokens.items():
        answer = world.until_normal(lambda provider=provider: world.caller.get_token(provider))
        report.require(answer.get("access_token") == access_token, f"I1: {provider} is not served as before")


def _compare(world: World, tokens: Tokens, report: Report) -> None:
    """Every row is readable, and nothing else is in it."""
    found = world.look()
    report.violations += [f"I1, I7: {problem}" for problem in found.problems]
    report.require(tokens_of(found.grants) == tokens, "I1: the grants hold other tokens than before")
