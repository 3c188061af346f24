"""PostgreSQL's side of a comparison: one table as it was at a snapshot, summed up on the server.

The texts of a row are made once, in a sub-select that the planner may not pull up (OFFSET 0), and
hashed there; what travels are numbers. Ranges are named by keys, so that an index answers, and
where a whole table is summed up it is read once, in the order in which it lies.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from psycopg import sql
from psycopg.abc import Params, QueryNoTemplate
from psycopg.rows import TupleRow

from neolayer.engines.postgres.queries import load_queries
from neolayer.relay.changes import (
    DELETE,
    INSERT,
    NULL,
    ROWS_PER_PAGE,
    Lacking,
    Relation,
    TableChanges,
    Value,
    pack_page,
)
from neolayer.relay.comparable import AGE, Bound, Key, Shape
from neolayer.relay.comparing.keys import bytes_of, is_utf8
from neolayer.relay.digests import NOTHING, Summary

_sql = load_queries("neolayer.relay", "reconcile.sql")
# Types whose cast to text says what the commit log says; boolean and char(n) are not among them.
_CAST = frozenset(
    (
        *("text", "varchar", "uuid", "int2", "int4", "int8", "numeric"),
        *("date", "timestamp", "timestamptz", "json", "jsonb", "bytea"),
    )
)
_FORMS = {
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "bool": re.compile(r"[tf]"),
    "numeric": re.compile(r"[+-]?[0-9]{1,131072}(\.[0-9]{1,16383})?|NaN|-?Infinity"),
    "bytea": re.compile(r"\\x([0-9a-f]{2})*"),
}
_WHOLE = re.compile(r"-?[0-9]{1,19}")
_WHOLE_BITS = {"int2": 15, "int4": 31, "int8": 63}
T = TypeVar("T")
_COLUMNS_PER_CONCAT = 33  # three arguments each, and PostgreSQL takes a hundred


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """A row at the snapshot. `mark` changes whenever the row is written."""

    digest: int
    mark: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the server describes it, and how a cast names its type."""

    name: str
    type: str
    oid: int
    cast: str
    collatable: bool

    @property
    def text(self) -> sql.Composable:
        """The value's text as the commit log has it."""
        name = sql.Identifier(self.name)
        if self.type in _CAST:
            return sql.SQL("{}::text").format(name)
        if self.type == "bool":
            return sql.SQL("CASE {} WHEN true THEN 't' WHEN false THEN 'f' END").format(name)
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN concat({}) END").format(name, name)

    def ordered(self, value: sql.Composable) -> sql.Composable:
        """The column or a value for it, ordered by bytes where it is text."""
        if self.collatable:
            return sql.SQL('{}::text COLLATE "C"').format(value)
        return sql.SQL("{}::" + self.cast).format(value)  # pyright: ignore[reportArgumentType]


class Readable(Protocol):
    """The database as it was at one version: see `relay.snapshot.ExportedSnapshot`."""

    version: int

    async def describe(self, table: str, columns: Sequence[str]) -> Relation: ...

    async def query(self, statement: QueryNoTemplate, values: Params = ()) -> list[TupleRow]: ...

    async def named_rows(
        self, statement: QueryNoTemplate, values: Params = ()
    ) -> list[dict[str, Any]]: ...

    def rows_where(
        self, table: str, columns: Sequence[str], where: sql.Composable, values: Params = ()
    ) -> AsyncIterator[bytes]: ...


class TablePart:
    """A range of one table at a snapshot: see `sinks.sink.Snapshot`."""

    def __init__(self, snapshot: Readable, where: sql.Composable, values: Sequence[Any]) -> None:
        self._snapshot = snapshot
        self._where = where
        self._values = values
        self.version = snapshot.version

    async def describe(self, table: str, columns: Sequence[str]) -> Relation:
        return await self._snapshot.describe(table, columns)

    def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]:
        return self._snapshot.rows_where(table, columns, self._where, self._values)


