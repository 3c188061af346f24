"""What a reader of a read model asks for, checked before it is asked: keys, fields, limits.

Values are read as the row's own types (an id may be given as text) and sent as text under the type
of their column, so that what cannot be compared is refused here, by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
from psycopg import sql

from neolayer.errors import InvalidInput
from neolayer.events.projections.model import AnyProjection, Key, Slot
from neolayer.events.projections.shape import Column, Shape, shape_of, table
from neolayer.nuls import refuse_nul

_MOST_ROWS: Final = 1_000_000
_WITHIN_BIGINT: Final = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of a read model: in the order of their keys, behind one, with these values."""

    projection: AnyProjection
    equal: Mapping[str, Any]
    after: Key | None = None
    limit: int = 100

    def query(self) -> tuple[sql.Composed, dict[str, Any]]:
        """The statement and its parameters. Raises InvalidInput."""
        shape = shape_of(self.projection)
        conditions, params = self._equalities(shape)
        params["rows_at_most"] = _checked_limit(self.limit)
        if self.after is not None:
            key = checked_key(self.projection, self.after)
            marks = [f"after_{number}" for number in range(len(key))]
            params |= dict(zip(marks, map(_text, key), strict=True))
            values = [_typed(shape, *each) for each in zip(shape.key, marks, strict=True)]
            conditions.append(
                sql.SQL("({}) > ({})").format(_qualified(shape.key), sql.SQL(", ").join(values))
            )
        query = sql.SQL("SELECT to_jsonb(t)::text FROM {} AS t{} ORDER BY {} LIMIT {}").format(
            rows_of(self.projection),
            sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL(""),
            _qualified(("tenant_id", *shape.key)),
            sql.Placeholder("rows_at_most"),
        )
        return query, params

    def _equalities(self, shape: Shape) -> tuple[list[sql.Composable], dict[str, Any]]:
        conditions, params = list[sql.Composable](), dict[str, Any]()
        for name, value in self.equal.items():
            checked = _checked(self.projection, name, value)
            at = sql.Identifier("t", name)
            if checked is None:
                conditions.append(sql.SQL("{} IS NULL").format(at))
                continue
            mark = f"equal_{name}"
            params[mark] = _text(checked)
            conditions.append(sql.SQL("{} = {}").format(at, _typed(shape, name, mark)))
        return conditions, params


def checked_key(projection: AnyProjection, key: Sequence[Any]) -> Key:
    """A key in the row's own types. Raises InvalidInput."""
    if len(key) != len(projection.key):
        raise InvalidInput(f"a key of {projection.name} is {', '.join(projection.key)}")
    pairs = zip(projection.key, key, strict=True)
    checked = tuple(_checked(projection, name, value) for name, value in pairs)
    if None in checked:
        raise InvalidInput(f"a key of {projection.name} holds no None")
    return checked


def rows_of(projection: AnyProjection) -> sql.Composed:
    """The live table by the columns that the program declares: one that lacks any is refused by the
    server, whether it has rows or not."""
    shape = shape_of(projection)
    return sql.SQL("(SELECT {} FROM {})").format(shape.all_columns(), table(projection, Slot.LIVE))


def _checked(projection: AnyProjection, name: str, value: Any) -> Any:
    """A value as the field's type has it. Raises InvalidInput."""
    types = {each.name: each.type for each in msgspec.structs.fields(projection.row)}
    if name not in types:
        raise InvalidInput(f"{projection.name} has no field {name!r}")
    at, column = f"{name} of {projection.name}", _column(shape_of(projection), name)
    if value is None:
        return None
    if column.type == "jsonb":
        raise InvalidInput(f"{at} is JSON, which is compared with None alone")
    try:
        checked = msgspec.convert(msgspec.to_builtins(value), types[name])
        msgspec.json.encode(checked)  # as UTF-8
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"{at} cannot be that: {exc}") from exc
    if column.type == "bigint" and checked not in _WITHIN_BIGINT:
        raise InvalidInput(f"{at} has 64 bits at most")
    refuse_nul(checked if isinstance(checked, str) else "", name)
    return checked


def _checked_limit(limit: int) -> int:
    if not 0 <= limit <= _MOST_ROWS:
        raise InvalidInput(f"limit is 0 to {_MOST_ROWS:,}, not {limit}")
    return limit


def _text(value: Any) -> str:
    plain = cast("object", msgspec.to_builtins(value))
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def _typed(shape: Shape, name: str, mark: str) -> sql.Composed:
    """A parameter of text as the column's type."""
    kind = sql.SQL(cast("Any", _column(shape, name).type))
    return sql.SQL("{}::text::{}").format(sql.Placeholder(mark), kind)


def _column(shape: Shape, name: str) -> Column:
    return next(each for each in shape.columns if each.name == name)


def _qualified(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier("t", name) for name in names)
