"""Does a decorated function get its credential at each call, and does nobody else see that it needs one?"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Generator
from typing import Any, get_type_hints

import anyio
import pytest

from mcp_identity import IdentityClient, IdentityClientError, acting_for, requires_access_token, requires_api_key
from mcp_identity.sdk import credential_provider
from tests.sdk.kit import RETURN_URL, World


@pytest.fixture(scope="module")
def client(world: World) -> IdentityClient:
    """The agent `alice`."""
    return world.client()


def test_plain_functions_get_their_credential_in_every_way_that_they_take_it(world: World, client: IdentityClient) -> None:
    @requires_api_key(provider_name="weather", client=client)
    def by_keyword(city: str, *, api_key: str = "") -> tuple[str, str]:
        return city, api_key

    @requires_api_key(provider_name="weather", into="key", client=client)
    def among_others(city: str, key: str, country: str = "DE") -> tuple[str, str, str]:
        return city, key, country

    @requires_api_key(provider_name="weather", client=client)
    def anything(**given: str) -> dict[str, str]:
        return given

    key = world.home.api_key
    assert by_keyword("Rome") == ("Rome", key)
    assert by_keyword(city="Rome", api_key="from a model") == ("Rome", key)
    call: Any = among_others
    assert call("Rome", "IT") == ("Rome", key, "IT")
    assert call("Rome", country="IT") == ("Rome", key, "IT")
    assert call("Rome") == ("Rome", key, "DE")
    assert anything(city="Rome") == {"city": "Rome", "api_key": key}


async def test_coroutines_and_streams_get_it_too(world: World, client: IdentityClient) -> None:
    @requires_access_token(provider_name="billing", scopes=["read"], auth_flow="M2M", client=client)
    async def coroutine(*, access_token: str = "") -> str:
        await anyio.lowlevel.checkpoint()
        return access_token

    @requires_access_token(provider_name="billing", client=client)
    async def stream(*, access_token: str = "") -> AsyncGenerator[str]:
        yield access_token
        yield "end"

    @requires_access_token(provider_name="billing", client=client)
    def generator(*, access_token: str = "") -> Generator[str]:
        yield access_token

    @requires_access_token(provider_name="billing", client=client)
    def plain(*, access_token: str = "") -> str:  # inside of the running loop
        return access_token

    token = await coroutine()
    assert token in world.vendor.minted
    assert [each async for each in stream()] == [token, "end"]
    assert list(generator()) == [token]
    assert plain() == token
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isasyncgenfunction(stream)


def test_methods_get_it(world: World, client: IdentityClient) -> None:
    class Tool:
        unit = "C"

        @requires_api_key(provider_name="weather", client=client)
        def ask(self, city: str, *, api_key: str = "") -> tuple[str, str, str]:
            return self.unit, city, api_key

    assert Tool().ask("Rome") == ("C", "Rome", world.home.api_key)


def test_the_credential_is_gone_from_the_signature_that_frameworks_read(client: IdentityClient) -> None:
    @requires_access_token(provider_name="billing", client=client)
    async def tool(city: str, *, access_token: str, unit: str = "C") -> str:
        """What the weather is."""
        return city + access_token + unit

    assert list(inspect.signature(tool).parameters) == ["city", "unit"]
    assert get_type_hints(tool) == {"city": str, "unit": str, "return": str}
    assert (tool.__name__, tool.__doc__) == ("tool", "What the weather is.")


def test_a_function_that_cannot_take_it_is_refused_when_it_is_decorated(client: IdentityClient) -> None:
    def nothing(city: str) -> str:
        return city

    def by_position(api_key: str, /) -> str:
        return api_key

    for function in (nothing, by_position):
        with pytest.raises(TypeError, match="api_key"):
            requires_api_key(provider_name="weather", client=client)(function)
    with pytest.raises(IdentityClientError):
        requires_access_token(provider_name="billing", client=client, resources=["a", "b"])
    with pytest.raises(IdentityClientError):
        requires_access_token(provider_name="billing", client=client, audiences=["a", "b"])


def test_a_user_agrees_once_and_every_call_is_for_them(world: World, client: IdentityClient) -> None:
    links: list[str] = []

    def show(link: str) -> None:
        links.append(link)
        world.agree(client, "decorated")(link)

    @requires_access_token(
        provider_name="notes",
        scopes=["read"],
        auth_flow="USER_FEDERATION",
        on_auth_url=show,
        callback_url=RETURN_URL,
        custom_state="abc",
        custom_parameters={"prompt": "consent"},
        client=client,
    )
    def notes(*, access_token: str = "") -> str:
        return access_token

    with acting_for(client.get_workload_access_token(user_id="decorated")):
        assert notes() == notes()
    assert len(links) == 1
    with pytest.raises(IdentityClientError) as failed:
        notes()
    assert failed.value.code == "unsupported_flow"


def test_the_workload_can_be_named(world: World) -> None:
    client = world.client(tokens=dict(world.server.keys))

    @requires_api_key(provider_name="weather", workload="mallory", client=client)
    def ask(*, api_key: str = "") -> str:
        return api_key

    assert ask() == world.home.api_key
    assert world.events("get_api_key")[-1]["workload"] == "mallory"


def test_without_a_client_the_settings_are_read_at_the_first_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[IdentityClient] = []
    monkeypatch.setattr(credential_provider, "_default", made)

    @requires_api_key(provider_name="weather")
    def ask(*, api_key: str = "") -> str:
        return api_key

    assert made == []
    monkeypatch.setenv("MCP_IDENTITY_URL", world.server.url)
    monkeypatch.setenv("MCP_IDENTITY_WORKLOAD_KEY", world.server.keys["alice"])
    try:
        assert ask() == world.home.api_key
        assert ask() == world.home.api_key
        assert len(made) == 1
    finally:
        for client in made:
            client.close()


def test_to_import_them_costs_nothing_of_what_they_need(tmp_path: Any) -> None:
    import subprocess

    code = (
        "import sys\nfrom mcp_identity import CredentialProvider, IdentityClient, requires_access_token\n"
        "client = IdentityClient('https://identity.example.com', token='abc')\n"
        "@requires_access_token(provider_name='x', client=client)\ndef f(*, access_token=''): ...\n"
        "print([name for name in ('mcp', 'mcp_types', 'httpx2', 'anyio', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
