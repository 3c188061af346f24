"""Fill in what an update left out: long values that did not change.

Where a table's replica identity is its key, an update brings a value that lies in TOAST only when
it changed. A copy of the whole row then lacks it. It is read from PostgreSQL by the row's key,
under a snapshot from behind the change: should the value have changed since, the change that did it
is still to come and wins; a row that is no longer there is told as deleted, as it soon will be.
`REPLICA IDENTITY FULL` spares the look-up.

A few bytes of the log may stand for megabytes: so what is looked up is measured first, and given to
the sink in pieces that memory has room for, each as if the log had been cut there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Final

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
from neolayer.relay.comparing.source import SourceTable, open_source
from neolayer.relay.copying.tables import SnapshotMaker
from neolayer.relay.sinks.sink import Rejected, Sink
from neolayer.relay.snapshot import ExportedSnapshot

ShapeOf = Callable[[str], Shape]
_LEAVING_OUT = frozenset((UPDATE, UPDATE_WITH_KEY))
# Of what is looked up, so much is held at once, or one row that is larger.
PIECE_BYTES: Final = 8 << 20


class Completing:
    """One write to a sink whose rows must be looked up; tried again, it goes on where it was.

    A stream numbers what it is given, so nothing that it has accepted may be given again.
    """

    def __init__(self, sink: Sink, shape: ShapeOf, batches: Sequence[Batch], position: int) -> None:
        """`shape` tells what the sink holds of a table; `position`, what it has durably."""
        self._sink = sink
        self._shape = shape
        self._batches = batches
        self._position = position
        self._given = 0  # changes, in order
        self._passed = 0
        self._rejected: list[Rejected] = []

    async def write(self, snapshot: SnapshotMaker) -> Sequence[Rejected]:
        """Give the sink what it has not had yet; what it refused of all. Raises what the sink and
        the source say."""
        async with snapshot() as exported:
            assert isinstance(exported, ExportedSnapshot)
            async for piece in self._pieces(exported):
                self._rejected += await self._sink.write(piece)
                self._given = self._passed
        return self._rejected

    async def _pieces(self, exported: ExportedSnapshot) -> AsyncIterator[list[Batch]]:
        """The batches with whole rows in the sink's tables; the last piece ends where they do."""
        self._passed = held = 0
        piece: list[Batch] = []
        reached = self._position
        for batch in self._batches:
            parts: list[TableChanges | Truncation] = []
            for changes in batch.changes:
                async for part, count, size in self._parts(changes, exported):
                    if held and held + size > PIECE_BYTES:
                        yield [*piece, *_begun(batch, parts, reached)]
                        piece, parts, held = [], [], 0
                    parts.append(part)
                    held += size
                    self._passed += count
            piece.append(replace(batch, changes=tuple(parts)))
            reached = batch.position
        yield piece

    async def _parts(
        self, changes: TableChanges | Truncation, exported: ExportedSnapshot
    ) -> AsyncIterator[tuple[TableChanges | Truncation, int, int]]:
        """What has not been given of them, made whole: (part, changes in it, bytes looked up)."""
        count = len(changes.kinds) if isinstance(changes, TableChanges) else 1
        given = min(count, max(0, self._given - self._passed))
        self._passed += given
        if given == count:
            return
        if isinstance(changes, Truncation) or not self._may_lack(changes):
            yield changes, count, 0
            return
        relation = changes.relation
        lacking = _Lacking(relation, self._shape(relation.table))
        told = list(changes.changes())[given:]
        if not any(map(lacking.is_lacking, told)):
            yield pack_changes(relation, told), len(told), 0
            return
        wanted = Shape(lacking.shape.key, lacking.columns(told))
        source = await open_source(exported, relation.table, wanted)
        async for some, size in _measured(told, lacking, source):
            yield pack_changes(relation, await lacking.filled_in(some, source)), len(some), size

    def _may_lack(self, changes: TableChanges) -> bool:
        return changes.relation.table in self._sink.tables and bool(
            _LEAVING_OUT.intersection(changes.kinds)
        )


def _begun(
    batch: Batch, parts: Sequence[TableChanges | Truncation], reached: int
) -> Iterator[Batch]:
    """The beginning of a batch, as a batch that stops there."""
    if parts:
        last = parts[-1]
        version = last.version if isinstance(last, Truncation) else last.versions[-1]
        yield replace(batch, changes=tuple(parts), position=reached, unfinished=version)


async def _measured(
    told: Sequence[Change], lacking: _Lacking, source: SourceTable
) -> AsyncIterator[tuple[list[Change], int]]:
    """The changes in runs whose values fit into a piece, and the bytes of those."""
    sizes = await source.sizes(lacking.keys(told))
    some: list[Change] = []
    held = 0
    for one in told:
        size = sizes.get(lacking.key(one.row), 0) if lacking.is_lacking(one) else 0
        if held and held + size > PIECE_BYTES:
            yield some, held
            some, held = [], 0
        some.append(one)
        held += size
    yield some, held


class _Lacking:
    """What rows of one table lack, and how they are made whole."""

    def __init__(self, relation: Relation, shape: Shape) -> None:
        self.shape = shape
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

    def keys(self, told: Iterable[Change]) -> list[Key]:
        """Of the rows that lack something, each once."""
        return list(dict.fromkeys(self.key(one.row) for one in told if self.is_lacking(one)))

    def columns(self, told: Iterable[Change]) -> tuple[str, ...]:
        """Those of which some row lacks the value."""
        lacking = [one.row for one in told if self.is_lacking(one)]
        return tuple(
            name
            for place, name in enumerate(self._relation.columns)
            if place in self._copied and any(row[place] == UNCHANGED for row in lacking)
        )

    async def filled_in(self, told: Sequence[Change], source: SourceTable) -> list[Change]:
        """The same changes with whole rows."""
        found = await source.rows(self.keys(told))
        places = self._relation.places(source.columns)
        return [
            part
            for one in told
            for part in (self._filled(one, places, found) if self.is_lacking(one) else (one,))
        ]

    def _filled(
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
