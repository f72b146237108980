"""What was granted, in the words in which it was asked for?

Vendors rename scopes, leave some out of their answers and grant one that includes others; the provider's data says so, and
here it is applied. Decides no access. Trusts the provider's data, not the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mcp_identity.domain.credentials import parse_scopes
from mcp_identity.domain.errors import InvalidScope, UpstreamBadResponse
from mcp_identity.domain.provider import Dialect
from mcp_identity.oauth.answers import Json


def join(scopes: Iterable[str], dialect: Dialect) -> str:
    """One parameter value, in an order that does not change from request to request."""
    return dialect.scope_separator.join(sorted(set(scopes)))


def read(value: Json, dialect: Dialect) -> frozenset[str] | None:
    """The scopes of an answer, a string or a list of strings; None where it names none.

    Raises:
        UpstreamBadResponse: If it is anything else, or a scope is malformed (RFC 6749 §3.3).
    """
    if value is None:
        return None
    if isinstance(value, str):
        separators = re.escape(dialect.response_scope_separators)
        names = [name for name in re.split(f"[{separators}]", value) if name]
    elif isinstance(value, list):
        names = [name for name in value if isinstance(name, str)]
        if len(names) != len(value):
            raise UpstreamBadResponse("the authorization server's scope list holds something other than strings")
    else:
        raise UpstreamBadResponse("the authorization server's scope is neither a string nor a list")
    try:
        return parse_scopes(names)
    except InvalidScope:
        raise UpstreamBadResponse("the authorization server's answer holds a malformed scope, or too many") from None


def granted(reported: frozenset[str], requested: frozenset[str], dialect: Dialect) -> frozenset[str]:
    """Say what a report of granted scopes means in the words of the request.

    Args:
        reported: What the answer lists.
        requested: What was asked for.
        dialect: Aliases, implied scopes, scopes that are granted without a word, and those that the data file adds itself.
    """
    scopes = set(reported)
    for asked, name in dialect.scope_aliases.items():
        if name in reported:
            if asked in requested or name not in requested:
                scopes.add(asked)
            if name not in requested:
                scopes.discard(name)
    scopes |= frozenset(dialect.unreported_scopes) & requested
    # Only what was asked for: to list all that `repo` includes would make a policy that allows `repo` refuse it.
    scopes |= with_implied(frozenset(scopes), dialect) & requested
    # What the data file asks for by itself is plumbing; nobody asked, so nobody is told.
    return frozenset(scopes) - (frozenset(dialect.always_scopes) - requested)


def with_implied(scopes: frozenset[str], dialect: Dialect) -> frozenset[str]:
    """The scopes and all that they include, for comparing a stored grant with a request."""
    found = set(scopes)
    waiting = list(scopes)
    while waiting:
        for name in dialect.implied_scopes.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return frozenset(found)
