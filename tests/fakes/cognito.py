"""What do real Amazon Cognito tokens look like? A user pool of moto, in a process of its own, with one user.

moto signs as Cognito does and publishes the pool's keys; it has no metadata document and no sign-in page. It runs apart from
the tests, so neither its warnings nor its patches reach them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.domain.issuer import Issuer
from mcp_identity.providers import presets
from tests.fakes.home import free_port

START_SECONDS = 60
REGION = "eu-west-1"
USER, PASSWORD = "alice", "Correct-horse-7"


@dataclass(frozen=True, slots=True)
class UserPool:
    """A user pool with one user.

    Attributes:
        id: The pool.
        client: Its app client.
        port: Where its keys are.
        access_token: Of the user.
        id_token: Of the same sign-in.
        other_clients_access_token: Of the same user, issued to another app client of the pool.
    """

    id: str
    client: str
    port: int
    access_token: str
    id_token: str
    other_clients_access_token: str

    @property
    def issuer(self) -> str:
        """As its tokens name it."""
        return f"https://cognito-idp.{REGION}.amazonaws.com/{self.id}"

    def row(self, *, tenant: str = DEFAULT_TENANT, name: str = "cognito") -> Issuer:
        """The issuer's row, with its keys at moto."""
        return Issuer(
            id=f"issuer-{tenant}-{name}",
            tenant=tenant,
            name=name,
            preset="cognito",
            issuer=self.issuer,
            discovery_url=f"{self.issuer}/.well-known/openid-configuration",
            jwks_url=f"http://127.0.0.1:{self.port}/{self.id}/.well-known/jwks.json",
            rules=presets.get("cognito").rules,
            allow_http_loopback=True,
        )


@contextmanager
def user_pool() -> Generator[UserPool]:
    """A fresh pool, for as long as the block lasts. Blocks the thread while moto starts, a few seconds."""
    port = free_port()
    arguments = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield _fill(port)
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = HTTPConnection("127.0.0.1", port, timeout=1)
            connection.connect()
            connection.close()
            return
        time.sleep(0.05)
    raise RuntimeError("moto does not start")


def _fill(port: int) -> UserPool:
    pool = _call(port, "CreateUserPool", PoolName="people")["UserPool"]["Id"]
    flows = ["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
    clients = [
        _call(port, "CreateUserPoolClient", UserPoolId=pool, ClientName=name, ExplicitAuthFlows=flows)["UserPoolClient"][
            "ClientId"
        ]
        for name in ("agent", "another")
    ]
    attributes = [{"Name": "email", "Value": "alice@example.com"}, {"Name": "name", "Value": "Alice Example"}]
    _call(port, "AdminCreateUser", UserPoolId=pool, Username=USER, UserAttributes=attributes, MessageAction="SUPPRESS")
    _call(port, "AdminSetUserPassword", UserPoolId=pool, Username=USER, Password=PASSWORD, Permanent=True)
    mine, others = (
        _call(
            port,
            "InitiateAuth",
            ClientId=client,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": USER, "PASSWORD": PASSWORD},
        )["AuthenticationResult"]
        for client in clients
    )
    return UserPool(pool, clients[0], port, mine["AccessToken"], mine["IdToken"], others["AccessToken"])


def _call(port: int, action: str, **fields: Any) -> dict[str, Any]:
    scope = f"20260101/{REGION}/cognito-idp/aws4_request"
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"AWSCognitoIdentityProviderService.{action}",
        "Authorization": f"AWS4-HMAC-SHA256 Credential=testing/{scope}, SignedHeaders=host, Signature=none",
    }
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/", json.dumps(fields).encode(), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{action}: HTTP {answer.status} {body[:300]!r}")
    return json.loads(body or b"{}")
