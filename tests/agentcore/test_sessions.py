"""Does a client hear, as it polls, that its user has to be asked, how that went, and why it failed?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mcp_identity import app
from mcp_identity.agentcore import data_plane, sessions
from mcp_identity.agentcore.asker import Asker, identity_of_signer
from mcp_identity.agentcore.data_shapes import ForUserId, TokenAsked
from mcp_identity.agentcore.known import KnownWorkloads
from mcp_identity.agentcore.operations import Edge
from mcp_identity.broker.specifications import IssuerSpec
from mcp_identity.domain.access_key import AccessKeyRole, Signer
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import Principal
from mcp_identity.tools.limits import Room
from tests.agentcore.kit import REGION, RETURN_URL, Reply, World
from tests.broker.kit import raising
from tests.fakes.identity_provider import ALICE, BOB, LOGIN_CLIENT, LOGIN_SECRET, MALLORY, FakeIdentityProvider, Person
from tests.web import remote as many_users

SESSION_URI = re.compile(r"urn:ietf:params:oauth:request_uri:[a-zA-Z0-9-._~]+")


def person(name: str) -> Person:
    """Somebody who has consented to nothing yet: each test has its own, so that none finds another's grant."""
    return Person(name, name.title())


async def pending(world: World, who: Person, **members: Any) -> tuple[str, Reply]:
    """A token is asked for, and the user has to be asked first: the token that asked, and the answer."""
    wat = await world.wat(who)
    reply = await world.token(wat, **members)
    assert reply.status == 200, reply.json
    assert set(reply.json) == {"authorizationUrl", "sessionUri", "sessionStatus"}
    return wat, reply


async def complete(world: World, who: Person, completion: str, *, key: str = "agent") -> Reply:
    identifier = {"userToken": world.user_token(who)}
    return await world.ask("CompleteResourceTokenAuth", key=key, sessionUri=completion, userIdentifier=identifier)


# As the stock clients poll


async def test_while_the_user_has_not_finished_the_answer_is_a_link_and_never_a_token(world: World) -> None:
    wat, first = await pending(world, person("carol"))
    assert first.json["sessionStatus"] == "IN_PROGRESS"
    assert SESSION_URI.fullmatch(first.json["sessionUri"])
    assert first.json["authorizationUrl"].startswith(f"{world.url}/consent/")
    again = await world.token(wat, sessionUri=first.json["sessionUri"])
    assert again.json == first.json
    without = await world.token(wat)
    assert without.json == first.json


async def test_once_the_application_has_completed_the_poll_gets_the_token(world: World) -> None:
    dave = person("dave")
    wat, first = await pending(world, dave, customState="st4te & more")
    back = await world.browse(first.json["authorizationUrl"])
    assert back[""] == RETURN_URL
    assert back["custom_state"] == "st4te & more"
    assert SESSION_URI.fullmatch(back["session_id"])
    assert back["session_id"] != first.json["sessionUri"]
    still = await world.token(wat, sessionUri=first.json["sessionUri"], customState="st4te & more")
    assert still.json == first.json
    done = await complete(world, dave, back["session_id"])
    assert (done.status, done.json) == (200, {})
    given = await world.token(wat, sessionUri=first.json["sessionUri"], customState="st4te & more")
    assert given.status == 200
    assert set(given.json) == {"accessToken"}
    assert given.json["accessToken"] in world.vendor.minted
    assert (await world.token(wat)).json == given.json


async def test_a_forced_session_is_a_fresh_one_each_time_and_its_polls_name_it(world: World) -> None:
    erin = person("erin")
    token = await world.connected(erin)
    wat = await world.wat(erin)
    forced = await world.token(wat, forceAuthentication=True)
    assert set(forced.json) == {"authorizationUrl", "sessionUri", "sessionStatus"}
    another = await world.token(wat, forceAuthentication=True)
    assert another.json["sessionUri"] != forced.json["sessionUri"]
    polled = await world.token(wat, forceAuthentication=False, sessionUri=forced.json["sessionUri"])
    assert polled.json == forced.json
    assert (await world.token(wat)).json == {"accessToken": token}  # what there was stands until the new one does
    back = await world.browse(forced.json["authorizationUrl"])
    assert (await complete(world, erin, back["session_id"])).status == 200
    fresh = await world.token(wat, forceAuthentication=False, sessionUri=forced.json["sessionUri"])
    assert fresh.json["accessToken"] != token


