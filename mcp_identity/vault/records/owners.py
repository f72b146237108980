"""Whose rows are meant, for what an operator looks at or ends of everybody's: grants, and consents under way."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose, and at which provider; what is empty says nothing.

    Attributes:
        tenant: The tenant; it always counts.
        workload_id: The workload's id.
        user_key: The user's key.
        provider_row: The provider's row id.
    """

    tenant: str
    workload_id: str = ""
    user_key: str = ""
    provider_row: str = ""


def owned_rows(rows: Table, owner: Owner) -> list[ColumnElement[bool]]:
    """The conditions on a table that names owners by these columns."""
    found: list[ColumnElement[bool]] = [rows.c.tenant_id == owner.tenant]
    for column, value in (
        ("workload_id", owner.workload_id),
        ("user_key", owner.user_key),
        ("provider_row", owner.provider_row),
    ):
        if value:
            found.append(rows.c[column] == value)
    return found
