"""Is this request signed by whoever has the secret of the key that it names? AWS Signature Version 4.

Pure: bytes in, a claim or a refusal out. `read_claim` looks at everything that needs no secret, each length first; `is_signed`
does the arithmetic. What is signed is what came over the wire: the raw path (encoded once more, as every client of this service
does), the raw query, the named headers, and SHA-256 of the raw body. Stricter than the algorithm where clients have no reason
to differ: every header that could mean something to us is signed and there once, the payload is always signed, and nothing is
taken from the query. No cloud's account is involved; the keys are our own.

Source: "Create a signed AWS API request", IAM User Guide; what botocore sends.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from urllib.parse import quote, unquote_to_bytes

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import Unauthenticated

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "bedrock-agentcore"
SKEW = timedelta(minutes=5)
REFUSED = (
    "the request's signature does not stand: check the access key and its secret, the clock of this machine, and that the "
    "request reaches the server under the host name that was signed"
)
"""What is told for every reason: which one it was, the trail says."""
NO_SESSIONS = (
    "session tokens are not served here: sign with a key of `mcp-identity access-keys create`, and leave "
    "AWS_SESSION_TOKEN unset"
)
"""What is told of one that comes with a session token; it tells nothing of any key."""
_PATH_BYTES, _QUERY_BYTES, _AUTHORIZATION_BYTES = 4096, 16 * 1024, 4096
_HEADERS, _HEADER_BYTES = 128, 64 * 1024
_AUTHORIZATION = re.compile(
    rb"AWS4-HMAC-SHA256 +Credential=(?P<key>[A-Za-z0-9_]{16,128})/(?P<date>[0-9]{8})/(?P<region>[A-Za-z0-9-]{1,64})"
    rb"/(?P<service>[a-z0-9-]{1,64})/aws4_request, *SignedHeaders=(?P<headers>[a-z0-9._-]+(?:;[a-z0-9._-]+)*), *"
    rb"Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE = re.compile(rb"[0-9]{8}T[0-9]{6}Z")
_PARTS = ((0, 4), (4, 6), (6, 8), (9, 11), (11, 13), (13, 15))
"""Where year, month, day, hour, minute and second stand in it."""
_PATH = re.compile(rb"/[!-\"$->@-~]*")
_QUERY = re.compile(rb"[!-\"$-~]*")
_METHOD = re.compile(r"[A-Z]{1,16}")
_DOTTED = re.compile(rb"(?:^|/)\.{1,2}(?:/|$)|//")
_ALWAYS_SIGNED = frozenset({b"host", b"x-amz-date"})
_SIGNED_IF_THERE = frozenset({b"content-type", b"host", b"x-amz-date"})
_AMZ = b"x-amz-"


class Reason(StrEnum):
    """Why a request is not believed; for the trail, never for the caller."""

    UNSIGNED = "unsigned"
    TWO_AUTHORIZATIONS = "two_authorizations"
    QUERY_SIGNED = "query_signed"
    SESSION_TOKEN = "session_token"  # noqa: S105 - the name of a reason
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    SERVICE = "other_service"
    HOST = "other_host"
    DATE = "date"
    SKEW = "clock_skew"
    HEADERS = "headers_not_signed"
    DUPLICATE = "duplicate_header"
    PAYLOAD = "payload"
    KEY = "unknown_key"
    SIGNATURE = "signature"
    WORKLOAD = "no_workload"


class SignatureRefused(Unauthenticated):
    """A request whose signature proves nothing.

    Attributes:
        reason: Why, for the trail.
    """

    def __init__(self, reason: Reason) -> None:
        """Say the same for every reason; but that session tokens are none of ours tells nothing of any key."""
        super().__init__(NO_SESSIONS if reason is Reason.SESSION_TOKEN else REFUSED)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it came over the wire.

    Attributes:
        method: In capitals.
        raw_path: The path, still percent-encoded.
        raw_query: What stands behind the question mark, or nothing.
        headers: Names in lower case, with their values, in their order.
        body: Every byte of it.
    """

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request claims, well-formed and of this time, but not believed yet.

    Attributes:
        access_key_id: The key that it names.
        date: The day of the signature's scope.
        region: The region of the scope.
        signature: 32 bytes.
        string_to_sign: What the signature must be over.
    """

    access_key_id: str
    date: str
    region: str
    signature: bytes = field(repr=False)
    string_to_sign: bytes = field(repr=False)

    @property
    def signature_hash(self) -> bytes:
        """Tells this signature of this key from every other."""
        return sha256(self.access_key_id.encode() + b"\n" + self.signature).digest()


def access_key_id_of(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    """The key that a request names, believed of nobody: for counting failures. Empty where it names none."""
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1 or len(given[0]) > _AUTHORIZATION_BYTES:
        return ""
    found = _AUTHORIZATION.fullmatch(given[0])
    return found["key"].decode() if found else ""


def read_claim(request: SignedRequest, *, now: datetime, hosts: frozenset[str]) -> Claim:
    """Read what a request claims, and check all that needs no secret.

    Args:
        request: As it came.
        now: Our time.
        hosts: Values of the Host header that are ours, in lower case.

    Raises:
        SignatureRefused: If it is not signed as clients of this service sign, or for somebody else, or for another time.
    """
    _check_lengths(request)
    headers = _headers_of(request)
    found = _authorization(headers)
    _check_shape(request, headers)
    if found["service"].decode() != SERVICE:
        raise SignatureRefused(Reason.SERVICE)
    stamp = _one(headers, b"x-amz-date", Reason.DATE)
    _check_time(stamp, found["date"], now)
    names = tuple(found["headers"].split(b";"))
    _check_names(names, headers)
    if headers[b"host"][0].decode("ascii", "replace").lower() not in hosts:
        raise SignatureRefused(Reason.HOST)
    digest = sha256(request.body).hexdigest().encode()
    if b"x-amz-content-sha256" in headers and headers[b"x-amz-content-sha256"][0] != digest:
        raise SignatureRefused(Reason.PAYLOAD)
    canonical = _canonical_request(request, headers, names, digest)
    scope = b"/".join((found["date"], found["region"], found["service"], b"aws4_request"))
    to_sign = b"\n".join((ALGORITHM.encode(), stamp, scope, sha256(canonical).hexdigest().encode()))
    return Claim(
        access_key_id=found["key"].decode(),
        date=found["date"].decode(),
        region=found["region"].decode(),
        signature=bytes.fromhex(found["signature"].decode()),
        string_to_sign=to_sign,
    )


def signing_key(claim: Claim, secret: Secret) -> bytes:
    """What a secret signs with on the claim's day, in its region; worth keeping, since it costs most of a verification."""
    key = b"AWS4" + secret.reveal().encode()
    for part in (claim.date, claim.region, SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), sha256)
    return key


