"""Fill in what an update left out: long values that did not change.

Where a table's replica identity is its key, an update brings a value that lies in TOAST only when
it changed. A copy of the whole row then lacks it. It is read from PostgreSQL by the row's key,
under a snapshot from behind the change: should the value have changed since, the change that did it
is still to come and wins; a row that is no longer there is told as deleted, as it soon will be.
`REPLICA IDENTITY FULL` spares the look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager

from msgspec.structs import replace

from neolayer.relay.changes import (
    DELETE,
    NULL,
    UNCHANGED,
    UPDATE,
    UPDATE_WITH_KEY,
    Batch,
    Change,
    Relation,
    Row,
    TableChanges,
    Truncation,
    Value,
    pack_changes,
)
from neolayer.relay.comparable import Key, Shape
from neolayer.relay.comparing.source import open_source
from neolayer.relay.sinks.sink import Rebuildable, Resendable, Snapshot
from neolayer.relay.snapshot import ExportedSnapshot

SnapshotMaker = Callable[[], AbstractAsyncContextManager[Snapshot]]
_LEAVING_OUT = frozenset((UPDATE, UPDATE_WITH_KEY))


async def completed(
    batches: Sequence[Batch], sink: Rebuildable | Resendable, snapshot: SnapshotMaker
) -> list[Batch]:
    """The same batches with whole rows in the sink's tables. Raises what the source says."""
    async with snapshot() as exported:
        assert isinstance(exported, ExportedSnapshot)
        return [await _batch(batch, sink, exported) for batch in batches]


async def _batch(batch: Batch, sink: Rebuildable | Resendable, exported: ExportedSnapshot) -> Batch:
    made: list[TableChanges | Truncation] = []
    for changes in batch.changes:
        if isinstance(changes, TableChanges) and changes.relation.table in sink.tables:
            shape = sink.shape(changes.relation.table)
            made.append(await _whole(changes, shape, exported))
        else:
            made.append(changes)
    return replace(batch, changes=tuple(made))


async def _whole(changes: TableChanges, shape: Shape, exported: ExportedSnapshot) -> TableChanges:
    if not _LEAVING_OUT.intersection(changes.kinds):
        return changes
    relation = changes.relation
    lacking = _Lacking(relation, shape)
    told = list(changes.changes())
    wanted = [lacking.key(one.row) for one in told if lacking.is_lacking(one)]
    if not wanted:
        return changes
    columns = lacking.columns(told)
    source = await open_source(exported, relation.table, Shape(shape.key, columns))
    found = await source.rows(list(dict.fromkeys(wanted)))
    places = relation.places(columns)
    filled = (
        part
        for one in told
        for part in (lacking.filled(one, places, found) if lacking.is_lacking(one) else (one,))
    )
    return pack_changes(relation, filled)


class _Lacking:
    """What rows of one table lack, and how they are made whole."""

    def __init__(self, relation: Relation, shape: Shape) -> None:
        self._relation = relation
        self._key = relation.places(shape.key)
        self._copied = relation.places(shape.columns)

    def is_lacking(self, one: Change) -> bool:
        return one.kind in _LEAVING_OUT and any(
            one.row[place] == UNCHANGED for place in self._copied
        )

    def key(self, row: Row) -> Key:
        values = (row[place] for place in self._key)
        return tuple(value.decode() if isinstance(value, bytes) else "" for value in values)

    def columns(self, told: Iterable[Change]) -> tuple[str, ...]:
        """Those of which some row lacks the value."""
        lacking = [one.row for one in told if self.is_lacking(one)]
        return tuple(
            name
            for place, name in enumerate(self._relation.columns)
            if place in self._copied and any(row[place] == UNCHANGED for row in lacking)
        )

    def filled(
        self, one: Change, places: Sequence[int], found: dict[Key, list[Value]]
    ) -> Iterator[Change]:
        values = found.get(self.key(one.row))
        if values is None:
            gone = [row for row in (one.old, one.row) if row is not None]
            yield from (Change(one.version, DELETE, self._only_key(row), None) for row in gone)
            return
        row = list(one.row)
        for place, value in zip(places, values, strict=True):
            row[place] = value if row[place] == UNCHANGED else row[place]
        yield one._replace(row=row)

    def _only_key(self, row: Row) -> list[Value]:
        return [value if place in self._key else NULL for place, value in enumerate(row)]
