"""The row that a person means, as PostgreSQL has it: by the columns that it is known by, as the
operator or as one tenant may see it. Columns that no operator may read are not among them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from neolayer.catalogue import DataClass
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, RelayError
from neolayer.relay.comparing.source import Column, fits
from neolayer.tenancy import Principal, open_database

_sql = load_queries(__name__, "where.sql")
MOST = 20
Read = Callable[[LiteralString | sql.Composed, Any], Awaitable[list[TupleRow]]]


@dataclass(frozen=True, slots=True)
class KnownTable:
    one: DataClass
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    part: sql.Composable

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def fits(self, name: str, text: str) -> bool:
        """Whether there is such a column, whose type can have that value."""
        column = self.column(name)
        return column is not None and fits(column, text)


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row as texts, the partition it lies in, and as Python values."""

    part: str
    texts: dict[str, str | None]
    typed: dict[str, Any]


@asynccontextmanager
async def reading(at: Endpoints, database: Database, tenant: UUID | None) -> AsyncGenerator[Read]:
    """Statements as one tenant, or as the operator, who sees all but secrets."""
    try:
        async with _connected(at, database, tenant) as read:
            yield read
    except psycopg.Error as exc:
        raise RelayError(f"cannot look into {database}: {str(exc).splitlines()[0]}") from exc


@asynccontextmanager
async def _connected(
    at: Endpoints, database: Database, tenant: UUID | None
) -> AsyncGenerator[Read]:
    if tenant is not None:
        async with open_database(at, database, size=1, application_name="where") as opened:
            scope = opened.scope(tenant, by=Principal.operator("where"))
            async with scope.transaction() as tx:
                await tx.execute(_sql.write_as_the_log_does)
                yield tx.fetch
        return
    dsn = at.cluster(database).dsn(Role.OPERATOR, database)
    async with await connect(dsn, application_name="where") as connection:
        await connection.set_read_only(True)
        await connection.execute(_sql.write_as_the_log_does)

        async def read(statement: LiteralString | sql.Composed, values: Any) -> list[TupleRow]:
            return await (await connection.execute(statement, values)).fetchall()

        yield read


async def described(read: Read, one: DataClass) -> KnownTable:
    named = {"table": one.table}
    columns = tuple(Column(*row) for row in await read(_sql.readable_columns, named))
    key = tuple(name for (name,) in await read(_sql.primary_key, named))
    ((may_see_parts,),) = await read(_sql.may_see_parts, named)
    part = sql.SQL("tableoid::regclass::text") if may_see_parts else sql.Literal(one.table)
    return KnownTable(one, columns, key, part)


async def known_rows(
    read: Read, table: KnownTable, value: str, network: str | None
) -> list[KnownRow]:
    """The rows that have the value in one of the columns they are known by."""
    texts = [column.text for column in table.columns]
    names = [sql.Identifier(column.name) for column in table.columns]
    found: list[KnownRow] = []
    for name in table.one.known_by:
        column = table.column(name)
        text = value.lower() if value[:2].lower() == "0x" else value
        if column is None or not fits(column, text):
            continue
        where, values = _within_network(table, network)
        statement = sql.SQL("SELECT {}, {}, {} FROM {} WHERE {} = {} AND {} LIMIT {}").format(
            table.part,
            sql.SQL(", ").join(texts),
            sql.SQL(", ").join(names),
            sql.Identifier(*table.one.table.split(".")),
            sql.Identifier(name),
            sql.SQL("%s::" + column.cast),  # pyright: ignore[reportArgumentType]
            where,
            sql.Literal(MOST),
        )
        count = len(table.columns)
        for row in await read(statement, [text, *values]):
            keys = [column.name for column in table.columns]
            shown = dict(zip(keys, row[1 : count + 1], strict=True))
            typed = dict(zip(keys, row[count + 1 :], strict=True))
            found.append(KnownRow(row[0], shown, typed))
        if found:
            break
    return found


async def require_network(read: Read, table: KnownTable, network: str) -> None:
    """Raises InvalidInput where naming it would give a false answer."""
    if table.column("network_id") is None:
        raise InvalidInput(f"{table.one.name} are on no network", hint="leave --network out")
    if not await read(_sql.network, {"name": network}):
        raise InvalidInput(
            f"network {network!r} is not known",
            hint="neolayer status lists them; the first block of one makes it known",
        )


def _within_network(table: KnownTable, network: str | None) -> tuple[sql.Composable, list[str]]:
    """Keys begin with the network; naming all of them lets an index answer."""
    if table.column("network_id") is None:
        return sql.SQL("true"), []
    if network is not None:
        named = "network_id = (SELECT id FROM blockchain.networks WHERE name = %s)"
        return sql.SQL(named), [network]
    return sql.SQL("network_id = ANY (ARRAY(SELECT id FROM blockchain.networks))"), []
