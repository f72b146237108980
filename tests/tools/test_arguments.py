"""What may an agent pass? Whatever does not fit is refused by its code, written down, and not repeated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import McpClient
from tests.fakes.vendor import new_secret

SECRET = new_secret()
LONG = SECRET + "x" * 65_536

MISFITS: dict[str, tuple[str, dict[str, Any], str]] = {
    "misspelt": ("get_token", {"provider": "notes", "scope": [SECRET]}, "did you mean scopes?"),
    "unknown": ("whoami", {"Authorization": SECRET}, "its arguments are: none"),
    "a number for a name": ("get_token", {"provider": int(SECRET, 16)}, "provider"),
    "a list for a name": ("get_api_key", {"provider": [SECRET]}, "provider"),
    "an object for a scope": ("get_token", {"provider": "notes", "scopes": [{SECRET: SECRET}]}, "scopes"),
    "a word for scopes": ("get_token", {"provider": "notes", "scopes": SECRET}, "scopes"),
    "a word for a number": ("get_token", {"provider": "notes", "minimum_lifetime_seconds": SECRET}, "minimum_lifetime_seconds"),
    "too much life": ("get_token", {"provider": "notes", "minimum_lifetime_seconds": 86_401}, "86400"),
    "too long a wait": ("get_consent", {"session_uri": SECRET, "wait_seconds": 51}, "50"),
    "a secret for a key": ("start_consent", {"provider": "notes", "custom_parameters": {SECRET: 1}}, "custom_parameters"),
    "nothing at all": ("revoke_grant", {}, "provider"),
    "null": ("get_token", {"provider": None}, "provider"),
}


@pytest.mark.parametrize(("tool", "arguments", "named"), MISFITS.values(), ids=MISFITS)
async def test_arguments_that_do_not_fit_are_refused(
    tool: str, arguments: dict[str, Any], named: str, client: McpClient, home: VaultHome
) -> None:
    answer = await client.call(tool, **arguments)
    assert (answer["code"], answer["retryable"]) == ("invalid_request", False)
    assert named in answer["message"]
    assert SECRET not in str(answer)
    (event,) = [event for event in home.trail() if event["correlation_id"] == answer["correlation_id"]]
    assert (event["action"], event["outcome"]) == (tool, "invalid_request")
    assert SECRET not in str(event)


NO_NAMES = {
    "Cyrillic": f"n\u043etes{SECRET}",
    "with a NUL": f"notes\0{SECRET}",
    "with a new line": f"notes\n{SECRET}",
    "of 64 KiB": LONG,
    "turning the direction": f"\u202e{SECRET}",
    "climbing": f"../{SECRET}",
    "SQL": f"notes' OR 1=1 -- {SECRET}",
    "empty": "",
}


@pytest.mark.parametrize("tool", ["get_token", "start_consent", "get_api_key", "revoke_grant"])
@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES)
async def test_a_provider_that_cannot_be_is_unknown_and_not_repeated(
    tool: str, name: str, client: McpClient, home: VaultHome
) -> None:
    answer = await client.call(tool, provider=name)
    assert answer["code"] == "unknown_provider"
    assert SECRET not in str(answer)
    (event,) = [event for event in home.trail() if event["correlation_id"] == answer["correlation_id"]]
    assert (event["action"], event["outcome"]) == (tool, "unknown_provider")
    assert SECRET not in str(event)


NOTES = {"provider": "notes"}
BROKER_REFUSES: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown provider": ("get_token", {"provider": "absent"}, "unknown_provider"),
    "a scope of 100 kB": ("get_token", {**NOTES, "scopes": [SECRET + "s" * 100_000]}, "invalid_scope"),
    "129 scopes": ("get_token", {**NOTES, "scopes": [f"s{number}" for number in range(129)]}, "invalid_scope"),
    "a scope with a quote": ("get_token", {**NOTES, "scopes": [f'"{SECRET}']}, "invalid_scope"),
    "two scopes in one": ("get_token", {**NOTES, "scopes": [f"read {SECRET}"]}, "invalid_scope"),
    "a flow that is none": ("get_token", {**NOTES, "flow": SECRET}, "unsupported_flow"),
    "a relative resource": ("get_token", {**NOTES, "resource": f"/{SECRET}"}, "invalid_target"),
    "a resource with a fragment": ("get_token", {**NOTES, "resource": f"https://x.example/#{SECRET}"}, "invalid_target"),
    "an audience with a new line": ("get_token", {**NOTES, "audience": f"\n{SECRET}"}, "invalid_target"),
    "an endless audience": ("get_token", {**NOTES, "audience": LONG}, "invalid_target"),
    "a return URL": ("get_token", {**NOTES, "return_url": f"https://evil.example/{SECRET}"}, "invalid_request"),
    "a custom state": ("get_token", {**NOTES, "custom_state": SECRET}, "invalid_request"),
    "a protocol parameter": (
        "get_token",
        {**NOTES, "custom_parameters": {"redirect_uri": f"https://evil.example/{SECRET}"}},
        "invalid_request",
    ),
    "a parameter of its own": ("start_consent", {**NOTES, "custom_parameters": {"hint": SECRET}}, "invalid_request"),
    "a session of nobody": ("get_token", {**NOTES, "session_uri": SECRET}, "consent_not_found"),
    "an endless session": ("get_consent", {"session_uri": LONG}, "consent_not_found"),
    "a session with a NUL": ("get_consent", {"session_uri": f"{SECRET}\0"}, "consent_not_found"),
    "a grant of no flow": ("revoke_grant", {**NOTES, "flow": SECRET}, "invalid_request"),
    "a key that stays here": ("get_api_key", {"provider": "sealed"}, "access_denied"),
}


@pytest.mark.parametrize(("tool", "arguments", "code"), BROKER_REFUSES.values(), ids=BROKER_REFUSES)
async def test_what_cannot_be_asked_for_is_refused_by_its_code(
    tool: str, arguments: dict[str, Any], code: str, client: McpClient, home: VaultHome
) -> None:
    answer = await client.call(tool, **arguments)
    assert answer["code"] == code
    assert SECRET not in str(answer)
    (event,) = [event for event in home.trail() if event["correlation_id"] == answer["correlation_id"]]
    assert (event["action"], event["outcome"]) == (tool, code)
    assert SECRET not in str(event)


async def test_a_secret_in_an_argument_never_comes_to_the_log(client: McpClient) -> None:
    assert SECRET.encode() not in client.log
