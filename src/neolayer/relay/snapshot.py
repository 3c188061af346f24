"""The tables as they were at one commit position, for a sink that must start over.

A temporary replication slot is made only for the moment it stands for: the server exports a
snapshot that contains exactly the transactions up to the slot's consistent point. Rows read under
it bear that point as their version, so whatever the stream brings for older positions loses, and
whatever is newer wins: copying and streaming may overlap and either may be repeated.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Params, QueryNoTemplate
from psycopg.rows import TupleRow, dict_row

from neolayer.engines.postgres.connections import Connection, connect, explain
from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.postgres.replication import ReplicationConnection
from neolayer.errors import RelayError
from neolayer.position import pack_version
from neolayer.relay.changes import Misfit, Relation, Unnamed
from neolayer.relay.comparable import Shape
from neolayer.relay.comparing.source import SourceTable, open_source

_sql = load_queries(__name__, "queries.sql")
_EVERYTHING = sql.SQL("true")
# Parts of one snapshot are read side by side, each with locks until its end: where somebody waits
# for a table (TRUNCATE, ALTER) that one part has read, another that comes for it would wait behind
# them, and the first for it, for ever.
_LOCK_PATIENCE_MS = 5_000


class ExportedSnapshot:
    """See `copying.tables.Tables` and `sinks.sink.Snapshot`."""

    def __init__(self, connection: Connection, dsn: str, version: int, name: str) -> None:
        self._connection = connection
        self._dsn = dsn
        self._name = name
        self.version = version

    @asynccontextmanager
    async def again(self) -> AsyncGenerator[ExportedSnapshot]:
        """The same on a connection of its own, to be read beside this one and while it lives."""
        async with await connect(self._dsn, application_name="relay snapshot") as connection:
            await _adopt(connection, self._name, self._dsn)
            yield ExportedSnapshot(connection, self._dsn, self.version, self._name)

    async def divide(self, table: str, shape: Shape) -> SourceTable:
        """The table in ranges of its keys. Raises RelayError where it is not as `shape` says."""
        return await open_source(self, table, shape)

    async def require_fit(self, misfit: Misfit) -> None:
        await self.describe(misfit.table, misfit.columns)
        if isinstance(misfit, Unnamed):
            values = {"table": misfit.table, "key": list(misfit.columns)}
            if await self.query(_sql.unnamed, values):
                raise misfit

    async def describe(self, table: str, columns: Sequence[str]) -> Relation:
        statement = sql.SQL(
            "SELECT column_name, attrelid::int8, atttypid::int8"
            " FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (column_name, place)"
            " JOIN pg_attribute ON attrelid = %s::regclass AND attname = column_name"
            " AND attnum > 0 AND NOT attisdropped ORDER BY place"
        )
        try:
            found = await self._connection.execute(statement, (list(columns), table))
            rows = await found.fetchall()
        except psycopg.OperationalError as exc:
            raise explain(exc, self._dsn) from exc
        except psycopg.Error as exc:
            raise RelayError(f"cannot copy table {table}: {str(exc).splitlines()[0]}") from exc
        schema, _, name = table.partition(".")
        relation = Relation(
            rows[0][1] if rows else 0,
            schema,
            name,
            tuple(row[0] for row in rows),
            tuple(row[2] for row in rows),
        )
        relation.places(columns)
        return relation

    async def query(self, statement: QueryNoTemplate, values: Params = ()) -> list[TupleRow]:
        """All rows of a statement, as of the snapshot. Raises EngineUnavailable or RelayError."""
        with self._translated():
            found = await self._connection.execute(statement, values)
            return await found.fetchall()

    async def named_rows(
        self, statement: QueryNoTemplate, values: Params = ()
    ) -> list[dict[str, Any]]:
        """The same, each row by its columns' names."""
        with self._translated():
            async with self._connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(statement, values)
                return await cursor.fetchall()

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except psycopg.errors.LockNotAvailable as exc:
            raise _locked("the source") from exc
        except psycopg.OperationalError as exc:
            raise explain(exc, self._dsn) from exc
        except psycopg.Error as exc:
            raise RelayError(f"cannot read the source: {str(exc).splitlines()[0]}") from exc

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]:
        async for block in self.rows_where(table, columns, _EVERYTHING):
            yield block

    async def rows_where(
        self, table: str, columns: Sequence[str], where: sql.Composable, values: Params = ()
    ) -> AsyncIterator[bytes]:
        """The same of the rows that meet a condition."""
        statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.Identifier(*table.split(".")),
            where,
        )
        try:
            async with (
                self._connection.cursor() as cursor,
                cursor.copy(statement, values or None) as copy,
            ):
                async for block in copy:
                    yield bytes(block)
        except psycopg.errors.LockNotAvailable as exc:
            raise _locked(f"table {table}") from exc
        except psycopg.OperationalError as exc:
            raise explain(exc, self._dsn) from exc
        except psycopg.Error as exc:
            raise RelayError(f"cannot copy table {table}: {str(exc).splitlines()[0]}") from exc


def _locked(what: str) -> RelayError:
    return RelayError(f"{what} is locked by a TRUNCATE or ALTER that works or waits; tried again")


@asynccontextmanager
async def export_snapshot(
    dsn: str, *, epoch: int | None = None
) -> AsyncGenerator[ExportedSnapshot]:
    """A snapshot of now, gone at the end; of the server's own epoch where none is given.

    Raises EngineUnavailable or SlotError."""
    replication = await ReplicationConnection.connect(dsn, application_name="relay snapshot")
    try:
        epoch = epoch or await replication.timeline()
        slot = await replication.create_slot(
            f"neolayer_snapshot_{secrets.token_hex(6)}", temporary=True, export_snapshot=True
        )
        async with await connect(dsn, application_name="relay snapshot") as connection:
            name = slot.snapshot or ""
            await _adopt(connection, name, dsn)
            yield ExportedSnapshot(connection, dsn, pack_version(epoch, slot.consistent_lsn), name)
    finally:
        await replication.close()


async def _adopt(connection: Connection, snapshot: str, dsn: str) -> None:
    """See what the snapshot sees, and write values as the stream writes them."""
    statements = (
        sql.SQL("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"),
        sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)),
        sql.SQL("SET LOCAL TimeZone = 'UTC'"),
        sql.SQL("SET LOCAL DateStyle = 'ISO,YMD'"),
        sql.SQL("SET LOCAL IntervalStyle = 'iso_8601'"),
        sql.SQL("SET LOCAL bytea_output = 'hex'"),
        sql.SQL("SET LOCAL extra_float_digits = 1"),
        sql.SQL("SET LOCAL statement_timeout = 0"),
        sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_LOCK_PATIENCE_MS)),
        sql.SQL("SET LOCAL idle_in_transaction_session_timeout = 0"),
    )
    try:
        for statement in statements:
            await connection.execute(statement)
    except psycopg.Error as exc:
        raise explain(exc, dsn) from exc
