"""Read-only SQL over any of the layer's databases, as the operator or as one tenant.

Rows are streamed in blocks, so a result of any size needs little memory. Nothing can be written:
the roles have no such right, the transaction is read-only, and the extended protocol takes one
statement at a time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString, cast

import psycopg

from neolayer.engines.clickhouse.client import connect_reader, translate
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.errors import QueryError

BLOCK_ROWS = 1_000
Row = Sequence[Any]


class Target(StrEnum):
    """What can be asked. The first three are PostgreSQL databases, the last is ClickHouse."""

    CORE = "core"
    EVENTS = "events"
    TIMESERIES = "timeseries"
    ANALYTICS = "analytics"


_DATABASES = {
    Target.CORE: Database.CORE,
    Target.EVENTS: Database.EVENT_STORE,
    Target.TIMESERIES: Database.TIMESERIES,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Column names in order, and the rows in blocks as they arrive."""

    columns: tuple[str, ...]
    blocks: AsyncGenerator[Sequence[Row]]


@asynccontextmanager
async def ask(endpoints: Endpoints, target: Target, statement: str) -> AsyncGenerator[Answer]:
    """Run one statement as the operator. Raises QueryError with the server's own words."""
    if target is Target.ANALYTICS:
        async with _ask_clickhouse(endpoints, statement) as answer:
            yield answer
        return
    database = _DATABASES[target]
    dsn = endpoints.cluster(database).dsn(Role.OPERATOR, database)
    async with await connect(dsn, application_name="query") as connection:
        await connection.set_read_only(True)
        async with _ask_postgres(connection, statement) as answer:
            yield answer


@asynccontextmanager
async def _ask_postgres(connection: Connection, statement: str) -> AsyncGenerator[Answer]:
    blocks = _postgres_blocks(connection, statement)
    try:
        columns = cast("tuple[str, ...]", tuple(str(name) for name in (await anext(blocks))[0]))
        yield Answer(columns, blocks)
    finally:
        await blocks.aclose()


async def _postgres_blocks(connection: Connection, statement: str) -> AsyncGenerator[Sequence[Row]]:
    """First one block with the column names as its only row, then the rows."""
    cursor = connection.cursor()
    block: list[Row] = []
    named = False
    try:
        async for row in cursor.stream(cast("LiteralString", statement), size=BLOCK_ROWS):
            if not named:
                yield [_columns(cursor)]
                named = True
            block.append(row)
            if len(block) >= BLOCK_ROWS:
                yield block
                block = []
    except psycopg.Error as exc:
        raise QueryError(_reason(exc), hint=_HINT) from exc
    if not named:
        yield [_columns(cursor)]
    if block:
        yield block


_HINT = "one SELECT at a time; nothing can be written here"


def _columns(cursor: psycopg.AsyncCursor[Any]) -> Row:
    if cursor.description is None:
        raise QueryError("the statement returns no rows", hint=_HINT)
    return [column.name for column in cursor.description]


def _reason(exc: psycopg.Error) -> str:
    message = exc.diag.message_primary or str(exc).strip()
    return f"{message} (SQLSTATE {exc.sqlstate})" if exc.sqlstate else message


@asynccontextmanager
async def _ask_clickhouse(endpoints: Endpoints, statement: str) -> AsyncGenerator[Answer]:
    client = await connect_reader(endpoints.clickhouse)
    try:
        with translate(QueryError):
            stream = await client.query_row_block_stream(statement, settings={"final": 1})
        columns = tuple(stream.source.column_names)

        async def blocks() -> AsyncGenerator[Sequence[Row]]:
            with translate(QueryError):
                async with stream:
                    async for block in stream:
                        yield block

        yield Answer(columns, blocks())
    finally:
        await client.close()
