"""What the decoder makes of the commit log, and what every sink is given.

A `Batch` is a run of transactions in commit order. It holds, per table, a `TableChanges`: the rows
as packed tuples, decoded only by a sink that wants them. Every change knows its version, the packed
commit position of its transaction (`Position.version`; in later parts of a large one a little more,
see decoder.py), so a sink can tell older from newer without seeing the log, and what a position
reflects: all up to that version. All of it can be written to disk as it is (`segments.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from neolayer.errors import RelayError

# A column's value as PostgreSQL's text, or one of two marks. The marks are the protocol's own
# bytes 'n' and 'u', which MessagePack reads as small integers.
NULL = ord("n")
UNCHANGED = ord("u")
Value: TypeAlias = bytes | int
Row: TypeAlias = Sequence[Value]

# An update may bring the old row whole, or only the columns of its key (the others read as null).
INSERT, UPDATE, UPDATE_WITH_OLD, UPDATE_WITH_KEY, DELETE = b"IUOKD"

ROWS_PER_PAGE = 256
_pages = msgspec.msgpack.Decoder(list[list[bytes | int]])


class Incomplete(RelayError):
    """An update leaves out a long value that did not change."""

    def __init__(self, table: str) -> None:
        super().__init__(
            f"an update of table {table} leaves out a long value that did not change",
            hint=f"ALTER TABLE {table} REPLICA IDENTITY FULL",
        )


class Misfit(RelayError):
    """The log describes a table, or names its rows, otherwise than a copy of it needs."""

    def __init__(self, table: str, columns: Sequence[str], meaning: str, remedy: str) -> None:
        super().__init__(meaning, hint=f"{remedy}; then it is copied anew by itself")
        self.table = table
        self.columns = tuple(columns)
        self.remedy = remedy


class Unnamed(Misfit):
    """A deletion, or an update of what a copy is keyed by, that does not say of which row."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        names = ", ".join(columns)
        meaning = f"a change of table {table} does not name {names}, which a copy of it needs"
        super().__init__(table, columns, meaning, f"ALTER TABLE {table} REPLICA IDENTITY FULL")


class Lacking(Misfit):
    """A column that a copy has is not in the table."""

    def __init__(self, table: str, column: str) -> None:
        meaning = f"table {table} has no column {column!r}, which a copy of it needs"
        remedy = "bring the catalogue and the schema to the same version"
        super().__init__(table, [column], meaning, remedy)


class Relation(msgspec.Struct, frozen=True, array_like=True):
    """A table as the log describes it at this point.

    `types` are the columns' type oids, `identity` the columns by which an old row is told where
    one of them changes or it is deleted; None: it is always told whole, as far as is known.
    """

    id: int
    schema: str
    name: str
    columns: tuple[str, ...]
    types: tuple[int, ...] = ()
    identity: tuple[str, ...] | None = None

    @property
    def table(self) -> str:
        return f"{self.schema}.{self.name}"

    def places(self, columns: Sequence[str]) -> tuple[int, ...]:
        """Where these columns stand in a row. Raises Lacking for one that is missing."""
        try:
            return tuple(self.columns.index(column) for column in columns)
        except ValueError:
            missing = next(column for column in columns if column not in self.columns)
            raise Lacking(self.table, missing) from None

    def hides(self, columns: Sequence[str]) -> bool:
        """Whether an update without an old row may have changed one of them."""
        return self.identity is not None and not set(columns).issubset(self.identity)


class Change(NamedTuple):
    """One row's change. `row` is the new row, or the old one of a delete.

    `old` is the row before an update where the table's replica identity sends it; of a kind
    UPDATE_WITH_KEY only the key's columns.
    """

    version: int
    kind: int
    row: Row
    old: Row | None