async def test_a_forced_request_for_a_client_of_its_own_forces_nobody(world: World) -> None:
    wat = await world.wat(None)
    reply = await world.token(wat, flow="M2M", forceAuthentication=True, customState="x", customParameters={"a": "b"})
    assert set(reply.json) == {"accessToken"}


# Where the browser goes back to


async def test_a_user_who_could_come_back_nowhere_is_told_of_in_the_words_of_the_service(world: World) -> None:
    """covers: A21."""
    wat = await world.wat(person("frank"))
    missing = await world.token(wat, resourceOauth2ReturnUrl=None)
    assert (missing.status, missing.error) == (400, "ValidationException")
    assert missing.json["message"].startswith("You must provide a ResourceOauth2ReturnUrl to proceed with this flow")
    assert missing.json["fieldList"][0]["name"] == "resourceOauth2ReturnUrl"
    for url in ("https://evil.example.com/x", RETURN_URL + "/", RETURN_URL.upper(), RETURN_URL + "?x=1"):
        other = await world.token(wat, resourceOauth2ReturnUrl=url)
        assert (other.status, other.error) == (400, "ValidationException")
        assert other.json["message"].startswith("You must register and use at least one ResourceOauth2ReturnUrl on your ")
        assert url not in other.json["message"]
    with_state = await world.token(wat, resourceOauth2ReturnUrl=None, customState="c4n4ry")
    assert with_state.status == 400
    assert "c4n4ry" not in str(with_state.json)


async def test_a_workload_without_any_return_url_has_to_register_one(world: World) -> None:
    await world.add_workload("urlless", may_assert_users=True)
    await world.add_key("urlless", "workload", "urlless")
    issued = await world.ask("GetWorkloadAccessTokenForUserId", key="urlless", workloadName="urlless", userId="u1")
    for url in (None, RETURN_URL):
        reply = await world.token(issued.json["workloadAccessToken"], key="urlless", resourceOauth2ReturnUrl=url)
        assert reply.json["message"].startswith("You must register and use at least one ResourceOauth2ReturnUrl on your ")


async def test_a_user_who_can_sign_in_on_our_page_needs_no_return_url(world: World) -> None:
    """Nobody has to complete anything then: the browser proves whose it is."""
    company = FakeIdentityProvider()
    async with company.serve():
        spec = IssuerSpec(
            company.discovery_url,
            audiences=(company.audience,),
            allow_http_loopback=True,
            login_client_id=LOGIN_CLIENT,
            login_secret=Secret(LOGIN_SECRET),
        )
        await world.broker.issuers.add(world.operator(), "company", spec)
        await world.add_workload("signing-in", issuer="company", clients=("the-agent-client",))
        await world.add_key("signing-in", "workload", "signing-in")
        issued = await world.ask(
            "GetWorkloadAccessTokenForJWT",
            key="signing-in",
            workloadName="signing-in",
            userToken=company.access_token(ALICE),
        )
        wat = issued.json["workloadAccessToken"]
        first = await world.token(wat, key="signing-in", resourceOauth2ReturnUrl=None)
        assert set(first.json) == {"authorizationUrl", "sessionUri", "sessionStatus"}
        page = await world.http.get(first.json["authorizationUrl"])
        assert page.status_code == 200
        assert "sign_in" in page.text


# How a consent ends otherwise


async def test_a_user_who_declines_ends_the_poll_at_once_with_why(world: World) -> None:
    wat, first = await pending(world, person("grace"))
    back = await world.browse(first.json["authorizationUrl"], says={"error": "access_denied"})
    assert back["error"] == "access_denied"
    assert "session_id" not in back
    ended = await world.token(wat, sessionUri=first.json["sessionUri"])
    assert (ended.status, ended.error) == (400, "ValidationException")
    assert "consent_denied" in ended.json["message"]
    fresh = await world.token(wat)
    assert fresh.json["sessionUri"] != first.json["sessionUri"]


async def test_a_vendor_that_refuses_ends_the_poll_at_once_with_why(world: World) -> None:
    wat, first = await pending(world, person("heidi"))
    await world.browse(first.json["authorizationUrl"], says={"error": "server_error", "error_description": "down"})
    ended = await world.token(wat, sessionUri=first.json["sessionUri"])
    assert (ended.status, ended.error) == (400, "ValidationException")


