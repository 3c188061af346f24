"""Applying migrations to a PostgreSQL database.

A migration is one transaction, its mark included. It waits for a lock only briefly, because
whoever waits for a table lock makes all others wait behind it; then it rolls back, lets them pass
and tries again, for a bounded time in all.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Any

import psycopg
import stamina
from psycopg import sql

from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import MigrationError
from neolayer.schema.files import Direction, Migration, Script
from neolayer.schema.history import Mark, mark_of
from neolayer.schema.lines import Line
from neolayer.schema.statements import headline, without_comments
from neolayer.schema.target import OnStatement
from neolayer.schema.violations import VIOLATIONS, RowsInTheWay, explained

QUERIES = load_queries("neolayer.schema")
_RETRIED = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_CONCURRENT_INDEX = re.compile(
    r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<index>\w+)"
    r"\s+ON\s+(?:ONLY\s+)?(?P<schema>\w+)\.",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a migration waits: for one lock, for locks in all, for another migrator."""

    one_lock: timedelta = timedelta(seconds=2)
    all_locks: timedelta = timedelta(seconds=60)
    migrator: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """One database, open as the migrator, who acts as the owner."""

    line: Line
    connection: Connection
    patience: Patience

    async def marks(self) -> list[Mark]:
        rows = await (await self.connection.execute(QUERIES.marks)).fetchall()
        return [mark_from_row(row) for row in rows]

    async def run(
        self, migration: Migration, direction: Direction, *, done: int, on_statement: OnStatement
    ) -> None:
        script = migration.script(direction)
        run = self._in_transaction if script.transactional else self._statement_by_statement
        try:
            async for attempt in stamina.retry_context(
                on=_RETRIED,
                attempts=None,
                timeout=self.patience.all_locks,
                wait_jitter=0.2,
                wait_max=2.0,
            ):
                with attempt:
                    await run(migration, direction, script, done, on_statement)
        except _RETRIED as exc:
            raise MigrationError(
                f"{migration.path}: no lock within {self.patience.all_locks.total_seconds():g} s: "
                f"{await self._who_is_in_the_way()}",
                hint="end that transaction, or migrate at a quieter time",
            ) from exc
        except RowsInTheWay as exc:
            raise await explained(
                self.connection, migration, script.text, exc.refused
            ) from exc.refused

    async def _in_transaction(
        self,
        migration: Migration,
        direction: Direction,
        script: Script,
        _: int,
        on_statement: OnStatement,
    ) -> None:
        async with self.connection.transaction():
            for number, statement in enumerate(script.statements):
                on_statement(migration, number)
                await self._execute(migration, statement)
            on_statement(migration, len(script.statements))
            await self._finish(migration, direction, len(script.statements))

    async def _statement_by_statement(
        self,
        migration: Migration,
        direction: Direction,
        script: Script,
        done: int,
        on_statement: OnStatement,
    ) -> None:
        for number, statement in enumerate(script.statements):
            if number < done:
                continue
            await self.write_mark(
                mark_of(migration, direction, statements_done=number, is_finished=False)
            )
            on_statement(migration, number)
            await self._drop_invalid_index(statement)
            await self._execute(migration, statement)
        on_statement(migration, len(script.statements))
        async with self.connection.transaction():
            await self._finish(migration, direction, len(script.statements))

    async def _execute(self, migration: Migration, statement: str) -> None:
        try:
            await self.connection.execute(without_comments(statement).encode())
        except _RETRIED:
            raise
        except VIOLATIONS as exc:
            raise RowsInTheWay(exc) from exc
        except psycopg.Error as exc:
            raise MigrationError(
                f"{migration.path}: {str(exc).splitlines()[0]} [in: {headline(statement)}]"
            ) from exc

    async def _finish(self, migration: Migration, direction: Direction, statements: int) -> None:
        if direction is Direction.UP:
            mark = mark_of(migration, direction, statements_done=statements, is_finished=True)
            await self.write_mark(mark)
        else:
            await self.connection.execute(QUERIES.remove_mark, {"number": migration.number})
        if self.line is Line.CORE:
            await self.write_history(migration, direction)

    async def write_mark(self, mark: Mark) -> None:
        fields = ("number", "line", "name", "checksum", "direction", "statements_done")
        values: dict[str, Any] = dict(
            zip((*fields, "is_finished"), (_plain(value) for value in astuple(mark)), strict=True)
        )
        await self.connection.execute(QUERIES.write_mark, values)

    async def write_history(self, migration: Migration | Mark, direction: Direction) -> None:
        """One line more in the history; only the core database has one."""
        await self.connection.execute(
            QUERIES.write_history,
            {
                "number": migration.number,
                "line": str(migration.line),
                "name": migration.name,
                "direction": str(direction),
                "checksum": migration.checksum,
            },
        )

    async def history_heads(self) -> dict[int, Mark]:
        """What the history says last about each migration."""
        rows = await (await self.connection.execute(QUERIES.history_heads)).fetchall()
        return {row[0]: mark_from_row((*row, 0, row[4] == Direction.UP)) for row in rows}

    async def _drop_invalid_index(self, statement: str) -> None:
        """Clear away what a killed CREATE INDEX CONCURRENTLY left: IF NOT EXISTS would keep it."""
        named = _CONCURRENT_INDEX.match(without_comments(statement))
        if named is None:
            return
        found = await self.connection.execute(QUERIES.invalid_index, named.groupdict())
        if await found.fetchone() is not None:
            await self.connection.execute(
                sql.SQL("DROP INDEX CONCURRENTLY {}").format(
                    sql.Identifier(named["schema"], named["index"])
                )
            )

    async def _who_is_in_the_way(self) -> str:
        await self.connection.execute("RESET ROLE")  # the owner may not look at other sessions
        rows = await (await self.connection.execute(QUERIES.long_transactions)).fetchall()
        open_ones = [f"pid {pid} ({name}) since {began:%H:%M:%S}" for pid, name, began in rows]
        return "open transactions: " + ", ".join(open_ones) if open_ones else "nobody holds it now"

    async def close(self) -> None:
        await self.connection.close()


