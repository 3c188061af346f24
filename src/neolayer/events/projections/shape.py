"""A read model's table, from its row's type: columns, and the statements that read and write it.

Rows travel as one JSON parameter, which the server takes apart with the columns' own types: one
statement a page, whatever its size, and no type is spelled twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import msgspec
from msgspec import inspect
from psycopg import sql

from neolayer.events.errors import BadProjection
from neolayer.events.personal import Erased
from neolayer.events.projections.model import AnyProjection, Key, Row, Slot

_TYPES: dict[type[inspect.Type], str] = {
    inspect.BoolType: "boolean",
    inspect.IntType: "bigint",
    inspect.FloatType: "double precision",
    inspect.DecimalType: "numeric",
    inspect.StrType: "text",
    inspect.EnumType: "text",
    inspect.UUIDType: "uuid",
    inspect.DateTimeType: "timestamp with time zone",
    inspect.DateType: "date",
    inspect.StructType: "jsonb",
    inspect.DictType: "jsonb",
    inspect.ListType: "jsonb",
    inspect.VarTupleType: "jsonb",
    inspect.TupleType: "jsonb",
    inspect.AnyType: "jsonb",
}


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    nullable: bool

    def __str__(self) -> str:
        return f"{self.name} {self.type}{'' if self.nullable else ' NOT NULL'}"


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of a read model, `tenant_id` apart, and its key. Equal shapes fit one table."""

    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    decoder: msgspec.json.Decoder[Row] = field(repr=False, compare=False)

    @property
    def mark(self) -> str:
        """Tells a table of this shape from one of another: stored beside the table's state."""
        text = repr((*map(str, self.columns), self.key, self.indexes))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def identity(self) -> sql.Composed:
        """The columns of the primary key, the tenant first."""
        return _names(("tenant_id", *self.key))

    def rest(self) -> tuple[str, ...]:
        """The columns that are not of the key."""
        return tuple(each.name for each in self.columns if each.name not in self.key)

    def all_columns(self) -> sql.Composed:
        return _names(("tenant_id", *(each.name for each in self.columns)))

    def recordset(self, *, keys_only: bool) -> sql.Composed:
        """What a JSON parameter is taken apart into."""
        kept = [each for each in self.columns if not keys_only or each.name in self.key]
        columns = [("n", "integer")] if keys_only else []
        columns += [("tenant_id", "uuid"), *((each.name, each.type) for each in kept)]
        parts = [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(cast("Any", kind)))
            for name, kind in columns
        ]
        return sql.SQL(", ").join(parts)


def shape_of(projection: AnyProjection) -> Shape:
    """The table that a projection fills. Raises BadProjection where a field fits no column."""
    fields = cast("inspect.StructType", inspect.type_info(projection.row)).fields
    columns = tuple(_column(projection, each) for each in fields)
    for column in columns:
        if column.name in projection.key and (column.nullable or column.type == "jsonb"):
            raise BadProjection(f"{projection.name}: {column.name} cannot be part of the key")
    decoder = cast("msgspec.json.Decoder[Row]", msgspec.json.Decoder(projection.row))
    return Shape(columns, projection.key, projection.indexes, decoder)


def _column(projection: AnyProjection, field_: inspect.Field) -> Column:
    kind, nullable = _plain(field_.type)
    name = _TYPES.get(type(kind)) if kind is not None else None
    if name is None or field_.encode_name != field_.name:
        raise BadProjection(
            f"{projection.name}: the field {field_.name} fits no column",
            hint="use bool, int, float, Decimal, str, UUID, datetime, date, list or dict",
        )
    return Column(field_.name, name, nullable)


def _plain(kind: inspect.Type) -> tuple[inspect.Type | None, bool]:
    """The one type of a field, and whether it may be None; a personal one is text."""
    rest = list(_parts(kind))
    nullable = any(isinstance(each, inspect.NoneType) for each in rest)
    kept = [each for each in rest if not isinstance(each, inspect.NoneType) and not _erased(each)]
    return (kept[0] if len(kept) == 1 else None), nullable


def _parts(kind: inspect.Type) -> Iterator[inspect.Type]:
    """The members of a union, however it is nested."""
    if isinstance(kind, inspect.Metadata):
        yield from _parts(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _parts(each)
    else:
        yield kind


def _erased(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.StructType) and kind.cls is Erased


def table(projection: AnyProjection, slot: Slot) -> sql.Identifier:
    """One of the three tables."""
    return sql.Identifier(slot.value, projection.name)


def _names(columns: Iterable[str], prefix: str | None = None) -> sql.Composed:
    parts = [sql.Identifier(prefix, each) if prefix else sql.Identifier(each) for each in columns]
    return sql.SQL(", ").join(parts)


# Statements


@dataclass(frozen=True, slots=True)
class Statements:
    """How rows of one table are read, put and removed; each takes one JSON parameter."""

    read: sql.Composed
    put: sql.Composed
    remove: sql.Composed


def reading(shape: Shape, at: sql.Composable, *, locking: bool = False) -> sql.Composed:
    """How rows are read by their keys; `locking` keeps what is read from other writers."""
    keys = shape.recordset(keys_only=True)
    lock = sql.SQL(" FOR UPDATE OF t" if locking else "")
    return sql.SQL(
        "SELECT k.n, to_jsonb(t)::text FROM jsonb_to_recordset(%(keys)s::jsonb) AS k ({})"
        " INNER JOIN {} AS t ON {}{}"
    ).format(keys, at, _same_key(shape), lock)


def _same_key(shape: Shape) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("t.{0} = k.{0}").format(sql.Identifier(each)) for each in ("tenant_id", *shape.key)
    )


def statements(shape: Shape, at: sql.Identifier, *, locking: bool) -> Statements:
    """The statements of one table; see `reading`."""
    put = sql.SQL(
        "INSERT INTO {} ({}) SELECT {} FROM jsonb_to_recordset(%(rows)s::jsonb) AS r ({})"
        " ON CONFLICT ({}) {}"
    ).format(
        at,
        shape.all_columns(),
        shape.all_columns(),
        shape.recordset(keys_only=False),
        shape.identity(),
        _on_conflict(shape),
    )
    remove = sql.SQL(
        "DELETE FROM {} AS t USING jsonb_to_recordset(%(keys)s::jsonb) AS k ({}) WHERE {}"
    ).format(at, shape.recordset(keys_only=True), _same_key(shape))
    return Statements(reading(shape, at, locking=locking), put, remove)


def _on_conflict(shape: Shape) -> sql.Composable:
    if not shape.rest():
        return sql.SQL("DO NOTHING")
    pairs = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(each)) for each in shape.rest()]
    return sql.SQL("DO UPDATE SET {}").format(sql.SQL(", ").join(pairs))


def keys_json(shape: Shape, keys: Iterable[tuple[UUID, Key]]) -> str:
    """The parameter `keys`, numbered in order."""
    encoded = [
        {"n": number, "tenant_id": tenant, **dict(zip(shape.key, key, strict=True))}
        for number, (tenant, key) in enumerate(keys)
    ]
    return msgspec.json.encode(encoded).decode()


def rows_json(rows: Mapping[tuple[UUID, Key], Row]) -> str:
    """The parameter `rows`."""
    encoded = [
        {"tenant_id": tenant, **msgspec.structs.asdict(row)} for (tenant, _), row in rows.items()
    ]
    return msgspec.json.encode(encoded).decode()
