"""Bulk into PostgreSQL: binary COPY with explicit types.

Binary COPY casts nothing, so each column's type must be named: psycopg would send a small Python
int as `smallint` into a `bigint` column, and the server would refuse the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString

from psycopg import AsyncCursor
from psycopg.sql import Composed


async def copy_rows(
    cursor: AsyncCursor[Any],
    sql_copy: LiteralString | Composed,
    types: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> int:
    """Send all rows through `COPY ... FROM STDIN (FORMAT BINARY)`; the number of rows stored.

    `types` are PostgreSQL type names in the order of the columns. Psycopg's errors pass through:
    which row was refused means something only to the caller.
    """
    async with cursor.copy(sql_copy) as copy:
        copy.set_types(types)
        # What `copy.write_row` does, without awaiting a coroutine for every row that only fills
        # the buffer: the formatter returns bytes once in about 32 KiB.
        format_row, write = copy.formatter.write_row, copy.writer.write
        for row in rows:
            if data := format_row(row):
                await write(data)
    return cursor.rowcount
