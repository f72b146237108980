"""What is in the members of a token answer, and are they what RFC 6749 §5.1 allows?

Reads one member at a time, strictly: a wrong type is a bad answer, never a default. Knows no vendor; trusts nothing.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from mcp_identity.domain.errors import UpstreamBadResponse
from mcp_identity.domain.http import HttpResponse
from mcp_identity.oauth.answers import Fields, Json, content_type, is_token_text, parse_object

MAXIMUM_LIFETIME_SECONDS = 10 * 366 * 24 * 3600

_FORM_TYPE = "application/x-www-form-urlencoded"
_NUMBER = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,9})?")


def read_body(response: HttpResponse, *, form_encoded: bool) -> Fields:
    """Read an answer's members from JSON, or from a form where the vendor may answer with one.

    Raises:
        UpstreamBadResponse: If it is neither, malformed, or names a member twice.
    """
    if not (form_encoded and content_type(response) == _FORM_TYPE):
        return parse_object(response)
    try:
        pairs = parse_qsl(response.body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=100)
    except ValueError:
        raise UpstreamBadResponse("the authorization server's form is malformed") from None
    fields: Fields = dict(pairs)
    if len(fields) != len(pairs):
        raise UpstreamBadResponse("the authorization server's form names a member twice")
    return fields


def read_text(fields: Fields, name: str, limit: int) -> str | None:
    """A member that is a non-empty string of printable ASCII; None where it is absent, null or empty.

    Raises:
        UpstreamBadResponse: If it has another type, another character, or is longer than `limit`.
    """
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not is_token_text(value, limit):
        raise UpstreamBadResponse(f"the authorization server's answer has a malformed {name}")
    return value


def read_lifetime(value: Json) -> int | None:
    """Whole seconds from a number or a numeric string; None where nothing is said. Zero is zero, not "never".

    Raises:
        UpstreamBadResponse: If it is negative, junk, or more than ten years.
    """
    if value is None:
        return None
    seconds: float | None = None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        seconds = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    if seconds is None or not 0 <= seconds <= MAXIMUM_LIFETIME_SECONDS:
        raise UpstreamBadResponse("the authorization server's answer has a lifetime that makes no sense")
    return int(seconds)
