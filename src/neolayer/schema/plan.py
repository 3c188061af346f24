"""What `migrate up` would do, and which locks it would take.

The locks are measured, not guessed: the pending migrations of a database run on the live server in
one transaction with a short lock_timeout, pg_locks is read after each statement, and all of it is
rolled back. What cannot run inside a transaction is shown with what its kind is known to take.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import psycopg

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.schema.files import Migration, load_migrations
from neolayer.schema.lines import Line, lines_at
from neolayer.schema.state import read_books
from neolayer.schema.statements import without_comments

QUERIES = load_queries("neolayer.schema")

# What a lock keeps others from doing, in the server's own order of strength.
_HINDERS = {
    "RowExclusiveLock": "hinders no reader and no writer",
    "ShareUpdateExclusiveLock": "hinders no reader and no writer",
    "ShareLock": "writers wait",
    "ShareRowExclusiveLock": "writers wait",
    "ExclusiveLock": "writers wait",
    "AccessExclusiveLock": "readers and writers wait",
}
_ENGINES = {
    Line.CLICKHOUSE: "ClickHouse",
    Line.MONGODB: "MongoDB",
    Line.ELASTICSEARCH: "the search server",
}
_KNOWN = (
    (r"(CREATE|DROP)\s+(UNIQUE\s+)?INDEX\s+CONCURRENTLY", "ShareUpdateExclusiveLock"),
    (r"REINDEX\b.*\bCONCURRENTLY", "ShareUpdateExclusiveLock"),
    (r"VACUUM(?!\s+FULL)", "ShareUpdateExclusiveLock"),
    (r"ALTER\s+TABLE\b.*\bDETACH\s+PARTITION\b.*\bCONCURRENTLY", "ShareUpdateExclusiveLock"),
)


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock on something that others may be using. `rows` is the planner's estimate."""

    relation: str
    mode: str
    rows: int

    @property
    def hinders(self) -> str:
        return _HINDERS.get(self.mode, "unknown")


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """One statement and the locks it takes first. `note`: why there is no measurement."""

    sql: str
    locks: tuple[Lock, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class PlannedMigration:
    migration: Migration
    statements: tuple[PlannedStatement, ...]


async def plan(
    endpoints: Endpoints,
    *,
    lines: Collection[Line] = tuple(Line),
    migrations: Sequence[Migration] | None = None,
) -> list[PlannedMigration]:
    """What is pending, in order, with its locks. Leaves nothing behind. Raises EngineUnavailable.

    Raises MigrationError where `up` would refuse to start.
    """
    lines = lines_at(endpoints, lines)
    chosen = [m for m in sorted(migrations or load_migrations()) if m.line in lines]
    books, present = await read_books(endpoints, lines)
    books.check(chosen)
    pending = books.pending(chosen)
    planned: dict[int, PlannedMigration] = {}
    for line in lines:
        for entry in await _plan_line(
            endpoints, line, [m for m in pending if m.line is line], is_new=line not in present
        ):
            planned[entry.migration.number] = entry
    return [planned[migration.number] for migration in pending]


async def _plan_line(
    endpoints: Endpoints, line: Line, pending: list[Migration], *, is_new: bool
) -> list[PlannedMigration]:
    if not pending:
        return []
    if is_new:
        return [
            _unmeasured(migration, "a new database: nobody is there yet") for migration in pending
        ]
    if line.database is None:
        note = f"{_ENGINES[line]} takes no lock on rows"
        return [_unmeasured(entry, note) for entry in pending]
    dsn = endpoints.cluster(line.database).dsn(Role.MIGRATOR, line.database)
    async with await connect(dsn, application_name="plan") as connection:
        try:
            return await _measure(connection, pending)
        finally:
            await connection.rollback()


def _unmeasured(migration: Migration, note: str) -> PlannedMigration:
    statements = migration.up.statements
    return PlannedMigration(migration, tuple(PlannedStatement(s, note=note) for s in statements))


async def _measure(connection: Connection, pending: list[Migration]) -> list[PlannedMigration]:
    await connection.execute("SET LOCAL lock_timeout = '500ms'")
    await connection.execute("SELECT set_config('role', %s, true)", (str(Role.OWNER),))
    await connection.execute("SELECT set_config('search_path', '', true)")
    row = await (await connection.execute(QUERIES.existing_relations)).fetchone()
    trial = _Trial(connection, list(row[0] or []) if row else [])
    return [await trial.migration(migration) for migration in pending]


class _Trial:
    """One transaction that will be rolled back; ends measuring at the first refusal."""

    def __init__(self, connection: Connection, existing: list[int]) -> None:
        self._connection = connection
        self._existing = existing
        self._seen: set[Lock] = set()
        self._stopped = ""

    async def migration(self, migration: Migration) -> PlannedMigration:
        if not migration.up.transactional:
            self._stopped = f"not tried out, because {migration.label} runs outside a transaction"
            return PlannedMigration(
                migration, tuple(_known(statement) for statement in migration.up.statements)
            )
        return PlannedMigration(
            migration, tuple([await self._statement(s) for s in migration.up.statements])
        )

    async def _statement(self, statement: str) -> PlannedStatement:
        if self._stopped:
            return PlannedStatement(statement, note=self._stopped)
        try:
            await self._connection.execute(without_comments(statement).encode())
        except psycopg.errors.LockNotAvailable as exc:
            self._stopped = f"not tried out: a lock was not free ({exc})"
        except psycopg.Error as exc:
            self._stopped = f"would be refused: {str(exc).splitlines()[0]}"
        if self._stopped:
            return PlannedStatement(statement, note=self._stopped)
        return PlannedStatement(statement, tuple(await self._new_locks()))

    async def _new_locks(self) -> list[Lock]:
        rows = await self._connection.execute(QUERIES.locks_held, {"existing": self._existing})
        held = [Lock(*row) for row in await rows.fetchall()]
        new = [lock for lock in held if lock not in self._seen]
        self._seen.update(new)
        return new


def _known(statement: str) -> PlannedStatement:
    text = without_comments(statement)
    for pattern, mode in _KNOWN:
        if re.match(pattern, text, re.IGNORECASE | re.DOTALL):
            note = f"outside a transaction: {mode}, {_HINDERS[mode]}"
            return PlannedStatement(statement, note=note)
    return PlannedStatement(statement, note="outside a transaction: not measured")
