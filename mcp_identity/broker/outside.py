"""What of an API's answer may an agent see, and in which form? Pure: an answer in, an answer out.

Text is cleaned first and searched for the credential then, so that nothing that was hidden between its characters comes
together afterwards. What is no text is passed on as it came, or not at all where the credential stands in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mcp_identity.broker.redaction import Redactor, clean_outside_text
from mcp_identity.domain.api_call import Reach
from mcp_identity.domain.credentials import parse_scopes
from mcp_identity.domain.errors import InvalidScope
from mcp_identity.domain.http import HttpResponse

_TEXT = re.compile(
    r"text/.+|application/(?:[^;]+\+)?(?:json|xml|yaml)|application/(?:javascript|ecmascript|graphql|jsonl|x-ndjson|ndjson"
    r"|json-seq|jwt|problem|sql|toml|x-sh|x-yaml|x-www-form-urlencoded)|image/svg\+xml"
)
_JSON = re.compile(r"(?:application|text)/(?:[^;]+\+)?(?:json|jsonl|x-ndjson|ndjson|json-seq)")
_CHARSETS = {
    "": "utf-8", "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "utf-8", "ascii": "utf-8", "iso-8859-1": "latin-1",
    "latin1": "latin-1", "windows-1252": "cp1252", "utf-16": "utf-16", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be",
}  # fmt: skip
"""What we decode; a body in another encoding is passed on as bytes."""
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([A-Za-z0-9._-]+)\"?", re.IGNORECASE)
_HEADER_LIMIT = 4096
_PARAMETER = re.compile(r"([A-Za-z_-]+)\s*=\s*(?:\"([^\"\\]*)\"|([^\s,\"]+))")
_BEARER = re.compile(r"bearer\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is left of an answer.

    Attributes:
        headers: What agents are told of its headers.
        text: The body as text, or None.
        data: The body as bytes, or None.
        media_type: What it is said to be.
        echoed: How often the credential stood in it.
        is_withheld: The body is left out, because the credential stands in it and it is no text.
    """

    headers: dict[str, str]
    text: str | None
    data: bytes | None
    media_type: str
    echoed: int
    is_withheld: bool


def see(response: HttpResponse, reach: Reach, redactor: Redactor) -> Seen:
    """Make an answer safe to be read by a model; may take a second for the largest ones."""
    headers: dict[str, str] = {}
    echoed = 0
    for name, value in reach.response_headers(response.headers).items():
        kept = redactor.redact(clean_outside_text(value).replace("\n", " "))
        headers[name] = kept.text[:_HEADER_LIMIT]
        echoed += kept.found
    declared = response.headers.get("content-type", "")
    media_type = clean_outside_text(declared.partition(";")[0]).strip().lower()[:128]
    media_type = redactor.redact(media_type).text
    text = _text(response.body, media_type, declared)
    if text is None:
        # What is cut off may end within the credential.
        data = response.body[: -redactor.reach] if response.is_cut else response.body
        found = redactor.is_in(response.body)
        return Seen(headers, None, None if found else data, media_type, echoed + found, found)
    kept = redactor.redact(clean_outside_text(text, is_json=_JSON.fullmatch(media_type) is not None))
    text = kept.text[: -redactor.reach] if response.is_cut else kept.text
    return Seen(headers, text, None, media_type, echoed + kept.found, is_withheld=False)


def challenged_scopes(response: HttpResponse) -> frozenset[str]:
    """The scopes that an API says are missing (RFC 6750 §3.1); a suggestion, which anybody may have written."""
    challenge = response.headers.get("www-authenticate", "")
    if not _BEARER.search(challenge):
        return frozenset()
    parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(challenge)}
    if parameters.get("error") != "insufficient_scope":
        return frozenset()
    try:
        return parse_scopes(parameters.get("scope", "").split())
    except InvalidScope:
        return frozenset()


def _text(body: bytes, media_type: str, declared: str) -> str | None:
    if not body:
        return ""
    charset = _CHARSET.search(declared)
    codec = _CHARSETS.get(charset[1].lower() if charset else "")
    if codec is None:
        return None
    if _TEXT.fullmatch(media_type):
        return body.decode(codec, "replace")
    if media_type:
        return None
    try:  # nobody said what it is
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None
