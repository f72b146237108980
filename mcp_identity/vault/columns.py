"""How columns are written: the few kinds that every table of the vault is made of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, LargeBinary, MetaData, Text
from sqlmodel import Field, SQLModel

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING)

TEXT = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that is compared and ordered by its bytes, as SQLite does. The order of a language changes with a library of the system,
and a unique index that was made by another order is none."""


class Blob(LargeBinary):
    """Bytes as the driver gives them; a cell that holds something else is found where rows are checked, not in the driver."""

    cache_ok = True

    def result_processor(self, dialect: Any, coltype: Any) -> None:
        """None: nothing is converted."""
        del dialect, coltype


class Base(SQLModel):
    """The base of all tables, on a metadata of our own."""

    metadata = metadata


def row_id() -> Any:
    """A random text that names the row."""
    return Field(sa_column=Column(TEXT, primary_key=True))


def text(*, unique: bool = False, index: bool = False) -> Any:
    """Text that is never NULL."""
    return Field(default="", sa_column=Column(TEXT, nullable=False, unique=unique or None, index=index or None))


def tenant() -> Any:
    """The tenant that the row belongs to."""
    return Field(sa_column=Column(TEXT, ForeignKey("tenants.id"), nullable=False))


def reference(target: str) -> Any:
    """The row that this one belongs to."""
    return Field(sa_column=Column(TEXT, ForeignKey(target), nullable=False))


def number(default: int = 0) -> Any:
    """A number: a count, a flag, or microseconds."""
    return Field(default=default, sa_column=Column(BigInteger, nullable=False))


def blob(*, nullable: bool = True) -> Any:
    """Bytes: a sealed record or a MAC."""
    return Field(default=None, sa_column=Column(Blob, nullable=nullable))


def digest(*, nullable: bool = False) -> Any:
    """A hash that a row is found by; no two rows have the same."""
    return Field(default=None, sa_column=Column(Blob, nullable=nullable, unique=True))
