"""Is a signed request believed exactly when the holder of the key signed just that, for us, now?

The signer is botocore's own. What is refused is told in one text for every reason; the reason is for the trail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.credentials import Secret
from mcp_identity.inbound.sigv4 import (
    NO_SESSIONS,
    REFUSED,
    Claim,
    Reason,
    SignatureRefused,
    SignedRequest,
    access_key_id_of,
    is_signed,
    read_claim,
    signing_key,
)
from tests.inbound.signing import HOST, KEY_ID, NOW, SECRET, TAGS_AND_POLICIES, URL, sent_by_clients, sign, time_of

HOSTS = frozenset({HOST, "identity.example.com", "identity.example.com:443"})
Change = Callable[[SignedRequest], SignedRequest]


def read(request: SignedRequest, now: datetime = NOW) -> Claim:
    return read_claim(request, now=now, hosts=HOSTS)


def is_ours(claim: Claim) -> bool:
    return is_signed(claim, signing_key(claim, Secret(SECRET)))


def accepts(request: SignedRequest, now: datetime = NOW) -> bool:
    try:
        return is_ours(read(request, now))
    except SignatureRefused:
        return False


def value_of(request: SignedRequest, name: bytes) -> bytes:
    return next(value for each, value in request.headers if each == name)


def with_header(request: SignedRequest, name: bytes, value: bytes) -> SignedRequest:
    """The header in place of what it was."""
    kept = tuple(header for header in request.headers if header[0] != name)
    return replace(request, headers=(*kept, (name, value)))


def without(request: SignedRequest, name: bytes) -> SignedRequest:
    return replace(request, headers=tuple(header for header in request.headers if header[0] != name))


def adding(name: bytes, value: bytes) -> Change:
    """The header beside what is there."""
    return lambda request: replace(request, headers=(*request.headers, (name, value)))


def setting(name: bytes, value: bytes) -> Change:
    return lambda request: with_header(request, name, value)


def dropping(name: bytes) -> Change:
    return lambda request: without(request, name)


def authorization(old: bytes, new: bytes) -> Change:
    """Something else in the Authorization header."""

    def change(request: SignedRequest) -> SignedRequest:
        given = value_of(request, b"authorization")
        assert old in given
        return with_header(request, b"authorization", given.replace(old, new))

    return change


def cut(at: int) -> Change:
    return lambda request: with_header(request, b"authorization", value_of(request, b"authorization")[:at])


def target(path: bytes | None = None, query: bytes | None = None) -> Change:
    def change(request: SignedRequest) -> SignedRequest:
        path_now = request.raw_path if path is None else path
        return replace(request, raw_path=path_now, raw_query=request.raw_query if query is None else query)

    return change


def body(new: bytes) -> Change:
    return lambda request: replace(request, body=new)


def method(new: str) -> Change:
    return lambda request: replace(request, method=new)


def signature_with(at: int) -> Change:
    """One digit of the signature is another one."""

    def change(request: SignedRequest) -> SignedRequest:
        head, _, signature = value_of(request, b"authorization").rpartition(b"=")
        digit = b"1" if signature[at : at + 1] == b"0" else b"0"
        return with_header(request, b"authorization", head + b"=" + signature[:at] + digit + signature[at + 1 :])

    return change


CHANGES: dict[str, tuple[Change, Reason | None]] = {
    "no authorization": (dropping(b"authorization"), Reason.UNSIGNED),
    "a bearer": (setting(b"authorization", b"Bearer mid_wk_x"), Reason.UNSIGNED),
    "an empty authorization": (setting(b"authorization", b""), Reason.UNSIGNED),
    "two authorizations": (adding(b"authorization", b"Bearer x"), Reason.TWO_AUTHORIZATIONS),
    "the same authorization twice": (
        lambda r: adding(b"authorization", value_of(r, b"authorization"))(r), Reason.TWO_AUTHORIZATIONS,
    ),
    "another algorithm": (authorization(b"AWS4-HMAC-SHA256", b"AWS4-HMAC-SHA512"), Reason.MALFORMED),
    "version 4a": (authorization(b"AWS4-HMAC-SHA256", b"AWS4-ECDSA-P256-SHA256"), Reason.MALFORMED),
    "no signature": (authorization(b", Signature=", b", Sig="), Reason.MALFORMED),
    "an empty signature": (lambda r: cut(value_of(r, b"authorization").rindex(b"=") + 1)(r), Reason.MALFORMED),
    "a signature in capitals": (
        lambda r: with_header(r, b"authorization", b"=".join([*value_of(r, b"authorization").split(b"=")[:-1], b"A" * 64])),
        Reason.MALFORMED,
    ),
    "two signatures": (authorization(b", Signature=", b", Signature=" + b"0" * 64 + b", Signature="), Reason.MALFORMED),
    "something behind": (lambda r: with_header(r, b"authorization", value_of(r, b"authorization") + b", x"), Reason.MALFORMED),
    "a line break": (authorization(b", Signature", b",\nSignature"), Reason.MALFORMED),
    "unicode digits": (authorization(b"Credential=MID", "Credential=\u041cID".encode()), Reason.MALFORMED),
    "a long authorization": (authorization(b"SignedHeaders=", b"SignedHeaders=" + b"a;" * 3000), Reason.TOO_LONG),
    "another terminator": (authorization(b"aws4_request", b"aws5_request"), Reason.MALFORMED),
    "another service": (authorization(b"/bedrock-agentcore/", b"/sts/"), Reason.SERVICE),
    "the control plane's name": (authorization(b"/bedrock-agentcore/", b"/bedrock-agentcore-control/"), Reason.SERVICE),
    "another region": (authorization(b"/eu-central-1/", b"/us-east-1/"), None),
    "no region": (authorization(b"/eu-central-1/", b"//"), Reason.MALFORMED),
    "a region with a slash": (authorization(b"/eu-central-1/", b"/eu/central/"), Reason.MALFORMED),
    "another day": (authorization(b"/20260101/", b"/20260102/"), Reason.DATE),
    "no day": (authorization(b"/20260101/", b"/2026/"), Reason.MALFORMED),
    "a key's name with a quote": (authorization(KEY_ID.encode(), b"MID' OR 1=1 --"), Reason.MALFORMED),
    "a short key's name": (authorization(KEY_ID.encode(), b"MID"), Reason.MALFORMED),
    "no date": (dropping(b"x-amz-date"), Reason.DATE),
    "Date alone": (
        lambda r: with_header(without(r, b"x-amz-date"), b"date", b"Thu, 01 Jan 2026 12:00:00 GMT"), Reason.DATE,
    ),
    "another second": (setting(b"x-amz-date", b"20260101T120001Z"), None),
    "two dates": (adding(b"x-amz-date", b"20260101T120000Z"), Reason.DUPLICATE),
    "a date that is none": (setting(b"x-amz-date", b"20260101T126099Z"), Reason.DATE),
    "a date in words": (setting(b"x-amz-date", b"today"), Reason.DATE),
    "a date with a zone": (setting(b"x-amz-date", b"20260101T120000+0000"), Reason.DATE),
    "the host is not signed": (authorization(b"content-type;host;", b"content-type;"), Reason.HEADERS),
    "the date is not signed": (authorization(b";host;x-amz-date", b";host"), Reason.HEADERS),
    "the content type is not signed": (authorization(b"content-type;host", b"host"), Reason.HEADERS),
    "headers out of order": (authorization(b"content-type;host", b"host;content-type"), Reason.MALFORMED),
    "a header named twice": (authorization(b"content-type;host", b"content-type;host;host"), Reason.MALFORMED),
    "names in capitals": (authorization(b"content-type;host", b"Content-Type;Host"), Reason.MALFORMED),
    "a signed header that is not there": (authorization(b"content-type;host", b"content-type;content-z;host"), Reason.HEADERS),
    "the authorization signs itself": (authorization(b"=content-type", b"=authorization;content-type"), Reason.HEADERS),
    "no signed header": (authorization(b"content-type;host;x-amz-date", b""), Reason.MALFORMED),
    "another host": (setting(b"host", b"evil.example.com"), Reason.HOST),
    "another host of ours": (setting(b"host", b"identity.example.com"), None),
    "no host": (dropping(b"host"), Reason.HEADERS),
    "two hosts": (adding(b"host", HOST.encode()), Reason.DUPLICATE),
    "another port": (setting(b"host", b"127.0.0.1:8001"), Reason.HOST),
    "another content type": (setting(b"content-type", b"text/plain"), None),
    "no content type": (dropping(b"content-type"), Reason.HEADERS),
    "two content types": (adding(b"content-type", b"application/json"), Reason.DUPLICATE),
    "a header for the service that is not signed": (adding(b"x-amz-target", b"x"), Reason.HEADERS),
    "a session token beside": (adding(b"x-amz-security-token", b"token"), Reason.SESSION_TOKEN),
    "a payload that is said to be unsigned": (adding(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"), Reason.HEADERS),
    "a packed body": (adding(b"content-encoding", b"gzip"), Reason.MALFORMED),
    "a body in signed chunks": (adding(b"content-encoding", b"aws-chunked"), Reason.MALFORMED),
    "an empty body": (body(b""), None),
    "another body": (body(b'{"name":"payroll"}'), None),
    "a longer body": (body(b'{"name":"billing"} '), None),
    "a shorter body": (body(b'{"name":"billing"'), None),
    "another path": (target(b"/identities/DeleteWorkloadIdentity"), None),
    "the path in other words": (target(b"/identities/%43reateWorkloadIdentity"), None),
    "a path with a dot segment": (target(b"/identities/../identities/CreateWorkloadIdentity"), Reason.MALFORMED),
    "a path with two slashes": (target(b"//identities/CreateWorkloadIdentity"), Reason.MALFORMED),
    "a path with a dot": (target(b"/./identities/CreateWorkloadIdentity"), Reason.MALFORMED),
    "a relative path": (target(b"identities/CreateWorkloadIdentity"), Reason.MALFORMED),
    "an empty path": (target(b""), Reason.MALFORMED),
    "a path with a question mark": (target(b"/identities?x"), Reason.MALFORMED),
    "a path with other letters": (target("/identities/é".encode()), Reason.MALFORMED),
    "a path with a space": (target(b"/identities/Create WorkloadIdentity"), Reason.MALFORMED),
    "a long path": (target(b"/" + b"a" * 5000), Reason.TOO_LONG),
    "a query": (target(query=b"name=payroll"), None),
    "an empty name in the query": (target(query=b"="), None),
    "a long query": (target(query=b"a" * 17000), Reason.TOO_LONG),
    "a query with other letters": (target(query="é=1".encode()), Reason.MALFORMED),
    "signed by the query": (target(query=b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0"), Reason.QUERY_SIGNED),
    "signed by the query, disguised": (target(query=b"a=1&%58-amz-Signature=0"), Reason.QUERY_SIGNED),
    "a session token in the query": (target(query=b"X-Amz-Security-Token=token"), Reason.SESSION_TOKEN),
    "another method": (method("PUT"), None),
    "a method in small letters": (method("post"), Reason.MALFORMED),
    "a method with a line break": (method("POST\n/"), Reason.MALFORMED),
    "many headers": (
        lambda r: replace(r, headers=r.headers + tuple((b"h%d" % n, b"") for n in range(200))), Reason.TOO_LONG,
    ),
    "long headers": (adding(b"h", b"x" * 70000), Reason.TOO_LONG),
    **{f"digit {at} of the signature": (signature_with(at), None) for at in range(64)},
    **{f"cut off after {at}": (cut(at), Reason.MALFORMED if at >= 5 else Reason.UNSIGNED) for at in range(0, 200, 4)},
}  # fmt: skip
"""What somebody who does not have the secret may do to a request that was signed; a reason where one is seen before the key."""


def other_requests() -> dict[str, tuple[SignedRequest, Reason | None]]:
    """Requests that were signed, but not as ours are."""
    return {
        "by another secret": (sign(secret="mid_sk_another"), None),
        "with an empty secret": (sign(secret=""), None),
        "for another service": (sign(service="execute-api"), Reason.SERVICE),
        "with a session token": (sign(token="FwoGZXIvYXdzEXAMPLE"), Reason.SESSION_TOKEN),
        "for another host": (sign(url="http://evil.example.com"), Reason.HOST),
        "with the payload unsigned": (
            sign(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}), Reason.PAYLOAD,
        ),
        "with the payload in chunks": (
            sign(headers={"X-Amz-Content-SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}), Reason.PAYLOAD,
        ),
        "with the hash of another payload": (sign(headers={"X-Amz-Content-SHA256": "0" * 64}), Reason.PAYLOAD),
        **{
            f"signed {seconds} seconds away": (sign(at=NOW + timedelta(seconds=seconds)), Reason.SKEW)
            for seconds in (-86400, -3600, -901, -600, -301, 301, 600, 901, 3600, 86400)
        },
    }  # fmt: skip


def test_what_was_signed_is_believed() -> None:
    request = sign()
    claim = read(request)
    assert is_ours(claim)
    assert is_ours(read(with_header(request, b"host", HOST.upper().encode())))
    assert not is_signed(claim, signing_key(claim, Secret(SECRET + "x")))
    assert (claim.access_key_id, claim.region) == (KEY_ID, "eu-central-1")
    assert len(claim.signature_hash) == 32
    assert access_key_id_of(request.headers) == KEY_ID
    assert SECRET not in repr(claim) + repr(request)


@pytest.mark.parametrize("url", [URL, "https://identity.example.com"])
def test_every_operation_of_the_stock_clients_is_believed(url: str) -> None:
    names: list[str] = []
    for name, request in sent_by_clients(url):
        assert accepts(request, time_of(request)), name
        names.append(name)
    assert len([name for name in names if name not in TAGS_AND_POLICIES]) == 35
    assert len(names) == 41


@pytest.mark.parametrize("seconds", [-300, -1, 0, 1, 300])
def test_a_clock_may_be_five_minutes_off(seconds: int) -> None:
    assert accepts(sign(at=NOW + timedelta(seconds=seconds)))


@pytest.mark.parametrize(
    "request_",
    [
        sign("GET", "/tags/arn%3Aaws%3Abedrock-agentcore%3Aeu%3A0%3Atoken-vault%2Fdefault", b""),
        sign("DELETE", "/tags/arn%3Aaws%3Ax?tagKeys=b&tagKeys=a%20b&tagKeys=c", b""),
        sign(headers={"Content-Type": "application/json; charset=utf-8", "X-Amz-User-Agent": "aws-sdk-js/3  x"}),
        sign(region="anywhere-9"),
        sign(body='{"name":"ünïcödé"}'.encode()),
        sign(body=b"x" * 100_000),
    ],
)  # fmt: skip
def test_what_other_clients_send_is_believed(request_: SignedRequest) -> None:
    assert accepts(request_)


def test_a_payload_hash_that_is_right_is_believed() -> None:
    from hashlib import sha256

    given = {"X-Amz-Content-SHA256": sha256(b'{"name":"billing"}').hexdigest()}
    assert accepts(sign(headers=given))


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_of_a_signed_request_can_be_changed(name: str) -> None:
    """covers: A61."""
    change, reason = CHANGES[name]
    changed = change(sign())
    if reason is None:
        assert not is_ours(read(changed))
        return
    with pytest.raises(SignatureRefused) as caught:
        read(changed)
    assert (caught.value.code, caught.value.reason) == ("unauthenticated", reason)
    assert caught.value.message == (NO_SESSIONS if reason is Reason.SESSION_TOKEN else REFUSED)


@pytest.mark.parametrize("name", other_requests())
def test_what_was_signed_for_others_or_at_another_time_is_refused(name: str) -> None:
    request, reason = other_requests()[name]
    if reason is None:
        assert not accepts(request)
        return
    with pytest.raises(SignatureRefused) as caught:
        read(request)
    assert caught.value.reason is reason


def test_two_hundred_bad_requests_and_more_are_tried_and_none_is_believed() -> None:
    bad = [change(sign()) for change, _ in CHANGES.values()] + [request for request, _ in other_requests().values()]
    assert len(bad) >= 200
    assert sum(map(accepts, bad)) == 0


def test_no_request_of_the_stock_clients_survives_a_change() -> None:
    tried = 0
    general: tuple[Change, ...] = (
        lambda r: replace(r, body=r.body + b" "),
        lambda r: replace(r, raw_path=r.raw_path + b"/x"),
        lambda r: replace(r, raw_query=r.raw_query + b"&x=1"),
        lambda r: replace(r, method="PATCH"),
        signature_with(0),
    )
    for _, request in sent_by_clients():
        for change in general:
            assert not accepts(change(request), time_of(request))
            tried += 1
    assert tried == 5 * 41


@given(place=st.integers(0, 10_000), other=st.integers(0, 255))
def test_no_byte_can_be_another_one(place: int, other: int) -> None:
    request = sign("POST", "/tags/arn%3Aaws%3Ax?tagKeys=a&tagKeys=b", b'{"tags":{"a":"b"}}')
    signed = (b"authorization", b"content-type", b"host", b"x-amz-date")
    parts = [request.raw_path, request.raw_query, request.body, *(value_of(request, name) for name in signed)]
    number, at = place % len(parts), place // len(parts) % len(parts[place % len(parts)])
    changed = parts[number][:at] + bytes([other]) + parts[number][at + 1 :]
    if changed == parts[number] or changed.split() == parts[number].split():
        return
    made = replace(request, raw_path=request.raw_path if number else changed)
    made = replace(made, raw_query=changed if number == 1 else made.raw_query, body=changed if number == 2 else made.body)
    if number > 2:
        made = with_header(made, signed[number - 3], changed)
    if sorted(made.raw_query.split(b"&")) == sorted(request.raw_query.split(b"&")) and number == 1:
        return  # the order of the pairs is not signed
    # Nor is the key's name: another name is another key, whose secret is another one.
    assert not accepts(made) or access_key_id_of(made.headers) != KEY_ID


@given(st.binary(max_size=400), st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=12))
def test_whatever_comes_is_refused_and_nothing_else_happens(given_: bytes, path: bytes, query: bytes, verb: str) -> None:
    headers = ((b"authorization", b"AWS4-HMAC-SHA256 " + given_), (b"host", HOST.encode()), (b"x-amz-date", given_))
    assert not accepts(SignedRequest(verb, path, query, headers, given_))
    assert access_key_id_of(headers) == ""
