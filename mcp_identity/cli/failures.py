"""What does a failure look like on the command line? One line on stderr, and an exit status that a script can act on."""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from mcp_identity.domain.errors import (
    ConfigurationError,
    IdentityError,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    StorageError,
)

FAILED, USAGE, STORAGE, CONFIGURATION = 1, 2, 74, 78
_EXIT_CODES: dict[type[IdentityError], int] = {
    ConfigurationError: CONFIGURATION,
    StorageError: STORAGE,
    InvalidRequest: USAGE,
    InvalidScope: USAGE,
    InvalidTarget: USAGE,
}
log = logging.getLogger(__name__)


def exit_code(error: IdentityError) -> int:
    """The exit status of a designed failure: 2 usage, 74 storage, 78 configuration, else 1."""
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), FAILED)


def print_failure(message: str, code: str) -> None:
    """Say on stderr what went wrong, with its stable code."""
    typer.echo(f"error: {message} [{code}]", err=True)


class Commands(TyperGroup):
    """The commands; whatever one of them raises becomes a line and an exit status, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except (TyperException, typer.Exit, typer.Abort, EOFError):
            raise
        except IdentityError as error:
            print_failure(error.message, error.code)
            raise typer.Exit(exit_code(error)) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output went away; Typer ends quietly
            _report_unexpected(error)
            raise typer.Exit(FAILED) from None


def _report_unexpected(error: Exception) -> None:
    """Name the type alone: what an unforeseen message or a local variable holds, nobody has checked."""
    from mcp_identity.cli.logs import configure_logging
    from mcp_identity.settings import load_settings

    hint = "set MCP_IDENTITY_LOG_LEVEL=DEBUG to see where"
    print_failure(f"unexpected {type(error).__name__}; {hint}", IdentityError.code)
    with suppress(ConfigurationError):
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        log.debug("unexpected", exc_info=error)
