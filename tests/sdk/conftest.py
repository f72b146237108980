"""One server for every module here."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.sdk.kit import World, running_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    """A server with its vendor."""
    with running_world(tmp_path_factory.mktemp("home")) as world:
        yield world
