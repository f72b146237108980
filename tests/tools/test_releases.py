"""Does the endpoint for handles give a secret to whom the broker says, and to everybody else the same nothing?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_identity.broker.answers import HandleIssued
from mcp_identity.domain.identity import Proof, User, UserKind
from mcp_identity.tools.releases import Releases
from tests.broker.kit import Product, running_product

ALICE = User("https://idp.example", "alice", UserKind.OIDC, "alice")


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[Product]:
    """The product, asked over HTTP for Alice; its providers give handles."""
    async with running_product(tmp_path / "home") as product:
        await product.add(flows="M2M", release="handle")
        await product.add_api_key("key", release="handle")
        yield replace(product, principal=replace(product.principal, user=ALICE, authenticated_by=Proof.JWT, edge="http"))


def endpoint(product: Product, refused: list[Any] | None = None, **principal: Any) -> httpx2.AsyncClient:
    """A client of the endpoint, behind a gate that has let this principal in."""
    caller = replace(product.principal, **{"authenticated_by": Proof.WORKLOAD_TOKEN, **principal})

    async def begin(action: str) -> Any:
        return product.broker, product.broker.call(caller, action)

    application: Any = Releases(begin, (refused if refused is not None else []).append)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=application), base_url="https://identity.example")


async def handle_of(product: Product) -> str:
    issued = await product.get()
    assert isinstance(issued, HandleIssued)
    return issued.handle.reveal()


async def test_code_of_the_agent_gets_the_token(remote: Product) -> None:
    async with endpoint(remote) as client:
        answer = await client.post("/v1/releases", json={"handle": await handle_of(remote)})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert (found["status"], found["access_token"], found["token_type"]) == ("ok", "access-token-canary-1", "Bearer")
    assert (found["scopes"], found["provider"], found["flow"]) == (["read"], "idp", "M2M")
    assert found["expires_at"].endswith("+00:00")


async def test_code_of_the_agent_gets_the_key(remote: Product) -> None:
    issued = await remote.broker.get_api_key(remote.call("get_api_key"), "key")
    assert isinstance(issued, HandleIssued)
    async with endpoint(remote) as client:
        answer = await client.post("/v1/releases", json={"handle": issued.handle.reveal()})
    assert answer.json() == {"status": "ok", "api_key": "api-key-canary", "provider": "key"}


async def test_absent_used_and_foreign_handles_answer_alike(remote: Product) -> None:
    """Covers: A03."""
    used, foreign, refused = await handle_of(remote), await handle_of(remote), list[Any]()
    async with endpoint(remote, refused) as client:
        assert (await client.post("/v1/releases", json={"handle": used})).status_code == 200
        answers = [
            await client.post("/v1/releases", json={"handle": used}),
            await client.post("/v1/releases", json={"handle": "mid_rh_" + "A" * 43}),
        ]
    async with endpoint(remote, refused, user=replace(ALICE, subject="mallory")) as client:
        answers.append(await client.post("/v1/releases", json={"handle": foreign}))
    for answer in answers:
        assert answer.status_code == 404
        said = answer.json()
        assert len(said.pop("correlation_id")) == 16
        assert said == {
            "status": "error",
            "code": "not_found",
            "message": "there is no such release handle",
            "retryable": False,
        }
    assert {tuple(sorted(answer.headers.items())) for answer in answers} == {tuple(sorted(answers[0].headers.items()))}
    assert len(refused) == 3


@pytest.mark.parametrize("proof", [Proof.JWT, Proof.WORKLOAD_KEY, Proof.LOOPBACK])
async def test_another_bearer_than_a_workload_access_token_is_forbidden(remote: Product, proof: Proof) -> None:
    async with endpoint(remote, authenticated_by=proof) as client:
        for handle in (await handle_of(remote), "mid_rh_" + "A" * 43):
            answer = await client.post("/v1/releases", json={"handle": handle})
            assert (answer.status_code, answer.json()["code"]) == (403, "access_denied")


async def test_a_token_without_the_scope_is_forbidden(remote: Product) -> None:
    async with endpoint(remote, tool_scopes=frozenset({"identity:read"})) as client:
        answer = await client.post("/v1/releases", json={"handle": await handle_of(remote)})
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert answer.headers["www-authenticate"].startswith('Bearer error="insufficient_scope", scope="identity:')
    assert await remote.outcomes("redeem_release") == ["insufficient_scope"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"s3cret-canary", "application/json"),
        (b'["s3cret-canary"]', "application/json"),
        (b'{"handle": 5}', "application/json"),
        (b'{"handle": "\xc3\xa9"}', "application/json"),
        (b'{"handle": "s3cret-canary", "more": 1}', "application/json"),
        (b'{"token": "s3cret-canary"}', "application/json"),
        (b"[" * 4000, "application/json"),
        (b'{"handle": "' + b"x" * 5000 + b'"}', "application/json"),
        (b'{"handle": "s3cret-canary"}', "text/plain"),
        (b'{"handle": "s3cret-canary"}', "application/x-www-form-urlencoded"),
        (b'{"handle": "s3cret-canary"}', ""),
    ],
)
async def test_a_body_that_is_none_is_refused_and_not_repeated(remote: Product, body: bytes, content_type: str) -> None:
    async with endpoint(remote) as client:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = await client.post("/v1/releases", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "s3cret-canary" not in answer.text
    assert await remote.outcomes("redeem_release") == ["invalid_request"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_only_post_is_answered(remote: Product, method: str) -> None:
    async with endpoint(remote) as client:
        answer = await client.request(method, "/v1/releases")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_without_a_trail_the_answer_is_that_it_cannot_be_now(remote: Product) -> None:
    handle = await handle_of(remote)
    await remote.sql("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'broken'); END")
    async with endpoint(remote) as client:
        answer = await client.post("/v1/releases", json={"handle": handle})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "audit_unavailable", True)


async def test_an_unforeseen_failure_says_nothing_of_itself() -> None:
    async def begin(_action: str) -> Any:
        raise ValueError("s3cret-canary")

    application: Any = Releases(begin)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=application), base_url="https://x.example") as client:
        answer = await client.post("/v1/releases", json={"handle": "x"})
    assert answer.status_code == 500
    assert "s3cret-canary" not in answer.text
