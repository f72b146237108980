from __future__ import annotations

import inspect
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain import errors
from mcp_identity.domain.errors import (
    MESSAGE_LIMIT,
    AccessDenied,
    IdentityError,
    NotFound,
    RateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
    VaultUnavailable,
    clean_text,
)

DESIGNED = {
    "agent": "invalid_request unknown_provider unsupported_flow invalid_scope invalid_target not_found conflict rate_limited",
    "user": "consent_denied consent_expired consent_mismatch consent_not_found different_account",
    "operator": "access_denied provider_misconfigured configuration_error",
    "caller": "unauthenticated token_expired insufficient_scope",
    "upstream": "upstream_rejected upstream_unavailable upstream_bad_response upstream_tls url_refused",
    "storage": "vault_unavailable vault_corrupt audit_unavailable",
}
RETRYABLE = {"upstream_unavailable", "vault_unavailable", "audit_unavailable", "rate_limited"}


def classes() -> list[type[IdentityError]]:
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in found if issubclass(each, IdentityError) and "code" in vars(each) and each is not IdentityError]


def test_every_designed_code_is_one_class_of_the_actor_who_can_act() -> None:
    found = sorted((each.code, each.actor) for each in classes())
    assert found == sorted((code, actor) for actor, codes in DESIGNED.items() for code in codes.split())


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    assert {each.code for each in classes() if each.retryable} == RETRYABLE


def test_a_class_without_a_code_of_its_own_is_never_raised() -> None:
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, IdentityError)]
    for group in set(found) - set(classes()):
        assert group.code == "internal_error"
        assert group is IdentityError or group.__subclasses__()


def test_one_error_can_say_otherwise_than_its_class() -> None:
    assert not VaultUnavailable("x", retryable=False).retryable
    assert NotFound("x", retryable=True).retryable
    assert VaultUnavailable("x").retryable
    assert RateLimited("x", retry_after_seconds=7).retry_after_seconds == 7
    assert AccessDenied("x").retry_after_seconds is None
    assert not AccessDenied("x").audited


def test_a_message_is_cleaned_and_bounded_before_anybody_sees_it() -> None:
    error = NotFound("a\nb\x1b[0m\u202e c" + "x" * 5000)
    assert error.message.startswith("a b[0m cxxx")
    assert len(error.message) == MESSAGE_LIMIT
    assert str(error) == error.message


def test_what_a_vendor_said_is_bounded_more_tightly() -> None:
    error = UpstreamRejected("no", error="e\n" * 500, description="d\u2066" * 900, retry_after_seconds=3)
    assert len(error.error) <= 120
    assert error.description == "d" * 300
    assert error.retry_after_seconds == 3
    assert error.code == "upstream_rejected"


def test_an_unavailable_server_may_have_taken_the_request_unless_it_is_known_not_to() -> None:
    assert UpstreamUnavailable("x").may_have_been_processed
    assert not UpstreamUnavailable("x", may_have_been_processed=False).may_have_been_processed


def test_an_error_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(VaultUnavailable("x", retryable=False)))  # noqa: S301 - our own bytes
    assert (error.code, error.message, error.retryable) == ("vault_unavailable", "x", False)


# --- cleaning ---------------------------------------------------------------------------------------------------------


@given(st.text(), st.integers(0, 50))
def test_clean_text_is_short_one_line_and_holds_nothing_that_is_not_seen(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    assert len(cleaned) <= limit
    assert cleaned.isprintable()
    assert not {unicodedata.category(char) for char in cleaned} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert clean_text(cleaned, limit) == cleaned.strip()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain text, with (marks)!", "plain text, with (marks)!"),
        ("two  spaces\tand\r\nlines\u2028here", "two spaces and lines here"),
        ("\x1b[31mred\x07", "[31mred"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        ("zero\u200b\u200c\u200d\ufeffwidth", "zerowidth"),
        ("tags\U000e0041\U000e0042\U000e007f", "tags"),
        ("soft\u00adhyphen", "softhyphen"),
        ("half \ud800 pair", "half pair"),
        ("日本語 é ñ", "日本語 é ñ"),
        ("\x00\x01", ""),
        ("   ", ""),
    ],
)
def test_clean_text_keeps_words_and_drops_what_hides_between_them(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_clean_text_reads_no_more_of_a_flood_than_it_needs() -> None:
    assert clean_text("\u200b" * 10_000_000 + "late", 10) == ""
