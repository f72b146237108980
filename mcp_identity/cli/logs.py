"""Where do log lines go, and what can stand in them?

To stderr, always: on stdio stdout belongs to the protocol. One line a record, control characters escaped, and of an
exception only its type and where it came from: a driver's message may quote a statement, and a local variable a secret.
Nobody waits for whoever reads it: lines that a full pipe does not take are counted, and left out.
"""

from __future__ import annotations

import json
import logging
import select
import sys
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import PurePath
from traceback import walk_tb
from typing import TextIO

QUIET = (
    "alembic",
    "asyncio",
    "botocore",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "mcp",
    "sqlalchemy",
    "urllib3",
    "uvicorn",
    "uvicorn.access",
    "uvicorn.error",
)
"""Loggers of others, which below WARNING name URLs with their queries, statements, messages, and whole answers of a KMS. Of
any other that is not ours the handler leaves it out: these are only the ones that would be asked in vain again and again."""
_OURS = "mcp_identity"
_FRAMES = 8
_LONGEST = 2000
"""The most characters of a message."""


def configure_logging(level: str, format: str) -> None:  # noqa: A002 - the setting's own name
    """Log to stderr; calling it again replaces what it set up before.

    Args:
        level: The least level that is logged, e.g. ``WARNING``.
        format: ``human`` or ``json``.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stderr)]:
        root.removeHandler(handler)
    handler = _Stderr()
    handler.setFormatter(_JsonLines() if format == "json" else _Lines())
    handler.addFilter(_may_be_told)
    handler.addFilter(fold_exception)
    root.addHandler(handler)
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _may_be_told(record: logging.LogRecord) -> bool:
    """Whether a record is ours, or at least a warning: what others say below that, nobody has checked for secrets."""
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] == _OURS


def fold_exception(record: logging.LogRecord) -> bool:
    """Put an exception's type and origin into the message, and drop the exception with everything that it carries."""
    error = record.exc_info[1] if record.exc_info else None
    record.exc_info = record.exc_text = record.stack_info = None
    if error is not None:
        record.msg, record.args = f"{record.getMessage()} [{describe_exception(error)}]", None
    return True


def describe_exception(error: BaseException) -> str:
    """An exception's types, causes included, and the innermost frames that it passed; never its message."""
    types = " from ".join(type(each).__name__ for each in _causes(error))
    frames = [f"{PurePath(f.f_code.co_filename).name}:{line} in {f.f_code.co_name}" for f, line in walk_tb(error.__traceback__)]
    return f"{types} at {' > '.join(frames[-_FRAMES:])}" if frames else types


def _causes(error: BaseException | None) -> Generator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at that moment, as long as that takes it at once."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or leave it out; who logs may be the event loop, and everybody would wait with it."""
        if not _takes_a_line(self.stream):
            self._left_out += 1
            return
        if self._left_out:
            said, self._left_out = f"{self._left_out} lines were not written, since nobody read the log", 0
            super().emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, said, None, None))
        super().emit(record)

    @property
    def stream(self) -> TextIO:  # pyright: ignore[reportIncompatibleVariableOverride] - as logging.lastResort does it
        return sys.stderr


def _takes_a_line(stream: TextIO) -> bool:
    """Whether a write will not block: a pipe that is writable has room for a page, which is more than our lines."""
    if not hasattr(select, "poll"):
        return True
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):  # what a test, or a host that embeds us, put in its place
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


class _Lines(logging.Formatter):
    """For people: time, level, logger, message, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        return f"{at:%H:%M:%S} {record.levelname.lower()} {record.name}: {_escaped(_message(record))}"


class _JsonLines(logging.Formatter):
    """For machines: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"ts": at, "level": record.levelname, "logger": record.name, "message": _message(record)}
        return json.dumps(line)


def _message(record: logging.LogRecord) -> str:
    return record.getMessage()[:_LONGEST]


def _escaped(text: str) -> str:
    """Nothing in a line may move the cursor, begin another line, or turn the writing direction."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