class SourceTable:
    """One table at the snapshot's version. Every failure is a NeolayerError."""

    def __init__(
        self,
        snapshot: Readable,
        table: str,
        key: Sequence[Column],
        all_: Sequence[Column],
        since: datetime | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._since = since
        self._key = key
        self._columns = all_
        self._table = sql.Identifier(*table.split("."))
        schema, _, name = table.partition(".")
        names, types = (column.name for column in all_), (column.oid for column in all_)
        self._relation = Relation(0, schema, name, tuple(names), tuple(types))
        self.version = snapshot.version

    @property
    def columns(self) -> tuple[str, ...]:
        return self._relation.columns

    async def bounds(self, low: Bound, high: Bound, rows: int) -> list[Key]:
        """Keys that cut the range into parts of so many rows (the last may have fewer)."""
        where, values = self._within(low, high)
        names = [sql.Identifier(f"k{number}") for number in range(len(self._key))]
        keys = _list(
            sql.SQL("{} AS {}").format(column.ordered(sql.Identifier(column.name)), name)
            for column, name in zip(self._key, names, strict=True)
        )
        numbered = sql.SQL(
            "SELECT ARRAY[{}] FROM (SELECT {}, row_number() OVER (ORDER BY {}) AS place"
            " FROM {} WHERE {}) AS keys WHERE place > 1 AND place %% %s = 1"
        ).format(
            _list(sql.SQL("{}::text").format(name) for name in names),
            keys,
            self._order(),
            self._table,
            where,
        )
        found = await self._snapshot.query(numbered, [*values, max(2, rows)])
        return [tuple(key) for (key,) in found]

    def part(self, low: Bound, high: Bound) -> TablePart:
        """The rows of a range, as a snapshot that has no others."""
        return TablePart(self._snapshot, *self._within(low, high))

    async def summaries(self, bounds: Sequence[Bound]) -> list[Summary]:
        """One summary for each range between two consecutive bounds."""
        where, values = self._within(bounds[0], bounds[-1])
        bucket, inner = self._bucket([bound for bound in bounds[1:-1] if bound is not None])
        summed = sql.SQL(
            "SELECT bucket, count(*), sum(('x' || substr(digest, 1, 8))::bit(32)::bigint),"
            " sum(('x' || substr(digest, 9, 8))::bit(32)::bigint)"
            " FROM ({}) AS digests GROUP BY bucket"
        ).format(self._digests(sql.SQL("{} AS bucket").format(bucket), ["bucket"], where))
        sums = [NOTHING] * (len(bounds) - 1)
        for place, rows, high, low in await self._snapshot.query(summed, [*inner, *values]):
            sums[int(place)] = Summary(int(rows), int(high), int(low))
        return sums

    async def entries(self, low: Bound, high: Bound) -> dict[Key, SourceEntry]:
        """Every row of a range by its key."""
        where, values = self._within(low, high)
        beside = sql.SQL("{} AS key, xmin::text AS mark").format(self._key_array())
        listed = self._digests(beside, ["key", "mark"], where)
        return {
            tuple(key): SourceEntry(int(digest[:16], 16), mark)
            for key, mark, digest in await self._snapshot.query(listed, values)
        }

    async def changes(self, keys: Sequence[Key]) -> TableChanges:
        """These keys as they are here, as changes: a row, or a delete where there is none."""
        found = await self.rows(keys)
        changes = TableChanges(self._relation, versions=[self.version], starts=[0])
        rows: list[list[Value]] = []
        for key in keys:
            row = found.get(key)
            changes.kinds.append(DELETE if row is None else INSERT)
            rows.append(self._only_key(key) if row is None else row)
        changes.pages += [pack_page(page) for page in _parts(rows, ROWS_PER_PAGE)]
        return changes

    async def values(self, keys: Sequence[Key], column: str) -> dict[Key, str | None]:
        """One column's texts of the rows of these keys."""
        place = self._relation.places([column])[0]
        rows = await self.rows(keys)
        return {key: _decoded(row[place]) for key, row in rows.items()}

    async def texts(self, keys: Sequence[Key]) -> dict[Key, dict[str, str | None]]:
        """The rows of these keys by their columns' names."""
        names = self._relation.columns
        return {
            key: dict(zip(names, map(_decoded, row), strict=True))
            for key, row in (await self.rows(keys)).items()
        }

    async def typed_rows(self, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
        """The whole rows of these keys as Python values, for a cache, which keeps such."""
        wanted = self._possible(dict.fromkeys(keys))
        if not wanted:
            return {}
        joined, values = self._joined(wanted)
        statement = sql.SQL("SELECT {}, t.* FROM {} AS t JOIN {}").format(
            self._key_array(), self._table, joined
        )
        found: dict[Key, dict[str, Any]] = {}
        for row in await self._snapshot.named_rows(statement, values):
            key = row.pop("array")
            found[tuple(key)] = row
        return found

    async def rows(self, keys: Sequence[Key]) -> dict[Key, list[Value]]:
        """The columns' texts of the rows of these keys; what cannot be a key here has none."""
        wanted = self._possible(keys)
        if not wanted:
            return {}
        joined, values = self._joined(wanted)
        statement = sql.SQL("SELECT {}, {} FROM {} JOIN {}").format(
            self._key_array(),
            _list(column.text for column in self._columns),
            self._table,
            joined,
        )
        return {
            tuple(key): [NULL if text is None else text.encode() for text in row]
            for key, *row in await self._snapshot.query(statement, values)
        }

    async def sizes(self, keys: Sequence[Key]) -> dict[Key, int]:
        """How many bytes the columns' texts of the rows of these keys have together."""
        if not keys:
            return {}
        joined, values = self._joined(keys)
        size = sql.SQL("coalesce(octet_length({}), 0)")
        statement = sql.SQL("SELECT {}, {} FROM {} JOIN {}").format(
            self._key_array(),
            sql.SQL(" + ").join(size.format(column.text) for column in self._columns),
            self._table,
            joined,
        )
        return {tuple(key): size for key, size in await self._snapshot.query(statement, values)}

    def _possible(self, keys: Iterable[Key]) -> list[Key]:
        """Those that may be keys here: a store may hold others, which PostgreSQL cannot be asked
        for, and so it has no rows of them."""
        return [key for key in keys if all(map(fits, self._key, key))]

    def _joined(self, keys: Sequence[Key]) -> tuple[sql.Composable, list[list[str]]]:
        """These keys as rows to join the table with, and an array of values for each column.

        So the planner knows how many there are, and looks each up or reads the table once.
        """
        names = [sql.Identifier(f"wanted_{number}") for number in range(len(self._key))]
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(column.ordered(sql.Identifier(column.name)), wanted)
            for column, wanted in zip(
                self._key,
                (column.ordered(name) for column, name in zip(self._key, names, strict=True)),
                strict=True,
            )
        )
        arrays = _list(sql.SQL("%s::text[]") for _ in names)
        joined = sql.SQL("unnest({}) AS wanted ({}) ON {}").format(arrays, _list(names), same)
        return joined, [list(part) for part in zip(*keys, strict=True)]

    def _only_key(self, key: Key) -> list[Value]:
        names = dict(zip((column.name for column in self._key), key, strict=True))
        texts = (names.get(column.name) for column in self._columns)
        return [NULL if text is None else bytes_of(text) for text in texts]

    def _digests(
        self, beside: sql.Composable, names: Sequence[str], where: sql.Composable
    ) -> sql.Composed:
        """Rows of `names` and the hexadecimal digest; OFFSET 0 has each text made once."""
        texts = [sql.Identifier(f"c{number}") for number in range(len(self._columns))]
        made = _list(
            sql.SQL("{} AS {}").format(column.text, name)
            for column, name in zip(self._columns, texts, strict=True)
        )
        return sql.SQL(
            "SELECT {}, md5({}) AS digest FROM (SELECT {}, {} FROM {} WHERE {} OFFSET 0) AS texts"
        ).format(
            _list(map(sql.Identifier, names)), _row_text(texts), beside, made, self._table, where
        )

    def _within(self, low: Bound, high: Bound) -> tuple[sql.Composable, list[Any]]:
        """The condition of a range, and its values."""
        conditions: list[sql.Composable] = [sql.SQL("true")]
        values: list[Any] = []
        if self._since is not None:
            conditions.append(sql.SQL("{} >= %s").format(sql.Identifier(AGE)))
            values.append(self._since)
        for bound, sign in ((low, ">="), (high, "<")):
            if bound is not None:
                comparison = sql.SQL("{} " + sign + " {}")  # pyright: ignore[reportArgumentType]
                conditions.append(
                    comparison.format(_row(self._ordered_key()), _row(self._places(bound)))
                )
                values += bound
        return sql.SQL(" AND ").join(conditions), values

    def _bucket(self, inner: Sequence[Key]) -> tuple[sql.Composable, list[Any]]:
        """In which of the ranges a row lies; the bounds are made once, by a sub-select."""
        if not inner:
            return sql.SQL("0"), []
        bounds = _list(sql.SQL("ROW{}").format(_row(self._places(bound))) for bound in inner)
        bucket = sql.SQL("width_bucket(ROW{}, (SELECT ARRAY[{}]))")
        return bucket.format(_row(self._ordered_key()), bounds), [x for key in inner for x in key]

    def _ordered_key(self) -> list[sql.Composable]:
        return [column.ordered(sql.Identifier(column.name)) for column in self._key]

    def _places(self, key: Key) -> list[sql.Composable]:
        return [column.ordered(sql.Placeholder()) for column, _ in zip(self._key, key, strict=True)]

    def _order(self) -> sql.Composable:
        return sql.SQL(", ").join(self._ordered_key())

    def _key_array(self) -> sql.Composable:
        return sql.SQL("ARRAY[{}]").format(_list(column.text for column in self._key))


async def open_source(snapshot: Readable, table: str, shape: Shape) -> SourceTable:
    """The table at the snapshot. Raises Lacking where it is not as the copy needs it."""
    rows = await snapshot.query(_sql.columns, {"table": table})
    found = {row[0]: Column(*row) for row in rows}
    missing = [name for name in (*shape.key, *shape.columns) if name not in found]
    if missing:
        raise Lacking(table, missing[0])
    return SourceTable(
        snapshot,
        table,
        [found[name] for name in shape.key],
        [found[name] for name in shape.columns],
        shape.since,
    )


def _row_text(texts: Sequence[sql.Composable]) -> sql.Composable:
    """The text that is hashed: see `relay/digests.py`."""
    part = sql.SQL("octet_length({}), ':', {}")
    parts = [
        sql.SQL("concat({})").format(_list(part.format(text, text) for text in some))
        for some in _parts(texts, _COLUMNS_PER_CONCAT)
    ]
    return parts[0] if len(parts) == 1 else sql.SQL("concat({})").format(_list(parts))


def _row(parts: Iterable[sql.Composable]) -> sql.Composable:
    return sql.SQL("({})").format(_list(parts))


def fits(column: Column, text: str) -> bool:
    """Whether a text may be a value of the column: others may have written it."""
    bits = _WHOLE_BITS.get(column.type)
    if bits is not None:
        return _WHOLE.fullmatch(text) is not None and -1 << bits <= int(text) < 1 << bits
    form = _FORMS.get(column.type)
    is_text = "\0" not in text and is_utf8(text)
    return is_text and (form is None or form.fullmatch(text) is not None)


def _decoded(value: Value) -> str | None:
    return value.decode() if isinstance(value, bytes) else None


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _list(parts: Iterable[sql.Composable]) -> sql.Composable:
    return sql.SQL(", ").join(parts)
