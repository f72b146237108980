"""Real Cognito tokens, of a user pool that signs for itself and knows nothing of this product.

covers: A05
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcp_identity.domain.authorizer import Authorizer
from mcp_identity.domain.errors import Unauthenticated
from mcp_identity.inbound.login import user_of
from mcp_identity.transport import Transport
from tests.fakes.clock import FakeClock
from tests.fakes.cognito import UserPool, user_pool
from tests.inbound.forging import claims_of
from tests.inbound.kit import running


@pytest.fixture(scope="module")
def pool() -> Generator[UserPool]:
    with user_pool() as found:
        yield found


async def test_real_cognito_access_tokens_come_in_and_its_id_tokens_do_not(tmp_path: Path, pool: UserPool) -> None:
    issuer = pool.row()
    async with running(tmp_path, clock=FakeClock(datetime.now(UTC)), transport=Transport()) as inbound:
        await inbound.vault.run(lambda records: records.insert_issuer(issuer, None))
        await inbound.add_workload(authorizer=Authorizer(issuer.id, clients=frozenset({pool.client})))
        principal = await inbound.authenticate(pool.access_token)
        assert principal.user is not None
        assert principal.user.display == "alice"
        assert principal.user.key == user_of(issuer, claims_of(pool.id_token)).key
        for token in (pool.id_token, pool.other_clients_access_token, pool.access_token[:-4] + "AAAA"):
            with pytest.raises(Unauthenticated):
                await inbound.authenticate(token)


async def test_a_token_of_another_pool_is_nobody(tmp_path: Path, pool: UserPool) -> None:
    issuer = replace(pool.row(), issuer=pool.issuer + "x")
    async with running(tmp_path, clock=FakeClock(datetime.now(UTC)), transport=Transport()) as inbound:
        await inbound.vault.run(lambda records: records.insert_issuer(issuer, None))
        await inbound.add_workload(authorizer=Authorizer(issuer.id, clients=frozenset({pool.client})))
        with pytest.raises(Unauthenticated):
            await inbound.authenticate(pool.access_token)