def is_signed(claim: Claim, key: bytes) -> bool:
    """Whether the holder of a signing key made the signature; compared in constant time."""
    return hmac.compare_digest(hmac.digest(key, claim.string_to_sign, sha256), claim.signature)


def _check_lengths(request: SignedRequest) -> None:
    long = (
        len(request.raw_path) > _PATH_BYTES
        or len(request.raw_query) > _QUERY_BYTES
        or len(request.headers) > _HEADERS
        or sum([len(name) + len(value) for name, value in request.headers]) > _HEADER_BYTES
        or any(name == b"authorization" and len(value) > _AUTHORIZATION_BYTES for name, value in request.headers)
    )
    if long:
        raise SignatureRefused(Reason.TOO_LONG)


def _headers_of(request: SignedRequest) -> dict[bytes, list[bytes]]:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        headers.setdefault(name, []).append(value)
    return headers


def _authorization(headers: dict[bytes, list[bytes]]) -> dict[str, bytes]:
    given = headers.get(b"authorization", [])
    if len(given) > 1:
        raise SignatureRefused(Reason.TWO_AUTHORIZATIONS)
    if not given or not given[0].startswith(b"AWS4-"):
        raise SignatureRefused(Reason.UNSIGNED)
    found = _AUTHORIZATION.fullmatch(given[0])
    if found is None:
        raise SignatureRefused(Reason.MALFORMED)
    return found.groupdict()


