"""Copy tables into one sink while changes flow, in ranges of keys, several at once.

An exported snapshot is read range by range, and each row goes in with the snapshot's version: it
loses against what the stream has brought since, or will bring, and wins over what was there before.
Which ranges are in is stored as they come, so whoever dies goes on with the others, under a later
snapshot. When all are in, what the sink holds from before the first snapshot is no longer in
PostgreSQL, and goes. A table that is begun anew, because other columns or another key are copied
now, or elsewhere, is begun under the snapshot of that moment: what was copied of it before goes
too.

A stream takes nothing back, so there a table is told again: `truncated` first, then the ranges one
after another, each between two writes. All of it bears the first snapshot's version, whatever
snapshot it was read under: by the version of what a stream was told last it is known how far it
has come, and what changed between two snapshots is told after the copy.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Protocol

from neolayer.crash_points import crash_point
from neolayer.errors import NotSupported
from neolayer.relay.changes import Misfit, Relation
from neolayer.relay.comparable import Bound, Key, Shape
from neolayer.relay.copying.progress import Progress, Range, Wanted
from neolayer.relay.sinks.sink import Park, Rebuildable, Resendable, Snapshot, Typed
from neolayer.waiting import answered

RANGE_ROWS: Final = 50_000
PARALLEL: Final = 2


class Divided(Protocol):
    """One table at a snapshot, in ranges of its keys."""

    async def bounds(self, low: Bound, high: Bound, rows: int) -> list[Key]:
        """Keys that cut the range into parts of so many rows."""
        ...

    def part(self, low: Bound, high: Bound) -> Snapshot: ...


class Tables(Protocol):
    """All tables as they were at one position."""

    @property
    def version(self) -> int: ...

    async def divide(self, table: str, shape: Shape) -> Divided: ...

    async def require_fit(self, misfit: Misfit) -> None:
        """Raises Misfit where the table is still as the log described it, as far as it alone tells:
        what a store's types hold is asked before a copy begins."""
        ...

    def again(self) -> AbstractAsyncContextManager[Tables]:
        """The same, to be read beside this one and while it lives."""
        ...


SnapshotMaker = Callable[[], AbstractAsyncContextManager[Tables]]


@dataclass(frozen=True, slots=True)
class Way:
    """How a sink is reached, and who keeps what comes of it.

    `is_open` says whether to go on; whoever holds `turn` writes alone.
    """

    sink: Rebuildable | Resendable
    progress: Progress
    park: Park
    is_open: Callable[[], bool]
    turn: asyncio.Lock


async def copy_tables(
    way: Way, wanted: Sequence[Wanted], tables: Tables, *, version: int | None = None
) -> bool:
    """Copy what is not in the sink yet; whether all of it is. It is not where the way was closed.

    `version` is what a stream is told under; the snapshot's where none is given. Raises what
    engines say; then the parts that are in the sink stay there.
    """
    wanted = [one.under(way.sink.shape(one.table)) for one in wanted]
    try:
        if isinstance(way.sink, Rebuildable):
            return await _Rows(way, way.sink, tables, tables.version).run(wanted)
        version = tables.version if version is None else version
        return await _Stream(way, way.sink, tables, version).run(wanted)
    except BaseExceptionGroup as group:
        raise _first(group) from group


class _Copying:
    """What both ways have in common."""

    def __init__(
        self, way: Way, sink: Rebuildable | Resendable, tables: Tables, version: int
    ) -> None:
        self._way = way
        self._at = sink
        self._tables = tables
        self._version = version

    async def _begun(self, one: Wanted) -> Wanted:
        """Cut the table into ranges, where it is not, and write them down."""
        if one.version is not None:
            return one
        divided = await self._tables.divide(one.table, self._at.shape(one.table))
        cuts = await divided.bounds(None, None, RANGE_ROWS)
        await self._way.progress.begin_table(one, self._version, pairwise([None, *cuts, None]))
        crash_point("relay.after_rebuild_begin")
        return replace(one, version=self._version)

    async def _done(self, one: Wanted, range_: Range, rows: int) -> None:
        crash_point("relay.after_rebuild_copy")
        await self._way.progress.range_done(one, range_.number, rows=rows)
        crash_point("relay.after_rebuild_range")


