# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""What does an Amazon Cognito user pool look like? One of moto, on this machine, with one user, set up by stock boto3.

moto signs tokens as Cognito does, with the issuer that the pool would have at AWS, and publishes the pool's keys; it has no
metadata document. So `trust` writes what `mcp-identity issuers add --preset cognito --discovery-url …` would have found there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import boto3
import httpx2
from world import free_port

from mcp_identity import app
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.domain.issuer import Issuer
from mcp_identity.providers import presets
from mcp_identity.settings import Settings

REGION = "eu-west-1"
USER, PASSWORD = "alice", "Correct-horse-7"
START_SECONDS = 60


@dataclass(frozen=True)
class UserPool:
    """A user pool with one user.

    Attributes:
        endpoint: Where moto is.
        id: The pool.
        client: The application's id there.
        another_client: Another application's.
    """

    endpoint: str
    id: str
    client: str
    another_client: str

    @property
    def issuer(self) -> str:
        """As its tokens name it."""
        return f"https://cognito-idp.{REGION}.amazonaws.com/{self.id}"

    def sign_in(self, client: str = "") -> str:
        """An access token of the user."""
        given = {"USERNAME": USER, "PASSWORD": PASSWORD}
        answer = _client(self.endpoint).initiate_auth(
            ClientId=client or self.client, AuthFlow="USER_PASSWORD_AUTH", AuthParameters=given
        )
        return answer["AuthenticationResult"]["AccessToken"]

    def trust(self, home: Path) -> None:
        """Make it an issuer of the vault in this folder, under the name `cognito`."""
        issuer = Issuer(
            id="lab-user-pool",
            tenant=DEFAULT_TENANT,
            name="cognito",
            preset="cognito",
            issuer=self.issuer,
            discovery_url=f"{self.issuer}/.well-known/openid-configuration",
            jwks_url=f"{self.endpoint}/{self.id}/.well-known/jwks.json",
            rules=presets.get("cognito").rules,
            allow_http_loopback=True,
        )

        async def write() -> None:
            prepared = app.prepare(Settings(home=home))
            async with app.running(prepared):
                await prepared.vault.ensure_tenant(DEFAULT_TENANT)
                await prepared.vault.run(lambda records: records.insert_issuer(replace(issuer), None))

        anyio.run(write)


@contextlib.contextmanager
def user_pool(log: Path) -> Generator[UserPool]:
    """Run moto with a fresh pool, until the block ends."""
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with log.open("wb") as output, subprocess.Popen(command, env=kept, stdout=output, stderr=output) as moto:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait_for(moto, endpoint)
            yield _filled(endpoint)
        finally:
            moto.terminate()


def _wait_for(moto: subprocess.Popen[bytes], endpoint: str) -> None:
    for _ in range(START_SECONDS * 10):
        with contextlib.suppress(httpx2.HTTPError):
            httpx2.get(endpoint, trust_env=False)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            moto.wait(0.1)
            break
    raise SystemExit("moto did not start")


def _filled(endpoint: str) -> UserPool:
    cognito = _client(endpoint)
    pool = cognito.create_user_pool(PoolName="people")["UserPool"]["Id"]
    cognito.admin_create_user(UserPoolId=pool, Username=USER, MessageAction="SUPPRESS")
    cognito.admin_set_user_password(UserPoolId=pool, Username=USER, Password=PASSWORD, Permanent=True)
    clients = [
        cognito.create_user_pool_client(
            UserPoolId=pool, ClientName=name, ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
        )["UserPoolClient"]["ClientId"]
        for name in ("company-app", "another-app")
    ]
    return UserPool(endpoint, pool, *clients)


def _client(endpoint: str) -> Any:
    return boto3.client(
        "cognito-idp",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",  # noqa: S106 - moto asks nobody
    )
