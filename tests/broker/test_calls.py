"""What happens between an agent that asks for an API's answer and the API, and what never does?"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_identity.broker.answers import ConsentRequired, ProviderSpec
from mcp_identity.domain.api_call import MAXIMUM_BODY_BYTES, ApiAnswer, ApiRequest
from mcp_identity.domain.credentials import Reason, Secret
from mcp_identity.domain.errors import UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.transport import Transport
from tests.broker.kit import Product, raising, running_product
from tests.fakes.api import API, VendorWithApi
from tests.fakes.authorization_server import ISSUER, respond_json
from tests.fakes.clock import FakeClock
from tests.fakes.hostile_server import HostileServer, Script, hostile_server
from tests.transport.test_addresses import FORBIDDEN_URLS

USER = "USER_FEDERATION"
TOKEN = "access-token-canary-1"


@pytest.fixture
async def product(tmp_path: Path) -> AsyncGenerator[Product]:
    """The product at a vendor with an API."""
    clock = FakeClock()
    async with running_product(tmp_path / "home", clock=clock, server=VendorWithApi(clock.now)) as one:
        yield one


@pytest.fixture
async def api(product: Product) -> Product:
    """The product with the provider `idp` of client credentials, whose API host is known; nothing of it ever leaves."""
    await product.add(flows="M2M", api_hosts=(API,), release="never")
    return product


@pytest.fixture
async def federated(product: Product) -> Product:
    """The same for users, of whom one has consented to `read`."""
    await product.add(api_hosts=(API,), release="never", scopes=("read", "write"))
    await product.consent(await product.start("read"))
    return product


def vendor(product: Product) -> VendorWithApi:
    assert isinstance(product.server, VendorWithApi)
    return product.server


async def call(product: Product, url: str = f"{API}/items", method: str = "GET", **request: Any) -> ApiAnswer | ConsentRequired:
    given: dict[str, Any] = {"provider": "idp", "method": method, "url": url, **request}
    return await product.broker.call_api(product.call("call_api"), ApiRequest(**given))


async def answer(product: Product, url: str = f"{API}/items", method: str = "GET", **request: Any) -> ApiAnswer:
    """An answer that must be there."""
    found = await call(product, url, method, **request)
    assert isinstance(found, ApiAnswer), found
    return found


def script(product: Product, *answers: HttpResponse | Callable[[HttpRequest], HttpResponse]) -> None:
    """The API answers these, one after the other; the last one for ever."""
    rest = list(answers)

    def respond(request: HttpRequest) -> HttpResponse:
        now = rest.pop(0) if len(rest) > 1 else rest[0]
        return now(request) if callable(now) else now

    vendor(product).respond_api = respond


def text(body: str, status: int = 200, **headers: str) -> HttpResponse:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, {"content-type": "text/plain", **names}, body.encode())


# What is sent


async def test_the_credential_goes_to_the_api_and_its_answer_comes_back(api: Product) -> None:
    found = await answer(api, f"{API}/items?page=2", query=(("q", "a b&c"),), headers=(("accept", "application/json"),))
    (sent,) = vendor(api).api_requests
    assert (sent.method, sent.url) == ("GET", f"{API}/items?page=2&q=a%20b%26c")
    assert sent.headers == {"accept": "application/json", "Authorization": f"Bearer {TOKEN}"}
    assert (found.status, found.text, found.media_type, found.url) == (200, '{"ok":true}', "application/json", f"{API}/items")


async def test_a_path_is_at_the_first_api_host(api: Product) -> None:
    await api.update(api_hosts=("https://uploads.example.com", API), secret=Secret("the-client-secret-canary"))
    await answer(api, "", path="/items")
    assert vendor(api).api_requests[-1].url == "https://uploads.example.com/items"


@pytest.mark.parametrize("release", ["never", "handle", "token"])
async def test_every_release_mode_lets_a_call_through(product: Product, release: str) -> None:
    await product.add(flows="M2M", api_hosts=(API,), release=release)
    assert (await answer(product)).status == 200


async def test_a_token_without_an_end_can_be_used_where_it_could_not_leave(api: Product) -> None:
    vendor(api).expires_in = None
    assert (await answer(api)).status == 200


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ((), b'{"a":1}', "application/json"),
        ((), b"hello", "text/plain; charset=utf-8"),
        ((("Content-Type", "text/csv"),), b"a,b", "text/csv"),
    ],
)
async def test_a_body_has_a_type(api: Product, headers: tuple[tuple[str, str], ...], body: bytes, expected: str) -> None:
    await answer(api, method="post", headers=headers, body=body)
    (sent,) = vendor(api).api_requests
    assert (sent.method, sent.body, sent.headers["Content-Type"]) == ("POST", body, expected)


# What is refused, before anything is sent


@pytest.mark.parametrize(
    "name",
    ["Authorization", "authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "Api-Key",
     "X-Goog-Api-Key", "Host", "Content-Length", "Transfer-Encoding", "Connection", "X-Forwarded-For", "X-HTTP-Method-Override",
     "Forwarded", "Via", "X-Original-URL", "a\r\nAuthorization", "", "é"],
)  # fmt: skip
async def test_a_header_that_is_not_on_the_list_is_refused(api: Product, name: str) -> None:
    """Covers: A27."""
    with raising("invalid_request") as refused:
        await call(api, headers=((name, "v4lue-canary"),))
    assert "v4lue-canary" not in refused.value.message
    assert vendor(api).api_requests == []
    assert await api.outcomes("call_api") == ["invalid_request"]


@pytest.mark.parametrize("value", ["a\r\nAuthorization: x", "é", "", "x" * 5000, "\x00"])
async def test_a_header_value_that_is_no_plain_text_is_refused(api: Product, value: str) -> None:
    with raising("invalid_request"):
        await call(api, headers=(("Accept", value),))
    with raising("invalid_request"):
        await call(api, headers=(("Accept", "a"), ("accept", "b")))
    with raising("invalid_request"):
        await call(api, headers=tuple((f"Accept{number}", "a") for number in range(33)))


@pytest.mark.parametrize(
    "request_",
    [
        {"url": "", "path": ""},
        {"path": "/items"},
        {"url": "", "path": "items"},
        {"method": "TRACE"},
        {"method": "CONNECT"},
        {"method": ""},
        {"body": b"x"},
        {"method": "POST", "body": b"x" * (MAXIMUM_BODY_BYTES + 1)},
        {"url": f"{API}/items?access_token=x"},
        {"url": f"{API}/items?Access%5FToken=x"},
        {"query": (("access_token", "x"),)},
    ],
)
async def test_a_request_that_is_none_is_refused(api: Product, request_: dict[str, Any]) -> None:
    with raising("invalid_request"):
        await call(api, **request_)
    assert vendor(api).api_requests == []


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/items", f"{API}.evil.example/items", "https://example.com/items", f"{API}:8443/items",
        "https://API.example.com.evil.example/", "https://sub.api.example.com/", f"{ISSUER}/token", f"{ISSUER}/anything",
        "http://api.example.com/items", f"{API}@evil.example/items", f"{API}/a/../b", f"{API}/a%2fb", f"{API}/#x",
    ],
)  # fmt: skip
async def test_no_other_host_and_no_url_that_could_be_misread_is_called(api: Product, url: str) -> None:
    """Covers: A09, A49."""
    with raising("url_refused"):
        await call(api, url)
    assert vendor(api).requests == vendor(api).api_requests == []
    assert await api.outcomes("call_api") == ["url_refused"]


@pytest.mark.parametrize("path", ["/token", "/authorize", "/revoke", "//Token;x=y", "/tok%65n", "/oauth2/introspect"])
async def test_the_authorization_server_is_not_called_where_it_is_on_an_api_host(product: Product, path: str) -> None:
    await product.add(flows="M2M", api_hosts=(ISSUER,), release="never")
    with raising("url_refused"):
        await call(product, ISSUER + path, "POST")
    assert vendor(product).requests == []


async def test_without_an_api_host_nothing_is_called(product: Product) -> None:
    await product.add(flows="M2M", release="never")
    requests: list[dict[str, Any]] = [{}, {"url": "", "path": "/items"}]
    for request in requests:
        with raising("url_refused") as refused:
            await call(product, **request)
        assert "--api-host" in refused.value.message


@pytest.mark.parametrize(
    "host", ["http://api.example.com", f"{API}/v1", "api.example.com", "https://*.example.com", "https://a@b.example"]
)
async def test_an_api_host_that_is_no_origin_is_not_configured(product: Product, host: str) -> None:
    with raising("url_refused"):
        await product.add(flows="M2M", api_hosts=(host,))


async def test_a_request_that_holds_the_credential_itself_is_refused(api: Product) -> None:
    """Covers: A12."""
    encoded = base64.b64encode(f"user:{TOKEN}".encode()).decode()
    requests: list[dict[str, Any]] = [
        {"url": f"{API}/items/{TOKEN}"},
        {"query": (("t", TOKEN),)},
        {"headers": (("Prefer", TOKEN),)},
        {"method": "POST", "body": f"keep this: {TOKEN}".encode()},
        {"method": "POST", "body": f"keep this: {encoded}".encode() + b" " * 70_000},
    ]
    for request in requests:
        with raising("invalid_request") as refused:
            await call(api, **request)
        assert TOKEN not in refused.value.message
    assert vendor(api).api_requests == []
    assert TOKEN not in str(await api.trail())


async def test_who_may_not_use_the_provider_may_not_call_its_api(api: Product) -> None:
    with raising("unknown_provider"):
        await call(api, provider="absent")
    with raising("unsupported_flow"):
        await call(api, flow="USER_FEDERATION")
    await api.update(disabled=True)
    with raising("access_denied"):
        await call(api)
    assert vendor(api).requests == vendor(api).api_requests == []


# The trail


async def test_a_call_is_written_down_before_it_leaves_and_after_it_was_answered(api: Product) -> None:
    before: list[dict[str, str]] = []
    portal: list[Any] = []

    def respond(_request: HttpRequest) -> HttpResponse:
        before.extend(portal)
        return text("no", 404)

    script(api, respond)
    await answer(api, f"{API}/items/7?code=s3cret-query", "DELETE")
    begun, answered = [event for event in await api.trail() if event.action == "call_api"]
    assert begun.detail == {"step": "begun", "method": "DELETE", "host": "api.example.com", "path": "/items/7"}
    assert answered.detail == {**begun.detail, "step": "answered", "status": "404"}
    assert (begun.provider, begun.scopes, begun.workload) == ("idp", ("read",), "agent")
    assert begun.correlation_id == answered.correlation_id
    assert "s3cret-query" not in str(await api.trail())


async def test_without_a_trail_nothing_is_sent(api: Product) -> None:
    await answer(api)
    await api.sql("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'broken'); END")
    with raising("audit_unavailable"):
        await call(api)
    assert len(vendor(api).api_requests) == 1


async def test_a_call_that_fails_is_written_down_with_where_it_went(api: Product) -> None:
    vendor(api).failure = UpstreamUnavailable("no answer in time")
    with raising("upstream_unavailable"):
        await call(api)
    events = [event for event in await api.trail() if event.action == "call_api"]
    assert [(event.outcome, event.detail["step"]) for event in events] == [("ok", "begun"), ("upstream_unavailable", "failed")]


async def test_a_refusal_says_to_which_host_the_call_would_have_gone(api: Product) -> None:
    with raising("url_refused"):
        await call(api, "https://evil.example.com/steal?x=s3cret")
    (event,) = [event for event in await api.trail() if event.action == "call_api"]
    assert event.detail == {"method": "GET", "host": "evil.example.com"}


# What comes back


@pytest.mark.parametrize(
    "echo",
    [
        TOKEN,
        f'{{"auth":"Bearer {TOKEN}"}}',
        base64.b64encode(f"x:{TOKEN}!".encode()).decode(),
        TOKEN.replace("-", "%2D"),
        TOKEN.replace("-", "\\u002d"),
        TOKEN.replace("-", "\u200b-\u202e"),
        "\ufeff".join(TOKEN),
    ],
)
async def test_an_echoed_credential_is_taken_out_and_written_down(api: Product, echo: str) -> None:
    """Covers: A11, A12."""
    script(api, text(f"before {echo} after", location=f"{API}/x", etag=f'"{TOKEN}"', content_type="application/json"))
    found = await answer(api)
    assert found.text == "before [credential removed] after" or (found.text or "").count("[credential removed]") == 1
    assert found.echoed
    assert found.headers["etag"] == '"[credential removed]"'
    assert TOKEN not in str((found.text, found.headers))
    assert TOKEN not in str(await api.trail())
    assert (await api.trail())[-1].detail["credential_echoed"] == "2"


async def test_bytes_come_back_as_bytes_unless_the_credential_stands_in_them(api: Product) -> None:
    picture = bytes(range(256)) * 300
    script(api, HttpResponse(200, {"content-type": "image/png"}, picture))
    found = await answer(api)
    assert (found.text, found.data, found.is_withheld) == (None, picture, False)
    for hidden in (TOKEN.encode(), TOKEN.encode("utf-16-le")):
        script(api, HttpResponse(200, {"content-type": "application/octet-stream"}, picture + hidden + picture))
        found = await answer(api)
        assert (found.text, found.data, found.is_withheld, found.echoed) == (None, None, True, True)
        assert (await api.trail())[-1].detail["credential_echoed"] == "withheld"


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain; charset=iso-8859-1", b"caf\xe9", "café"),
        ("text/html; charset=utf-16", "café".encode("utf-16"), "café"),
        ("application/problem+json", b'{"a":"b\xc3\xa9"}', '{"a":"bé"}'),
        ("text/plain", b"a\xff\x1b[31mb\xe2\x80\xaec", "a\ufffd[31mbc"),
        ("", b"plain", "plain"),
        ("application/json", b"", ""),
    ],
)
async def test_text_is_decoded_and_cleaned(api: Product, content_type: str, body: bytes, expected: str) -> None:
    script(api, HttpResponse(200, {"content-type": content_type} if content_type else {}, body))
    assert (await answer(api)).text == expected


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-7", "text/plain; charset=nonsense", "application/zip", ""])
async def test_what_cannot_be_read_as_text_is_bytes(api: Product, content_type: str) -> None:
    script(api, HttpResponse(200, {"content-type": content_type}, b"+AGEA\xff"))
    assert (await answer(api)).data == b"+AGEA\xff"


async def test_of_the_headers_only_those_on_the_list_are_told(api: Product) -> None:
    told: dict[str, Any] = {"x_ratelimit_remaining": "7", "link": "</p2>; rel=next", "date": "now\u202e", "retry_after": "5"}
    script(api, text("", set_cookie="session=1", www_authenticate="Bearer", x_internal="1", server="x", **told))
    headers = (await answer(api)).headers
    assert headers == {
        "content-type": "text/plain",
        "x-ratelimit-remaining": "7",
        "link": "</p2>; rel=next",
        "date": "now",
        "retry-after": "5",
    }


async def test_an_answer_that_is_too_large_is_cut_and_never_within_the_credential(api: Product) -> None:
    cut = HttpResponse(200, {"content-type": "text/plain"}, b"x" * 1000 + TOKEN[:10].encode(), is_cut=True)
    script(api, cut)
    found = await answer(api)
    assert found.is_cut
    assert TOKEN[:3] not in (found.text or "")
    script(api, replace(cut, headers={"content-type": "image/png"}))
    assert TOKEN[:3].encode() not in ((await answer(api)).data or b"")


# Redirects


def redirect(location: str, status: int = 302) -> HttpResponse:
    return text("moved", status, location=location)


async def test_a_redirect_on_the_api_hosts_is_followed_and_each_step_decided_and_written_down(api: Product) -> None:
    script(api, redirect("/b"), redirect(f"{API}/c?x=1", 307), text("there"))
    found = await answer(api)
    assert (found.text, found.url) == ("there", f"{API}/c")
    assert [request.url for request in vendor(api).api_requests] == [f"{API}/items", f"{API}/b", f"{API}/c?x=1"]
    steps = [(event.detail["step"], event.detail["path"]) for event in await api.trail() if event.action == "call_api"]
    assert steps == [
        ("begun", "/items"),
        ("redirected", "/items"),
        ("begun", "/b"),
        ("redirected", "/b"),
        ("begun", "/c"),
        ("answered", "/c"),
    ]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_only_reading_follows_redirects(api: Product, method: str, status: int) -> None:
    script(api, redirect("/b", status))
    found = await answer(api, method=method)
    assert (found.status, found.headers["location"], len(vendor(api).api_requests)) == (status, "/b", 1)


async def test_redirects_end_after_three(api: Product) -> None:
    script(api, redirect("/again"))
    assert (await answer(api)).status == 302
    assert len(vendor(api).api_requests) == 4


@pytest.mark.parametrize(
    "location",
    ["https://evil.example/", "//evil.example/", f"{API}.evil.example/", f"{API}:444/", "http://api.example.com/",
     "http://127.0.0.1/", "https://169.254.169.254/latest/meta-data/", "file:///etc/passwd", f"{API}/a/%2e%2e/b",
     f"{ISSUER}/token", "/x#y", "\\\\evil",
     f"/b?access_token={TOKEN}", f"/b?t={TOKEN}"],
)  # fmt: skip
async def test_a_redirect_off_the_api_hosts_is_the_answer_and_is_not_followed(api: Product, location: str) -> None:
    """Covers: A09, A22."""
    script(api, redirect(location))
    found = await answer(api)
    assert found.status == 302
    assert len(vendor(api).api_requests) == 1
    assert TOKEN not in found.headers["location"]


# 401


async def test_a_refused_token_is_renewed_once_and_the_request_repeated(api: Product) -> None:
    await answer(api)
    api.clock.advance(61)
    script(api, text("expired", 401), text("welcome"))
    assert (await answer(api)).text == "welcome"
    assert vendor(api).bearers == [f"Bearer access-token-canary-{number}" for number in (1, 1, 2)]
    steps = [event.detail["step"] for event in await api.trail() if event.action == "call_api"]
    assert steps == ["begun", "answered", "begun", "repeated", "begun", "answered"]


async def test_an_api_that_keeps_refusing_causes_one_refresh_in_a_minute(api: Product) -> None:
    await answer(api)
    api.clock.advance(61)
    script(api, text("no", 401))
    for _ in range(5):
        assert (await answer(api)).status == 401
    assert vendor(api).count("client_credentials") == 2
    assert len(vendor(api).api_requests) == 1 + 2 + 4
    api.clock.advance(61)
    await answer(api)
    assert vendor(api).count("client_credentials") == 3


async def test_a_token_that_was_just_obtained_is_not_renewed(api: Product) -> None:
    script(api, text("no", 401))
    assert (await answer(api)).status == 401
    assert vendor(api).count("client_credentials") == 1


async def test_what_may_have_been_processed_is_not_repeated_but_the_token_is_renewed(api: Product) -> None:
    await answer(api)
    api.clock.advance(61)
    script(api, text("no", 401))
    found = await answer(api, method="POST", body=b"{}")
    assert (found.status, found.renewed) == (401, True)
    assert len(vendor(api).api_requests) == 2
    assert vendor(api).count("client_credentials") == 2


async def test_a_vendor_that_cannot_renew_leaves_the_answer_as_it_was(api: Product) -> None:
    await answer(api)
    api.clock.advance(61)
    script(api, text("no", 401))
    vendor(api).refuses_connections = True
    found = await answer(api)
    assert (found.status, found.renewed) == (401, False)


async def test_a_refused_token_whose_refresh_is_refused_too_needs_the_user(federated: Product) -> None:
    await answer(federated, scopes=("read",))
    federated.clock.advance(61)
    script(federated, text("no", 401))
    vendor(federated).answer = respond_json({"error": "invalid_grant"}, 400)
    found = await call(federated, scopes=("read",))
    assert isinstance(found, ConsentRequired)
    assert found.reason is Reason.REFRESH_REJECTED


# 403 and consent


def insufficient(scope: str, error: str = "insufficient_scope") -> HttpResponse:
    return text("no", 403, www_authenticate=f'Bearer realm="x", error="{error}", scope="{scope}"')


async def test_a_call_without_a_grant_gives_the_link(product: Product) -> None:
    await product.add(api_hosts=(API,), release="never")
    found = await call(product)
    assert isinstance(found, ConsentRequired)
    assert (found.reason, vendor(product).api_requests) == (Reason.NO_GRANT, [])
    await product.consent(found)
    assert (await answer(product)).status == 200


async def test_a_scope_that_the_api_misses_is_asked_for_where_the_provider_has_it(federated: Product) -> None:
    """Covers: A25."""
    script(federated, insufficient("write admin:everything"))
    found = await call(federated, scopes=("read",))
    assert isinstance(found, ConsentRequired)
    assert (found.reason, found.missing_scopes) == (Reason.MISSING_SCOPES, ("write",))
    await federated.consent(found)
    assert (await federated.grant()).tokens is not None
    script(federated, text("done"))
    assert (await answer(federated, scopes=("read",))).text == "done"


@pytest.mark.parametrize(
    "refusal",
    [
        insufficient("admin:everything"),
        insufficient("read"),
        insufficient("write", error="invalid_token"),
        text("no", 403),
        text("no", 403, www_authenticate='Basic error="insufficient_scope", scope="write"'),
        replace(insufficient("write"), status=400),
    ],
)
async def test_any_other_refusal_is_the_answer(federated: Product, refusal: HttpResponse) -> None:
    script(federated, refusal)
    assert (await answer(federated, scopes=("read",))).status == refusal.status


async def test_a_scope_that_the_user_declined_is_not_asked_for_again(federated: Product) -> None:
    script(federated, insufficient("write"))
    vendor(federated).granted = ("read",)
    found = await call(federated, scopes=("read",))
    assert isinstance(found, ConsentRequired)
    await federated.consent(found)
    assert (await answer(federated, scopes=("read",))).status == 403


async def test_a_token_of_the_client_itself_never_answers_for_a_user(product: Product) -> None:
    """Covers: A26."""
    await product.add(flows="both", api_hosts=(API,), release="never")
    await answer(product, flow="M2M")
    with raising("unsupported_flow"):
        await call(product)
    assert isinstance(await call(product, flow="USER_FEDERATION"), ConsentRequired)


# API keys


async def add_key(product: Product, *, key: str = "api-key-canary", **settings: str) -> None:
    spec = ProviderSpec(vendor="api-key", secret=Secret(key), release="never", api_hosts=(API,), settings=settings)
    await product.broker.directory.add(product.call("add_provider"), "idp", spec)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({}, "Authorization", "Bearer api-key-canary"),
        ({"name": "X-Api-Key", "prefix": ""}, "X-Api-Key", "api-key-canary"),
        ({"prefix": "Token"}, "Authorization", "Token api-key-canary"),
        ({"placement": "basic"}, "Authorization", "Basic " + base64.b64encode(b"api-key-canary:").decode()),
        (
            {"placement": "basic", "username": "api"},
            "Authorization",
            "Basic " + base64.b64encode(b"api:api-key-canary").decode(),
        ),
    ],
)
async def test_a_key_goes_where_the_provider_says(product: Product, settings: dict[str, str], name: str, value: str) -> None:
    await add_key(product, **settings)
    script(product, lambda request: text(str(dict(request.headers))))
    found = await answer(product)
    assert vendor(product).api_requests[0].headers == {name: value}
    assert "api-key-canary" not in (found.text or "")
    assert value.removeprefix("Basic ")[:12] not in (found.text or "")
    with raising("invalid_request"):
        await call(product, headers=((name, "x"),))


async def test_a_key_in_the_query_is_on_the_wire_and_nowhere_else(product: Product) -> None:
    await add_key(product, placement="query", name="key", key="a key/with+odd&signs")
    script(product, lambda request: text(f"you asked {request.url}", location=request.url))
    found = await answer(product, f"{API}/items?q=1")
    assert vendor(product).api_requests[0].url == f"{API}/items?q=1&key=a%20key%2Fwith%2Bodd%26signs"
    assert "odd" not in str((found.text, found.headers, found.url)) + str(await product.trail())
    requests: list[dict[str, Any]] = [{"query": (("key", "x"),)}, {"url": f"{API}/?KEY=x"}, {"url": f"{API}/?k%65y=x"}]
    for request in requests:
        with raising("invalid_request"):
            await call(product, **request)


async def test_a_key_has_no_scopes_and_a_401_is_the_answer(product: Product) -> None:
    await add_key(product)
    wrongs: list[dict[str, Any]] = [{"scopes": ("read",)}, {"flow": "M2M"}, {"audience": "x"}]
    for wrong in wrongs:
        with raising("invalid_request"):
            await call(product, **wrong)
    script(product, text("no", 401))
    assert (await answer(product)).status == 401
    assert len(vendor(product).api_requests) == 1


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection"])
async def test_a_key_does_not_go_into_a_header_of_the_connection(product: Product, name: str) -> None:
    with raising("invalid_request"):
        await add_key(product, name=name)


async def test_a_key_that_no_header_takes_is_not_sent(product: Product) -> None:
    await add_key(product, key="clé-canary")
    with raising("provider_misconfigured"):
        await call(product)
    assert vendor(product).api_requests == []


async def test_a_key_does_not_follow_an_api_host_that_moved(product: Product) -> None:
    await add_key(product)
    _, cleared = await product.update(api_hosts=("https://elsewhere.example",))
    assert cleared
    with raising("provider_misconfigured"):
        await call(product, "https://elsewhere.example/")


# A host of each customer's own


@pytest.fixture
async def salesforce(product: Product) -> Product:
    settings = {"domain": "acme.my.salesforce.com"}
    spec = ProviderSpec(
        vendor="salesforce",
        client_id="the-client",
        secret=Secret("the-client-secret-canary"),
        settings=settings,
        release="never",
    )
    await product.broker.directory.add(product.call(), "idp", spec)
    return product


async def connect(product: Product, instance_url: str) -> None:
    """A user of this customer consents."""
    found = await product.broker.directory.get("default", "idp")
    consent = await call(product, "", path="/services/data", flow=USER)
    assert isinstance(consent, ConsentRequired)
    pressed = await product.press(consent)
    sent: dict[str, Any] = {
        "access_token": TOKEN,
        "token_type": "Bearer",
        "instance_url": instance_url,
        "refresh_token": "r" * 20,
    }

    def respond(request: HttpRequest) -> HttpResponse:
        return respond_json(sent) if request.url.endswith("/services/oauth2/token") else text("data")

    vendor(product).respond_api = respond
    state = dict(part.split("=", 1) for part in pressed.url.partition("?")[2].split("&"))["state"]
    await product.broker.receive_callback(found.provider_id, [("code", "c"), ("state", state)], pressed.cookies)


async def test_a_customers_own_host_is_fixed_when_the_user_consents(salesforce: Product) -> None:
    own = "https://acme.my.salesforce.com"
    await connect(salesforce, own)
    assert (await answer(salesforce, "", path="/services/data", flow=USER)).text == "data"
    assert (await answer(salesforce, f"{own}/services/data", flow=USER)).url == f"{own}/services/data"
    for url in (
        "https://other.my.salesforce.com/services/data",
        f"{own}/services/oauth2/userinfo",
        f"{own}/services/Soap/u/60.0",
    ):
        with raising("url_refused"):
            await call(salesforce, url, flow=USER)
    # What a refresh says of another host moves nothing.
    salesforce.clock.advance(100_000)
    moved = {"access_token": "second-canary", "token_type": "Bearer", "instance_url": "https://evil.my.salesforce.com"}
    vendor(salesforce).respond_api = lambda request: respond_json(moved) if "oauth2" in request.url else text("data")
    assert (await answer(salesforce, "", path="/services/data", flow=USER)).url == f"{own}/services/data"
    with raising("url_refused"):
        await call(salesforce, "https://evil.my.salesforce.com/", flow=USER)


@pytest.mark.parametrize(
    "url", ["https://evil.example", "http://acme.my.salesforce.com", "https://salesforce.com.evil.example", ""]
)
async def test_a_host_that_is_none_of_the_vendors_is_called_by_nobody(salesforce: Product, url: str) -> None:
    await connect(salesforce, url)
    for request in ({"url": "", "path": "/services/data"}, {"url": f"{url or 'https://evil.example'}/services/data"}):
        with raising("url_refused"):
            await call(salesforce, **request, flow=USER)


# Over a real wire


@pytest.fixture
async def wired(product: Product) -> AsyncGenerator[tuple[Product, HostileServer]]:
    """The product, whose provider's API is a server on this machine, over the product's own transport."""
    async with hostile_server(Script(headers=(("Content-Type", "text/plain"),))) as server, Transport() as wire:
        await product.add(
            flows="M2M", api_hosts=(f"http://127.0.0.1:{server.port}",), allow_http_loopback=True, release="never"
        )
        vendor(product).wire = wire
        yield product, server


async def test_an_echo_is_found_across_every_border_of_chunks(wired: tuple[Product, HostileServer]) -> None:
    product, server = wired
    whole = f"..{TOKEN}..".encode()
    for at in range(len(whole) + 1):
        chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (whole[:at], whole[at:]) if part)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        server.script = Script(raw=head + chunks + b"0\r\n\r\n")
        assert (await answer(product, f"http://127.0.0.1:{server.port}/")).text == "..[credential removed].."


async def test_a_body_without_end_is_cut_at_ten_mebibytes(wired: tuple[Product, HostileServer]) -> None:
    product, server = wired
    server.script = Script(headers=(("Content-Type", "text/plain"),), huge_body_bytes=12 << 20)
    found = await answer(product, f"http://127.0.0.1:{server.port}/")
    assert found.is_cut
    assert MAXIMUM_BODY_BYTES - 1024 < len(found.text or "") <= MAXIMUM_BODY_BYTES
    server.script = Script(headers=(("Content-Type", "text/plain"),), gzip_bomb_bytes=64 << 20)
    found = await answer(product, f"http://127.0.0.1:{server.port}/")
    assert found.is_cut
    assert len(found.text or "") <= MAXIMUM_BODY_BYTES


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_every_method_goes_over_the_wire(wired: tuple[Product, HostileServer], method: str) -> None:
    product, server = wired
    server.script = Script(body=b"" if method == "HEAD" else b"x", headers=(("Content-Type", "text/plain"),))
    body = None if method in ("GET", "HEAD") else b"{}"
    assert (await answer(product, f"http://127.0.0.1:{server.port}/a?b=c", method, body=body)).status == 200
    assert server.requests[-1].startswith(f"{method} /a?b=c HTTP/1.1\r\n".encode())


async def test_no_forbidden_url_makes_a_connection(wired: tuple[Product, HostileServer]) -> None:
    """Covers: A09."""
    product, _ = wired
    assert len(FORBIDDEN_URLS) >= 80
    async with hostile_server() as canary:
        for url in FORBIDDEN_URLS:
            for each in (url, url.replace("127.0.0.1/", f"127.0.0.1:{canary.port}/")):
                with raising("url_refused" if each else "invalid_request"):
                    await call(product, each)
        assert canary.connections == 0


REBINDINGS: list[list[list[str]]] = [
    [["127.0.0.1"]],
    [["8.8.8.8", "127.0.0.1"]],
    [["169.254.169.254"]],
    [["::1"]],
    [["::ffff:127.0.0.1"]],
    [["64:ff9b::7f00:1"]],
    [["10.0.0.1"], ["127.0.0.1"]],
    [["0.0.0.0"]],  # noqa: S104 - an address that must be refused
    [["fe80::1%eth0"]],
    [["127.0.0.1", "8.8.8.8"]],
]


@pytest.mark.parametrize("answers", REBINDINGS)
async def test_a_name_of_an_api_that_leads_inside_makes_no_connection(product: Product, answers: list[list[str]]) -> None:
    """Covers: A09."""
    rest = list(answers)

    async def resolver(_host: str, _port: int) -> list[str]:
        return rest.pop(0) if len(rest) > 1 else rest[0]

    async with hostile_server() as canary, Transport(resolver=resolver) as wire:
        await product.add(flows="M2M", api_hosts=(f"https://api.example.com:{canary.port}",), release="never")
        vendor(product).wire = wire
        for _ in range(2):
            with raising("url_refused"):
                await call(product, f"https://api.example.com:{canary.port}/latest/meta-data")
        assert canary.connections == 0


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "//127.0.0.1:{port}/", "http://[::1]:{port}/", "http://2130706433:{port}/",
     "http://127.1:{port}/", "https://127.0.0.1:{port}/", "http://x@127.0.0.1:{port}/", "http://127.0.0.1.:{port}/",
     "http://api.example.com:{port}/", "\\\\127.0.0.1:{port}\\"],
)  # fmt: skip
async def test_a_redirect_to_somewhere_inside_makes_no_connection(wired: tuple[Product, HostileServer], location: str) -> None:
    """Covers: A09."""
    product, server = wired
    async with hostile_server() as canary:
        server.script = Script(status=302, body=b"", headers=(("Location", location.format(port=canary.port)),))
        assert (await answer(product, f"http://127.0.0.1:{server.port}/")).status == 302
        assert (canary.connections, server.connections) == (0, 1)


async def test_calls_of_many_at_once_obtain_one_token(api: Product) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(answer, api)
    assert vendor(api).count("client_credentials") == 1
    assert len(vendor(api).api_requests) == 20
