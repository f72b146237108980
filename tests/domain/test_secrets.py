from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.consent import ConsentBegun
from mcp_identity.domain.credentials import ApiKey, Secret
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import ClientAuthentication, OAuthClient
from tests.domain.values import tokens

MARK = "canary-7f3a"
secrets = st.text(max_size=20)


def test_a_secret_shows_itself_where_it_is_asked_to() -> None:
    assert Secret(MARK).reveal() == MARK


SHOWN: dict[str, Callable[[Secret], str]] = {
    "repr": repr,
    "str": str,
    "format": format,
    "format with a width": lambda secret: format(secret, ">40"),
    "f-string": lambda secret: f"{secret}",
    "f-string of repr": lambda secret: f"{secret!r} {secret!a} {secret!s}",
    "percent": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - each way of formatting is tried
    "str.format": lambda secret: "{} {!r}".format(secret, secret),  # noqa: UP032 - likewise
    "in a list": lambda secret: str([secret]),
    "in a dictionary": lambda secret: str({"secret": secret}),
    "in an exception": lambda secret: "".join(traceback.format_exception(ValueError(secret))),
    "API key": lambda secret: repr(ApiKey(secret)),
    "client": lambda secret: repr(OAuthClient("id", ClientAuthentication.POST, secret)),
    "token set": lambda secret: repr(replace(tokens(), access_token=secret, refresh_token=secret)),
    "dictionary of a token set": lambda secret: repr(asdict(replace(tokens(), access_token=secret))),
    "begun consent": lambda secret: repr(ConsentBegun("https://as.example/", secret)),
    "JSON by way of str": lambda secret: json.dumps({"secret": secret}, default=str),
}


@pytest.mark.parametrize("way", SHOWN)
def test_a_secret_never_shows_itself_otherwise(way: str) -> None:
    shown = SHOWN[way](Secret(MARK))
    assert MARK not in shown
    if way != "format with a width":
        assert "***" in shown


REFUSED: dict[str, Callable[[Secret], object]] = {
    "json": json.dumps,
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "hash": hash,
    "dictionary key": lambda secret: {secret: 1},
    "set": lambda secret: {secret},
    "concatenation": lambda secret: "a" + secret,  # type: ignore[operator]  # it is what is refused
    "length": len,  # type: ignore[dict-item]  # likewise
    "iteration": iter,  # type: ignore[dict-item]  # likewise
    "attributes": vars,
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_would_carry_a_secret_away_is_refused_without_telling_it(way: str) -> None:
    with pytest.raises(TypeError) as caught:
        REFUSED[way](Secret(MARK))
    assert MARK not in str(caught.value)


def test_a_secret_is_its_own_deep_copy() -> None:
    secret = Secret(MARK)
    assert copy.deepcopy({"kept": secret})["kept"] is secret


def test_a_log_line_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(MARK)
    with caplog.at_level(logging.INFO):
        try:
            {}[str(secret)]
        except KeyError:
            logging.getLogger("test").exception("it holds %s and %r", secret, ApiKey(secret))
    assert "***" in caplog.text
    assert MARK not in caplog.text


def test_a_traceback_of_a_failure_with_a_secret_at_hand_does_not_hold_it() -> None:
    def fail(secret: Secret) -> None:
        kept = [secret]
        raise ValueError(f"no use for {kept}")

    try:
        fail(Secret(MARK))
    except ValueError as error:
        told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "***" in told
        assert MARK not in told


@given(secrets, secrets)
def test_two_secrets_are_equal_exactly_where_their_values_are(one: str, two: str) -> None:
    assert (Secret(one) == Secret(two)) == (one == two)
    assert Secret(one) != one


def test_a_secret_that_is_no_text_can_still_be_compared() -> None:
    assert Secret("\ud800") == Secret("\ud800")
    assert Secret("\ud800") != Secret("?")


def test_what_goes_over_the_wire_shows_neither_headers_nor_body_nor_query() -> None:
    request = HttpRequest("POST", f"https://as.example/token?code={MARK}", {"Authorization": MARK}, MARK.encode())
    response = HttpResponse(200, {"x": MARK}, MARK.encode())
    assert repr(request) == str(request) == "HttpRequest(POST https://as.example/token)"
    assert MARK not in repr(response)
    assert MARK not in repr(replace(request, url=f"https://{MARK}@as.example/{'a' * 3}#{MARK}"))


def test_a_lifetime_is_shown_beside_the_secret_that_is_not() -> None:
    shown = repr(replace(tokens(), access_token=Secret(MARK), expires_at=tokens().obtained_at + timedelta(days=400)))
    assert "2027" in shown
