"""Who comes in, and what does whoever does not come in hear? Nothing but a challenge, the same for every reason."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest

from mcp_identity import app
from mcp_identity.domain.errors import TokenExpired
from mcp_identity.tools.caller import Authenticator
from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import STATELESS_VERSION
from tests.http.kit import (
    ACCEPT,
    LEGACY_VERSION,
    Knowing,
    Server,
    ask,
    http_client,
    initialize,
    mcp_over,
    open_session,
    server_here,
    stateless,
    whoami,
)

CHALLENGE = re.compile(r'Bearer (error="(?P<error>\w+)", )?scope="(?P<scope>[^"]*)", resource_metadata="(?P<metadata>[^"]*)"')
EVERY_SCOPE = "identity:read identity:token"


def challenge(answer: httpx2.Response) -> re.Match[str]:
    """The parts of a challenge."""
    (given,) = answer.headers.get_list("www-authenticate")
    found = CHALLENGE.fullmatch(given)
    assert found, given
    return found


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Basic dXNlcjpwYXNz"}, {"authorization": ""}, {"authorization": "token abc"}, {"x-api-key": "abc"}],
    ids=str,
)
async def test_who_brings_no_bearer_is_told_where_to_get_one(
    server: Server, http: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    for method, path, resource in (("POST", "/mcp", "/mcp"), ("GET", "/mcp", "/mcp"), ("DELETE", "/mcp", "/mcp"),
                                   ("GET", "/sse", "/sse"), ("POST", "/messages/", "/sse")):  # fmt: skip
        answer = await http.request(method, server.url + path, headers={**ACCEPT, **headers})
        assert answer.status_code == 401
        assert challenge(answer)["error"] is None
        assert challenge(answer)["scope"] == EVERY_SCOPE
        assert challenge(answer)["metadata"] == f"{server.url}/.well-known/oauth-protected-resource{resource}"
        metadata = (await http.get(challenge(answer)["metadata"])).json()
        assert metadata["resource"] == server.url + resource
        assert metadata["scopes_supported"] == EVERY_SCOPE.split()


@pytest.mark.parametrize(
    "bearer",
    [
        "Bearer x",
        "bearer x",
        "Bearer",
        "Bearer a b",
        "Bearer mid_wk_" + "A" * 43,
        "Bearer mid_wk_short",
        "Bearer mid_wat_AAAA",
        "Bearer ey.ey.x",
        "Bearer " + "a" * 15_000,
        "Bearer a,b",
        'Bearer "x"',
    ],
    ids=lambda text: text[:24],
)
async def test_a_bearer_that_proves_nothing_is_refused_in_one_way(
    server: Server, http: httpx2.AsyncClient, bearer: str
) -> None:
    body, headers = whoami()
    answer = await http.post(f"{server.url}/mcp", json=body, headers={**headers, "authorization": bearer})
    assert answer.status_code == 401
    assert challenge(answer)["error"] == "invalid_token"
    assert answer.json() == {"error": "unauthenticated", "message": "the bearer proves nothing here"}


async def test_two_bearers_are_one_too_many(server: Server, http: httpx2.AsyncClient) -> None:
    body, headers = whoami()
    (good,) = server.bearer("alice").items()
    for second in (good, ("authorization", "Bearer x"), ("Authorization", "Basic x")):
        answer = await http.post(f"{server.url}/mcp", json=body, headers=[*headers.items(), good, second])
        assert answer.status_code == 400
        assert answer.json()["error"] == "invalid_request"


async def test_a_bearer_in_the_query_or_the_body_is_no_bearer(server: Server, http: httpx2.AsyncClient) -> None:
    body, headers = whoami()
    answer = await http.post(f"{server.url}/mcp?access_token={server.keys['alice']}", json=body, headers=headers)
    assert answer.status_code == 401
    assert challenge(answer)["error"] is None
    body["params"]["_meta"]["authorization"] = f"Bearer {server.keys['alice']}"
    assert (await http.post(f"{server.url}/mcp", json=body, headers=headers)).status_code == 401


async def test_a_good_bearer_comes_in(server: Server, http: httpx2.AsyncClient) -> None:
    key = server.keys["alice"]
    for bearer in (f"Bearer {key}", f"bearer {key}", f"BEARER   {key}"):
        answer = await ask(http, server, whoami(), {"authorization": bearer})
        assert answer.status_code == 200
        assert answer.json()["result"]["structuredContent"]["workload"] == "alice"


async def test_every_request_is_verified_anew(server: Server, http: httpx2.AsyncClient) -> None:
    """A key that is revoked opens nothing any more, in the middle of a session too.

    covers: A06
    """
    serving = server.serving
    assert serving is not None
    graph = serving.prepared.graph
    operator = graph.broker.call(graph.broker.directory.operator(graph.user), "issue_workload_key")
    issued = await graph.broker.workloads.issue_key(operator, "alice")
    headers = {"authorization": f"Bearer {issued.key.reveal()}"}
    session = {"mcp-session-id": await open_session(http, server, headers), "mcp-protocol-version": LEGACY_VERSION}
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    assert (await http.post(f"{server.url}/mcp", json=ping, headers={**ACCEPT, **headers, **session})).status_code == 200
    await graph.broker.workloads.revoke_key(operator, "alice", issued.key_id)
    answer = await http.post(f"{server.url}/mcp", json=ping, headers={**ACCEPT, **headers, **session})
    assert answer.status_code == 401
    assert challenge(answer)["error"] == "invalid_token"
    other = await http.post(f"{server.url}/mcp", json=ping, headers={**ACCEPT, **server.bearer("alice"), **session})
    assert other.status_code == 200  # the principal is the same; only the key has ended


async def test_nobody_else_gets_anything_of_a_session(server: Server, http: httpx2.AsyncClient) -> None:
    """Another principal on a session id hears what it would of one that does not exist; without a bearer, a challenge.

    covers: A06
    """
    session = await open_session(http, server, server.bearer("alice"))
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    for method in ("POST", "GET", "DELETE"):
        answers: list[tuple[int, bytes]] = []
        for given in (session, "0" * 32):
            headers = {**ACCEPT, "mcp-session-id": given, "mcp-protocol-version": LEGACY_VERSION}
            content: Any = ping if method == "POST" else None
            answer = await http.request(
                method, f"{server.url}/mcp", headers={**headers, **server.bearer("mallory")}, json=content
            )
            answers.append((answer.status_code, answer.content))
            for wrong in ({}, {"authorization": "Bearer x"}):
                refused = await http.request(method, f"{server.url}/mcp", headers={**headers, **wrong}, json=content)
                assert refused.status_code == 401
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
    headers = {**ACCEPT, "mcp-session-id": session, **server.bearer("alice")}
    assert (await http.post(f"{server.url}/mcp", json=ping, headers=headers)).status_code == 200
    assert (await http.delete(f"{server.url}/mcp", headers=headers)).status_code == 200
    assert (await http.post(f"{server.url}/mcp", json=ping, headers=headers)).status_code == 404


async def test_nobody_else_speaks_into_an_sse_session(server: Server, http: httpx2.AsyncClient) -> None:
    """covers: A06."""
    async with http.stream("GET", f"{server.url}/sse", headers=server.bearer("alice")) as stream:
        lines = stream.aiter_lines()
        endpoint = ""
        async for line in lines:
            if line.startswith("data: "):
                endpoint = line.removeprefix("data: ")
                break
        assert endpoint.startswith("/messages/?session_id=")
        absent = endpoint[:-32] + "0" * 32
        answers = [
            await http.post(server.url + path, json=initialize(), headers={**ACCEPT, **server.bearer("mallory")})
            for path in (endpoint, absent)
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].content == answers[1].content
        for wrong in ({}, {"authorization": "Bearer x"}):
            refused = await http.post(server.url + endpoint, json=initialize(), headers={**ACCEPT, **wrong})
            assert refused.status_code == 401
        own = await http.post(server.url + endpoint, json=initialize(), headers={**ACCEPT, **server.bearer("alice")})
        assert own.status_code == 202
        async for line in lines:
            if line.startswith("data: "):
                assert '"serverInfo"' in line
                break


async def test_a_name_in_the_headers_that_lies_is_refused(server: Server, http: httpx2.AsyncClient) -> None:
    """The gate reads `Mcp-Name`; so the SDK must refuse one that is not what the body says, twice, or missing."""
    body, headers = stateless("tools/call", {"name": "get_token", "arguments": {"provider": "notes"}})
    lies: list[list[tuple[str, str]]] = [
        [(name, value) for name, value in headers.items() if name != "mcp-name"] + extra
        for extra in ([], [("mcp-name", "whoami")], [("mcp-name", "whoami"), ("mcp-name", "get_token")])
    ]
    lies.append([(name, "tools/list" if name == "mcp-method" else value) for name, value in headers.items()])
    lies.append([(name, value) for name, value in headers.items() if name != "mcp-method"])
    for lie in lies:
        answer = await http.post(f"{server.url}/mcp", json=body, headers=[*lie, *server.bearer("alice").items()])
        assert answer.status_code == 400, lie
        assert answer.json()["error"]["code"] == -32020


async def test_a_stateless_version_in_the_header_is_not_another_in_the_body(server: Server, http: httpx2.AsyncClient) -> None:
    body, headers = whoami()
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = LEGACY_VERSION
    assert headers["mcp-protocol-version"] == STATELESS_VERSION
    answer = await ask(http, server, (body, headers), server.bearer("alice"))
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"CANARY"}',
        '["CANARY"]',
        '{"CANARY":1}',
        '{"jsonrpc":"2.0","id":1,"method":["CANARY"]}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_token","arguments":"CANARY"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["CANARY"]}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_token","arguments":{"provider":{"a":"CANARY"}}}}',
        "CANARY",
        '"CANARY"',
    ],
)
@pytest.mark.parametrize("version", [LEGACY_VERSION, STATELESS_VERSION])
async def test_a_message_that_is_none_is_not_repeated(
    server: Server, http: httpx2.AsyncClient, version: str, body: str
) -> None:
    session = await open_session(http, server, server.bearer("alice")) if version == LEGACY_VERSION else ""
    headers = {**ACCEPT, **server.bearer("alice"), "mcp-protocol-version": version, "mcp-method": "tools/call"}
    answer = await http.post(
        f"{server.url}/mcp", content=body, headers={**headers, **({"mcp-session-id": session} if session else {})}
    )
    assert "error" in answer.text.lower()
    assert "CANARY" not in answer.text


async def test_a_session_id_that_is_made_up_is_not_kept(empty_home: VaultHome) -> None:
    """covers: A45. Where a session id means nothing to us, it is no session of its caller's."""
    async with server_here(empty_home, sessions_per_principal=1) as server, http_client() as http:
        alice = server.bearer("alice")
        for number in range(3):
            made_up = {**alice, "mcp-session-id": f"made-up-{number}"}
            assert (await ask(http, server, whoami(), made_up)).status_code == 200
            async with mcp_over(server, "sse", "legacy", made_up) as client:
                assert not (await client.call_tool("whoami", {})).is_error
        await open_session(http, server, alice)


