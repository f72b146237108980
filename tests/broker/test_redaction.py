"""Is the credential found in whatever way an honest server repeats it, and does nothing unseen reach a model?"""

from __future__ import annotations

import html
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.broker.redaction import REPLACED, Redactor, clean_outside_text

TOKEN = "eyJhbGciOiJFUzI1NiJ9.e30.a-b_c/d+e=f~g"
SECRETS = st.text([chr(code) for code in range(0x21, 0x7F)], min_size=8, max_size=60)
AROUND = st.text(" \n\té世ßÜ½", max_size=24)
"""What may stand beside it; nothing that could be part of it, or escape its first character."""


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def percent_lower(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


ENCODINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "url": lambda text: quote(text, safe=""),
    "url twice": lambda text: quote(quote(text, safe=""), safe=""),
    "form": quote_plus,
    "every character, upper": percent,
    "every character, lower": percent_lower,
    "json": lambda text: json.dumps(text)[1:-1],
    "json with slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "json in json": lambda text: json.dumps(json.dumps(text)[1:-1].replace("/", "\\/"))[1:-1],
    "json, every character": escaped,
    "html": html.escape,
    "html by number": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "html by hexadecimal number": lambda text: "".join(f"&#x{ord(char):x};" for char in text),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(secret=SECRETS.filter(lambda text: "\\" not in text and '"' not in text), before=AROUND, after=AROUND)
def test_it_is_found_in_every_encoding_and_everything_else_stays(encoding: str, secret: str, before: str, after: str) -> None:
    written = ENCODINGS[encoding](secret)
    redacted = Redactor(secret).redact(before + written + after)
    assert redacted.found >= 1
    assert redacted.text.startswith(before)
    assert redacted.text.endswith(after)
    assert redacted.text[len(before) : len(redacted.text) - len(after)] == REPLACED


@given(
    secret=SECRETS, choices=st.lists(st.sampled_from(["raw", "every character, upper", "json, every character"]), min_size=60)
)
def test_encodings_may_change_from_character_to_character(secret: str, choices: list[str]) -> None:
    secret = secret.replace("%", "p").replace("\\", "b").replace("&", "a")
    written = "".join(ENCODINGS[choice](char) for choice, char in zip(choices, secret, strict=False))
    assert Redactor(secret).redact(f"<{written}>").text == f"<{REPLACED}>"


@given(secret=SECRETS, before=st.binary(max_size=7), after=st.binary(max_size=7), url_safe=st.booleans())
def test_it_is_found_in_base64_of_something_longer(secret: str, before: bytes, after: bytes, url_safe: bool) -> None:
    """Covers: A12."""
    encode = urlsafe_b64encode if url_safe else b64encode
    written = encode(before + secret.encode() + after).decode()
    for text in (written, written.rstrip("="), quote(written, safe=""), json.dumps(written)):
        redacted = Redactor(secret).redact(f"Basic {text} and more")
        assert redacted.found >= 1
        assert REPLACED in redacted.text
        assert written[4 * ((len(before) + 3) // 3) :][:8] not in redacted.text


@given(secret=SECRETS, body=st.text(max_size=200))
def test_a_text_without_it_is_not_changed(secret: str, body: str) -> None:
    redacted = Redactor("\U0001f512" + secret).redact(body)
    assert redacted == (redacted if redacted.found else type(redacted)(body, 0))
    assert redacted.found or redacted.text == body


@given(secret=SECRETS, parts=st.lists(AROUND, min_size=2, max_size=5))
def test_every_occurrence_goes(secret: str, parts: list[str]) -> None:
    text = secret.join(parts)
    redacted = Redactor(secret).redact(text)
    assert secret not in redacted.text.replace(REPLACED, "")
    assert redacted.found >= 1


@given(secret=SECRETS, before=st.binary(max_size=40), after=st.binary(max_size=40))
def test_it_is_found_in_bytes_of_any_kind(secret: str, before: bytes, after: bytes) -> None:
    redactor = Redactor(secret)
    assert redactor.is_in(before.rstrip(b"\\%&") + b" " + secret.encode() + after)
    assert redactor.is_in(b"\x89PNG" + secret.encode("utf-16-le") + b"\x00\x01")


@given(st.binary(max_size=300))
def test_bytes_without_it_are_let_through(data: bytes) -> None:
    assert not Redactor(TOKEN).is_in(data)


def test_what_base64_leaves_of_its_edges_goes_too() -> None:
    for padding in ("", "u", "us"):
        written = b64encode(f"{padding}{TOKEN}".encode()).decode().rstrip("=")
        kept = Redactor(TOKEN).redact(written).text.replace(REPLACED, "")
        assert len(kept) <= len(b64encode(padding.encode()).decode())


def test_a_secret_never_shows_in_the_redactor() -> None:
    assert TOKEN not in repr(Redactor(TOKEN))


def test_a_short_secret_is_found_only_as_it_is() -> None:
    assert Redactor("abc").redact("xabcx").found == 1
    assert Redactor("abc").redact("YWJj").found == 0


# What does not show


@pytest.mark.parametrize(
    "char",
    ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\x9b", "\xad", "\u061c", "\u200b", "\u200d", "\u200e", "\u200f", "\u2028",
     "\u202a", "\u202e", "\u2060", "\u2066", "\u2069", "\ufe0f", "\ufeff", "\U000e0001", "\U000e0041", "\U000e007f",
     "\U000e0100", "\ud800"],
)  # fmt: skip
def test_what_does_not_show_or_turns_text_around_goes(char: str) -> None:
    """Covers: A12."""
    assert clean_outside_text(f"a{char}b") == "ab"
    assert clean_outside_text(f"é{char}b") == "éb"
    in_json = json.dumps({"a": f"x{char}y", "é": "kept\n\t"})
    assert json.loads(clean_outside_text(in_json, is_json=True)) == {"a": "xy", "é": "kept\n\t"}


def test_line_ends_and_tabs_stay_and_so_does_ordinary_text() -> None:
    assert clean_outside_text("a\r\nb\rc\td\n") == "a\nb\nc\td\n"
    assert clean_outside_text("Grüße, 世界 👋 ½") == "Grüße, 世界 👋 ½"


def test_an_escape_that_is_itself_escaped_is_text_and_stays() -> None:
    kept = r'{"a": "\\u202e and \\\\u200b"}'
    assert clean_outside_text(kept, is_json=True) == kept
    assert clean_outside_text(r'"\\\u202e\u00e9"', is_json=True) == r'"\\\u00e9"'


@given(st.text(max_size=100))
def test_cleaning_twice_changes_nothing_more_and_json_stays_json(text: str) -> None:
    once = clean_outside_text(text)
    assert clean_outside_text(once) == once
    written = json.dumps({"a": text})
    json.loads(clean_outside_text(written, is_json=True))
