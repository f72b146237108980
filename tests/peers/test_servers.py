"""Are the authorization servers strict? What these tests refuse is what the product's tests rely on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.fakes.browser import Browser
from tests.peers.requests import (
    Pkce,
    authorization_url,
    consent,
    exchange,
    is_active,
    me,
    refresh,
    send,
    tokens,
)
from tests.peers.servers import (
    CALLBACK_URL,
    AuthMethod,
    DjangoOAuthServer,
    NodeOidcProvider,
    Peer,
)

# The code flow


def test_a_person_consents_and_the_client_gets_tokens(peer: Peer) -> None:
    got = tokens(peer, peer.web)
    assert set(got["scope"].split()) == {"read", "write"}
    assert got["token_type"].lower() == "bearer"
    assert got["expires_in"] > 0
    assert got["refresh_token"]
    assert is_active(peer, peer.web, got["access_token"])


def test_the_answer_names_its_issuer_and_echoes_the_state(peer: Peer) -> None:
    page = consent(peer, peer.web, Pkce(), state="as it was")
    assert page.url.startswith(CALLBACK_URL)
    assert page.query["iss"] == peer.issuer
    assert page.query["state"] == "as it was"


def test_discovery_announces_what_is_strict(peer: Peer) -> None:
    well_known = {"django-oauth-toolkit": "oauth-authorization-server", "node-oidc-provider": "openid-configuration"}
    metadata = httpx2.get(f"{peer.issuer}/.well-known/{well_known[peer.name]}", trust_env=False).raise_for_status().json()
    assert metadata["issuer"] == peer.issuer
    assert metadata["token_endpoint"] == peer.token_url
    assert metadata["revocation_endpoint"] == peer.revocation_url
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    assert metadata["authorization_response_iss_parameter_supported"] is True


def test_a_refusal_comes_back_as_access_denied_without_a_code(peer: Peer) -> None:
    page = consent(peer, peer.web, Pkce(), decision="deny", state="s")
    assert page.url.startswith(CALLBACK_URL)
    assert page.query["error"] == "access_denied"
    assert (page.query["state"], page.query["iss"]) == ("s", peer.issuer)
    assert "code" not in page.query


def test_a_wrong_verifier_is_refused(peer: Peer) -> None:
    page = consent(peer, peer.web, Pkce())
    _is_refused(exchange(peer, peer.web, page.query["code"], Pkce().verifier), "invalid_grant")


def test_a_missing_verifier_is_refused(peer: Peer) -> None:
    page = consent(peer, peer.web, Pkce())
    _is_refused(exchange(peer, peer.web, page.query["code"], None), "invalid_grant", "invalid_request")


@pytest.mark.parametrize("client_name", ["web", "spa"])
def test_a_request_without_a_challenge_is_refused(peer: Peer, client_name: str) -> None:
    page = consent(peer, getattr(peer, client_name), None)
    assert page.query["error"] == "invalid_request"


def test_the_plain_challenge_method_is_refused(peer: Peer) -> None:
    page = consent(peer, peer.web, Pkce(), code_challenge_method="plain")
    assert page.query["error"] == "invalid_request"


def test_an_unregistered_redirect_uri_is_never_followed(peer: Peer) -> None:
    with Browser(stop_at="http://127.0.0.1:9/") as browser:
        page = browser.consent(authorization_url(peer, peer.web, Pkce(), redirect_uri="http://127.0.0.1:9/elsewhere"))
    assert page.status == httpx2.codes.BAD_REQUEST
    assert page.url.startswith(peer.issuer)


def test_another_redirect_uri_at_the_exchange_is_refused(peer: Peer) -> None:
    pkce = Pkce()
    client = peer.register(CALLBACK_URL, f"{CALLBACK_URL}/other")
    page = consent(peer, client, pkce)
    answer = exchange(peer, client, page.query["code"], pkce.verifier, redirect_uri=f"{CALLBACK_URL}/other")
    _is_refused(answer, "invalid_grant", "invalid_request")


def test_a_code_works_once(peer: Peer) -> None:
    pkce = Pkce()
    page = consent(peer, peer.web, pkce)
    assert exchange(peer, peer.web, page.query["code"], pkce.verifier).is_success
    _is_refused(exchange(peer, peer.web, page.query["code"], pkce.verifier), "invalid_grant")


def test_a_code_of_another_client_is_refused(peer: Peer) -> None:
    pkce = Pkce()
    page = consent(peer, peer.web, pkce)
    _is_refused(exchange(peer, peer.register(), page.query["code"], pkce.verifier), "invalid_grant")


def test_a_code_exchanged_twice_ends_the_grant(node_oidc_provider: NodeOidcProvider) -> None:
    peer, pkce = node_oidc_provider, Pkce()
    page = consent(peer, peer.web, pkce)
    got = exchange(peer, peer.web, page.query["code"], pkce.verifier).raise_for_status().json()
    _is_refused(exchange(peer, peer.web, page.query["code"], pkce.verifier), "invalid_grant")
    assert not is_active(peer, peer.web, got["access_token"])
    _is_refused(refresh(peer, peer.web, got["refresh_token"]), "invalid_grant")


# Client authentication


def test_a_wrong_client_secret_is_refused(peer: Peer) -> None:
    answer = send(peer.token_url, replace(peer.m2m, client_secret="guessed"), grant_type="client_credentials")
    assert answer.status_code == httpx2.codes.UNAUTHORIZED
    _is_refused(answer, "invalid_client")


def test_a_client_gets_a_token_for_itself(peer: Peer) -> None:
    got = send(peer.token_url, peer.m2m, grant_type="client_credentials", scope="read").raise_for_status().json()
    assert got["scope"] == "read"
    assert "refresh_token" not in got
    assert is_active(peer, peer.m2m, got["access_token"])


def test_a_client_cannot_use_a_grant_that_it_was_not_registered_for(peer: Peer) -> None:
    answer = send(peer.token_url, peer.web, grant_type="client_credentials")
    _is_refused(answer, "unauthorized_client", "invalid_request")


def test_a_public_client_needs_no_secret(peer: Peer) -> None:
    assert tokens(peer, peer.spa)["access_token"]


def test_a_secret_in_the_body_is_accepted_from_a_client_registered_for_it(peer: Peer) -> None:
    client = peer.register(auth_method="client_secret_post")
    assert tokens(peer, client)["access_token"]


def test_odd_characters_in_id_and_secret_must_be_encoded(node_oidc_provider: NodeOidcProvider) -> None:
    odd = node_oidc_provider.odd
    form = {"grant_type": "client_credentials"}
    assert send(node_oidc_provider.token_url, odd, **form).is_success
    raw = httpx2.post(
        node_oidc_provider.token_url, data=form, auth=httpx2.BasicAuth(odd.client_id, odd.client_secret), trust_env=False
    )
    _is_refused(raw, "invalid_client", "invalid_request")


def test_the_ledger_says_how_a_client_authenticated(node_oidc_provider: NodeOidcProvider) -> None:
    peer = node_oidc_provider
    methods: tuple[AuthMethod, ...] = ("client_secret_basic", "client_secret_post", "none")
    for method in methods:
        client = peer.register(auth_method=method)
        tokens(peer, client)
        (exchanged,) = [event for event in peer.ledger(client).events if event["event"] == "grant.success"]
        assert exchanged["client_auth"] == method


def test_two_ways_to_authenticate_at_once_are_refused(node_oidc_provider: NodeOidcProvider) -> None:
    client = node_oidc_provider.m2m
    form = {"grant_type": "client_credentials", "client_secret": client.client_secret}
    _is_refused(send(node_oidc_provider.token_url, client, **form), "invalid_request")


# Refresh and revocation


def test_a_refresh_rotates_the_refresh_token(peer: Peer) -> None:
    first = tokens(peer, peer.web)
    second = refresh(peer, peer.web, first["refresh_token"]).raise_for_status().json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]


def test_a_reused_refresh_token_ends_its_family(peer: Peer) -> None:
    first = tokens(peer, peer.web)
    second = refresh(peer, peer.web, first["refresh_token"]).raise_for_status().json()
    _is_refused(refresh(peer, peer.web, first["refresh_token"]), "invalid_grant")
    _is_refused(refresh(peer, peer.web, second["refresh_token"]), "invalid_grant")
    assert not is_active(peer, peer.web, second["access_token"])


def test_of_many_refreshes_at_one_moment_one_succeeds(peer: Peer) -> None:
    refresh_token = tokens(peer, peer.web)["refresh_token"]
    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(partial(refresh, peer, peer.web), [refresh_token] * 6))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400, 400]


def test_a_refresh_token_of_another_client_is_refused(peer: Peer) -> None:
    first = tokens(peer, peer.web)
    _is_refused(refresh(peer, peer.register(), first["refresh_token"]), "invalid_grant")


def test_a_revoked_refresh_token_refreshes_nothing(peer: Peer) -> None:
    got = tokens(peer, peer.web)
    assert send(peer.revocation_url, peer.web, token=got["refresh_token"], token_type_hint="refresh_token").is_success
    _is_refused(refresh(peer, peer.web, got["refresh_token"]), "invalid_grant")
    assert not is_active(peer, peer.web, got["access_token"])


def test_a_revoked_access_token_is_no_longer_active(peer: Peer) -> None:
    got = tokens(peer, peer.web)
    assert send(peer.revocation_url, peer.web, token=got["access_token"]).is_success
    assert not is_active(peer, peer.web, got["access_token"])


def test_revoking_an_unknown_token_succeeds_as_the_standard_says(peer: Peer) -> None:
    assert send(peer.revocation_url, peer.web, token="never-issued").is_success


def test_without_rotation_a_refresh_token_can_be_used_again(tmp_path: Path) -> None:
    with DjangoOAuthServer.start(tmp_path, access_token_seconds=7, rotation=False) as server:
        first = tokens(server, server.web)
        assert first["expires_in"] == 7
        second = refresh(server, server.web, first["refresh_token"]).raise_for_status().json()
        assert second["refresh_token"] == first["refresh_token"]
        assert refresh(server, server.web, first["refresh_token"]).is_success


def test_a_restarted_server_knows_its_grants(tmp_path: Path) -> None:
    with DjangoOAuthServer.start(tmp_path) as server:
        port, got = server.port, tokens(server, server.web)
    with DjangoOAuthServer.start(tmp_path, port=port) as server:
        assert server.port == port
        assert me(server, got["access_token"]).is_success
        assert refresh(server, server.web, got["refresh_token"]).is_success


def test_an_access_token_ends_when_its_time_is_over(node_oidc_provider: NodeOidcProvider, tmp_path: Path) -> None:
    short = node_oidc_provider.register(access_token_seconds=1)
    with DjangoOAuthServer.start(tmp_path, access_token_seconds=1) as server:
        for peer, client in ((node_oidc_provider, short), (server, server.web)):
            got = tokens(peer, client)
            assert got["expires_in"] == 1
            deadline = time.monotonic() + 5
            while is_active(peer, client, got["access_token"]):
                assert time.monotonic() < deadline
            assert refresh(peer, client, got["refresh_token"]).is_success


# The pages of django-oauth-toolkit


def test_the_pages_say_who_asks_for_what(django_oauth_server: DjangoOAuthServer) -> None:
    server = django_oauth_server
    client = server.register(name="Notes & Co")
    with Browser(stop_at=CALLBACK_URL) as browser:
        login = browser.get(authorization_url(server, client, Pkce()))
        assert "demonstration authorization server" in login.text
        question = browser.submit(login.forms[0], page=login, button="sign in", username="alice", password="wonderland")
        assert "Notes & Co" in question.text
        assert "Read your notes" in question.text
        assert [button.label for form in question.forms for button in form.buttons] == ["Allow", "Deny", "Not you?"]
        answer = browser.submit(question.forms[0], page=question, button="allow")
    assert answer.query["code"]


def test_a_wrong_password_does_not_sign_in(django_oauth_server: DjangoOAuthServer) -> None:
    with Browser(stop_at=CALLBACK_URL) as browser:
        url = authorization_url(django_oauth_server, django_oauth_server.web, Pkce())
        page = browser.consent(url, username="alice", password="builder")
    assert "do not belong together" in page.text


def test_a_form_posted_from_another_site_is_refused(django_oauth_server: DjangoOAuthServer) -> None:
    with Browser() as browser:
        login = browser.get(authorization_url(django_oauth_server, django_oauth_server.web, Pkce()))
        foreign = replace(login, url="https://elsewhere.example/")
        answer = browser.submit(login.forms[0], page=foreign, username="alice", password="wonderland")
    assert answer.status == httpx2.codes.FORBIDDEN


def test_another_person_can_take_over_the_browser(django_oauth_server: DjangoOAuthServer) -> None:
    server = django_oauth_server
    pkce = Pkce()
    with Browser(stop_at=CALLBACK_URL) as browser:
        url = authorization_url(server, server.web, pkce)
        assert browser.consent(url).query["code"]
        question = browser.get(url)
        assert "Signed in as alice" in question.text
        login = browser.submit(question.forms[1], page=question, button="not you")
        question = browser.submit(login.forms[0], page=login, username="bob", password="builder")
        page = browser.submit(question.forms[0], page=question, button="allow")
    got = exchange(server, server.web, page.query["code"], pkce.verifier).raise_for_status().json()
    assert me(server, got["access_token"]).json()["username"] == "bob"


def test_the_protected_resource_tells_whose_token_it_is(django_oauth_server: DjangoOAuthServer) -> None:
    server = django_oauth_server
    got = tokens(server, server.web, scope="read profile")
    assert me(server, got["access_token"]).json() == {"username": "alice", "client": "web", "scopes": ["profile", "read"]}
    own = send(server.token_url, server.m2m, grant_type="client_credentials").raise_for_status().json()
    assert me(server, own["access_token"]).json() == {"username": None, "client": "m2m", "scopes": ["read"]}


def test_the_protected_resource_refuses_what_is_no_token(django_oauth_server: DjangoOAuthServer) -> None:
    answer = me(django_oauth_server, "made-up")
    assert answer.status_code == httpx2.codes.UNAUTHORIZED
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


# What only node-oidc-provider has


def test_an_id_token_names_the_person(node_oidc_provider: NodeOidcProvider) -> None:
    got = tokens(node_oidc_provider, node_oidc_provider.web, scope="openid read", login_hint="carol", nonce="n")
    assert len(got["id_token"].split(".")) == 3
    assert me(node_oidc_provider, got["access_token"]).json()["sub"] == "carol"


def test_the_person_before_the_browser_can_change(node_oidc_provider: NodeOidcProvider) -> None:
    peer, client = node_oidc_provider, node_oidc_provider.register()
    with Browser(stop_at=CALLBACK_URL) as browser:
        for person in ("bob", "carol"):
            peer.seat(browser, person)
            assert browser.consent(authorization_url(peer, client, Pkce())).query["code"]
        peer.seat(browser, "deny")
        assert browser.consent(authorization_url(peer, client, Pkce())).query["error"] == "access_denied"
    people = [event["account_id"] for event in peer.ledger(client).events if event["event"] == "authorization.success"]
    assert people == ["bob", "carol"]


def test_a_resource_bounds_the_audience(node_oidc_provider: NodeOidcProvider) -> None:
    peer, pkce = node_oidc_provider, Pkce()
    page = consent(peer, peer.web, pkce, resource=peer.jwt_resource)
    got = exchange(peer, peer.web, page.query["code"], pkce.verifier, resource=peer.jwt_resource).raise_for_status().json()
    assert len(got["access_token"].split(".")) == 3
    page = consent(peer, peer.web, pkce, resource="https://unknown.example.test/")
    assert page.query["error"] == "invalid_target"


def test_the_ledger_counts_what_one_client_did(node_oidc_provider: NodeOidcProvider) -> None:
    peer, client = node_oidc_provider, node_oidc_provider.register()
    first = tokens(peer, client)
    second = refresh(peer, client, first["refresh_token"]).raise_for_status().json()
    refresh(peer, client, second["refresh_token"]).raise_for_status()
    refresh(peer, client, first["refresh_token"])
    ledger = peer.ledger(client)
    assert (ledger.code_exchanges, ledger.refreshes, ledger.invalid_grant) == (1, 2, 1)
    assert (ledger.families_revoked, ledger.families_revoked_by_reuse, ledger.tokens_revoked) == (1, 1, 0)
    reasons = [event["reason"] for event in ledger.events if event.get("error") == "invalid_grant"]
    assert reasons == ["refresh token already used"]


def test_the_ledger_tells_a_revocation_from_a_reuse(node_oidc_provider: NodeOidcProvider) -> None:
    peer, client = node_oidc_provider, node_oidc_provider.register()
    send(peer.revocation_url, client, token=tokens(peer, client)["refresh_token"]).raise_for_status()
    ledger = peer.ledger(client)
    assert (ledger.families_revoked, ledger.families_revoked_by_reuse, ledger.tokens_revoked) == (1, 0, 1)


def _is_refused(answer: httpx2.Response, *errors: str) -> None:
    assert answer.status_code in {httpx2.codes.BAD_REQUEST, httpx2.codes.UNAUTHORIZED}
    assert answer.json()["error"] in errors
