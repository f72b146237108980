"""What does an HTTP answer of an authorization server say: an object, an error, or nothing that can be believed?

Reads status, content type and JSON, strictly and in one way. Knows no grant and no vendor. Trusts nothing in the answer,
and puts nothing of it into a message but the vendor's own error code, cleaned and bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeAlias

from mcp_identity.domain.errors import UpstreamBadResponse, UpstreamRejected, UpstreamUnavailable
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import Dialect

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Fields: TypeAlias = "dict[str, Json]"

MAXIMUM_RETRY_AFTER_SECONDS = 3600
MAXIMUM_DEPTH = 32

_TOO_MANY_REQUESTS = 429
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json")
_ERROR_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,47}")
_DELTA_SECONDS = re.compile(r"[0-9]{1,9}")


def content_type(response: HttpResponse) -> str:
    """The media type of an answer in lower case, without its parameters."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_status(
    response: HttpResponse, *, accepted: Collection[int], now: datetime | None = None, dialect: Dialect | None = None
) -> None:
    """Let an accepted status pass and raise what any other one means (RFC 6749 §5.2, RFC 9110 §15).

    Args:
        response: The answer.
        accepted: The statuses of success.
        now: The time, to read a ``Retry-After`` that is a date.
        dialect: How this server names its errors, where it departs from the RFC.

    Raises:
        UpstreamRejected: A 4xx with a protocol error in its body.
        UpstreamUnavailable: 429 or 5xx.
        UpstreamBadResponse: Everything else, redirects above all: they are never followed.
    """
    status = response.status
    if status in accepted:
        return
    retry_after = retry_after_seconds(response.headers, now)
    if status == _TOO_MANY_REQUESTS:
        raise UpstreamUnavailable(
            "the authorization server limits our rate", may_have_been_processed=False, retry_after_seconds=retry_after
        )
    if 500 <= status <= 599:  # noqa: PLR2004 - the class of server errors
        raise UpstreamUnavailable(f"the authorization server answered HTTP {status}", retry_after_seconds=retry_after)
    if 400 <= status <= 499:  # noqa: PLR2004 - the class of client errors
        fields = _error_fields(response)
        if fields is not None:
            raise_for_error(fields, retry_after=retry_after, dialect=dialect)
        raise UpstreamBadResponse(f"the authorization server answered HTTP {status} without a protocol error")
    raise UpstreamBadResponse(f"the authorization server answered HTTP {status}")


def parse_object(response: HttpResponse) -> Fields:
    """Read a JSON object.

    Raises:
        UpstreamBadResponse: If it is not one object of plain JSON in UTF-8: no byte order mark, no duplicate names, no NaN,
            no nesting deeper than `MAXIMUM_DEPTH`.
    """
    if not _JSON_TYPE.fullmatch(content_type(response)):
        raise UpstreamBadResponse("the authorization server did not answer with JSON")
    return parse_json(response.body)


def parse_json(body: bytes) -> Fields:
    """Read a JSON object from bytes; `parse_object` says what is refused."""
    try:
        value: Json = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError):
        # The parser's message quotes the body.
        raise UpstreamBadResponse("the authorization server's JSON is malformed or ambiguous") from None
    if not isinstance(value, dict) or _is_deep(value):
        raise UpstreamBadResponse("the authorization server's JSON is not one flat enough object")
    return value


def raise_for_error(fields: Mapping[str, Json], *, retry_after: int | None = None, dialect: Dialect | None = None) -> None:
    """Raise the protocol error that an answer holds; do nothing where it holds none (RFC 6749 §5.2).

    Vendors also write an object or a number there; its code is taken, so that no error passes for a token. Where the data
    file names another field for it, that one is looked at too, and its text is taken for the code that the file says.
    """
    error = fields.get("error")
    if dialect is not None and dialect.error_field:
        named = fields.get(dialect.error_field)
        known = dialect.error_codes.get(named) if isinstance(named, str) else None
        error = known or error or named
    if error is None or error is False or error == "":
        return
    description = fields.get("error_description")
    if isinstance(error, dict):
        inner = error
        error = next((inner[name] for name in ("code", "type", "status") if is_scalar(inner.get(name))), "unspecified")
        description = inner.get("message")
    code = str(error) if is_scalar(error) else "unspecified"
    reject(code, description if isinstance(description, str) else "", retry_after=retry_after)


def reject(error: str, description: str = "", *, retry_after: int | None = None) -> NoReturn:
    """Raise the vendor's own error.

    Raises:
        UpstreamRejected: Always.
    """
    # An error code is a short word; whatever else stands there may be a secret of ours that the server repeats.
    code = error if _ERROR_CODE.fullmatch(error) else "unspecified"
    raise UpstreamRejected(
        f"the authorization server refused the request: {code}",
        error=code,
        description=description,
        retry_after_seconds=retry_after,
    )


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None) -> int | None:
    """Read ``Retry-After``, seconds or a date (RFC 9110 §10.2.3), bounded to an hour; None where it says nothing usable."""
    value = headers.get("retry-after", "").strip()
    if _DELTA_SECONDS.fullmatch(value):
        return min(int(value), MAXIMUM_RETRY_AFTER_SECONDS)
    if now is None:
        return None
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    wait = ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds()
    return max(0, min(math.ceil(wait), MAXIMUM_RETRY_AFTER_SECONDS))


def at_path(fields: Mapping[str, Json], path: str) -> Json:
    """The member at a dotted path; None where there is none."""
    value: Json = dict(fields)
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def is_scalar(value: Json) -> bool:
    """Whether a member is a string or an integer: what names things."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def is_token_text(value: str, limit: int) -> bool:
    """Whether a string is printable ASCII (RFC 6749 appendix A) and not longer than `limit`."""
    return 0 < len(value) <= limit and all(" " <= char <= "~" for char in value)


def _error_fields(response: HttpResponse) -> Fields | None:
    try:
        return parse_object(response)
    except UpstreamBadResponse:
        return None


def _unique(pairs: list[tuple[str, Json]]) -> Fields:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError  # two readers would see two different answers
    return fields


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _is_deep(value: Json) -> bool:
    level: list[Json] = [value]
    for _ in range(MAXIMUM_DEPTH):
        following: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(item.values())
            elif isinstance(item, list):
                following.extend(item)
        level = following
        if not level:
            return False
    return True
