"""Real key backends, one of each for a whole session of the tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.kms.peers import Bao, Kms, Token, bao, kms, soft_token


@pytest.fixture(scope="session")
def aws() -> Generator[Kms]:
    """Moto's KMS."""
    with kms() as server:
        yield server


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Generator[Bao]:
    """An OpenBao server."""
    with bao(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """A SoftHSM token."""
    return soft_token(tmp_path_factory.mktemp("softhsm"))


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that moto takes."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