async def test_tokens_that_have_ended_lock_nobody_out(empty_home: VaultHome) -> None:
    """Whoever brings one had the real one: the users of an agent backend share its address, and their tokens end."""
    knowing: list[Knowing] = []

    def verify(prepared: app.Prepared) -> Authenticator:
        knowing.append(Knowing(app.authenticator_of(prepared)))
        return knowing[0]

    async with server_here(empty_home, verify=verify, failed_authentications_per_minute=3) as server, http_client() as http:
        knowing[0].principals |= {f"ended-{number}": TokenExpired("it has ended") for number in range(6)}
        for number in range(6):
            answer = await ask(http, server, whoami(), {"authorization": f"Bearer ended-{number}"})
            assert answer.status_code == 401
        assert (await ask(http, server, whoami(), server.bearer("alice"))).status_code == 200
        repeated = [await ask(http, server, whoami(), {"authorization": "Bearer ended-0"}) for _ in range(4)]
        assert [answer.status_code for answer in repeated] == [401, 401, 429, 429]


async def test_who_has_a_network_has_no_more_guesses_than_who_has_an_address(empty_home: VaultHome) -> None:
    """covers: A45."""
    proxy = ("127.0.0.1",)
    async with (
        server_here(empty_home, trusted_proxies=proxy, failed_authentications_per_minute=3) as server,
        http_client() as http,
    ):

        async def guess(source: str, number: int) -> int:
            bearer = {"authorization": f"Bearer mid_wk_{number:043d}", "x-forwarded-for": source}
            return (await ask(http, server, whoami(), bearer)).status_code

        found = [await guess(f"2001:db8:0:1:{number:x}::1", number) for number in range(5)]
        assert found == [401, 401, 401, 429, 429]
        assert await guess("2001:db8:0:2::1", 6) == 401
        assert [await guess(f"::ffff:192.0.2.{number}", number) for number in range(7, 12)] == [401] * 5
