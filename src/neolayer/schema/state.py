"""How far each database is, and where it differs from what this version expects; read only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from clickhouse_connect.driver.exceptions import ClickHouseError

from neolayer.engines.clickhouse.client import BOOTSTRAP_DATABASE, explain
from neolayer.engines.clickhouse.client import connect as connect_clickhouse
from neolayer.engines.endpoints import (
    ClickHouseEndpoint,
    Database,
    Endpoints,
    PostgresEndpoint,
    Role,
)
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.schema.clickhouse_target import QUERIES as CLICKHOUSE_QUERIES
from neolayer.schema.clickhouse_target import marks_in, query
from neolayer.schema.elasticsearch_target import read_marks as read_search_marks
from neolayer.schema.files import Migration, load_migrations
from neolayer.schema.history import Books, Mark
from neolayer.schema.lines import Line, lines_at
from neolayer.schema.picture import committed, differences, dump
from neolayer.schema.postgres_target import mark_from_row

QUERIES = load_queries("neolayer.schema")


@dataclass(frozen=True, slots=True)
class LineState:
    """One database: the version it has (None: never migrated), and what it still needs."""

    line: Line
    version: int | None
    expected: int
    pending: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SchemaState:
    """All databases, and one sentence for each thing that does not fit."""

    lines: tuple[LineState, ...]
    drift: tuple[str, ...]

    @property
    def is_current(self) -> bool:
        return not self.drift and not any(line.pending for line in self.lines)


async def status(
    endpoints: Endpoints,
    *,
    lines: Collection[Line] = tuple(Line),
    migrations: Sequence[Migration] | None = None,
) -> SchemaState:
    """Where every database is. Raises EngineUnavailable.

    The objects themselves are compared with the committed dump once nothing is pending.
    """
    lines = lines_at(endpoints, lines)
    chosen = [m for m in sorted(migrations or load_migrations()) if m.line in lines]
    books, _ = await read_books(endpoints, lines)
    states = tuple(_line_state(line, books, chosen) for line in Line if line in lines)
    drift = books.drift(chosen)
    if migrations is None and not drift:
        complete = [state.line for state in states if not state.pending]
        drift = await _object_drift(endpoints, complete)
    return SchemaState(states, tuple(drift))


def _line_state(line: Line, books: Books, migrations: list[Migration]) -> LineState:
    own = [migration for migration in migrations if migration.line is line]
    done = [mark.number for mark in books.marks.values() if mark.line is line and mark.is_finished]
    return LineState(
        line=line,
        version=max(done, default=None),
        expected=max((migration.number for migration in own), default=0),
        pending=tuple(migration.label for migration in books.pending(own)),
    )


async def _object_drift(endpoints: Endpoints, lines: list[Line]) -> list[str]:
    expected = committed()
    found = await dump(endpoints, lines)
    return [
        f"{line}: {change}"
        for line, text in found.items()
        for change in differences(expected[line], text)
    ]


async def schema_version(endpoints: Endpoints, line: Line) -> int | None:
    """The newest migration a database has finished; None where it was never migrated."""
    books, _ = await read_books(endpoints, [line])
    return max((mark.number for mark in books.marks.values() if mark.is_finished), default=None)


async def read_books(
    endpoints: Endpoints, lines: Collection[Line]
) -> tuple[Books, frozenset[Line]]:
    """All marks, and which databases exist at all."""
    marks: list[Mark] = []
    present: set[Line] = set()
    for line in lines_at(endpoints, lines):
        found = await _read(endpoints, line)
        if found is not None:
            present.add(line)
            marks += found
    ordered = sorted(marks, key=lambda mark: mark.number)
    return Books({mark.number: mark for mark in ordered}), frozenset(present)


async def _read(endpoints: Endpoints, line: Line) -> list[Mark] | None:
    if line is Line.MONGODB and endpoints.mongodb is not None:
        from neolayer.schema.mongodb_target import read_marks  # its driver is an extra

        return await read_marks(endpoints.mongodb)
    if line is Line.ELASTICSEARCH and endpoints.elasticsearch is not None:
        return await read_search_marks(endpoints.elasticsearch)
    if line.database is None:
        return await _read_clickhouse(endpoints.clickhouse)
    return await _read_postgres(endpoints.cluster(line.database), line.database)


async def _read_postgres(cluster: PostgresEndpoint, database: Database) -> list[Mark] | None:
    async with await connect(cluster.admin_dsn, application_name="status") as admin:
        row = await (
            await admin.execute(QUERIES.database_exists, {"database": database})
        ).fetchone()
    if row is None or not row[0]:
        return None
    async with await connect(
        cluster.dsn(Role.ADMIN, database), application_name="status"
    ) as connection:
        row = await (await connection.execute(QUERIES.marks_exist)).fetchone()
        if row is None or not row[0]:
            return []
        return [
            mark_from_row(row) for row in await (await connection.execute(QUERIES.marks)).fetchall()
        ]


async def _read_clickhouse(endpoint: ClickHouseEndpoint) -> list[Mark] | None:
    client = await connect_clickhouse(endpoint, database=BOOTSTRAP_DATABASE)
    try:
        names = [name for (name,) in await query(client, CLICKHOUSE_QUERIES.databases)]
        return await marks_in(client, endpoint.database) if endpoint.database in names else None
    except (ClickHouseError, OSError) as exc:
        raise explain(exc, endpoint) from exc
    finally:
        await client.close()
