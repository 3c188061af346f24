"""Fill in what an update left out: long values that did not change.

Where a table's replica identity is its key, an update brings a value that lies in TOAST only when
it changed. A copy of the whole row then lacks it. It is read from PostgreSQL by the row's key,
under a snapshot from behind the change: should the value have changed since, the change that did it
is still to come and wins; a row that is no longer there is told as deleted, as it soon will be.
`REPLICA IDENTITY FULL` spares the look-up.

A few bytes of the log may stand for megabytes: so what is looked up is measured first, and given to
the sink in pieces that memory has room for, each as if the log had been cut there. A batch has one
table's changes after another's; its pieces follow the commits, because a stream tells by its last
message how far it has come, and takes all that is older as told. Tried again, values may have other
sizes and pieces other ends: what an earlier try told is a beginning all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Final, NamedTuple

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
        """The sink's tables' changes with whole rows; the last piece ends where the batches do."""
        self._passed = held = 0
        piece: list[Batch] = []
        reached = self._position
        for batch in self._batches:
            steps: list[_Step] = []
            for step in _in_commit_order(await self._parts(batch, exported)):
                if self._passed >= self._given:
                    if held and held + step.size > PIECE_BYTES:
                        yield [*piece, *await _begun(batch, steps, reached)]
                        piece, steps, held = [], [], 0
                    steps.append(step)
                    held += step.size
                self._passed += 1
            piece.append(replace(batch, changes=await _whole(steps)))
            reached = batch.position
        yield piece

    async def _parts(self, batch: Batch, exported: ExportedSnapshot) -> list[_Part]:
        """What the sink copies of a batch, and what is to be looked up for it."""
        return [
            await self._part(told, exported)
            for told in batch.changes
            if told.relation.table in self._sink.tables
        ]

    async def _part(self, told: TableChanges | Truncation, exported: ExportedSnapshot) -> _Part:
        if isinstance(told, Truncation) or _LEAVING_OUT.isdisjoint(told.kinds):
            return _Part(told)
        lacking = _Lacking(told.relation, self._shape(told.relation.table))
        keys, columns = lacking.wanted(told.changes())
        if not keys:
            return _Part(told)
        wanted = Shape(lacking.shape.key, columns)
        source = await open_source(exported, told.relation.table, wanted)
        return _Part(told, lacking, source, await source.sizes(keys))


@dataclass(eq=False, frozen=True, slots=True)
class _Part:
    """One table's changes in a batch, or that it was emptied; where rows lack something, the source
    of it and how many bytes it has."""

    told: TableChanges | Truncation
    lacking: _Lacking | None = None
    source: SourceTable | None = None
    sizes: Mapping[Key, int] = field(default_factory=dict[Key, int])

    def steps(self) -> Iterator[_Step]:
        table = self.told.relation.id
        if isinstance(self.told, Truncation):
            yield _Step(self.told.version, table, self, None, 0)
            return
        for one in self.told.changes():
            yield _Step(one.version, table, self, one, self._size(one))

    def _size(self, one: Change) -> int:
        if self.lacking is None or not self.lacking.is_lacking(one):
            return 0
        return self.sizes.get(self.lacking.key(one.row), 0)

    async def whole(self, some: Sequence[Change]) -> TableChanges:
        """Some of the changes, with whole rows."""
        if self.lacking is not None and self.source is not None:
            some = await self.lacking.filled_in(some, self.source)
        return pack_changes(self.told.relation, some)


class _Step(NamedTuple):
    """One change on the way through a batch; None: the table was emptied."""

    version: int
    table: int
    part: _Part
    change: Change | None
    size: int


def _in_commit_order(parts: Sequence[_Part]) -> Iterator[_Step]:
    """Within one version, table by table, in the order in which `Envelopes` tells them."""
    return merge(*(part.steps() for part in parts), key=lambda step: step[:2])


async def _whole(steps: Iterable[_Step]) -> tuple[TableChanges | Truncation, ...]:
    """These changes with whole rows, table by table as a batch has them."""
    some: dict[_Part, list[Change]] = {}
    for step in steps:
        changes = some.setdefault(step.part, [])
        if step.change is not None:
            changes.append(step.change)
    return tuple(
        [
            part.told if isinstance(part.told, Truncation) else await part.whole(changes)
            for part, changes in some.items()
        ]
    )


async def _begun(batch: Batch, steps: Sequence[_Step], reached: int) -> list[Batch]:
    """The beginning of a batch, as a batch that stops there."""
    if not steps:
        return []
    version = steps[-1].version
    changes = await _whole(steps)
    return [replace(batch, changes=changes, position=reached, unfinished=version)]


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

    def wanted(self, told: Iterable[Change]) -> tuple[list[Key], tuple[str, ...]]:
        """The keys of rows that lack something, each once, and the columns that some lack."""
        keys: dict[Key, None] = {}
        places: set[int] = set()
        for one in filter(self.is_lacking, told):
            keys[self.key(one.row)] = None
            places.update(place for place in self._copied if one.row[place] == UNCHANGED)
        return list(keys), tuple(self._relation.columns[place] for place in sorted(places))

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
            for row in self._gone(one):
                yield Change(one.version, DELETE, self._only_key(row), None)
            return
        row = list(one.row)
        for place, value in zip(places, values, strict=True):
            row[place] = value if row[place] == UNCHANGED else row[place]
        yield one._replace(row=row)

    def _gone(self, one: Change) -> Iterator[Row]:
        """As many rows as an update of one that is still there tells of, or a stream would count
        otherwise when it is tried again: the old one where it was under another key."""
        if one.old is not None:
            before = [one.old[place] for place in self._key]
            if NULL not in before and before != [one.row[place] for place in self._key]:
                yield one.old
        yield one.row

    def _only_key(self, row: Row) -> list[Value]:
        return [value if place in self._key else NULL for place, value in enumerate(row)]
