"""The real authorization servers, started once for a session of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.servers import DjangoOAuthServer, NodeOidcProvider, Peer


@pytest.fixture(scope="session")
def django_oauth_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DjangoOAuthServer]:
    """A django-oauth-toolkit with rotating refresh tokens that live for as long as the tests."""
    with DjangoOAuthServer.start(tmp_path_factory.mktemp("django-oauth-server")) as server:
        yield server


@pytest.fixture(scope="session")
def node_oidc_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeOidcProvider]:
    """A node-oidc-provider; skips where Node is absent."""
    with NodeOidcProvider.start(tmp_path_factory.mktemp("node-oidc-provider")) as server:
        yield server


@pytest.fixture(params=["django_oauth_server", "node_oidc_provider"])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each of the two, in turn."""
    return request.getfixturevalue(request.param)
