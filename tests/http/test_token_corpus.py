"""Hundreds of bad tokens and dozens of good ones at every door, real Cognito tokens among the good.

Covers: A05, A05b, A39, A46.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import pytest

from mcp_identity.domain.authorizer import Authorizer
from mcp_identity.domain.identity import WorkloadIdentity
from mcp_identity.domain.issuer import Issuer
from mcp_identity.vault.records import Records
from tests.fakes.cognito import UserPool, user_pool
from tests.fakes.home import VaultHome
from tests.fakes.identity_provider import FakeIdentityProvider
from tests.http.kit import ACCEPT, Server, ask, initialize, server_here, whoami
from tests.inbound.corpus import Named, bad_tokens, expired_tokens, fits_a_header, good_tokens
from tests.inbound.forging import claims_of
from tests.inbound.kit import issuer_of

Door = Literal["mcp", "mcp session", "sse", "messages"]
SKEW_SECONDS = 60
TOO_LARGE = 431
DOORS: tuple[Door, ...] = ("mcp", "mcp session", "sse", "messages")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A server that knows two identity providers, and the tokens to try."""

    server: Server
    good: list[Named]
    bad: list[Named]
    expired: list[Named]


def workload(name: str, issuer: Issuer, authorizer: Authorizer) -> Callable[[Records], WorkloadIdentity]:
    made = WorkloadIdentity(f"workload-{name}", issuer.tenant, name, authorizer=authorizer)
    return lambda records: records.insert_workload(made, "test")


@pytest.fixture(scope="module")
def pool() -> Generator[UserPool]:
    with user_pool() as found:
        yield found


@pytest.fixture(scope="module")
async def corpus(pool: UserPool, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Corpus]:
    limits: dict[str, Any] = {
        "failed_authentications_per_minute": 1_000_000,
        "requests_per_second": 100_000,
        "sessions_per_principal": 10_000,
        "streams_per_principal": 1000,
    }
    idp = FakeIdentityProvider()
    home = VaultHome(tmp_path_factory.mktemp("home"))
    async with idp.serve(), server_here(home, agents=("alice",), **limits) as server:
        assert server.serving is not None
        vault, company, cognito = server.serving.prepared.vault, issuer_of(idp, allow_http_loopback=True), pool.row()

        def add(records: Records) -> None:
            records.insert_issuer(company, None)
            records.insert_issuer(cognito, None)

        await vault.run(add)
        await vault.run(workload("agent", company, Authorizer(company.id, audiences=frozenset({idp.audience}))))
        await vault.run(workload("pool-agent", cognito, Authorizer(cognito.id, clients=frozenset({pool.client}))))
        # The clock goes on here, and the provider is on plain HTTP: what hangs on a second or on that is left to other tests.
        good = [each for each in good_tokens(idp) if each[0] != "ends in a second"]
        good.append(("a real Cognito access token", pool.access_token))
        bad = [each for each in bad_tokens(idp) if not each[0].startswith(f'iss "{idp.issuer}"')]
        bad.append(("a real Cognito ID token", pool.id_token))
        bad += [("of another client of the pool", pool.other_clients_access_token), ("not a token", "mid_wat_nonsense")]
        sent = [each for each in bad if fits_a_header(each[1]) and not ripens(each[1], idp.epoch)]
        yield Corpus(server, good, sent, expired_tokens(idp))


def ripens(token: str, now: int) -> bool:
    """Whether a token is only a little too early, so that a clock that goes on makes it a good one."""
    try:
        claims = claims_of(token)
    except (ValueError, IndexError, RecursionError):
        return False
    times = [claims.get(name) for name in ("iat", "nbf")] if isinstance(claims, dict) else []  # pyright: ignore[reportUnnecessaryIsInstance] - a forged one may be a list
    return any(isinstance(at, int) and 0 < at - now <= SKEW_SECONDS + 120 for at in times)


async def knock(http: httpx2.AsyncClient, server: Server, door: Door, token: str) -> tuple[int, str, str]:
    """Status, challenge and body of a request with a bearer; the body of a stream is left unread."""
    bearer = {"authorization": f"Bearer {token}"}
    match door:
        case "mcp":
            answer = await ask(http, server, whoami(), bearer)
        case "mcp session":
            answer = await http.post(f"{server.url}/mcp", json=initialize(), headers={**ACCEPT, **bearer})
        case "messages":
            path = f"{server.url}/messages/?session_id={'0' * 32}"
            answer = await http.post(path, json=initialize(), headers={**ACCEPT, **bearer})
        case "sse":
            async with http.stream("GET", f"{server.url}/sse", headers={**bearer, "accept": "text/event-stream"}) as stream:
                body = "" if stream.is_success else (await stream.aread()).decode()
                return stream.status_code, stream.headers.get("www-authenticate", ""), body
    return answer.status_code, answer.headers.get("www-authenticate", ""), answer.text


@pytest.mark.parametrize("door", DOORS)
async def test_every_bad_token_is_refused_with_one_answer(http: httpx2.AsyncClient, corpus: Corpus, door: Door) -> None:
    assert len(corpus.bad) >= 300
    answers = {name: await knock(http, corpus.server, door, token) for name, token in corpus.bad}
    assert {name: answer for name, answer in answers.items() if answer[0] not in (401, TOO_LARGE)} == {}
    (answer,) = {answer for answer in answers.values() if answer[0] != TOO_LARGE}
    assert 'error="invalid_token"' in answer[1]
    assert "resource_metadata=" in answer[1]
    assert "scope=" in answer[1]


@pytest.mark.parametrize("door", DOORS)
async def test_every_good_token_comes_in(http: httpx2.AsyncClient, corpus: Corpus, door: Door) -> None:
    assert len(corpus.good) >= 30
    expected = 404 if door == "messages" else 200  # a session that is not there, for somebody who may ask
    statuses = {name: (await knock(http, corpus.server, door, token))[0] for name, token in corpus.good}
    assert {name: status for name, status in statuses.items() if status != expected} == {}


@pytest.mark.parametrize("door", DOORS)
async def test_a_token_that_was_right_once_is_refused(http: httpx2.AsyncClient, corpus: Corpus, door: Door) -> None:
    for name, token in corpus.expired:
        status, challenge, _ = await knock(http, corpus.server, door, token)
        assert (status, 'error="invalid_token"' in challenge) == (401, True), name


async def test_a_good_token_is_whom_it_says_over_both_transports(http: httpx2.AsyncClient, corpus: Corpus) -> None:
    named = dict(corpus.good)["a real Cognito access token"]
    answer = await ask(http, corpus.server, whoami(), {"authorization": f"Bearer {named}"})
    assert answer.json()["result"]["structuredContent"]["workload"] == "pool-agent"
    assert answer.json()["result"]["structuredContent"]["verified"] is True
