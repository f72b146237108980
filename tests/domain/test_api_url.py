"""Is there one way, and only one, to read an API's address?"""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.api_url import ApiUrl, customer_origin, parse_api_url, parse_origin, path_matches, same_path
from mcp_identity.domain.errors import UrlRefused
from tests.transport.test_addresses import FORBIDDEN_URLS

HOST = "https://api.example.com"
REFUSED = [
    # user information, fragments, backslashes, white space, control characters
    "https://user@api.example.com/", "https://user:secret@api.example.com/", "https://@api.example.com/",
    "https://api.example.com@evil.example/", f"{HOST}/#x", f"{HOST}#@evil.example/", f"{HOST}\\@evil.example/", f"{HOST}/a\\b",
    f"{HOST}/a b", f"{HOST}/a\tb", f"{HOST}/a\r\nHost: evil.example", f"{HOST}/\x00", f"{HOST}/a\x7f", f" {HOST}/", f"{HOST}/ ",
    # dot segments, plain, encoded, doubly encoded, with parameters, and what only looks like a dot or a slash
    f"{HOST}/.", f"{HOST}/..", f"{HOST}/a/../b", f"{HOST}/a/./b", f"{HOST}/a/..;/b", f"{HOST}/a/..;x=y/b", f"{HOST}/..%3b/b",
    f"{HOST}/%2e%2e/b", f"{HOST}/.%2E/b", f"{HOST}/%2e", f"{HOST}/a%2fb", f"{HOST}/a%2Fb", f"{HOST}/a%5cb", f"{HOST}/%252e/b",
    f"{HOST}/a%252fb", f"{HOST}/a%25252fb", f"{HOST}/%25%32e/b", f"{HOST}/a%00b", f"{HOST}/a%0d%0ab",
    f"{HOST}/a%7fb", f"{HOST}/%c0%af", f"{HOST}/%c0%ae", f"{HOST}/%ef%bc%8f", f"{HOST}/%ef%bc%8e%ef%bc%8e/b", f"{HOST}/%ff",
    # malformed percent-encoding, characters that RFC 3986 does not have, names outside ASCII
    f"{HOST}/%", f"{HOST}/%2", f"{HOST}/%zz", f"{HOST}/<x>", f'{HOST}/"x"', f"{HOST}/{{x}}", f"{HOST}/ü", f"{HOST}/?q=ü",
    f"{HOST}/?q=%zz", "https://bücher.example/", "https://api.ex\u0430mple.com/", "https://api。example.com/", "https://ⓐpi.example/",
    # schemes and hosts
    "http://api.example.com/", "HTTPS://api.example.com/", "ftp://api.example.com/", "https:api.example.com",
    "//api.example.com/",
    "api.example.com/", "/path", "", "https://", "https:///", "https://.example.com/", "https://api..example.com/",
    "https://api.example.com./", "https://-/", "https://api.example.com:/", "https://api.example.com:0/",
    "https://api.example.com:00443/", "https://api.example.com:65536/", "https://api.example.com:4a3/",
    "https://2130706433/", "https://127.1/", "https://0x7f.1/", "https://0177.0.0.1/", "https://[::1", "https://[api]/",
    "https://[127.0.0.1]/", "https://[::1]x/", f"{HOST}/" + "a" * 8200,
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_what_two_parsers_could_read_differently_is_refused(url: str) -> None:
    """Covers: A09."""
    with pytest.raises(UrlRefused) as refused:
        parse_api_url(url)
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "origin", "path", "query"),
    [
        (HOST, HOST, "/", ""),
        (f"{HOST}:443/a?b=c", HOST, "/a", "b=c"),
        (f"{HOST}:8443/a/", f"{HOST}:8443", "/a/", ""),
        ("https://API.Example.COM/A", HOST, "/A", ""),
        (f"{HOST}/a.b/.well-known/c..d", HOST, "/a.b/.well-known/c..d", ""),
        (f"{HOST}//a//b?c=d%2F..%2Fe&f[]=1", HOST, "//a//b", "c=d%2F..%2Fe&f[]=1"),
        (f"{HOST}/%C3%BC%20%25/x;y=z@1", HOST, "/%C3%BC%20%25/x;y=z@1", ""),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example", "/", ""),
        ("https://192.0.2.1/", "https://192.0.2.1", "/", ""),
        ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443", "/", ""),
    ],
)
def test_a_plain_url_is_read_as_it_stands(url: str, origin: str, path: str, query: str) -> None:
    assert parse_api_url(url) == ApiUrl(origin, path, query)


