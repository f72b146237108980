"""What do the writer's tests have it do, and what is there afterwards?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mcp_identity.domain.errors import AccessDenied, IdentityError
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.vault.kit import EVENT, Place, behind_its_back


def add_workload(name: str) -> Callable[[Records], str]:
    return lambda records: records.register_workload(DEFAULT_TENANT, name, "stdio").name


def refuse(name: str) -> Callable[[Records], None]:
    def unit(records: Records) -> None:
        records.register_workload(DEFAULT_TENANT, name, "stdio")
        records.append_audit(EVENT.ending("ok"))
        raise AccessDenied("no")

    return unit


def workloads(database: Place) -> list[str]:
    rows = behind_its_back(database, "SELECT name FROM workload_identities ORDER BY name")
    return [name for (name,) in rows]


def outcomes(database: Place) -> list[str]:
    return [outcome for (outcome,) in behind_its_back(database, "SELECT outcome FROM audit_events ORDER BY sequence")]


def codes(found: list[Any]) -> list[str]:
    return [each.code if isinstance(each, IdentityError) else "ok" for each in found]


async def batch_while_locked(vault: Vault) -> list[Any]:
    found: list[Any] = []
    for name in "ab":
        with pytest.raises(IdentityError) as caught:
            await vault.run(add_workload(name))
        found.append(caught.value)
    return found
