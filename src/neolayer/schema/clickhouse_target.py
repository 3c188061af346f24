"""Applying migrations to ClickHouse.

There is no transaction and no lock here: each statement may run twice, a mark before each says how
far a migration came, and the migrator's lock is the one that core holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from neolayer.engines.clickhouse.client import BOOTSTRAP_DATABASE, connect, explain
from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import MigrationError
from neolayer.schema.files import Direction, Migration
from neolayer.schema.history import Mark, mark_of
from neolayer.schema.lines import Line
from neolayer.schema.statements import headline, without_comments
from neolayer.schema.target import OnStatement

QUERIES = load_queries("neolayer.schema", "clickhouse_queries.sql")
_MARK_COLUMNS = ("number", "line", "name", "checksum", "direction", "statements_done")


@dataclass(frozen=True, slots=True)
class ClickHouseTarget:
    """One ClickHouse database."""

    client: AsyncClient
    database: str
    line: Line = Line.CLICKHOUSE

    async def marks(self) -> list[Mark]:
        return await marks_in(self.client, self.database)

    async def run(
        self, migration: Migration, direction: Direction, *, done: int, on_statement: OnStatement
    ) -> None:
        statements = migration.script(direction).statements
        for number in range(done, len(statements)):
            await self._write(migration, direction, number)
            on_statement(migration, number)
            await self._execute(migration, statements[number])
        on_statement(migration, len(statements))
        await self._write(migration, direction, len(statements), finished=True)

    async def _execute(self, migration: Migration, statement: str) -> None:
        try:
            await command(self.client, without_comments(statement))
        except ClickHouseError as exc:
            reason = str(exc).splitlines()[0]
            raise MigrationError(f"{migration.path}: {reason} [in: {headline(statement)}]") from exc

    async def _write(
        self, migration: Migration, direction: Direction, done: int, *, finished: bool = False
    ) -> None:
        mark = mark_of(migration, direction, statements_done=done, is_finished=finished)
        removed = finished and direction is Direction.DOWN
        row: list[Any] = [
            mark.number,
            str(mark.line),
            mark.name,
            mark.checksum,
            str(mark.direction),
            mark.statements_done,
            mark.is_finished,
            time.time_ns(),
            int(removed),
        ]
        await self.client.insert(  # pyright: ignore[reportUnknownMemberType]
            "schema_marks",
            [row],
            column_names=[*_MARK_COLUMNS, "is_finished", "version", "is_removed"],
        )

    async def close(self) -> None:
        await self.client.close()


async def marks_in(client: AsyncClient, database: str) -> list[Mark]:
    """What a database has seen, by number; empty where it was never migrated."""
    where = {"database": database}
    if not await query(client, QUERIES.has_marks, where):
        return []
    return [
        Mark(number, Line(line), name, checksum, Direction(direction), done, bool(finished))
        for number, line, name, checksum, direction, done, finished in await query(
            client, QUERIES.marks, where
        )
    ]


async def query(
    client: AsyncClient, text: str, values: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """The rows of a query with `{name:Type}` parameters."""
    result = await client.query(text, parameters=values)  # pyright: ignore[reportUnknownMemberType]
    return [tuple(row) for row in result.result_rows]


async def command(client: AsyncClient, text: str) -> None:
    """A statement without rows."""
    await client.command(text)  # pyright: ignore[reportUnknownMemberType]


async def provision_clickhouse(endpoint: ClickHouseEndpoint) -> None:
    """Make the database if it is missing. Raises EngineUnavailable."""
    client = await connect(endpoint, database=BOOTSTRAP_DATABASE)
    try:
        await command(client, f"CREATE DATABASE IF NOT EXISTS `{endpoint.database}`")
    except (ClickHouseError, OSError) as exc:
        raise explain(exc, endpoint) from exc
    finally:
        await client.close()


async def open_clickhouse_target(endpoint: ClickHouseEndpoint) -> ClickHouseTarget:
    """The database with its books open. Raises EngineUnavailable."""
    client = await connect(endpoint)
    try:
        await command(client, QUERIES.create_marks)
    except (ClickHouseError, OSError) as exc:
        await client.close()
        raise explain(exc, endpoint) from exc
    return ClickHouseTarget(client, endpoint.database)
