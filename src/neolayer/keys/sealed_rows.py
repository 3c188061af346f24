"""Every sealed column that the catalogues declare, and which keys its rows are sealed under.

The columns' names come from the catalogues and from nowhere else, so their queries are put together
here instead of standing in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg import sql

from neolayer.catalogue import DataClass, SealedField
from neolayer.engines.postgres.connections import Connection


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """One sealed column of one table."""

    table: str
    field: SealedField

    def __str__(self) -> str:
        return f"{self.table}.{self.field.column}"

    def names(self) -> dict[str, sql.Composable]:
        """What the queries are put together from."""
        return {
            "table": sql.Identifier(*self.table.split(".")),
            "sealed": sql.Identifier(self.field.column),
            "key": sql.Identifier(self.field.key_column),
        }


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How many rows of a tenant one key seals in one column."""

    column: SealedColumn
    tenant: UUID
    key_id: str
    rows: int


@dataclass(frozen=True, slots=True)
class SealedRow:
    """One row's sealed text, and what it is bound to."""

    id: UUID
    sealed: str = field(repr=False)
    bound_to: Mapping[str, str]


def sealed_columns(classes: Iterable[DataClass]) -> tuple[SealedColumn, ...]:
    """All of them, in the order of the catalogues."""
    return tuple(SealedColumn(one.table, each) for one in classes for each in one.sealed_fields)


_USAGE = sql.SQL(
    "SELECT tenant_id, {key}, count(*) FROM {table} WHERE {key} IS NOT NULL GROUP BY 1, 2"
    " ORDER BY 1, 2"
)
_BATCH = sql.SQL(
    "SELECT t.id, t.{sealed}, {bound} FROM {table} t WHERE t.tenant_id = %(tenant)s"
    " AND t.{sealed} IS NOT NULL AND t.{key} IS DISTINCT FROM %(current)s"
    " AND (%(after)s::uuid IS NULL OR t.id > %(after)s) ORDER BY t.id LIMIT %(limit)s"
)
# Compare and swap: a row whose text is another one by now is left as it is.
_SWAP = sql.SQL(
    "UPDATE {table} t SET {sealed} = v.fresh, {key} = v.key"
    " FROM unnest(%(ids)s::uuid[], %(olds)s::text[], %(fresh)s::text[], %(keys)s::text[])"
    " AS v (id, old, fresh, key)"
    " WHERE t.tenant_id = %(tenant)s AND t.id = v.id AND t.{sealed} = v.old RETURNING t.id"
)


async def key_usage(operator: Connection, columns: Iterable[SealedColumn]) -> list[KeyUse]:
    """Rows by column, tenant and key. `operator` sees all tenants, and key ids, and no secret."""
    found: list[KeyUse] = []
    for column in columns:
        cursor = await operator.execute(_USAGE.format(**column.names()))
        found += [KeyUse(column, *row) for row in await cursor.fetchall()]
    return found


def batch_query(column: SealedColumn) -> sql.Composed:
    """A tenant's next rows under another key than the current one."""
    bound = sql.SQL(", ").join(
        sql.SQL("t.{}::text").format(sql.Identifier(name))
        for name in column.field.bound_to.values()
    )
    return _BATCH.format(bound=bound, **column.names())


def row_of(column: SealedColumn, values: tuple[Any, ...]) -> SealedRow:
    """A row of `batch_query`."""
    bound_to = dict(zip(column.field.bound_to, values[2:], strict=True))
    return SealedRow(values[0], values[1], {**column.field.purpose, **bound_to})


def swap_query(column: SealedColumn) -> sql.Composed:
    """Puts fresh texts in the place of old ones; the ids of the rows that still had those."""
    return _SWAP.format(**column.names())