async def test_a_code_that_the_vendor_does_not_take_fails_the_completion_and_the_poll(world: World) -> None:
    ivan = person("ivan")
    wat, first = await pending(world, ivan)
    back = await world.browse(first.json["authorizationUrl"], says={"code": "not-one-of-theirs"})
    done = await complete(world, ivan, back["session_id"])
    assert (done.status, done.error) == (400, "ValidationException")
    ended = await world.token(wat, sessionUri=first.json["sessionUri"])
    assert (ended.status, ended.error) == (400, "ValidationException")
    assert [event.outcome for event in await world.trail("complete_consent") if "ivan" in event.user_key] != ["ok"]


async def test_another_user_at_the_application_fails_the_consent_for_good(world: World) -> None:
    """covers: A02b."""
    judy = person("judy")
    wat, first = await pending(world, judy)
    back = await world.browse(first.json["authorizationUrl"])
    wrong = await complete(world, MALLORY, back["session_id"])
    assert (wrong.status, wrong.error) == (400, "ValidationException")
    right = await complete(world, judy, back["session_id"])
    assert right.status == 400
    ended = await world.token(wat, sessionUri=first.json["sessionUri"])
    assert (ended.status, ended.error) == (400, "ValidationException")
    assert "consent_mismatch" in ended.json["message"]


async def test_a_token_that_proves_nobody_fails_nothing(world: World) -> None:
    """The application may ask its user to sign in again."""
    kim = person("kim")
    wat, first = await pending(world, kim)
    back = await world.browse(first.json["authorizationUrl"])
    for bad in (world.user_token(kim, lifetime_seconds=-600), world.user_token(kim, client="nobody"), "a.b.c"):
        identifier = {"userToken": bad}
        reply = await world.ask("CompleteResourceTokenAuth", sessionUri=back["session_id"], userIdentifier=identifier)
        assert (reply.status, reply.error) == (401, "UnauthorizedException")
        assert bad not in str(reply.json)
    assert (await complete(world, kim, back["session_id"])).status == 200
    assert (await world.token(wat)).status == 200


class Uncounted:
    """Counts nothing."""

    running = Room(100, 100)

    def admit(self, principal: Principal, *, has_room: bool) -> None:
        del principal, has_room


async def test_a_consent_that_nobody_finishes_in_time_ends_the_poll_with_that(tmp_path: Path) -> None:
    async with many_users.running_remote(tmp_path / "home") as remote:
        product, workload = remote.product, await remote.add_workload("code")
        signer = Signer(
            "default", "row", "MID" + "A" * 17, AccessKeyRole.WORKLOAD, frozenset({workload.id}), False, REGION, b""
        )
        edge = Edge(product.broker, app.authenticator_of(product.prepared), product.clock)

        def asker() -> Asker:
            known = KnownWorkloads(product.broker.workloads)
            return Asker(identity_of_signer(signer), known, edge.verifier, Uncounted(), "request", fresh=False)

        named = ForUserId(workload_name="code", user_id="4711")
        wat = (await data_plane.get_workload_access_token_for_user_id(edge, asker(), named)).workload_access_token
        asked = TokenAsked(
            workload_identity_token=wat,
            resource_credential_provider_name="idp",
            scopes=["read"],
            oauth2_flow="USER_FEDERATION",
            resource_oauth2_return_url=many_users.RETURN_URL,
        )
        first = await sessions.give_token(edge, asker(), asked)
        assert first.session_status == "IN_PROGRESS"
        product.clock.advance(601)
        with raising("consent_expired"):
            await sessions.give_token(edge, asker(), asked.model_copy(update={"session_uri": first.session_uri}))
        again = await sessions.give_token(edge, asker(), asked)
        assert again.session_uri != first.session_uri


# Who may complete


@pytest.mark.parametrize("key", ["agent", "admin"])
async def test_the_session_uri_that_the_initiator_knows_completes_nothing(world: World, key: str) -> None:
    """covers: A02b."""
    leo = person(f"leo-{key}")
    _, first = await pending(world, leo)
    await world.browse(first.json["authorizationUrl"])
    reply = await complete(world, leo, first.json["sessionUri"], key=key)
    assert (reply.status, reply.error) == (404, "ResourceNotFoundException")


