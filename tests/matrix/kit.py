"""What does an attacker get who passes everybody else's names as arguments? Cases are made of the tools' own schemas.

Each argument that can hold text is set to each thing that another identity is known by, and once to a thing of the same
shape that nobody is known by. Both answers must be the same, byte for byte, once correlation ids, times and the caller's own
new consents are normalised; and no answer may hold a canary of somebody else.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.fakes.mcp_client import Json
from tests.matrix.world import Identity, World

_RANDOM = re.compile(r"(?<![\w-])[\w-]{43}(?![\w-])")
_CORRELATION = re.compile(r"\b[0-9a-f]{16}\b")
_CUT_AT = 64
"""A name that is repeated is cut there."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00")


class Door(Protocol):
    """One identity's connection, on one transport."""

    async def tools(self) -> list[Json]:
        """What is listed."""
        ...

    async def call(self, tool: str, arguments: Json) -> str:
        """Call a tool; everything that came back, errors of the protocol included, as text."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """One argument of one tool.

    Attributes:
        tool: The tool.
        argument: The argument.
        kind: ``string``, ``array`` or ``object``.
        others: What the tool's required arguments are set to, and what makes the call get as far as it can.
    """

    tool: str
    argument: str
    kind: str
    others: Json

    def arguments(self, value: str) -> Json:
        """The arguments of a call in which this one is set to a value."""
        given: Any = {"array": [value], "object": {value: value}}.get(self.kind, value)
        return {**self.others, self.argument: given}


def cases(tools: list[Json], own: dict[str, str]) -> Iterator[Case]:
    """Every argument that can hold text, of every tool that is listed."""
    for tool in tools:
        schema = tool["inputSchema"]
        for argument, described in schema.get("properties", {}).items():
            if described.get("type") in ("string", "array", "object"):
                others = {name: value for name, value in _base(tool["name"], schema, own).items() if name != argument}
                if argument == "user_id":
                    others.pop("user_token", None)
                yield Case(tool["name"], argument, described["type"], others)


_REQUIRED = {"provider": "notes", "audience": "https://nobody.example", "method": "GET"}
_BASES: dict[str, Json] = {
    "get_api_key": {"provider": "weather"},
    "call_api": {"provider": "notes", "method": "GET", "path": "/nothing"},
    "complete_consent": {"session_uri": "urn:ietf:params:oauth:request_uri:" + "x" * 43},
}


def _base(tool: str, schema: Json, own: dict[str, str]) -> Json:
    required = {name: own.get(name) or _REQUIRED.get(name, "notes") for name in schema.get("required", ())}
    base = {**required, **_BASES.get(tool, {})}
    if "user_token" in schema.get("properties", {}) and "user_token" in own:
        base["user_token"] = own["user_token"]
    return base


def absent(kind: str, value: str) -> str:
    """Something of the same shape that nobody is known by."""
    if _RANDOM.search(value) and "." not in value:
        return _RANDOM.sub(lambda _: secrets.token_urlsafe(32), value)
    if kind == "user token":
        return f"{value[:-6]}{secrets.token_hex(3)}"
    return re.sub(r"[a-z0-9]+", lambda word: _other_word(word[0]), value, count=0)


def _other_word(word: str) -> str:
    """Another word of the same length and first letter, so that it sorts alike, and that stands in no text."""
    return word[0] + "".join(secrets.choice("qxz0123456789") for _ in word[1:])


def normalised(answer: str, value: str) -> str:
    """An answer without what may differ between two calls of the same caller."""
    text = _CORRELATION.sub("<correlation>", _TIME.sub("<time>", answer))
    for each in (value, json.dumps(value)[1:-1], json.dumps(json.dumps(value)[1:-1])[1:-1]):
        text = text.replace(each, "<value>")
    if len(value) > _CUT_AT:
        text = text.replace(value[:_CUT_AT], "<value>")
    return _RANDOM.sub("<consent>", text)


@dataclass(slots=True)
class Report:
    """What an attack found.

    Attributes:
        calls: How many calls were made.
        leaks: Calls whose answer held somebody else's canary.
        differences: Calls whose answer was another than for what nobody is known by.
    """

    calls: int = 0
    leaks: list[str] = field(default_factory=list[str])
    differences: list[str] = field(default_factory=list[str])


async def attack(world: World, attacker: Identity, door: Door, *, few: bool = False) -> Report:
    """Set every argument of every tool to other identities' names, through one door; with `few`, to one other's alone."""
    report = Report()
    foreign = set[str]().union(*(each.canaries for each in world.others(attacker))) - attacker.canaries
    values = {
        value: (kind, victim)
        for victim in world.victims(attacker, few=few)
        for kind, value in victim.known.items()
        if value not in attacker.known.values()
    }
    absences = dict[tuple[str, str, str, bool], str]()
    for case in cases(await door.tools(), attacker.own):
        for value, (kind, victim) in values.items():
            if _is_good_here(case, kind, attacker, victim):
                continue
            answer = await door.call(case.tool, case.arguments(value))
            report.calls += 1
            named = f"{attacker.name}: {case.tool}({case.argument}={kind} of {victim.name})"
            if any(canary in answer and canary != value for canary in foreign):
                report.leaks.append(named)
            key = (case.tool, case.argument, kind, victim.local)  # local users are named in another form
            if key not in absences:
                nobody = absent(kind, value)
                absences[key] = normalised(await door.call(case.tool, case.arguments(nobody)), nobody)
                report.calls += 1
            if normalised(answer, value) != absences[key]:
                report.differences.append(f"{named}\n  {normalised(answer, value)}\n  {absences[key]}")
    return report


def _is_good_here(case: Case, kind: str, attacker: Identity, victim: Identity) -> bool:
    """Whether another user's token is rightly one of this agent: an app has its users' tokens."""
    same_agent = (attacker.tenant, attacker.agent) == (victim.tenant, victim.agent)
    return case.argument == "user_token" and kind == "user token" and same_agent
