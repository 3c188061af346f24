"""Read-only SQL over any of the layer's databases, as the operator or as one tenant.

Rows are streamed in blocks, so a result of any size needs little memory. Nothing can be written:
the roles have no such right, the transaction is read-only, and the extended protocol takes one
statement at a time. A statement ends with whoever asked it, and after a time limit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, LiteralString, Protocol, cast

import psycopg
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.conninfo import make_conninfo
from psycopg.generators import execute
from psycopg.pq import TransactionStatus
from psycopg.types.datetime import DateLoader, TimeLoader, TimestampLoader, TimestamptzLoader

from neolayer.engines.clickhouse.client import connect_reader, translate
from neolayer.engines.endpoints import ClickHouseEndpoint, Database, Endpoints, Role
from neolayer.engines.engine import Level
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, QueryError
from neolayer.freshness import Store, wait_for, wait_for_log
from neolayer.position import Position, Positions
from neolayer.schema.context_secret import read_context_secret, sign_context

BLOCK_ROWS = 1_000
TIME_LIMIT = timedelta(minutes=5)
LONGEST_TIME_LIMIT = timedelta(days=24)  # PostgreSQL counts milliseconds in 31 bits
PATIENCE = timedelta(seconds=30)  # for a store to reflect a position
_CHECKPOINT = "SELECT max(version) FROM relay_checkpoints WHERE sink = 'clickhouse'"
_EMBEDDED_LIMIT = timedelta(minutes=5)  # what the embedded ClickHouse gives any reader
_CONTEXT_LIVES = timedelta(minutes=5)
_sql = load_queries(__name__)
_READ_MODELS = re.compile(r'\bread_models(_next|_previous)?"?\s*\.', re.IGNORECASE)
_WIDE = re.compile(r"Int(128|256)")
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
    """Column names in order, and the rows in blocks as they arrive.

    `position` is what the answer reflects at least: a derived store's always, where it is known;
    the source's own where one was asked for.
    """

    columns: tuple[str, ...]
    blocks: AsyncGenerator[Sequence[Row]]
    position: Position | None = None


@asynccontextmanager
async def ask(
    endpoints: Endpoints,
    target: Target,
    statement: str,
    *,
    tenant: str | None = None,
    time_limit: timedelta = TIME_LIMIT,
    at_least: Position | Positions | None = None,
    patience: timedelta = PATIENCE,
    notes: Mapping[str, Path] = MappingProxyType({}),
) -> AsyncGenerator[Answer]:
    """Run one statement as the operator, or as what a tenant (id or identifier) may see.

    The answer reflects `at_least`: what does not yet is waited for, and where it takes longer than
    `patience`, NotFresh (a copy) or NotWritten (a database's own log) says how far it is. Read
    models follow their events by themselves, so with `at_least` they are refused. `notes` as
    in `wait_for`, which may raise PutBack.

    Raises QueryError with the server's own words, where it takes longer than `time_limit` (zero:
    no limit), its rows' way to us included, and where there is no such tenant. ClickHouse holds
    public chain data only, which every tenant may read.
    """
    context = None if tenant is None else await _signed(endpoints, tenant)
    if target is Target.ANALYTICS:
        if at_least is not None:
            stores = [Store.CLICKHOUSE]
            await wait_for(at_least, endpoints, stores=stores, timeout=patience, notes=notes)
        async with _ask_clickhouse(endpoints.clickhouse, statement, time_limit) as answer:
            yield answer
        return
    database = _DATABASES[target]
    role = Role.OPERATOR if context is None else Role.APP
    dsn = make_conninfo(
        endpoints.cluster(database).dsn(role, database),
        # The server looks every two seconds whether somebody still waits for the answer.
        options="-c client_connection_check_interval=2s"
        f" -c statement_timeout={time_limit // timedelta(milliseconds=1)}",
    )
    async with await connect(dsn, application_name="query") as connection:
        await connection.set_read_only(True)
        reached = None
        if at_least is not None:
            _refuse_read_models(statement)
            reached = await wait_for_log(at_least, connection, database, timeout=patience)
            await connection.rollback()
        if context is not None:
            await connection.execute(_sql.no_other_limits)
            await connection.execute(_sql.assume_context, {"context": context})
        async with _ask_postgres(connection, statement, time_limit) as answer:
            yield replace(answer, position=reached)


def _refuse_read_models(statement: str) -> None:
    if _READ_MODELS.search(statement):
        raise InvalidInput(
            "a read model is behind its events: a position in the log does not say what it has",
            hint="leave --at-least out, or ask in Python: acme.read_models.get(..., at_least=...)",
        )


def _refusal(exc: psycopg.Error, time_limit: timedelta) -> QueryError:
    if isinstance(exc, psycopg.errors.QueryCanceled) and "statement timeout" in str(exc):
        return _too_long(time_limit)
    return QueryError(_reason(exc), hint=_HINT)


def _too_long(time_limit: timedelta, *, hint: str = "") -> QueryError:
    return QueryError(
        f"the statement took longer than {time_limit.total_seconds():g} s and was ended",
        hint=hint or "give it more time with --timeout SECONDS (0: as long as it takes)",
    )


async def _signed(endpoints: Endpoints, tenant: str) -> str:
    """A signed context of that tenant for the next minutes. Raises QueryError."""
    async with await connect(
        endpoints.postgres.dsn(Role.ADMIN), application_name="query"
    ) as connection:
        cursor = await connection.execute(_sql.tenant_id, {"tenant": tenant})
        found = await cursor.fetchone()
        await connection.execute(_sql.be_owner)
        secret = await read_context_secret(connection)
    if found is None or secret is None:
        raise QueryError(f"no tenant {tenant!r}", hint="give its id or its identifier")
    expires_at = datetime.now(UTC) + _CONTEXT_LIVES
    return sign_context(secret, tenant=found[0], principal="query", expires_at=expires_at)


@asynccontextmanager
async def _ask_postgres(
    connection: Connection, statement: str, time_limit: timedelta
) -> AsyncGenerator[Answer]:
    blocks = _postgres_blocks(connection, statement, time_limit)
    try:
        columns = tuple(str(name) for name in (await anext(blocks))[0])
        yield Answer(columns, blocks)
    finally:
        await blocks.aclose()


async def _postgres_blocks(
    connection: Connection, statement: str, time_limit: timedelta
) -> AsyncGenerator[Sequence[Row]]:
    """First one block with the column names as its only row, then the rows."""
    cursor = connection.cursor()
    for kind, loader in _LENIENT.items():
        cursor.adapters.register_loader(kind, loader)
    text = cast("LiteralString", statement)
    named = False
    try:
        async for block in _in_blocks(cursor.stream(text, size=BLOCK_ROWS)):
            if not named:
                yield [_columns(cursor)]
                named = True
            yield block
        if not named:
            yield [await _described(connection, statement)]
    except psycopg.Error as exc:
        if connection.info.transaction_status is TransactionStatus.ACTIVE:
            await connection.close()  # a COPY that was begun: nothing else ends it
        raise _refusal(exc, time_limit) from exc


async def _described(connection: Connection, statement: str) -> Row:
    """The columns of a statement without rows, which a stream forgets: parsed, not run again."""
    async with connection.lock:
        connection.pgconn.send_prepare(b"", statement.encode())
        await connection.wait(execute(connection.pgconn))
        connection.pgconn.send_describe_prepared(b"")
        (result,) = await connection.wait(execute(connection.pgconn))
    return [(result.fname(index) or b"").decode() for index in range(result.nfields)]


def _columns(cursor: psycopg.AsyncCursor[Any]) -> Row:
    if cursor.description is None:
        raise QueryError("the statement returns no rows", hint=_HINT)
    return [column.name for column in cursor.description]


async def _in_blocks(rows: AsyncIterator[Row]) -> AsyncGenerator[list[Row]]:
    block: list[Row] = []
    async for row in rows:
        block.append(row)
        if len(block) >= BLOCK_ROWS:
            yield block
            block = []
    if block:
        yield block


_HINT = "one SELECT at a time; nothing can be written here"


def _reason(exc: psycopg.Error) -> str:
    if exc.sqlstate is None and isinstance(exc, psycopg.ProgrammingError):
        return "the statement returns no rows"
    message = exc.diag.message_primary or str(exc).strip()
    if "EMPTY_QUERY" in message:
        return "the statement is empty"
    return f"{message} (SQLSTATE {exc.sqlstate})" if exc.sqlstate else message


@asynccontextmanager
async def _ask_clickhouse(
    endpoint: ClickHouseEndpoint, statement: str, time_limit: timedelta
) -> AsyncGenerator[Answer]:
    """Timed by us, as the embedded one's reader may set no limit; a query ends with its client."""
    hint = ""
    if endpoint.level is Level.EMBEDDED and not timedelta(0) < time_limit < _EMBEDDED_LIMIT:
        time_limit, hint = _EMBEDDED_LIMIT, "the embedded ClickHouse gives no query more"
    client = await connect_reader(endpoint)
    try:
        async with asyncio.timeout(time_limit.total_seconds() or None):
            position = await _reflected(client)
            with translate(QueryError):
                stream = await client.query_row_block_stream(statement)  # pyright: ignore[reportUnknownMemberType]
            source = cast("NativeSource", stream.source)
            wide = tuple(_WIDE.search(kind.name) is not None for kind in source.column_types)
            blocks = _clickhouse_blocks(stream, wide)
            yield Answer(tuple(source.column_names), blocks, position)
    except TimeoutError as exc:
        raise _too_long(time_limit, hint=hint) from exc
    finally:
        await client.close()