def test_http_is_for_literal_loopback_alone_and_only_where_it_is_allowed() -> None:
    for host in ("127.0.0.1:9000", "localhost:9000", "[::1]:9000"):
        with pytest.raises(UrlRefused):
            parse_api_url(f"http://{host}/")
        assert parse_api_url(f"http://{host}/", http=True).origin == f"http://{host}"
    with pytest.raises(UrlRefused):
        parse_api_url("http://api.example.com/", http=True)


def test_a_query_is_never_shown() -> None:
    assert "s3cret" not in repr(parse_api_url(f"{HOST}/a?code=s3cret"))


@pytest.mark.parametrize("url", FORBIDDEN_URLS)
def test_what_the_transport_refuses_is_no_api_host_of_a_name(url: str) -> None:
    try:
        found = parse_api_url(url)
    except UrlRefused:
        return
    assert found.origin != HOST  # a literal address, perhaps, which is nobody's API host


SAFE = st.text("abcXYZ019-._~!$&'()*+,=:@", min_size=1, max_size=8).filter(lambda text: text.strip(".") != "")
ANY = st.text(min_size=0, max_size=12)


@given(st.lists(SAFE, max_size=5), ANY, ANY)
def test_every_parser_reads_what_is_accepted_in_the_same_way(segments: list[str], name: str, value: str) -> None:
    text = f"{HOST}/{'/'.join(segments)}?{quote(name, safe='')}={quote(value, safe='')}"
    found = parse_api_url(text)
    theirs, httpx = urlsplit(found.text), httpx2.URL(found.text)
    assert (theirs.scheme, theirs.netloc, theirs.path, theirs.query) == ("https", "api.example.com", found.path, found.query)
    assert (httpx.host, httpx.raw_path.decode().partition("?")[0]) == ("api.example.com", found.path)
    assert parse_api_url(found.text) == found


@given(st.text(max_size=40))
def test_whatever_is_accepted_stays_on_its_host_and_climbs_nowhere(tail: str) -> None:
    try:
        found = parse_api_url(HOST + tail)
    except UrlRefused:
        return
    assert urlsplit(found.text).hostname == httpx2.URL(found.text).host
    decoded = found.path
    for _ in range(3):
        decoded = unquote(decoded)
        assert ".." not in decoded.split("/")


@given(ANY, ANY)
def test_added_parameters_are_encoded_and_add_nothing_else(name: str, value: str) -> None:
    url = parse_api_url(f"{HOST}/a?x=1").with_query([(name, value)])
    assert (url.origin, url.path) == (HOST, "/a")
    assert url.query.count("&") == 1
    assert name.encode("utf-8", "surrogatepass").decode("utf-8", "replace").lower() in url.parameter_names


# Redirects


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b", f"{HOST}/b"),
        ("c", f"{HOST}/a/c"),
        ("../c", f"{HOST}/c"),
        ("?x=1", f"{HOST}/a/b?x=1"),
        ("https://other.example/c", "https://other.example/c"),
        ("//other.example/c", "https://other.example/c"),
    ],
)
def test_a_redirect_is_read_from_where_it_stood(location: str, expected: str) -> None:
    assert parse_api_url(f"{HOST}/a/b").resolve(location).text == expected


