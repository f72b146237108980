"""Which database is the next vault in?"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from tests.fakes.postgres import Database, postgres


@contextmanager
def new_databases() -> Generator[Callable[[], str]]:
    """Makes PostgreSQL databases, and drops them at the end; the URL of each."""
    made: list[Database] = []

    def make() -> str:
        made.append(postgres().create_database())
        return made[-1].url

    try:
        yield make
    finally:
        for database in made:
            database.drop()