async def _reflected(client: AsyncClient) -> Position | None:
    """What the store reflects before it is asked; None where no relay has written."""
    try:
        version = await client.command(_CHECKPOINT)  # pyright: ignore[reportUnknownMemberType]
    except (ClickHouseError, OSError):  # not migrated: the statement will say so
        return None
    return Position.from_version(int(str(version))) if int(str(version)) else None


def _lenient(base: Any) -> type[Loader]:
    """A loader that gives PostgreSQL's own text for what Python has no value for: infinity, years
    after 9999, 24:00."""

    class Lenient(base):
        def load(self, data: Buffer) -> Any:
            try:
                return base.load(self, data)
            except psycopg.DataError:
                return bytes(data).decode()

    return Lenient


_LENIENT: dict[str, type[Loader]] = {
    "date": _lenient(DateLoader),
    "time": _lenient(TimeLoader),
    "timestamp": _lenient(TimestampLoader),
    "timestamptz": _lenient(TimestamptzLoader),
}


class NativeSource(Protocol):
    """What we use of clickhouse-connect's result behind a stream."""

    column_names: Sequence[str]
    column_types: Sequence[Any]


async def _clickhouse_blocks(stream: Any, wide: Sequence[bool]) -> AsyncGenerator[Sequence[Row]]:
    """The rows, integers of more than 64 bits as Decimal, as PostgreSQL's numeric comes."""
    with translate(QueryError):
        async with stream:
            async for block in stream:
                yield [list(map(_narrow, row, wide)) for row in block] if any(wide) else block


def _narrow(value: Any, wide: bool) -> Any:
    if not wide:
        return value
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        return {key: _narrow(item, wide) for key, item in entries.items()}
    if isinstance(value, list | tuple):
        return [_narrow(item, wide) for item in cast("Sequence[Any]", value)]
    return value
