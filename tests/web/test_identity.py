"""Do others find what they need to verify an identity token, and nothing where there is nothing?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from mcp_identity.domain.errors import NotFound, VaultUnavailable
from mcp_identity.web.identity import identity_routes

ISSUER = "https://identity.example.com/identity/acme"


class FakeDocuments:
    """Documents of one tenant, `acme`.

    Attributes:
        fails: The vault cannot be read.
    """

    def __init__(self) -> None:
        self.fails = False

    async def identity_metadata(self, tenant: str) -> Mapping[str, Any]:
        self._find(tenant)
        return {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks.json"}

    async def identity_jwks(self, tenant: str) -> Mapping[str, Any]:
        self._find(tenant)
        return {"keys": [{"kid": "1"}]}

    def _find(self, tenant: str) -> None:
        if self.fails:
            raise VaultUnavailable("a path in here: /home/somebody")
        if tenant != "acme":
            raise NotFound(f"there is nothing called {tenant}")


@pytest.fixture
def documents() -> FakeDocuments:
    return FakeDocuments()


@pytest.fixture
def client(documents: FakeDocuments) -> TestClient:
    return TestClient(Starlette(routes=identity_routes(documents)), base_url="https://identity.example.com")


def test_the_documents_of_a_tenant_stand_below_its_issuer(client: TestClient) -> None:
    metadata = client.get("/identity/acme/.well-known/openid-configuration")
    assert metadata.json()["issuer"] == ISSUER
    keys = client.get(metadata.json()["jwks_uri"])
    assert keys.json() == {"keys": [{"kid": "1"}]}
    for answer in (metadata, keys):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "public, max-age=3600"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("end", [".well-known/openid-configuration", "jwks.json"])
@pytest.mark.parametrize("tenant", ["other", "ACME", "acme%00", "%2e%2e", "acme%2Fx"])
def test_what_is_not_there_answers_alike_and_repeats_nothing(client: TestClient, tenant: str, end: str) -> None:
    answer = client.get(f"/identity/{tenant}/{end}")
    assert answer.status_code == 404
    assert tenant not in answer.text


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/jwks.json"])
def test_there_is_nothing_at_the_root(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_vault_that_cannot_be_read_is_said_without_a_detail(client: TestClient, documents: FakeDocuments) -> None:
    documents.fails = True
    answer = client.get("/identity/acme/jwks.json")
    assert (answer.status_code, answer.json()) == (503, {"error": "vault_unavailable"})
    assert answer.headers["cache-control"] == "no-store"


def test_the_documents_are_read_and_never_written(client: TestClient) -> None:
    assert client.post("/identity/acme/jwks.json").status_code == 405
