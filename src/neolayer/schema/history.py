"""The books: what each database has seen (marks), and the one history over all of them.

The mark of a PostgreSQL database commits with the change it speaks of, so marks are the truth and
the history in core is brought up to date from them after a crash between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neolayer.errors import MigrationError
from neolayer.schema.files import Direction, Migration
from neolayer.schema.lines import Line


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one migration came in its database. Unfinished: it was killed in `direction`."""

    number: int
    line: Line
    name: str
    checksum: str
    direction: Direction
    statements_done: int
    is_finished: bool

    @property
    def label(self) -> str:
        return f"{self.line}/{self.number:04d}_{self.name}"


def mark_of(
    migration: Migration, direction: Direction, *, statements_done: int, is_finished: bool
) -> Mark:
    return Mark(
        migration.number,
        migration.line,
        migration.name,
        migration.checksum,
        direction,
        statements_done,
        is_finished,
    )


@dataclass(frozen=True, slots=True)
class Books:
    """All marks of all open databases."""

    marks: Mapping[int, Mark]

    def pending(self, migrations: Iterable[Migration]) -> list[Migration]:
        """What `up` has to do, in order; begun ones included."""
        return [
            migration
            for migration in migrations
            if migration.number not in self.marks or not self.marks[migration.number].is_finished
        ]

    def applied(self, migrations: Iterable[Migration]) -> list[Migration]:
        return [
            migration
            for migration in migrations
            if migration.number in self.marks and self.marks[migration.number].is_finished
        ]

    def drift(self, migrations: Iterable[Migration]) -> list[str]:
        """What does not fit between the files and the databases; one sentence each."""
        files = {migration.number: migration for migration in migrations}
        return [
            sentence
            for mark in self.marks.values()
            if (sentence := _drift(mark, files.get(mark.number)))
        ]

    def check(self, migrations: Iterable[Migration]) -> None:
        """Raises MigrationError if `up` or `down` would build on sand."""
        migrations = list(migrations)
        problems = self.drift(migrations) + _out_of_order(self, migrations)
        if problems:
            raise MigrationError(
                "; ".join(problems), hint="'neolayer migrate status' shows all of it"
            )


def _drift(mark: Mark, file: Migration | None) -> str | None:
    if file is None:
        return f"{mark.label} is applied and this version does not know it"
    if (file.line, file.name) != (mark.line, mark.name):
        return f"{file.path} is applied under another name: {mark.label}"
    if file.checksum != mark.checksum:
        return f"{file.path} was edited after it was applied; write a new migration instead"
    return None


def _out_of_order(books: Books, migrations: list[Migration]) -> list[str]:
    """Within a line, a new file must come after all that is applied."""
    newest: dict[Line, int] = {}
    for migration in books.applied(migrations):
        newest[migration.line] = migration.number
    return [
        f"{migration.path} comes before {newest[migration.line]:04d}, which is applied; "
        "give it a new number"
        for migration in migrations
        if migration.number not in books.marks and migration.number < newest.get(migration.line, 0)
    ]
