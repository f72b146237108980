"""What becomes of text that comes from outside, before anybody reads it?

Characters that do not show, or turn the text around, go. The credential that was sent is looked for, in whatever way an
honest server may repeat it: as it is, percent-encoded, escaped for JSON or HTML, or in base64 within something longer. A
server that wants to hide it will find a way; this is for those that echo.
"""

from __future__ import annotations

import json
import re
from array import array
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from io import StringIO
from itertools import chain

REPLACED = "[credential removed]"

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Control, format, bidirectional, zero-width, variation and tag characters, and lone surrogates; not tab, not line feed."""
_UNSEEN_ASCII = bytes(code for code in range(128) if _UNSEEN.fullmatch(chr(code)))
_JSON_ESCAPES = re.compile(r"\\u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*")
_JSON_ESCAPE_LENGTH = 6
_ESCAPES = {
    "%": re.compile(r"%(?:25)*(?P<code>[2-7][0-9A-Fa-f])"),
    "\\": re.compile(r"\\+(?:(?:u00|x)(?P<code>[2-7][0-9A-Fa-f])|(?P<plain>[/\"']))"),
    "&": re.compile(
        r"&(?:#[xX]0*(?P<code>[2-7][0-9A-Fa-f])|#0*(?P<decimal>[1-9][0-9]{1,2})|(?P<named>amp|lt|gt|quot|apos|sol|plus|equals));"
    ),
}
"""How a printable character of ASCII may be written otherwise, by the character that such a way begins with."""
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "sol": "/", "plus": "+", "equals": "="}
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]")
_SHORTEST_BASE64 = 8
"""Shorter remains of a secret in base64 would be found by chance."""


def clean_outside_text(text: str, *, is_json: bool = False) -> str:
    """Remove what does not show or turns text around; tabs and line ends stay.

    Args:
        text: Text from outside.
        is_json: Also remove such characters where they are escaped.
    """
    cleaned = _seen(text.replace("\r\n", "\n").replace("\r", "\n"))
    return _JSON_ESCAPES.sub(_without_unseen, cleaned) if is_json and "\\u" in cleaned else cleaned


def _seen(text: str) -> str:
    if text.isascii():  # much faster, and most text is
        return text.encode("ascii").translate(None, _UNSEEN_ASCII).decode("ascii")
    return _UNSEEN.sub("", text)


def _without_unseen(found: re.Match[str]) -> str:
    run, text, before = found[0], found.string, found.start()
    while before and text[before - 1] == "\\":
        before -= 1
    # After an odd number of backslashes the first one is itself escaped.
    skipped = run[: _JSON_ESCAPE_LENGTH * ((found.start() - before) % 2)]
    shown: str = json.loads(f'"{run[len(skipped) :]}"')
    kept = _UNSEEN.sub("", shown)
    return run if kept == shown else skipped + json.dumps(kept)[1:-1]


@dataclass(frozen=True, slots=True)
class Redacted:
    """What is left of a text.

    Attributes:
        text: Without the credential.
        found: How often it stood there.
    """

    text: str
    found: int


class Redactor:
    """Looks for one credential."""

    __slots__ = ("_cores", "_plain", "_raw", "reach")

    def __init__(self, credential: str) -> None:
        """Know what to look for.

        Args:
            credential: As it is sent.
        """
        self._raw = credential
        self._plain = _unescaped(credential)
        self._cores = tuple(core for core in map(self._core, range(3)) if len(core[0]) >= _SHORTEST_BASE64)
        self.reach = 8 * len(credential.encode()) + 16
        """The most characters that the credential takes up, whichever way it is written."""

    def __repr__(self) -> str:
        """Never the credential."""
        return "Redactor(***)"

    def redact(self, text: str) -> Redacted:
        """Replace the credential wherever it stands."""
        spans = self._spans(text)
        if not spans:
            return Redacted(text, 0)
        parts: list[str] = []
        end = 0
        for start, stop in spans:
            parts += [text[end:start], REPLACED]
            end = stop
        return Redacted("".join([*parts, text[end:]]), len(spans))

    def is_in(self, data: bytes) -> bool:
        """Whether the credential stands in bytes that may be anything, in 8 or 16 bits a character."""
        text = data.decode("latin-1")
        return bool(self._spans(text)) or ("\0" in text and bool(self._spans(text.replace("\0", ""))))

    def _core(self, offset: int) -> tuple[str, bool, bool]:
        """What base64 makes of the credential alone, `offset` bytes into a group, and whether its neighbours hold the rest."""
        bits = 8 * (offset + len(self._raw.encode()))
        encoded = b64encode(b"\0" * offset + self._raw.encode()).decode()
        return encoded[-(-8 * offset // 6) : bits // 6], offset > 0, bits % 6 > 0

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where it stands, in order, and never overlapping."""
        if not self._raw:
            return []
        origins = [(at, at + len(self._raw)) for at in _all(text, self._raw)]
        plain = _unescaped(text)
        spans = self._plain_spans(plain)
        if spans and plain is not text:
            places = _Unescaped(text)
            spans = [(places.origin(start), places.origin_end(stop)) for start, stop in spans]
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(origins + spans):
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return merged

    def _plain_spans(self, text: str) -> list[tuple[int, int]]:
        """Where it stands in a text without escapes, as it is or in base64."""
        spans = [(at, at + len(self._plain)) for at in _all(text, self._plain)]
        standard = text.replace("-", "+").replace("_", "/")
        for core, before, after in self._cores:
            for at in _all(standard, core):
                # The neighbours hold the first and the last bits of it.
                start = at - (before and at > 0 and _BASE64.fullmatch(standard[at - 1]) is not None)
                stop = at + len(core)
                stop += after and stop < len(standard) and _BASE64.fullmatch(standard[stop]) is not None
                spans.append((start, stop))
        return spans