async def test_a_key_of_another_workload_completes_nothing_and_learns_nothing(world: World) -> None:
    mia = person("mia")
    _, first = await pending(world, mia)
    back = await world.browse(first.json["authorizationUrl"])
    foreign = await complete(world, mia, back["session_id"], key="other")
    absent = await complete(world, mia, "urn:ietf:params:oauth:request_uri:" + "A" * 43, key="other")
    assert (foreign.status, foreign.json) == (absent.status, absent.json)
    assert foreign.error == "ResourceNotFoundException"
    assert (await complete(world, mia, back["session_id"])).status == 200


async def test_an_operators_key_completes_for_the_workload_that_asked(world: World) -> None:
    nora = person("nora")
    wat, first = await pending(world, nora)
    back = await world.browse(first.json["authorizationUrl"])
    assert (await complete(world, nora, back["session_id"], key="admin")).status == 200
    assert (await world.token(wat)).json["accessToken"] in world.vendor.minted


async def test_a_user_is_named_by_an_id_only_where_the_session_was_begun_with_one(world: World) -> None:
    issued = await world.ask("GetWorkloadAccessTokenForUserId", key="trusted", workloadName="agent", userId="cognito+olga")
    wat = issued.json["workloadAccessToken"]
    first = await world.token(wat, key="trusted")
    back = await world.browse(first.json["authorizationUrl"])
    named = {"userId": "cognito+olga"}
    refused = await world.ask("CompleteResourceTokenAuth", key="agent", sessionUri=back["session_id"], userIdentifier=named)
    assert (refused.status, refused.error) == (403, "AccessDeniedException")
    done = await world.ask("CompleteResourceTokenAuth", key="trusted", sessionUri=back["session_id"], userIdentifier=named)
    assert (done.status, done.json) == (200, {})
    given = await world.token(wat, key="trusted", sessionUri=first.json["sessionUri"])
    assert given.json["accessToken"] in world.vendor.minted


async def test_an_id_completes_no_session_of_a_user_who_signed_in(world: World) -> None:
    pat = person("pat")
    wat, first = await pending(world, pat)
    back = await world.browse(first.json["authorizationUrl"])
    reply = await world.ask(
        "CompleteResourceTokenAuth", key="trusted", sessionUri=back["session_id"], userIdentifier={"userId": "pat"}
    )
    assert reply.status == 400
    assert (await world.token(wat, sessionUri=first.json["sessionUri"])).status == 400


async def test_completing_once_more_changes_nothing(world: World) -> None:
    quin = person("quin")
    wat, first = await pending(world, quin)
    back = await world.browse(first.json["authorizationUrl"])
    exchanged = world.vendor.count("authorization_code")
    for key in ("agent", "agent", "admin"):
        done = await complete(world, quin, back["session_id"], key=key)
        assert (done.status, done.json) == (200, {})
    assert world.vendor.count("authorization_code") == exchanged + 1
    assert (await world.token(wat)).status == 200


# Whose session it is


async def test_a_session_answers_its_own_user_alone_and_a_poll_that_asks_for_something_else_is_refused(world: World) -> None:
    """covers: A03."""
    wat, first = await pending(world, person("rosa"))
    uri = first.json["sessionUri"]
    bobs = await world.token(await world.wat(BOB), sessionUri=uri)
    assert (bobs.status, bobs.error) == (404, "ResourceNotFoundException")
    absent = await world.token(wat, sessionUri="urn:ietf:params:oauth:request_uri:" + "A" * 43)
    assert (absent.status, absent.json["message"]) == (404, bobs.json["message"])
    others: tuple[dict[str, Any], ...] = ({"scopes": ["read", "write"]}, {"customState": "another"}, {"audiences": ["x"]})
    for changed in others:
        reply = await world.token(wat, sessionUri=uri, **changed)
        assert (reply.status, reply.error) == (400, "ValidationException"), changed
    crossed = await world.token(await world.wat(person("rosa"), key="other", workload="other"), key="other", sessionUri=uri)
    assert crossed.status == 404


async def test_parameters_are_those_that_the_providers_data_lets_agents_set(world: World) -> None:
    wat = await world.wat(person("sam"))
    for name in ("client_id", "state", "redirect_uri", "scope", "not_listed"):
        reply = await world.token(wat, customParameters={name: "c4n4ry"})
        assert (reply.status, reply.error) == (400, "ValidationException")
        assert "c4n4ry" not in str(reply.json)
