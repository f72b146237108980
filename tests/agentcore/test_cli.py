"""Does the AWS CLI manage workloads and providers here, with nothing but an endpoint and a key?

Its commands are run in this process, each as `aws` would; one is run as a program, since starting one costs a second.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import anyio.to_thread
import pytest

from tests.agentcore.conversation import METADATA
from tests.agentcore.kit import REGION, RETURN_URL, World

Aws = Callable[..., Any]


@pytest.fixture
def aws(world: World, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """A command of the AWS CLI's control plane, signed by an operator; what it prints."""
    made = world.keys["admin"]
    given = {
        "AWS_ACCESS_KEY_ID": made.id,
        "AWS_SECRET_ACCESS_KEY": made.secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_PAGER": "",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    driver: Any = import_module("awscli.clidriver").create_clidriver()  # it has no types

    def run(command: str, *arguments: str, code: int = 0) -> Any:
        out, err = io.StringIO(), io.StringIO()
        whole = ["bedrock-agentcore-control", command, *arguments, "--endpoint-url", world.url]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            assert driver.main(whole) == code, err.getvalue()
        return json.loads(out.getvalue()) if out.getvalue().strip() else err.getvalue()

    return run


async def test_workload_identities_are_made_listed_changed_and_removed(world: World, aws: Aws) -> None:
    def drive() -> None:
        made = aws("create-workload-identity", "--name", "by-cli", "--tags", "team=a")
        assert made["workloadIdentityArn"].endswith("/by-cli")
        assert "by-cli" in [each["name"] for each in aws("list-workload-identities")["workloadIdentities"]]
        changed = aws(
            "update-workload-identity", "--name", "by-cli", "--allowed-resource-oauth2-return-urls", f'["{RETURN_URL}"]'
        )
        assert changed["allowedResourceOauth2ReturnUrls"] == [RETURN_URL]
        aws("delete-workload-identity", "--name", "by-cli")
        assert "ResourceNotFoundException" in aws("get-workload-identity", "--name", "by-cli", code=255)

    await anyio.to_thread.run_sync(drive)
    assert "by-cli" not in [each.name for each in await world.broker.workloads.list("default")]


async def test_oauth2_providers_are_made_listed_changed_and_removed(world: World, aws: Aws) -> None:
    def drive() -> None:
        config = {"oauthDiscovery": {"authorizationServerMetadata": METADATA}, "clientId": "id", "clientSecret": "made-up"}
        said = json.dumps({"customOauth2ProviderConfig": config})
        vendor = ("--credential-provider-vendor", "CustomOauth2", "--oauth2-provider-config-input", said)
        made = aws("create-oauth2-credential-provider", "--name", "oauth-by-cli", *vendor)
        assert made["callbackUrl"].startswith(f"{world.url}/oauth2/callback/")
        assert "made-up" not in json.dumps(made)
        listed = aws("list-oauth2-credential-providers")["credentialProviders"]
        assert "oauth-by-cli" in [each["name"] for each in listed]
        changed = aws("update-oauth2-credential-provider", "--name", "oauth-by-cli", *vendor)
        assert changed["callbackUrl"] == made["callbackUrl"]
        aws("delete-oauth2-credential-provider", "--name", "oauth-by-cli")

    await anyio.to_thread.run_sync(drive)
    assert await world.broker.directory.find("default", "oauth-by-cli") is None


async def test_api_key_providers_are_made_listed_changed_and_removed(world: World, aws: Aws) -> None:
    def drive() -> None:
        aws("create-api-key-credential-provider", "--name", "key-by-cli", "--api-key", "sk-made-up")
        listed = aws("list-api-key-credential-providers")["credentialProviders"]
        assert "key-by-cli" in [each["name"] for each in listed]
        changed = aws("update-api-key-credential-provider", "--name", "key-by-cli", "--api-key", "sk-another")
        assert "sk-another" not in json.dumps(changed)
        aws("delete-api-key-credential-provider", "--name", "key-by-cli")

    await anyio.to_thread.run_sync(drive)
    assert await world.broker.directory.find("default", "key-by-cli") is None


async def test_the_program_itself_lists_what_there_is(world: World, aws: Aws) -> None:
    del aws  # for its environment
    command = ["bedrock-agentcore-control", "list-workload-identities", "--endpoint-url", world.url, "--output", "json"]

    def drive() -> Any:
        program = [sys.executable, "-W", "ignore", "-m", "awscli", *command]
        done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60, env=dict(os.environ))
        return json.loads(done.stdout)

    found = await anyio.to_thread.run_sync(drive)
    assert {"agent", "other"} <= {each["name"] for each in found["workloadIdentities"]}
