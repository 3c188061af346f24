"""Make one table anew in one sink while changes flow into it.

An exported snapshot is read in ranges of keys, several at once, and each row goes in with the
snapshot's version: it loses against what the stream has brought since and wins over what was there
before. Which ranges are in is stored as they come, so a relay that dies goes on with the others,
under a later snapshot. When all are in, what the sink holds from before the first snapshot is no
longer in PostgreSQL, and goes.

A stream takes nothing back, so there the table is told again: `truncated` first, then the ranges
one after another, each between two writes. A cache just forgets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Final, Generic, TypeVar

import structlog

from neolayer.crash_points import crash_point
from neolayer.relay.changes import Relation
from neolayer.relay.comparing.source import SourceTable, TablePart, open_source
from neolayer.relay.lane import Lane, SnapshotMaker
from neolayer.relay.operations.desk import Desk, Range, Wanted
from neolayer.relay.sinks.sink import Rebuildable, Resendable
from neolayer.relay.snapshot import ExportedSnapshot

RANGE_ROWS: Final = 50_000
PARALLEL: Final = 2
_CATCH_UP_S: Final = 0.05

_log = structlog.get_logger()


async def rebuild(desk: Desk, lane: Lane, wanted: Wanted, snapshot: SnapshotMaker) -> None:
    """Do it, or go on with it; returns early where the sink is paused.

    Raises what engines say, in a group; then the parts that are in the sink stay there.
    """
    _log.info("rebuilding", sink=wanted.sink, table=wanted.table)
    async with snapshot() as exported:
        assert isinstance(exported, ExportedSnapshot)
        if isinstance(lane.sink, Rebuildable):
            await _Rebuilding(desk, lane, lane.sink, wanted, exported).run()
        elif isinstance(lane.sink, Resendable):
            await _Resending(desk, lane, lane.sink, wanted, exported).run()
        else:
            await _copy_whole(desk, lane, wanted, exported)


async def _copy_whole(desk: Desk, lane: Lane, wanted: Wanted, exported: ExportedSnapshot) -> None:
    """Into a cache, between two writes."""
    await desk.begin_rebuild(wanted, exported.version, [(None, None)])
    async with lane.turn:
        if not lane.working:
            return
        rejected = await lane.sink.copy(exported, [wanted.table])
    await desk.park(lane.sink.name, lane.sink.database, rejected or ())
    await desk.range_done(wanted, 0, rows=0)
    await desk.end_rebuild(wanted)


S = TypeVar("S", Rebuildable, Resendable)


class _Making(Generic[S]):
    """One table into one sink, in ranges, under one snapshot."""

    def __init__(
        self, desk: Desk, lane: Lane, sink: S, wanted: Wanted, exported: ExportedSnapshot
    ) -> None:
        self._desk = desk
        self._lane = lane
        self._sink = sink
        self._wanted = wanted
        self._exported = exported
        self._shape = sink.shape(wanted.table)

    async def _begin(self) -> int:
        """Cut the table into ranges, and write down the version that all of them have at least."""
        source = await open_source(self._exported, self._wanted.table, self._shape)
        cuts = await source.bounds(None, None, RANGE_ROWS)
        version = self._exported.version
        await self._desk.begin_rebuild(self._wanted, version, pairwise([None, *cuts, None]))
        crash_point("relay.after_rebuild_begin")
        return version

    async def _copy(self, one: Range, source: SourceTable) -> None:
        part = _Counted(source.part(one.low, one.high))
        rejected = await self._sink.copy_part(part, self._wanted.table)
        await self._desk.park(self._lane.sink.name, self._lane.sink.database, rejected)
        crash_point("relay.after_rebuild_copy")
        await self._desk.range_done(self._wanted, one.number, rows=part.count)
        crash_point("relay.after_rebuild_range")

    async def _end(self) -> None:
        await self._desk.end_rebuild(self._wanted)
        _log.info("rebuilt", sink=self._wanted.sink, table=self._wanted.table)


class _Rebuilding(_Making[Rebuildable]):
    """Into a store of rows, beside its writes."""

    async def run(self) -> None:
        version = self._wanted.version
        if version is None:
            version = await self._begin()
        left = deque(await self._desk.ranges_left(self._wanted))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(PARALLEL, len(left))):
                tasks.create_task(self._copy_ranges(left))
        if left:
            return
        crash_point("relay.before_rebuild_end")
        await self._sink.drop_below(self._wanted.table, version)
        await self._end()

    async def _copy_ranges(self, left: deque[Range]) -> None:
        async with self._exported.again() as mine:
            source = await open_source(mine, self._wanted.table, self._shape)
            while left and self._lane.working:
                one = left.popleft()
                try:
                    await self._copy(one, source)
                except BaseException:
                    left.append(one)
                    raise


class _Resending(_Making[Resendable]):
    """To a stream, between its writes, and once its checkpoint is behind the snapshot: a stream
    tells by its last message's version how far it has come."""

    async def run(self) -> None:
        while self._lane.position < self._exported.version:
            if not self._lane.working:
                return
            await asyncio.sleep(_CATCH_UP_S)
        if self._wanted.version is None and not await self._announce():
            return
        source = await open_source(self._exported, self._wanted.table, self._shape)
        for one in await self._desk.ranges_left(self._wanted):
            async with self._lane.turn:
                # A write that failed stands half in the stream: nothing may come behind it first.
                if not self._lane.working:
                    return
                await self._copy(one, source)
        await self._end()

    async def _announce(self) -> bool:
        async with self._lane.turn:
            if not self._lane.working:
                return False
            await self._sink.begin_again(self._exported.version, self._wanted.table)
        await self._begin()
        return True


class _Counted:
    """A part of a table that counts its rows as they are read."""

    def __init__(self, part: TablePart) -> None:
        self._part = part
        self.version = part.version
        self.count = 0

    async def describe(self, table: str, columns: Sequence[str]) -> Relation:
        return await self._part.describe(table, columns)

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]:
        async for block in self._part.rows(table, columns):
            self.count += block.count(b"\n")
            yield block
