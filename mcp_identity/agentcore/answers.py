"""What goes back: JSON of a shape, or of a failure, with the headers that clients of the service read.

A secret that leaves is written here, where its audit row stands already. Members without a value are left out: an empty access
token would be taken for a token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, PlainSerializer

from mcp_identity.domain.credentials import Secret

if TYPE_CHECKING:
    from starlette.types import Send

    from mcp_identity.agentcore.errors import Problem

_NO_CONTENT = 204
_EMPTY = b"{}"
_STATUS_DIGITS = 3
_REFUSALS = 400
_JSON = (b"content-type", b"application/json")
_NOT_KEPT = (b"cache-control", b"no-store")


def _written(secret: Secret) -> str:
    return secret.reveal()


Moment = Annotated[datetime, PlainSerializer(datetime.timestamp, return_type=float)]
"""A time, as seconds since 1970 on the wire."""
Released = Annotated[Secret, PlainSerializer(_written, return_type=str)]
"""A secret that the answer is there to hand over."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent.

    Attributes:
        status: Of HTTP.
        body: JSON, or nothing.
        headers: Further ones.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def packed(self) -> bytes:
        """Status and body in one, to be kept for whoever sends the same request once more."""
        return f"{self.status:03}".encode() + self.body


def unpacked(kept: bytes) -> Answer:
    """The answer that was kept; what a refusal is called stands in its body, too."""
    status, body = int(kept[:_STATUS_DIGITS]), kept[_STATUS_DIGITS:]
    return Answer(status, body, _named(json.loads(body)["__type"])) if status >= _REFUSALS else Answer(status, body)


def success(status: int, shape: BaseModel | None) -> Answer:
    """The answer of an operation that was served."""
    if status == _NO_CONTENT:
        return Answer(status, b"")
    return Answer(status, shape.model_dump_json(by_alias=True, exclude_none=True).encode() if shape is not None else _EMPTY)


def failure(problem: Problem, *, challenge: bool = False) -> Answer:
    """The answer to what was refused, or failed.

    Args:
        problem: What is told.
        challenge: Say that a bearer would do (RFC 6750 §3).
    """
    body = json.dumps({"message": problem.message, "__type": problem.code, **problem.members}).encode()
    headers = [*_named(problem.code)]
    if problem.retry_after_seconds:
        headers.append((b"retry-after", str(problem.retry_after_seconds).encode()))
    if challenge:
        headers.append((b"www-authenticate", b"Bearer"))
    return Answer(problem.status, body, tuple(headers))


def _named(code: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"x-amzn-errortype", code.encode()),)


async def say(answer: Answer, request_id: str, send: Send) -> None:
    """Send an answer."""
    length = () if answer.status == _NO_CONTENT else (_JSON, (b"content-length", str(len(answer.body)).encode()))
    headers = [*length, _NOT_KEPT, (b"x-amzn-requestid", request_id.encode()), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
