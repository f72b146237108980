"""Does a client without an address start a server of its own, use it for everything, and end it?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import anyio
import psutil
import pytest
from anyio.from_thread import start_blocking_portal

from mcp_identity import CredentialProvider, IdentityClient, IdentityClientError, acting_for
from tests.fakes.browser import Browser
from tests.fakes.home import VaultHome
from tests.fakes.vendor import Vendor, running_vendor


@pytest.fixture(scope="module")
def vendor() -> Generator[Vendor]:
    """A vendor in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running_vendor()) as vendor:
        yield vendor


@pytest.fixture(scope="module")
def home(vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> Generator[VaultHome]:
    """A vault with providers, where this process's own servers find it."""
    home = VaultHome(tmp_path_factory.mktemp("home"))
    anyio.run(home.add_providers, vendor)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.environment(WORKLOAD="helper").items():
            if name.startswith("MCP_IDENTITY_"):
                patch.setenv(name, value)
        yield home


@pytest.fixture(scope="module")
def client(home: VaultHome) -> Generator[IdentityClient]:
    """A client that no setting tells an address."""
    assert home.path.exists()
    with IdentityClient() as client:
        yield client
    assert own_servers() == []


def own_servers() -> list[psutil.Process]:
    """The servers that this process has started, and that live."""
    return [each for each in psutil.Process().children() if "mcp_identity" in each.cmdline() and "serve" in each.cmdline()]


def test_one_server_is_started_and_kept(home: VaultHome) -> None:
    before = len(own_servers())
    with IdentityClient() as client:
        assert client.get_api_key("weather") == home.api_key
        me = client.call_tool("whoami")
        assert (me["workload"], me["authenticated_by"]) == ("helper", "stdio")
        assert CredentialProvider("weather", client=client).get_api_key() == home.api_key
        assert len(own_servers()) == before + 1
    assert len(own_servers()) == before


def test_a_person_agrees_in_a_browser(client: IdentityClient, vendor: Vendor) -> None:
    def show(link: str) -> None:
        with Browser() as browser:
            browser.consent(link)

    token = client.get_token("notes", on_auth_url=show)
    assert token.access_token in vendor.minted
    assert client.get_token("notes", wait_seconds=0).access_token == token.access_token


async def test_coroutines_use_the_same_server(client: IdentityClient, home: VaultHome) -> None:
    assert client.get_api_key("weather") == home.api_key
    servers = own_servers()
    assert await client.get_api_key_async("weather") == home.api_key
    assert own_servers() == servers


def test_a_named_workload_has_a_server_of_its_own(client: IdentityClient, home: VaultHome) -> None:
    assert client.get_api_key("weather") == home.api_key
    before = own_servers()
    assert client.call_tool("whoami", workload="another")["workload"] == "another"
    assert client.get_api_key("weather", workload="another") == home.api_key
    assert client.get_api_key("weather") == home.api_key
    assert len(own_servers()) == len(before) + 1


def test_the_tools_of_operators_are_in_a_server_that_is_started_for_them(client: IdentityClient) -> None:
    listed = client.call_tool("list_workload_identities")
    assert "helper" in [workload["name"] for workload in listed["workloads"]]
    with pytest.raises(IdentityClientError) as failed:
        client.store_credential("helper", "maps", "api_key", {"api_key_arn": "env:NOT_LISTED"})
    assert failed.value.code == "invalid_request"


def test_a_server_that_died_is_started_again(client: IdentityClient, home: VaultHome) -> None:
    assert client.get_api_key("weather") == home.api_key
    for server in own_servers():
        server.kill()
        server.wait(10)
    assert client.get_api_key("weather") == home.api_key


def test_nobody_acts_for_others_there(client: IdentityClient) -> None:
    with acting_for("a.users.token"), pytest.raises(IdentityClientError) as failed:
        client.get_api_key("weather")
    assert failed.value.code == "invalid_request"
    assert "MCP_IDENTITY_URL" in failed.value.remedy


@pytest.mark.parametrize(
    "command",
    [("/nowhere/mcp-identity", "serve"), (sys.executable, "-c", "import sys; sys.exit(78)"), (sys.executable, "-c", "0")],
)
def test_a_server_that_does_not_start_is_an_error(command: tuple[str, ...]) -> None:
    with IdentityClient(command=command) as client, pytest.raises(IdentityClientError) as failed:
        client.get_api_key("weather")
    assert failed.value.code == "unreachable"


def test_the_server_ends_with_the_program(home: VaultHome, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import psutil\nfrom mcp_identity import requires_api_key\n"
        "@requires_api_key(provider_name='weather')\ndef ask(*, api_key=''):\n    return api_key\n"
        "print(ask(), psutil.Process().children()[0].pid)\n"
    )
    environment = {**os.environ, **home.environment()}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    key, pid = done.stdout.split()
    assert key == home.api_key
    assert not psutil.pid_exists(int(pid))
