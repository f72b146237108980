"""What stands on stdout? JSON-RPC and nothing else, whatever comes in and whatever is logged."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.fakes.home import VaultHome, person_consents
from tests.fakes.mcp_client import STATELESS_VERSION, Json, McpClient, mcp_client

LOUD = {"LOG_LEVEL": "DEBUG"}
CALL: Json = {"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": {"name": "whoami", "arguments": {}}}
GARBAGE: dict[str, bytes] = {
    "words": b"hello\n",
    "empty lines": b"\n\n\r\n   \n",
    "half a message": b'{"jsonrpc": "2.0", "id": 9\n',
    "no message": b'{"a": 1}\n',
    "another version": json.dumps({**CALL, "jsonrpc": "1.0"}).encode() + b"\n",
    "a batch": json.dumps([CALL, CALL]).encode() + b"\n",
    "a number": b"1\n",
    "null": b"null\n",
    "invalid UTF-8": b"\xff\xfe\x80\xc3(\n",
    "invalid UTF-8 in a message": b'{"jsonrpc":"2.0","id":98,"method":"\xff\xfe"}\n',
    "a lone surrogate": b'{"jsonrpc":"2.0","id":97,"method":"tools/call","params":{"name":"\\ud800"}}\n',
    "NUL": b"\0\0\0\n",
    "5 MB of nothing": b"x" * 5_000_000 + b"\n",
    "deep nesting": b'{"jsonrpc":"2.0","id":96,"method":"ping","params":' + b'{"a":' * 100_000 + b"\n",
    "an answer to nobody": b'{"jsonrpc":"2.0","id":1,"result":{}}\n',
    "an id that is an object": b'{"jsonrpc":"2.0","id":{},"method":"ping"}\n',
    "an unknown notification": b'{"jsonrpc":"2.0","method":"notifications/evil"}\n',
    "a bad notification": b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}\n',
}


def assert_json_rpc(client: McpClient) -> None:
    """Every line of stdout is one JSON-RPC message."""
    assert client.lines
    for line in client.lines:
        message: dict[str, Any] = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        assert len(message.keys() & {"result", "error", "method"}) == 1


@pytest.fixture
def loud(home: VaultHome) -> dict[str, str]:
    """An environment in which everything is said that can be said."""
    return {**home.environment(**LOUD), "PYTHONWARNINGS": "always", "PYTHONDEVMODE": "1"}


@pytest.mark.parametrize("version", ["2025-11-25", STATELESS_VERSION])
async def test_a_loud_process_keeps_to_the_protocol(version: str, loud: dict[str, str], home: VaultHome) -> None:
    async with mcp_client(loud, version=version, opened=False) as client:
        await client.send_bytes(GARBAGE["words"] + GARBAGE["invalid UTF-8"] + GARBAGE["a batch"])
        await client.open()
        await client.request("tools/list")
        await client.call("get_token", provider="billing")
        required = await client.call("get_token", provider="notes")
        await person_consents(required["authorization_url"])
        await client.call("get_token", provider="notes")
        await client.call("get_token", provider="absent")
        await client.call("revoke_grant", provider="notes")
        await client.call("get_api_key", provider="weather")
        for name, garbage in GARBAGE.items():
            await client.send_bytes(garbage)
            assert (await client.call("whoami"))["status"] == "ok", name
        await client.close_input()
        assert await client.wait() == 0
        assert_json_rpc(client)
    assert home.api_key.encode() not in client.log


async def test_long_calls_and_thousands_of_random_lines_are_survived(client: McpClient) -> None:
    answer = await client.call("get_token", provider="notes", scopes=["x" * 5_000_000])
    assert answer["code"] == "invalid_scope"
    assert len(client.lines[-1]) < 2000
    chance = random.Random(7)  # noqa: S311 - the same in every run
    whole = json.dumps(CALL).encode()
    for _ in range(20):
        lines = [_mangled(whole, chance) for _ in range(250)]
        await client.send_bytes(b"\n".join(lines) + b"\n")
        await client.request("ping")
    assert_json_rpc(client)


def _mangled(line: bytes, chance: random.Random) -> bytes:
    data = bytearray(line)
    for _ in range(chance.randrange(1, 6)):
        data[chance.randrange(len(data))] = chance.choice(b'{}[]",:\\\0\xff0aA')
    return bytes(data[: chance.randrange(len(data))])


async def test_a_json_log_has_one_record_a_line(home: VaultHome) -> None:
    async with mcp_client(home.environment(**LOUD, LOG_FORMAT="json")) as client:
        required = await client.call("get_token", provider="notes")
        await person_consents(required["authorization_url"])
        await client.send_bytes(GARBAGE["a bad notification"])
        await client.request("ping")
        await client.close_input()
        assert await client.wait() == 0
    lines = client.log.decode().splitlines()
    assert lines
    for line in lines:
        assert {"ts", "level", "logger", "message"} <= json.loads(line).keys()
        assert line.isprintable()