class _Unescaped:
    """A text with its escapes undone, which still knows where each character came from."""

    def __init__(self, text: str) -> None:
        self._marks, self._origins = array("q", [0]), array("q", [0])
        out = StringIO()
        end = length = 0
        for start, stop, char in _escapes(text):
            out.write(text[end:start])
            out.write(char)
            length += start - end
            self._mark(length, start)
            length += 1
            end = stop
            self._mark(length, end)
        out.write(text[end:])
        self.text = out.getvalue()

    def _mark(self, at: int, origin: int) -> None:
        self._marks.append(at)
        self._origins.append(origin)

    def origin(self, at: int) -> int:
        """Where the character at a place began."""
        mark = bisect_right(self._marks, at) - 1
        return self._origins[mark] + at - self._marks[mark]

    def origin_end(self, at: int) -> int:
        """Where the character before a place ended."""
        last = at - 1
        mark = bisect_right(self._marks, last)
        ended = mark < len(self._marks) and self._marks[mark] == at
        return self._origins[mark] if ended else self.origin(last) + 1


def _unescaped(text: str) -> str:
    """A text with its escapes undone, and nothing to remember it by."""
    if not any(first in text for first in _ESCAPES):
        return text
    out, end = StringIO(), 0
    for start, stop, char in _escapes(text):
        out.write(text[end:start])
        out.write(char)
        end = stop
    out.write(text[end:])
    return out.getvalue()


def _escapes(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each escape begins and ends, and what it stands for, in order."""
    ways = [escape.finditer(text) for first, escape in _ESCAPES.items() if first in text]
    return (
        merge(*(map(_undone, way) for way in ways)) if len(ways) > 1 else chain.from_iterable(map(_undone, way) for way in ways)
    )


def _undone(found: re.Match[str]) -> tuple[int, int, str]:
    kind = found.lastgroup or ""
    written = found[kind]
    match kind:
        case "code":
            char = chr(int(written, 16))
        case "decimal":
            char = chr(int(written))
        case "named":
            char = _NAMED[written]
        case _:
            char = written
    return found.start(), found.end(), char


def _all(text: str, part: str) -> list[int]:
    places: list[int] = []
    at = text.find(part)
    while at >= 0:
        places.append(at)
        at = text.find(part, at + 1)
    return places
