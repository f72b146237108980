"""The headers of a request, read once: at the door and at the gate they are asked for many times."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from starlette.types import Scope

T = TypeVar("T")


class Head:
    """Headers by their names in lower case, as ASGI brings them."""

    __slots__ = ("_values",)

    def __init__(self, scope: Scope) -> None:
        """Read them all."""
        self._values: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self._values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: T) -> str | T:
        """The first value of a header."""
        found = self._values.get(name)
        return found[0] if found else default

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return self._values.get(name, [])