class _Rows(_Copying):
    """Into a store of rows, beside its writes."""

    def __init__(self, way: Way, sink: Rebuildable, tables: Tables, version: int) -> None:
        super().__init__(way, sink, tables, version)
        self._sink = sink
        self._left: deque[tuple[Wanted, Range]] = deque()

    async def run(self, wanted: Sequence[Wanted]) -> bool:
        for one in wanted:
            await self._require_types(one.table)
        begun = [await self._begun(one) for one in wanted]
        for one in begun:
            ranges = await self._way.progress.ranges_left(one)
            self._left.extend((one, range_) for range_ in ranges)
        # In a task of its own: Python 3.11 leaves the one whose group failed while it waited for it
        # marked as cancelled for ever, and a lane that is cancelled ends.
        await asyncio.create_task(self._copy_side_by_side())
        if self._left:
            return False
        crash_point("relay.before_rebuild_end")
        for one in begun:
            await self._sink.drop_below(one.table, one.version or self._version)
        return True

    async def _require_types(self, table: str) -> None:
        if isinstance(self._sink, Typed):
            shape = self._sink.shape(table)
            divided = await self._tables.divide(table, shape)
            relation = await divided.part(None, None).describe(table, shape.columns)
            await self._sink.require_types(relation)

    async def _copy_side_by_side(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy_with(nullcontext(self._tables)))
            for _ in range(min(PARALLEL, len(self._left)) - 1):
                tasks.create_task(self._copy_with(self._tables.again()))

    async def _copy_with(self, opened: AbstractAsyncContextManager[Tables]) -> None:
        with answered(self._sink.name):
            async with opened as tables:
                await self._copy_ranges(tables)

    async def _copy_ranges(self, tables: Tables) -> None:
        while self._left and self._way.is_open():
            one, range_ = self._left.popleft()
            try:
                divided = await tables.divide(one.table, self._sink.shape(one.table))
                part = _Counted(divided.part(range_.low, range_.high))
                await self._sink.copy_part(part, one.table, self._way.park)
                await self._done(one, range_, part.count)
            except BaseException:  # however it ended: it is not done
                self._left.appendleft((one, range_))
                raise


class _Stream(_Copying):
    """To a stream, between its writes."""

    def __init__(self, way: Way, sink: Resendable, tables: Tables, version: int) -> None:
        super().__init__(way, sink, tables, version)
        self._sink = sink

    async def run(self, wanted: Sequence[Wanted]) -> bool:
        for one in wanted:
            begun = await self._told(one)
            if begun is None or not await self._tell(begun):
                return False
        return True

    async def _told(self, one: Wanted) -> Wanted | None:
        """That it begins again, where it has not been told; None where the way is closed."""
        if one.version is not None:
            return one
        async with self._way.turn:
            if not self._way.is_open():
                return None
            try:
                await self._sink.begin_again(self._version, one.table)
            except NotSupported:
                if not one.whole:
                    raise
                await self._way.progress.begin_table(one, self._version, ())
                return replace(one, version=self._version)
        return await self._begun(one)

    async def _tell(self, one: Wanted) -> bool:
        ranges = await self._way.progress.ranges_left(one)
        if not ranges:
            return True
        divided = await self._tables.divide(one.table, self._sink.shape(one.table))
        for range_ in ranges:
            part = _Counted(divided.part(range_.low, range_.high), one.version)
            async with self._way.turn:
                # A write that failed stands half in the stream: nothing may come behind it first.
                if not self._way.is_open():
                    return False
                await self._sink.copy_part(part, one.table, self._way.park, asked=not one.whole)
            await self._done(one, range_, part.count)
        return True


class _Counted:
    """A part of a table that counts its rows as they are read, under a version of our choice."""

    def __init__(self, part: Snapshot, version: int | None = None) -> None:
        self._part = part
        self.version = part.version if version is None else version
        self.count = 0

    async def describe(self, table: str, columns: Sequence[str]) -> Relation:
        return await self._part.describe(table, columns)

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]:
        async for block in self._part.rows(table, columns):
            self.count += block.count(b"\n")
            yield block


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType]
