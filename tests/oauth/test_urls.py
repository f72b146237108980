"""The syntactic rules for endpoints: one strict reading, and what two parsers could read differently is refused."""

from __future__ import annotations

import pytest

from mcp_identity.domain.errors import InvalidTarget, UrlRefused
from mcp_identity.oauth.urls import check_resource, check_url, is_loopback_host

REFUSED = [
    "", " ", "x", "/authorize", "//idp.example.com/", "idp.example.com/authorize", "https", "https:", "https:/", "https://",
    "https:///x", "https:idp.example.com", "https:/idp.example.com", "http://idp.example.com/", "http://10.0.0.1/",
    "javascript:alert(1)", "JavaScript:alert(1)", "java\nscript:alert(1)", "javascript://idp.example.com/%0aalert(1)",
    "data:text/html,<script>", "file:///etc/passwd", "vbscript:x", "about:blank", "blob:https://idp.example.com/x",
    "ftp://idp.example.com/", "ws://idp.example.com/", "wss://idp.example.com/", "mailto:a@b.example", "tel:1", "ssh://x/",
    "-https://idp.example.com/", "--help", "-x", "https://-idp.example.com/", "https://idp-.example.com/",
    " https://idp.example.com/", "https://idp.example.com/ ", "https://idp.example.com/a b", "https://idp.example.com/\n",
    "https://idp.example.com/\r\nX: y", "https://idp.example.com/\t", "https://idp.example.com/\x00", "\x00https://x.example/",
    "https://idp.example.com/#", "https://idp.example.com/#x", "https://idp.example.com#@evil.example/",
    "https://user@idp.example.com/", "https://user:secret@idp.example.com/", "https://@idp.example.com/",
    "https://idp.example.com@evil.example/", "https://idp.example.com\\@evil.example/", "https:\\\\idp.example.com/",
    "https://idp.example.com\\.evil.example/", "https://bücher.example/", "https://idp\u3002example.com/",
    "https://ⓘdp.example.com/", "https://idp.example.com/ü", "https://idp.example.com/\u202e", "https://idp%2eexample.com/",
    "https://idp.example.com./", "https://.example.com/", "https://idp..example.com/", "https://idp_-.example.com/",
    "https://[::1", "https://::1/", "https://[::1]x/", "https://[127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://[v1.x]/",
    "https://127.1/", "https://2130706433/", "https://0x7f.1/", "https://0177.0.0.1/", "https://1.2.3.4.5/", "https://256.1.1.1/",
    "https://idp.example.com:/", "https://idp.example.com:0/", "https://idp.example.com:65536/", "https://idp.example.com:x/",
    "https://idp.example.com:-1/", "https://idp.example.com/<", 'https://idp.example.com/"', "https://idp.example.com/`",
    "https://idp.example.com/{tenant}", "https://idp.example.com/a|b", "https://idp.example.com/a^b",
    f"https://{'a' * 64}.example/", f"https://idp.example.com/{'a' * 2048}",
]  # fmt: skip
ACCEPTED = [
    "https://idp.example.com", "https://idp.example.com/", "https://idp.example.com:8443/a/b?c=d&e=%20", "https://xn--bcher-kva.example/",
    "https://192.0.2.1/", "https://[2001:db8::1]/", "https://[2001:db8::1]:8443/x", "https://my_idp.example/", "https://localhost/",
    "https://idp.example.com/a;b=c", "https://idp.example.com?x=y",
]  # fmt: skip
LOOPBACK = ["http://localhost/", "http://localhost:8080/x", "http://127.0.0.1:9/", "http://127.1.2.3/", "http://[::1]:8080/"]


@pytest.mark.parametrize("url", REFUSED)
def test_what_could_be_read_in_two_ways_or_is_not_https_is_refused(url: str) -> None:
    for allow in (False, True):
        with pytest.raises(UrlRefused) as refusal:
            check_url(url, allow_http_loopback=allow)
        assert refusal.value.code == "url_refused"
        assert "secret" not in refusal.value.message


@pytest.mark.parametrize("url", ACCEPTED)
def test_an_https_url_passes_unchanged(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize("url", LOOPBACK)
def test_http_passes_for_a_literal_loopback_host_where_it_is_allowed(url: str) -> None:
    assert check_url(url, allow_http_loopback=True) == url
    with pytest.raises(UrlRefused):
        check_url(url)


@pytest.mark.parametrize("host", ["localhost.evil.example", "127.0.0.1.evil.example", "128.0.0.1", "::2", "evil.example", ""])
def test_a_host_that_looks_like_loopback_is_not(host: str) -> None:
    assert not is_loopback_host(host)


@pytest.mark.parametrize("resource", ["https://api.example.com/mcp", "urn:example:api", "api://1234", "https://x/?a=b"])
def test_a_resource_is_an_absolute_uri(resource: str) -> None:
    assert check_resource(resource) == resource


@pytest.mark.parametrize(
    "resource", ["", "api", "/api", "https://x/#f", "https://x/ y", "https://x/\n", "1x:y", "x:", "https:" + "x" * 2048]
)
def test_anything_else_is_no_resource(resource: str) -> None:
    with pytest.raises(InvalidTarget) as refusal:
        check_resource(resource)
    assert refusal.value.code == "invalid_target"


def test_the_option_for_http_is_named_only_where_it_helps() -> None:
    for url, named in (("http://127.0.0.1:8000", True), ("http://idp.example.com", False)):
        with pytest.raises(UrlRefused) as refusal:
            check_url(url)
        assert ("--allow-http-loopback" in refusal.value.message) is named
