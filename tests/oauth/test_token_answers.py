"""Token answers: everything that RFC 6749 §5.1 requires, well-formed, or no token."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import IdentityError, UpstreamBadResponse, UpstreamRejected, UpstreamUnavailable
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import Dialect
from mcp_identity.oauth.answers import retry_after_seconds
from mcp_identity.oauth.token import TokenAnswer, process_token_response
from tests.oauth.answers import NOW, TOKEN, answer

ASKED = frozenset({"read", "write"})
BAD, REJECTED, UNAVAILABLE = "upstream_bad_response", "upstream_rejected", "upstream_unavailable"
FORM = "application/x-www-form-urlencoded"
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


def _process(response: HttpResponse, dialect: Dialect | None = None, previous: TokenSet | None = None) -> TokenAnswer:
    return process_token_response(response, dialect or Dialect(), requested_scopes=ASKED, now=NOW, previous=previous)


def _tokens(changes: dict[str, Any], dialect: Dialect | None = None, previous: TokenSet | None = None) -> TokenSet:
    return _process(answer({**TOKEN, **changes}), dialect, previous).tokens


def _without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in TOKEN.items() if name not in names}


HOSTILE: dict[str, tuple[HttpResponse, str]] = {
    # statuses
    "204 with nothing": (answer(b"", 204), BAD),
    "202 accepted": (answer(TOKEN, 202), BAD),
    "206 partial": (answer(TOKEN, 206), BAD),
    "100 as a final answer": (answer(TOKEN, 100), BAD),
    "301": (answer(b"", 301, location="https://evil.example"), BAD),
    "302 with a token": (answer(TOKEN, 302), BAD),
    "303": (answer(b"", 303), BAD),
    "307": (answer(b"", 307), BAD),
    "308": (answer(b"", 308), BAD),
    "400 with a token": (answer(TOKEN, 400), BAD),
    "400 with a message": (answer({"message": "bad"}, 400), BAD),
    "400 with nothing": (answer(b"", 400), BAD),
    "400 with HTML": (answer(b"<html>", 400, "text/html"), BAD),
    "400 with an error in HTML's clothes": (answer({"error": "invalid_grant"}, 400, "text/html"), BAD),
    "400 with a list": (answer([1], 400), BAD),
    "400 with a null error": (answer({"error": None}, 400), BAD),
    "401 with HTML": (answer(b"no", 401, "text/html"), BAD),
    "404": (answer(b"not found", 404, "text/plain"), BAD),
    "400 invalid_grant": (answer({"error": "invalid_grant"}, 400), REJECTED),
    "401 invalid_client": (answer({"error": "invalid_client"}, 401), REJECTED),
    "403 with an error object": (answer({"error": {"code": 190, "message": "x", "type": "OAuthException"}}, 403), REJECTED),
    "400 with an error number": (answer({"error": 17}, 400), REJECTED),
    "400 with an error list": (answer({"error": ["invalid_grant"]}, 400), REJECTED),
    "400 with an empty error object": (answer({"error": {}}, 400), REJECTED),
    "429": (answer({"error": "slow_down"}, 429), UNAVAILABLE),
    "500": (answer(b"", 500), UNAVAILABLE),
    "500 with a token": (answer(TOKEN, 500), UNAVAILABLE),
    "502 with HTML": (answer(b"<html>", 502, "text/html"), UNAVAILABLE),
    "503 with an error": (answer({"error": "temporarily_unavailable"}, 503), UNAVAILABLE),
    "599": (answer(b"", 599), UNAVAILABLE),
    # bodies
    "empty": (answer(b""), BAD),
    "white space": (answer(b"  \n"), BAD),
    "HTML at 200": (answer(b"<html>", content_type="text/html"), BAD),
    "a token that calls itself HTML": (answer(TOKEN, content_type="text/html"), BAD),
    "a token that calls itself text": (answer(TOKEN, content_type="text/plain"), BAD),
    "no content type": (HttpResponse(200, {}, b'{"access_token":"a","token_type":"bearer"}'), BAD),
    "JSON lines": (answer(b"{}\n{}"), BAD),
    "half an object": (answer(b'{"access_token":"a"'), BAD),
    "a trailing comma": (answer(b'{"access_token":"a",}'), BAD),
    "single quotes": (answer(b"{'access_token':'a'}"), BAD),
    "a comment": (answer(b'{"access_token":"a"}//x'), BAD),
    "a byte order mark": (answer(b'\xef\xbb\xbf{"access_token":"a","token_type":"bearer"}'), BAD),
    "UTF-16": (answer('{"access_token":"a","token_type":"bearer"}'.encode("utf-16")), BAD),
    "broken UTF-8": (answer(b'{"access_token":"\xff","token_type":"bearer"}'), BAD),
    "NUL bytes": (answer(b'{"access_token":"a\x00","token_type":"bearer"}'), BAD),
    "a duplicate access token": (answer(b'{"access_token":"a","access_token":"b","token_type":"bearer"}'), BAD),
    "a duplicate nested name": (answer(b'{"access_token":"a","token_type":"bearer","x":{"y":1,"y":2}}'), BAD),
    "NaN": (answer(b'{"access_token":"a","token_type":"bearer","expires_in":NaN}'), BAD),
    "Infinity": (answer(b'{"access_token":"a","token_type":"bearer","expires_in":Infinity}'), BAD),
    "-Infinity": (answer(b'{"access_token":"a","token_type":"bearer","expires_in":-Infinity}'), BAD),
    "a number beyond floats": (answer(b'{"access_token":"a","token_type":"bearer","expires_in":1e999}'), BAD),
    "a number of 5000 digits": (answer(b'{"access_token":"a","token_type":"bearer","expires_in":' + b"9" * 5000 + b"}"), BAD),
    "nesting without end": (answer(DEEP), BAD),
    "lists without end": (answer(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), BAD),
    "nesting beyond reason": (answer(b'{"a":' * 40 + b"1" + b"}" * 40), BAD),
    "a list": (answer([TOKEN]), BAD),
    "a string": (answer("at"), BAD),
    "a number": (answer(1), BAD),
    "null": (answer(None), BAD),
    "true": (answer(True), BAD),
    "an empty object": (answer({}), BAD),
    "a nested token where none is documented": (answer({"data": TOKEN}), BAD),
    "an error at 200": (answer({"error": "bad_verification_code"}), REJECTED),
    "an error beside a token": (answer({**TOKEN, "error": "invalid_scope"}), REJECTED),
    "an error object at 200": (answer({"error": {"message": "x"}}), REJECTED),
    "a true error at 200": (answer({**TOKEN, "error": True}), REJECTED),
    # access tokens
    "no access token": (answer(_without("access_token")), BAD),
    "a null access token": (answer({**TOKEN, "access_token": None}), BAD),
    "an empty access token": (answer({**TOKEN, "access_token": ""}), BAD),
    "a number as access token": (answer({**TOKEN, "access_token": 1}), BAD),
    "a list as access token": (answer({**TOKEN, "access_token": ["a"]}), BAD),
    "an object as access token": (answer({**TOKEN, "access_token": {"value": "a"}}), BAD),
    "a boolean as access token": (answer({**TOKEN, "access_token": True}), BAD),
    "a line break in the access token": (answer({**TOKEN, "access_token": "a\r\nX: y"}), BAD),
    "letters beyond ASCII in the access token": (answer({**TOKEN, "access_token": "tökén"}), BAD),
    "a lone surrogate in the access token": (answer(b'{"access_token":"\\ud800","token_type":"bearer"}'), BAD),
    "an access token of 64 KiB and one": (answer({**TOKEN, "access_token": "a" * (65536 + 1)}), BAD),
    # token types
    "no token type": (answer(_without("token_type")), BAD),
    "a null token type": (answer({**TOKEN, "token_type": None}), BAD),
    "an empty token type": (answer({**TOKEN, "token_type": ""}), BAD),
    "a number as token type": (answer({**TOKEN, "token_type": 1}), BAD),
    "mac": (answer({**TOKEN, "token_type": "mac"}), BAD),
    "DPoP": (answer({**TOKEN, "token_type": "DPoP"}), BAD),
    "N_A": (answer({**TOKEN, "token_type": "N_A"}), BAD),
    "bearer and a half": (answer({**TOKEN, "token_type": "bearer, mac"}), BAD),
    # lifetimes
    "a negative lifetime": (answer({**TOKEN, "expires_in": -1}), BAD),
    "a negative lifetime as text": (answer({**TOKEN, "expires_in": "-1"}), BAD),
    "a lifetime in words": (answer({**TOKEN, "expires_in": "soon"}), BAD),
    "a date as lifetime": (answer({**TOKEN, "expires_in": "2027-01-01T00:00:00Z"}), BAD),
    "an empty lifetime": (answer({**TOKEN, "expires_in": ""}), BAD),
    "a boolean lifetime": (answer({**TOKEN, "expires_in": True}), BAD),
    "a list as lifetime": (answer({**TOKEN, "expires_in": [3600]}), BAD),
    "an object as lifetime": (answer({**TOKEN, "expires_in": {"seconds": 3600}}), BAD),
    "eleven years": (answer({**TOKEN, "expires_in": 11 * 366 * 86400}), BAD),
    "a moment in milliseconds as lifetime": (answer({**TOKEN, "expires_in": 1795348800000}), BAD),
    "digits of another script": (answer({**TOKEN, "expires_in": "٣٦٠٠"}), BAD),
    "a lifetime with white space": (answer({**TOKEN, "expires_in": " 3600"}), BAD),
    "a lifetime in hexadecimal": (answer({**TOKEN, "expires_in": "0xe10"}), BAD),
    "a lifetime in exponents": (answer({**TOKEN, "expires_in": "36e2"}), BAD),
    # the rest
    "a number as scope": (answer({**TOKEN, "scope": 1}), BAD),
    "an object as scope": (answer({**TOKEN, "scope": {"read": True}}), BAD),
    "a list of numbers as scope": (answer({**TOKEN, "scope": ["read", 1]}), BAD),
    "a malformed scope": (answer({**TOKEN, "scope": 'read "x"'}), BAD),
    "a control character in a scope": (answer({**TOKEN, "scope": "re\x07ad"}), BAD),
    "a scope of 513 characters": (answer({**TOKEN, "scope": "s" * 513}), BAD),
    "too many scopes": (answer({**TOKEN, "scope": " ".join(f"s{n}" for n in range(129))}), BAD),
    "a number as refresh token": (answer({**TOKEN, "refresh_token": 1}), BAD),
    "a line break in the refresh token": (answer({**TOKEN, "refresh_token": "a\nb"}), BAD),
    "a refresh token beyond 64 KiB": (answer({**TOKEN, "refresh_token": "a" * 65537}), BAD),
    "a junk lifetime of the refresh token": (answer({**TOKEN, "refresh_token_expires_in": "never"}), BAD),
    "a form where none is documented": (answer(b"access_token=a&token_type=bearer", content_type=FORM), BAD),
}


def test_there_are_enough_hostile_answers() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_never_a_token_and_gets_its_code(name: str) -> None:
    response, code = HOSTILE[name]
    with pytest.raises(IdentityError) as failure:
        _process(response)
    assert failure.value.code == code
    assert failure.value.retryable is (code == UNAVAILABLE)
    assert "at-made-up" not in f"{failure.value} {failure.value!r}"


@pytest.mark.parametrize(
    ("body", "ok"),
    [
        (b"access_token=gho_x&scope=repo%2Cgist&token_type=bearer", True),
        (b"access_token=a&access_token=b&token_type=bearer", False),
        (b"access_token", False),
        (b"access_token=%ff&token_type=bearer", False),
        (b"access_token=\xff&token_type=bearer", False),
        (b"", False),
        (b"&".join(b"a%d=1" % n for n in range(200)), False),
    ],
)
def test_a_form_is_read_where_the_vendor_may_answer_with_one(body: bytes, *, ok: bool) -> None:
    dialect = Dialect(form_encoded_answers=True, response_scope_separators=", ")
    if ok:
        tokens = _process(answer(body, content_type=FORM), dialect).tokens
        assert (tokens.access_token.reveal(), tokens.scopes) == ("gho_x", frozenset({"repo", "gist"}))
    else:
        with pytest.raises(IdentityError) as failure:
            _process(answer(body, content_type=FORM), dialect)
        assert failure.value.code == BAD


def test_an_error_in_a_form_is_an_error_and_json_is_read_all_the_same() -> None:
    dialect = Dialect(form_encoded_answers=True)
    with pytest.raises(UpstreamRejected) as failure:
        _process(answer(b"error=bad_verification_code&error_description=x", content_type=FORM), dialect)
    assert failure.value.error == "bad_verification_code"
    assert _process(answer(TOKEN), dialect).tokens.access_token.reveal() == "at-made-up"


@given(body=st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["access_token", "token_type", "expires_in", "scope", "refresh_token", "error", "x"]), inner, max_size=6
    ),
    max_leaves=20,
), status=st.sampled_from([200, 201, 400, 401, 500]))  # fmt: skip
def test_no_answer_whatever_breaks_the_reader(body: Any, status: int) -> None:
    with suppress(UpstreamBadResponse, UpstreamRejected, UpstreamUnavailable):
        assert _process(answer(body, status)).tokens.access_token.reveal()


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=UTF-8", "application/vnd.x+json"])
@pytest.mark.parametrize("status", [200, 201])
def test_a_plain_answer_is_a_token(content_type: str, status: int) -> None:
    body = {**TOKEN, "refresh_token": "rt", "scope": "read", "unknown": {"deep": [1]}, "error": None}
    tokens = _process(answer(body, status, content_type)).tokens
    assert tokens.access_token == Secret("at-made-up")
    assert tokens.refresh_token == Secret("rt")
    assert tokens.token_type == "Bearer"
    assert tokens.scopes == frozenset({"read"})
    assert tokens.requested_scopes == ASKED
    assert tokens.declined_scopes == frozenset({"write"})
    assert tokens.obtained_at == NOW
    assert tokens.expires_at == NOW + timedelta(hours=1)
    assert tokens.expiry_reported


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(3600, 3600), ("3600", 3600), (3599.7, 3599), ("3599.7", 3599), (0, 0), ("0", 0), (3600.0, 3600), (0.4, 0)],
)
def test_a_lifetime_may_be_a_number_or_a_numeric_string(value: Any, seconds: int) -> None:
    assert _tokens({"expires_in": value}).expires_at == NOW + timedelta(seconds=seconds)


def test_a_lifetime_of_nought_has_ended_already() -> None:
    tokens = _tokens({"expires_in": 0})
    assert not tokens.is_alive(NOW)
    assert not tokens.is_fresh(NOW)


@pytest.mark.parametrize("body", [{"expires_in": None}, {}])
def test_a_lifetime_that_nobody_reported_is_unknown_documented_or_endless_as_the_data_says(body: dict[str, Any]) -> None:
    base = _without("expires_in") | body
    unknown = _process(answer(base)).tokens
    assert (unknown.expires_at, unknown.expiry_reported) == (None, False)
    assert unknown.effective_expires_at is not None
    documented = _process(answer(base), Dialect(lifetime_seconds=7200)).tokens
    assert (documented.expires_at, documented.expiry_reported) == (NOW + timedelta(hours=2), True)
    endless = _process(answer(base), Dialect(expiry="never")).tokens
    assert (endless.expires_at, endless.expiry_reported) == (None, True)
    assert endless.effective_expires_at is None


def test_a_reported_lifetime_beats_what_the_data_says() -> None:
    for dialect in (Dialect(expiry="never"), Dialect(lifetime_seconds=7200)):
        assert _tokens({}, dialect).expires_at == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("field", "value", "seconds"),
    [
        ("refresh_token_expires_in", 100, 100),
        ("x_refresh_token_expires_in", "100", 100),
        ("refresh_expires_in", 0, None),
        ("other", 1, None),
    ],
)
def test_the_refresh_tokens_end_is_read_from_the_fields_that_the_data_names(
    field: str, value: Any, seconds: int | None
) -> None:
    fields = ("refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in")
    tokens = _tokens({"refresh_token": "rt", field: value}, Dialect(refresh_expiry_fields=fields))
    assert tokens.refresh_expires_at == (NOW + timedelta(seconds=seconds) if seconds else None)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_refresh_token_is_none(value: str | None) -> None:
    assert _tokens({"refresh_token": value}).refresh_token is None


def test_scopes_may_be_a_list() -> None:
    assert _tokens({"scope": ["read", "write"]}).scopes == ASKED
    assert _tokens({"scope": []}).scopes == frozenset()


def test_an_answer_without_scopes_grants_what_was_asked_unless_the_data_knows_better() -> None:
    assert _tokens({}).scopes == ASKED
    assert _tokens({}, Dialect(assumed_scopes=False)).scopes == frozenset()
    assert _tokens({"scope": ""}).scopes == frozenset()


PREVIOUS = TokenSet(
    access_token=Secret("old-at"),
    token_type="Bearer",
    scopes=frozenset({"read", "write", "extra"}),
    requested_scopes=ASKED,
    obtained_at=NOW - timedelta(hours=2),
    expires_at=NOW,
    refresh_token=Secret("old-rt"),
    refresh_expires_at=NOW + timedelta(days=30),
    account_id="42",
    extra={"instance_url": "https://acme.example", "id": "x"},
)


def test_a_refresh_keeps_what_the_answer_leaves_out() -> None:
    tokens = _tokens({}, previous=PREVIOUS)
    assert tokens.access_token == Secret("at-made-up")
    assert tokens.refresh_token == Secret("old-rt")
    assert tokens.refresh_expires_at == PREVIOUS.refresh_expires_at
    assert tokens.scopes == PREVIOUS.scopes
    assert tokens.requested_scopes == PREVIOUS.requested_scopes
    assert tokens.account_id == "42"
    assert tokens.extra == PREVIOUS.extra


def test_a_refresh_takes_what_the_answer_brings() -> None:
    dialect = Dialect(account_field="user", extra_fields=("instance_url",))
    body = {"refresh_token": "new-rt", "scope": "read", "user": 43, "instance_url": "https://moved.example"}
    tokens = _tokens(body, dialect, PREVIOUS)
    assert tokens.refresh_token == Secret("new-rt")
    assert tokens.refresh_expires_at is None
    assert tokens.scopes == frozenset({"read"})
    assert tokens.account_id == "43"
    assert tokens.extra == {"instance_url": "https://moved.example", "id": "x"}


def test_a_refresh_that_narrowed_the_token_grants_what_it_was_narrowed_to() -> None:
    response = answer(TOKEN)
    narrowed = process_token_response(
        response, Dialect(), requested_scopes=frozenset({"read"}), now=NOW, previous=PREVIOUS
    ).tokens
    assert narrowed.scopes == frozenset({"read"})
    assert narrowed.requested_scopes == ASKED


def test_the_token_is_found_where_the_vendor_puts_it() -> None:
    dialect = Dialect(
        token_path="data.token", account_field="data.user.id", extra_fields=("data.team", "data.flag", "data.long")
    )
    body = {"data": {"token": TOKEN, "user": {"id": 7}, "team": "T1", "flag": True, "long": "x" * 513}}
    tokens = _process(answer(body), dialect).tokens
    assert (tokens.access_token.reveal(), tokens.account_id, tokens.extra) == ("at-made-up", "7", {"data.team": "T1"})
    wrongs: list[dict[str, Any]] = [{"data": []}, {"data": {"token": "at"}}, {}, TOKEN]
    for wrong in wrongs:
        with pytest.raises(IdentityError) as failure:
            _process(answer(wrong), dialect)
        assert failure.value.code == BAD


@pytest.mark.parametrize("fact", [True, 1.5, None, [], {}, "", "a\nb", "é", "x" * 513])
def test_a_fact_that_is_no_plain_name_is_left_out(fact: Any) -> None:
    tokens = _tokens({"user": fact}, Dialect(account_field="user", extra_fields=("user",)))
    assert (tokens.account_id, tokens.extra) == ("", {})


def test_a_success_field_must_be_true() -> None:
    dialect = Dialect(success_field="ok")
    assert _tokens({"ok": True}, dialect)
    for value in (False, None, "true", 1, [True]):
        with pytest.raises(UpstreamRejected):
            _tokens({"ok": value}, dialect)
    with pytest.raises(UpstreamRejected) as failure:
        _process(answer({"ok": False, "error": "invalid_code"}), dialect)
    assert failure.value.error == "invalid_code"


def test_a_token_type_of_the_vendors_own_is_accepted_where_the_data_lists_it() -> None:
    assert _tokens({"token_type": "Bot"}, Dialect(token_types=("bot",))).token_type == "Bot"


def test_the_id_token_is_handed_on_raw_where_the_vendor_has_one() -> None:
    body = {**TOKEN, "id_token": "a.b.c"}
    assert _process(answer(body), Dialect(id_token=True)).id_token == Secret("a.b.c")
    assert _process(answer(body)).id_token is None
    assert _process(answer(TOKEN), Dialect(id_token=True)).id_token is None
    with pytest.raises(IdentityError):
        _process(answer({**TOKEN, "id_token": {"sub": "x"}}), Dialect(id_token=True))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"error": "invalid_grant"}, "invalid_grant"),
        ({"error": {"code": 190, "type": "OAuthException"}}, "190"),
        ({"error": {"type": "OAuthException"}}, "OAuthException"),
        ({"error": {"code": True, "status": "DENIED"}}, "DENIED"),
        ({"error": {"x": 1}}, "unspecified"),
        ({"error": [1]}, "unspecified"),
        ({"error": "x" * 48}, "x" * 48),
        ({"error": "x" * 5000}, "unspecified"),
        ({"error": "a\u202eb\n"}, "unspecified"),
        ({"error": "bad client_secret=s3cret"}, "unspecified"),
        ({"error": {"code": "token rt-1 was used"}}, "unspecified"),
    ],
)
def test_the_vendors_code_is_kept_where_it_is_a_word_and_not_where_it_is_more(error: dict[str, Any], code: str) -> None:
    with pytest.raises(UpstreamRejected) as failure:
        _process(answer(error, 400))
    assert failure.value.error == code


def test_the_vendors_description_is_kept_beside_its_code_and_nothing_else_of_the_body() -> None:
    body = {"error": "invalid_grant", "error_description": "Token expired", "access_token": "s3cret", "error_uri": 1}
    with pytest.raises(UpstreamRejected) as failure:
        _process(answer(body, 400))
    assert failure.value.description == "Token expired"
    assert "s3cret" not in repr(failure.value.args) + failure.value.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7), ("0", 0), ("999999", 3600), ("Sun, 22 Nov 2026 12:00:30 GMT", 30), ("Sun, 22 Nov 2026 11:00:00 GMT", 0),
        ("Mon, 23 Nov 2026 12:00:00 GMT", 3600), ("Sun, 22 Nov 2026 12:00:30 -0000", 30), ("-1", None), ("1.5", None),
        ("soon", None), ("", None), ("9" * 50, None), ("\u0667", None), ("99 Foo 9999", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_within_an_hour(header: str, seconds: int | None) -> None:
    for status in (429, 503):
        with pytest.raises(UpstreamUnavailable) as failure:
            _process(answer(b"", status, retry_after=header))
        assert failure.value.retry_after_seconds == seconds
    with pytest.raises(UpstreamRejected) as refusal:
        _process(answer({"error": "slow_down"}, 400, retry_after=header))
    assert refusal.value.retry_after_seconds == seconds


def test_a_date_means_nothing_without_the_time() -> None:
    assert retry_after_seconds({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, None) is None


def test_a_limited_rate_was_not_processed_and_a_server_error_may_have_been() -> None:
    for status, processed in ((429, False), (500, True), (503, True)):
        with pytest.raises(UpstreamUnavailable) as failure:
            _process(answer(b"", status))
        assert failure.value.may_have_been_processed is processed


def test_nothing_of_an_answer_shows_in_a_repr() -> None:
    result = _process(answer({**TOKEN, "refresh_token": "rt-made-up", "id_token": "id-made-up"}), Dialect(id_token=True))
    assert "made-up" not in f"{result} {result!r} {result.tokens}"
