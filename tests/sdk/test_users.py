"""Does code that acts for the users of a company, by their own tokens, get what is theirs?"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from mcp_identity import IdentityClient, IdentityClientError, acting_for
from tests.sdk.kit import RETURN_URL, Company, World, arrive, running_company


@pytest.fixture(scope="module")
def company(world: World) -> Generator[Company]:
    """A company whose users speak through `alice`."""
    with running_company() as company:
        world.trust(company)
        yield company


@pytest.fixture(scope="module")
def client(world: World) -> IdentityClient:
    """The agent `alice`."""
    return world.client()


def test_a_users_own_token_says_for_whom(world: World, client: IdentityClient, company: Company) -> None:
    tokens = {name: company.token(name) for name in ("anna", "ben")}
    found: dict[str, str] = {}
    for name, token in tokens.items():

        def show(link: str, token: str = token) -> None:
            with acting_for(world.server.keys["alice"]):
                assert client.complete_consent(arrive(link), user_token=token) == "completed"

        with acting_for(token):
            found[name] = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show).access_token
            me = client.call_tool("whoami")
            assert (me["user_subject"], me["user_issuer"], me["workload"]) == (name, company.origin, "alice")
    assert len(set(found.values())) == 2
    with acting_for(company.token("anna")):  # a newer token of hers
        assert client.get_token("notes", callback_url=RETURN_URL).access_token == found["anna"]


def test_for_a_user_too_code_gets_the_secret_behind_a_handle(world: World, client: IdentityClient, company: Company) -> None:
    world.release("handle", "weather")
    with acting_for(company.token("anna")):
        assert client.get_api_key("weather") == world.home.api_key
        user = client.get_workload_access_token(user_token=company.token("anna"))
        with IdentityClient(world.server.url) as keyless, pytest.raises(IdentityClientError) as failed:
            keyless.get_api_key("weather")
    assert failed.value.code == "access_denied"
    assert world.events("redeem_release")[-1]["user_key"].endswith(" anna")
    with acting_for(user):
        assert client.get_api_key("weather") == world.home.api_key


@pytest.mark.parametrize(("claims", "code"), [({"ends_in": -600}, "token_expired"), ({"aud": "others"}, "unauthenticated")])
def test_a_token_that_does_not_hold_is_said_to_be_so(
    client: IdentityClient, company: Company, claims: dict[str, Any], code: str
) -> None:
    token = company.token("anna", **claims)
    with acting_for(token), pytest.raises(IdentityClientError) as failed:
        client.get_token("notes")
    assert failed.value.code == code
    assert token not in str(failed.value)