class TableChanges(msgspec.Struct, tag=0, array_like=True):
    """Changes of one table in commit order, as pages of up to 256 packed rows.

    `kinds` has one byte a change; `versions[i]` holds from change `starts[i]` on.
    """

    relation: Relation
    kinds: bytearray = msgspec.field(default_factory=bytearray)
    versions: list[int] = msgspec.field(default_factory=list[int])
    starts: list[int] = msgspec.field(default_factory=list[int])
    pages: list[bytes] = msgspec.field(default_factory=list[bytes])

    @property
    def inserts_only(self) -> bool:
        return self.kinds.count(INSERT) == len(self.kinds)

    def rows(self) -> Iterator[list[list[Value]]]:
        """The inserted rows, page by page; only where `inserts_only`. Raises RelayError."""
        width = len(self.relation.columns)
        for page in self.pages:
            rows = _unpack(page, self.relation)
            if any(len(row) != width for row in rows):
                raise _malformed(self.relation)
            yield rows

    def version_runs(self) -> Iterator[tuple[int, int]]:
        """(version, number of changes that follow under it), in order."""
        ends = [*self.starts[1:], len(self.kinds)]
        for version, start, end in zip(self.versions, self.starts, ends, strict=True):
            yield version, end - start

    def changes(self) -> Iterator[Change]:
        """Every change in order. Raises RelayError."""
        rows = (row for page in self.pages for row in _unpack(page, self.relation))
        versions = (version for version, count in self.version_runs() for _ in range(count))
        width = len(self.relation.columns)
        for kind, version, values in zip(self.kinds, versions, rows, strict=True):
            row, old = values, None
            if kind in (UPDATE_WITH_OLD, UPDATE_WITH_KEY):
                old, row = _split(values, width, self.relation)
                if kind == UPDATE_WITH_OLD:
                    row = _completed(row, old)
            if len(row) != width:
                raise _malformed(self.relation)
            yield Change(version, kind, row, old)


class Truncation(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """A table was emptied: every row of an older version, and those before it here, are gone."""

    relation: Relation
    version: int


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Changes in commit order, and how far they reach.

    Every transaction that ended at or before `position` (a packed version) is complete once this
    batch is applied. `unfinished` is the version of the transaction inside which the batch stops.
    """

    changes: tuple[TableChanges | Truncation, ...]
    position: int
    unfinished: int | None
    rows: int
    size: int
    committed_at: float | None

    def contained_in(self, position: int) -> bool:
        """Whether a sink that reflects `position` has all of this."""
        return (self.unfinished or self.position) <= position


def pack_page(rows: Sequence[Row]) -> bytes:
    """Rows as a page of `TableChanges`, for whoever makes changes without a log."""
    return msgspec.msgpack.encode(rows)


def pack_changes(relation: Relation, changes: Iterable[Change]) -> TableChanges:
    """Changes in order as the decoder would have packed them."""
    made = TableChanges(relation)
    rows: list[Row] = []
    for version, kind, row, old in changes:
        if not made.versions or made.versions[-1] != version:
            made.versions.append(version)
            made.starts.append(len(rows))
        made.kinds.append(kind)
        rows.append(row if old is None else [0, 0, *old, ord("N"), 0, 0, *row])
    parts = range(0, len(rows), ROWS_PER_PAGE)
    made.pages += [pack_page(rows[start : start + ROWS_PER_PAGE]) for start in parts]
    return made


def _unpack(page: bytes, relation: Relation) -> list[list[Value]]:
    try:
        return _pages.decode(page)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise _malformed(relation) from exc


def _split(values: list[Value], width: int, relation: Relation) -> tuple[list[Value], list[Value]]:
    """Old and new row of an update."""
    # Two bytes of column count, the old row, the mark 'N', two bytes again, the new row.
    if len(values) != 2 * width + 5 or values[width + 2] != ord("N"):
        raise _malformed(relation)
    return values[2 : width + 2], values[width + 5 :]


def _completed(row: list[Value], old: list[Value]) -> list[Value]:
    """The new row; what TOAST left out of it is as it was."""
    if UNCHANGED not in row:
        return row
    return [before if now == UNCHANGED else now for before, now in zip(old, row, strict=True)]


def _malformed(relation: Relation) -> RelayError:
    return RelayError(f"the log's row of table {relation.table} does not match its description")
