"""The face of a database that migrations are applied to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from neolayer.schema.files import Direction, Migration
from neolayer.schema.history import Mark
from neolayer.schema.lines import Line

# Called with the statements done: before each one, before the commit, and (one more) after it.
OnStatement = Callable[[Migration, int], None]


def ignore_statement(_: Migration, __: int) -> None:
    """Nobody is watching."""


class Target(Protocol):
    """One open database of one line."""

    @property
    def line(self) -> Line: ...

    async def marks(self) -> list[Mark]:
        """What this database has seen, by number."""
        ...

    async def run(
        self, migration: Migration, direction: Direction, *, done: int, on_statement: OnStatement
    ) -> None:
        """Apply or take back one migration, from statement `done` on, and mark it.

        Raises MigrationError; then a transactional migration has left nothing behind.
        """
        ...

    async def close(self) -> None: ...