def _check_shape(request: SignedRequest, headers: dict[bytes, list[bytes]]) -> None:
    """Refuse what no client of this service sends, and what would mean something else to a reader than to a verifier."""
    if b"x-amz-security-token" in headers:
        raise SignatureRefused(Reason.SESSION_TOKEN)
    for pair in request.raw_query.split(b"&"):
        name = unquote_to_bytes(pair.partition(b"=")[0]).lower()
        if name == b"x-amz-security-token":
            raise SignatureRefused(Reason.SESSION_TOKEN)
        if name.startswith(_AMZ):
            raise SignatureRefused(Reason.QUERY_SIGNED)
    well_formed = (
        _METHOD.fullmatch(request.method)
        and _PATH.fullmatch(request.raw_path)
        and _QUERY.fullmatch(request.raw_query)
        and not _DOTTED.search(request.raw_path)
    )
    if not well_formed or b"content-encoding" in headers:  # signed piece by piece, or packed: no client does it here
        raise SignatureRefused(Reason.MALFORMED)


def _check_time(stamp: bytes, date: bytes, now: datetime) -> None:
    if _DATE.fullmatch(stamp) is None or stamp[:8] != date:
        raise SignatureRefused(Reason.DATE)
    try:
        at = datetime(*(int(stamp[start:end]) for start, end in _PARTS), tzinfo=UTC)
    except ValueError:
        raise SignatureRefused(Reason.DATE) from None
    if abs(now - at) > SKEW:
        raise SignatureRefused(Reason.SKEW)


def _check_names(names: tuple[bytes, ...], headers: dict[bytes, list[bytes]]) -> None:
    """Each signed header is there, once, and everything is signed that says something to us."""
    if list(names) != sorted(set(names)):
        raise SignatureRefused(Reason.MALFORMED)
    wanted = _ALWAYS_SIGNED | {name for name in headers if name in _SIGNED_IF_THERE or name.startswith(_AMZ)}
    if not wanted <= set(names) or any(name not in headers for name in names) or b"authorization" in names:
        raise SignatureRefused(Reason.HEADERS)
    if any(len(headers[name]) > 1 for name in names):
        raise SignatureRefused(Reason.DUPLICATE)


def _one(headers: dict[bytes, list[bytes]], name: bytes, reason: Reason) -> bytes:
    given = headers.get(name, [])
    if len(given) != 1:
        raise SignatureRefused(Reason.DUPLICATE if given else reason)
    return given[0]


def _canonical_request(
    request: SignedRequest, headers: dict[bytes, list[bytes]], names: tuple[bytes, ...], digest: bytes
) -> bytes:
    """The canonical request; the path is encoded once more than on the wire, the query's pairs are sorted as they are."""
    pairs = sorted(pair.partition(b"=")[::2] for pair in request.raw_query.split(b"&")) if request.raw_query else []
    lines = [name + b":" + b" ".join(_value(name, headers).split()) for name in names]
    return b"\n".join(
        (
            request.method.encode(),
            quote(request.raw_path, safe="/~").encode(),
            b"&".join(name + b"=" + value for name, value in pairs),
            *lines,
            b"",
            b";".join(names),
            digest,
        )
    )


def _value(name: bytes, headers: dict[bytes, list[bytes]]) -> bytes:
    """A header's value; of the host's, clients sign the small letters, whichever they send."""
    return headers[name][0].lower() if name == b"host" else headers[name][0]
