"""From where may a secret be read by a name that came over the network? From the places that an operator listed, by tenant.

Here is what a reference says, never what is there: no file and no variable is looked at. A variable of the product's own, or
of what opens its vault, is in no place, however the places were listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations

from mcp_identity.domain.identity import is_name

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:/[^/\\:]+)+")
_OWN_VARIABLES = ("MCP_IDENTITY_", "AWS_", "PG")
"""What begins so is ours, or is read by the key backend or the database's driver."""
_SYSTEMS_FOLDERS = ("/proc/", "/sys/", "/dev/")
_MEMORY = "/dev/shm/"  # noqa: S108 - a folder in memory is a good place for secrets; who may write there, it says itself
_PATH_LIMIT = 4096
_FORM = "each is TENANT=env:PREFIX_ or TENANT=file:/FOLDER/"


@dataclass(frozen=True, slots=True)
class SecretSource:
    """One place of one tenant.

    Attributes:
        tenant: Whose secrets are there.
        kind: ``env`` or ``file``.
        prefix: What the names of its variables begin with; or a folder, with a slash at the end.
    """

    tenant: str
    kind: str
    prefix: str

    def covers(self, reference: str) -> bool:
        """Whether a reference is to something in this place, and written in the one way that needs no interpretation."""
        kind, _, value = reference.partition(":")
        if kind != self.kind or not value.startswith(self.prefix) or value == self.prefix:
            return False
        return is_foreign_variable(value) if kind == "env" else is_plain_path(value)


def is_foreign_variable(name: str) -> bool:
    """Whether a variable of this name may be somebody's secret, and none of ours; on Windows case means nothing."""
    return _VARIABLE.fullmatch(name) is not None and not name.upper().startswith(_OWN_VARIABLES)


def is_plain_path(path: str) -> bool:
    """Whether a path is absolute and goes straight to where it says: no ``..``, no empty part, nothing that cannot be seen."""
    return (
        len(path) <= _PATH_LIMIT
        and path.isprintable()
        and _PATH.fullmatch(path) is not None
        and not {".", ".."} & set(path.split("/"))
    )


def parse_sources(given: tuple[str, ...]) -> tuple[SecretSource, ...]:
    """The places that an operator listed.

    Args:
        given: Each ``<tenant>=env:<prefix>`` or ``<tenant>=file:<folder>``.

    Raises:
        ValueError: If one is none, or two tenants would share one.
    """
    sources = tuple(_parse(each) for each in given)
    for one, other in combinations(sources, 2):
        mine, theirs = one.prefix.casefold(), other.prefix.casefold()
        if one.tenant != other.tenant and one.kind == other.kind and (mine.startswith(theirs) or theirs.startswith(mine)):
            raise ValueError("two tenants would read one another's secrets: no place of one may lie in a place of another")
    return sources


def _parse(text: str) -> SecretSource:
    tenant, _, reference = text.partition("=")
    kind, _, prefix = reference.partition(":")
    if not is_name(tenant):
        raise ValueError(_FORM)
    if kind == "env":
        if not prefix.endswith("_") or not is_foreign_variable(prefix):
            raise ValueError(f"{_FORM}; a prefix ends with an underscore and is none of {', '.join(_OWN_VARIABLES)}…")
        return SecretSource(tenant, kind, prefix)
    folder = prefix.rstrip("/")
    of_the_system = f"{folder}/".startswith(_SYSTEMS_FOLDERS) and not folder.startswith(_MEMORY)
    if kind != "file" or not is_plain_path(folder) or of_the_system:
        raise ValueError(f"{_FORM}; a folder is absolute, and holds secrets of that tenant and nothing else")
    return SecretSource(tenant, kind, f"{folder}/")
