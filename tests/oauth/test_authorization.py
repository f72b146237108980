"""The way to the consent page and back: what the URL holds, and what a callback may be."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import (
    ConsentDenied,
    ConsentMismatch,
    IdentityError,
    InvalidRequest,
    InvalidTarget,
    ProviderMisconfigured,
    UpstreamBadResponse,
    UpstreamRejected,
    UrlRefused,
)
from mcp_identity.domain.provider import AuthorizationServer, Dialect
from mcp_identity.oauth.authorization import (
    authorization_url,
    check_agent_parameters,
    process_authorization_response,
)

SERVER = AuthorizationServer(
    issuer="https://idp.example.com",
    authorization_url="https://idp.example.com/authorize",
    token_url="https://idp.example.com/token",
)
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
REDIRECT = "https://broker.example/oauth2/callback/abc"


def _url(dialect: Dialect | None = None, server: AuthorizationServer = SERVER, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "redirect_uri": REDIRECT,
        "scopes": frozenset({"write", "read"}),
        "state": "st4te",
        "code_verifier": Secret(VERIFIER),
        "nonce": None,
        "resource": "",
        "audience": "",
        "parameters": (),
        **changes,
    }
    return authorization_url(server, "app", dialect or Dialect(), **arguments)


def _query(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)


def test_a_request_has_everything_that_the_rfcs_ask_for_and_pkce_always() -> None:
    url = _url()
    assert url.startswith("https://idp.example.com/authorize?")
    assert _query(url) == [
        ("response_type", "code"),
        ("client_id", "app"),
        ("redirect_uri", REDIRECT),
        ("scope", "read write"),
        ("state", "st4te"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]
    assert VERIFIER not in url


def test_pkce_is_left_out_only_where_the_server_rejects_it() -> None:
    assert "code_challenge" not in dict(_query(_url(Dialect(pkce=False))))


def test_equal_requests_give_equal_urls() -> None:
    assert _url(scopes=frozenset({"b", "a", "c"})) == _url(scopes=frozenset({"c", "b", "a"}))


def test_the_endpoints_own_query_is_kept() -> None:
    query = _query(_url(server=AuthorizationServer(authorization_url="https://idp.example.com/a?p=B2C_1&empty=")))
    assert query[:2] == [("p", "B2C_1"), ("empty", "")]


@pytest.mark.parametrize("own", ["state=x", "client_id=x", "redirect_uri=x", "prompt=none", "request_uri=x", "response_mode=x"])
def test_an_endpoint_whose_query_sets_what_is_ours_is_misconfigured(own: str) -> None:
    server = AuthorizationServer(authorization_url=f"https://idp.example.com/a?{own}")
    with pytest.raises(ProviderMisconfigured):
        _url(Dialect(authorization_parameters={"prompt": "consent"}), server)


def test_the_dialect_names_scope_and_audience_and_adds_its_own() -> None:
    dialect = Dialect(
        scope_separator=",",
        scope_parameter="user_scope",
        always_scopes=("offline_access", "read"),
        audience_parameter="aud",
        authorization_parameters={"prompt": "consent"},
        agent_parameters={"login_hint": "[a-z@.]+"},
    )
    query = dict(
        _query(
            _url(
                dialect,
                nonce="n0nce",
                resource="https://api.example.com/mcp",
                audience="api",
                parameters=(("login_hint", "u@example.com"),),
            )
        )
    )
    assert query["user_scope"] == "offline_access,read,write"
    assert "scope" not in query
    assert query["aud"] == "api"
    assert query["resource"] == "https://api.example.com/mcp"
    assert query["nonce"] == "n0nce"
    assert query["prompt"] == "consent"
    assert query["login_hint"] == "u@example.com"


def test_no_scopes_means_no_scope_parameter() -> None:
    assert "scope" not in dict(_query(_url(scopes=frozenset[str]())))


def test_values_are_encoded_and_cannot_become_parameters() -> None:
    dialect = Dialect(agent_parameters={"login_hint": ".*"})
    query = dict(_query(_url(dialect, state="a&client_id=evil", parameters=(("login_hint", "x&state=y#z é"),))))
    assert query["state"] == "a&client_id=evil"
    assert query["client_id"] == "app"
    assert query["login_hint"] == "x&state=y#z é"


@pytest.mark.parametrize(
    "endpoint", ["javascript:alert(1)", "http://idp.example.com/", "data:text/html,x", "-flag", "https://a@b/"]
)
def test_what_no_browser_shall_open_is_refused_at_use_too(endpoint: str) -> None:
    with pytest.raises(UrlRefused):
        _url(server=AuthorizationServer(authorization_url=endpoint))


def test_a_provider_without_an_authorization_endpoint_is_misconfigured() -> None:
    with pytest.raises(ProviderMisconfigured):
        _url(server=AuthorizationServer())


@pytest.mark.parametrize("missing", ["state", "redirect_uri"])
def test_state_and_redirect_uri_are_required(missing: str) -> None:
    with pytest.raises(InvalidRequest):
        _url(None, SERVER, **{missing: ""})


@pytest.mark.parametrize("verifier", ["", "a" * 42, "a" * 129, "a" * 42 + "=", "a" * 42 + "é"])
def test_a_verifier_that_rfc_7636_does_not_allow_is_refused(verifier: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        _url(code_verifier=Secret(verifier))
    assert not verifier or verifier not in refusal.value.message


@pytest.mark.parametrize(
    ("dialect", "target"),
    [
        (Dialect(resource_parameter=False), {"resource": "https://api.example.com"}),
        (Dialect(), {"audience": "api"}),
        (Dialect(), {"resource": "https://api.example.com/#x"}),
        (Dialect(audience_parameter="audience"), {"audience": "a\nb"}),
    ],
)
def test_a_target_that_the_server_would_not_honour_is_refused_not_dropped(dialect: Dialect, target: dict[str, str]) -> None:
    with pytest.raises(InvalidTarget):
        _url(dialect, SERVER, **target)


LISTED = Dialect(
    agent_parameters={"login_hint": "[a-z]{1,600}", "state": ".*", "hd": ".*", "prompt": ".*", "audience": ".*"},
    authorization_parameters={"hd": "example.com"},
    audience_parameter="prompt",
)


@pytest.mark.parametrize(
    "parameters",
    [
        (("state", "x"),),
        (("redirect_uri", "https://evil.example"),),
        (("client_id", "x"),),
        (("scope", "x"),),
        (("response_type", "token"),),
        (("response_mode", "fragment"),),
        (("code_challenge", "x"),),
        (("request", "x"),),
        (("claims", "{}"),),
        (("audience", "x"),),
        (("hd", "evil.example"),),
        (("prompt", "none"),),
        (("unlisted", "x"),),
        (("", "x"),),
        (("login_hint", ""),),
        (("login_hint", "UPPER"),),
        (("login_hint", "a\n"),),
        (("login_hint", "a b"),),
        (("login_hint", "a" * 513),),
        (("login_hint", "a"), ("login_hint", "b")),
        (("x" * 5000, "a"),),
    ],
)
def test_an_agent_cannot_set_what_is_ours_unlisted_repeated_or_of_another_form(parameters: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_agent_parameters(LISTED, parameters)
    assert refusal.value.code == "invalid_request"
    assert len(refusal.value.message) < 300


def test_what_an_agent_may_set_comes_back_sorted() -> None:
    dialect = Dialect(agent_parameters={"a": "1", "b": "2"})
    assert check_agent_parameters(dialect, [("b", "2"), ("a", "1")]) == (("a", "1"), ("b", "2"))
    assert check_agent_parameters(dialect, ()) == ()


STRICT = AuthorizationServer(issuer="https://idp.example.com", requires_iss=True)
UNKNOWN = AuthorizationServer()


def test_a_code_from_the_right_server_is_a_code() -> None:
    for server, parameters in [
        (SERVER, [("code", "c0de"), ("state", "s")]),
        (
            STRICT,
            [("code", "c0de"), ("iss", "https://idp.example.com"), ("session_state", "x"), ("scope", "a"), ("scope", "b")],
        ),
        (UNKNOWN, [("code", "c0de"), ("iss", "https://whoever.example")]),
    ]:
        assert process_authorization_response(parameters, server=server).code.reveal() == "c0de"


@pytest.mark.parametrize(
    ("server", "parameters", "expected"),
    [
        (SERVER, [], UpstreamBadResponse),
        (SERVER, [("state", "s")], UpstreamBadResponse),
        (SERVER, [("code", "")], UpstreamBadResponse),
        (SERVER, [("code", "c\nx")], UpstreamBadResponse),
        (SERVER, [("code", "é")], UpstreamBadResponse),
        (SERVER, [("code", "x" * 8193)], UpstreamBadResponse),
        (SERVER, [("access_token", "t"), ("token_type", "bearer")], UpstreamBadResponse),
        (SERVER, [("code", "a"), ("code", "b")], UpstreamBadResponse),
        (SERVER, [("code", "a"), ("code", "a")], UpstreamBadResponse),
        (SERVER, [("code", "a"), ("state", "x"), ("state", "y")], UpstreamBadResponse),
        (STRICT, [("code", "a"), ("iss", "https://idp.example.com"), ("iss", "https://evil.example")], UpstreamBadResponse),
        (SERVER, [("error", "x"), ("error", "y")], UpstreamBadResponse),
        (SERVER, [("code", "a"), ("iss", "https://evil.example")], ConsentMismatch),
        (SERVER, [("code", "a"), ("iss", "https://idp.example.com/")], ConsentMismatch),
        (SERVER, [("code", "a"), ("iss", "HTTPS://idp.example.com")], ConsentMismatch),
        (SERVER, [("code", "a"), ("iss", "")], ConsentMismatch),
        (STRICT, [("code", "a")], ConsentMismatch),
        (STRICT, [("error", "access_denied")], ConsentMismatch),
        (SERVER, [("error", "access_denied"), ("iss", "https://evil.example")], ConsentMismatch),
        (SERVER, [("error", "access_denied"), ("state", "s")], ConsentDenied),
        (SERVER, [("error", "access_denied"), ("code", "c0de")], ConsentDenied),
        (SERVER, [("error", "server_error")], UpstreamRejected),
        (SERVER, [("error", "invalid_scope"), ("code", "c0de")], UpstreamRejected),
        (SERVER, [("error", "")], UpstreamRejected),
    ],
)
def test_anything_else_is_an_error_and_never_a_code(
    server: AuthorizationServer, parameters: list[tuple[str, str]], expected: type[IdentityError]
) -> None:
    with pytest.raises(IdentityError) as failure:
        process_authorization_response(parameters, server=server)
    assert type(failure.value) is expected


def test_the_vendors_error_is_kept_verbatim_but_bounded_and_clean() -> None:
    parameters = [("error", "temporarily_unavailable"), ("error_description", "Try\u202e later\x00 <b>" + "x" * 5000)]
    with pytest.raises(UpstreamRejected) as failure:
        process_authorization_response(parameters, server=SERVER)
    assert failure.value.error == "temporarily_unavailable"
    assert failure.value.description.startswith("Try later <b>")
    assert len(failure.value.description) <= 300
    assert "temporarily_unavailable" in failure.value.message


def test_a_code_does_not_show_in_a_repr() -> None:
    assert "c0de" not in repr(process_authorization_response([("code", "c0de")], server=SERVER))