def _plain(value: object) -> object:
    return str(value) if isinstance(value, str) else value


def mark_from_row(row: tuple[Any, ...]) -> Mark:
    """A mark from a row of the query `marks`."""
    number, line, name, checksum, direction, done, finished = row
    return Mark(number, Line(line), name, checksum, Direction(direction), done, finished)


async def open_target(
    cluster: PostgresEndpoint, line: Line, *, patience: Patience | None = None
) -> PostgresTarget:
    """The database of a line, locked against other migrators, with its books open."""
    if line.database is None:
        raise ValueError(f"{line} is not PostgreSQL")
    patience = patience or Patience()
    connection = await connect(
        cluster.dsn(Role.MIGRATOR, line.database), autocommit=True, application_name="migrate"
    )
    try:
        await _prepare(connection, patience)
        await _take_lock(connection, line, patience)
        await _open_books(connection, line)
    except psycopg.Error as exc:
        await connection.close()
        raise MigrationError(f"{line.database} cannot be migrated: {exc}") from exc
    except BaseException:
        await connection.close()
        raise
    return PostgresTarget(line, connection, patience)


async def _prepare(connection: Connection, patience: Patience) -> None:
    milliseconds = int(patience.one_lock.total_seconds() * 1000)
    for setting, value in {
        "role": str(Role.OWNER),
        "search_path": "",  # migrations name their schemas
        "lock_timeout": f"{milliseconds}ms",
        "statement_timeout": "0",
        "client_min_messages": "warning",
        "client_connection_check_interval": "1s",  # a killed migrator's statement ends with it
    }.items():
        await connection.execute("SELECT set_config(%s, %s, false)", (setting, value))


async def _take_lock(connection: Connection, line: Line, patience: Patience) -> None:
    deadline = time.monotonic() + patience.migrator.total_seconds()
    while True:
        row = await (await connection.execute(QUERIES.take_migrator_lock)).fetchone()
        if row is not None and row[0]:
            return
        if time.monotonic() >= deadline:
            raise MigrationError(
                f"another migrator is at work on {line.database}: {await _holder(connection)}",
                hint="wait until it has finished, or end it",
            )
        await asyncio.sleep(0.1)


async def _holder(connection: Connection) -> str:
    await connection.execute("RESET ROLE")  # the owner may not look at other sessions
    row = await (await connection.execute(QUERIES.migrator_lock_holder)).fetchone()
    if row is None:
        return "it has just ended"
    pid, name, client, since = row
    return f"pid {pid} ({name}, {client}) since {since:%Y-%m-%d %H:%M:%S}"


async def _open_books(connection: Connection, line: Line) -> None:
    async with connection.transaction():
        await connection.execute(QUERIES.create_bookkeeping_schema)
        await connection.execute(QUERIES.create_marks)
        if line is Line.CORE:
            await connection.execute(QUERIES.create_history)
        await connection.execute(QUERIES.create_loss_guard)
        await connection.execute(QUERIES.open_bookkeeping)
        await connection.execute(QUERIES.open_books)