@pytest.mark.parametrize(
    "location",
    ["http://api.example.com/", "javascript:alert(1)", "\\\\evil.example/", "/\\evil.example/", "/a\r\nX: y", "https://a@b/",
     "/%2e%2e/b", "https:evil.example", "http://127.0.0.1/", "file:///etc/passwd", "x" * 9000, "/b#c"],
)  # fmt: skip
def test_a_redirect_that_is_no_plain_url_leads_nowhere(location: str) -> None:
    with pytest.raises(UrlRefused):
        parse_api_url(f"{HOST}/a/b").resolve(location)


# Hosts


@pytest.mark.parametrize(
    "text", [f"{HOST}/", f"{HOST}/a", f"{HOST}?", f"{HOST}?a=b", "api.example.com", "http://api.example.com"]
)
def test_an_api_host_is_an_origin_and_nothing_more(text: str) -> None:
    with pytest.raises(UrlRefused):
        parse_origin(text)
    assert parse_origin("https://API.example.com:443") == HOST


@pytest.mark.parametrize(
    "url",
    ["https://acme.evil.example", "https://salesforce.com", "https://acme.salesforce.com.evil.example", "https://evilsalesforce.com",
     "http://acme.salesforce.com", "https://acme.salesforce.com:8443", "https://acme.salesforce.com/x", "https://a@acme.salesforce.com",
     "https://acme.salesforce.com?x=1", "https://acme.salesforce.com#.salesforce.com", "", "acme.salesforce.com"],
)  # fmt: skip
def test_a_customers_host_that_is_none_of_the_vendors_is_none(url: str) -> None:
    assert customer_origin(url, (".salesforce.com",)) == ""


def test_a_customers_host_is_the_vendors() -> None:
    for url in ("https://acme.my.salesforce.com", "https://ACME.my.salesforce.com/"):
        assert customer_origin(url, (".salesforce.com",)) == "https://acme.my.salesforce.com"
    assert customer_origin("https://acme.my.salesforce.com", ()) == ""


# Paths


@pytest.mark.parametrize(
    ("pattern", "method", "path"),
    [
        ("/services/oauth2/**", "GET", "/services/oauth2/token"),
        ("/services/oauth2/**", "POST", "/services/oauth2"),
        ("/services/oauth2/**", "POST", "/SERVICES//OAuth2;a=b/token/"),
        ("/services/oauth2/**", "POST", "/services/oauth%32/token"),
        ("/api/oauth.*", "GET", "/api/oauth.v2.access"),
        ("/**/introspect", "POST", "/a/b/introspec%74"),
        ("/**/introspect", "POST", "/introspect"),
        ("POST /user/keys", "POST", "/user/keys/"),
        ("/**/*:generateAccessToken", "POST", "/v1/projects/-/serviceAccounts/x:GenerateAccessToken"),
        ("/*/$batch", "POST", "/v1.0/$batch"),
        ("/*/$batch", "POST", "/v1.0/%24batch"),
    ],
)
def test_a_pattern_is_not_avoided_by_another_way_to_write_the_path(pattern: str, method: str, path: str) -> None:
    assert path_matches(pattern, method, path)


@pytest.mark.parametrize(
    ("pattern", "method", "path"),
    [
        ("/services/oauth2/**", "GET", "/services/oauth2x/token"),
        ("/api/oauth.*", "GET", "/api/oauth.v2/access"),
        ("POST /user/keys", "GET", "/user/keys"),
        ("/*/$batch", "POST", "/v1.0/me/$batch"),
        ("/api/a.b", "GET", "/api/axb"),
    ],
)
def test_a_pattern_matches_no_more_than_it_says(pattern: str, method: str, path: str) -> None:
    assert not path_matches(pattern, method, path)


def test_two_spellings_of_a_path_are_the_same_path() -> None:
    assert same_path("/oauth2/token", "/OAuth2//token;jsessionid=1/")
    assert not same_path("/oauth2/token", "/oauth2/tokens")
