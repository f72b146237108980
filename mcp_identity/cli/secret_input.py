"""How does a secret get in? From a variable, a file, stdin or a prompt without echo; never from an argument."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import InvalidRequest

_LIMIT = 16_384


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the options say that a secret is.

    Attributes:
        option: The beginning of the options' names, for messages.
        variable: An environment variable.
        path: A file.
        stdin: Standard input.
    """

    option: str
    variable: str | None
    path: Path | None
    stdin: bool

    @property
    def is_given(self) -> bool:
        """Whether an option names a place."""
        return self.stdin or self.variable is not None or self.path is not None

    def read(self) -> Secret | None:
        """Read the secret, once; None where no option names a place.

        Raises:
            InvalidRequest: If several do, or stdin holds none.
            ConfigurationError: If the variable or file holds none.
        """
        if self.stdin + (self.variable is not None) + (self.path is not None) > 1:
            raise InvalidRequest(f"name one place for the secret: {self.option}-env, {self.option}-file or {self.option}-stdin")
        from mcp_identity.settings import read_secret

        if self.variable is not None:
            return read_secret(f"env:{self.variable}")
        if self.path is not None:
            return read_secret(f"file:{self.path}")
        return self._from_stdin() if self.stdin else None

    def _from_stdin(self) -> Secret:
        if is_interactive():  # a person types: without echo, and one line
            return Secret(str(typer.prompt("The secret (not shown)", hide_input=True, err=True)))
        from mcp_identity.settings import is_pem

        text = sys.stdin.read(_LIMIT + 1).strip("\r\n")
        if not text or len(text) > _LIMIT or not (text.isprintable() or is_pem(text)):
            raise InvalidRequest(
                f'stdin holds no secret, or more than one line; pass exactly one: printf %s "$SECRET" | … {self.option}-stdin'
            )
        return Secret(text)


def is_interactive() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask_secret(what: str) -> Secret | None:
    """Ask for a secret without echo; None where nobody can be asked."""
    return Secret(str(typer.prompt(what, hide_input=True, err=True))) if is_interactive() else None
