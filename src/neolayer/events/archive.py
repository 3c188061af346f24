"""Closed streams, moved to the object store and read from there as if they were still in the table.

What is taken out of the table was read back from the store before, and the database compares its
hash with that of its own rows: no other way leads to a DELETE of events. A segment that a kill left
behind without its row is found by the next try, because it has the same name.

A stream stays as long as something still needs it: a subscription, an asynchronous projection, a
transaction that may still read it. All of these are named, and what stays keeps nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast
from uuid import UUID

from neolayer.crash_points import crash_point
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import AccessDenied, Conflict, NotSupported
from neolayer.events.model import BEGINNING, Place, RecordedEvent
from neolayer.events.segments import (
    Segment,
    SegmentDamaged,
    SegmentStore,
    events_of,
    segment_of,
)
from neolayer.tenancy import Scope
from neolayer.tenancy.context import Kind

__all__ = ["Archive", "Archived", "Archiving", "NotArchived", "SegmentDamaged", "SegmentStore"]

sql = load_queries(__name__, "archive.sql")
PAGE_STREAMS = 500
MOST_MARKERS = 256
_AT_ONCE = 16
_WHY = {
    "absent": "there is no such stream",
    "open": "it is not closed",
    "archived": "it is archived already",
    "running": "a transaction from before it was closed still runs",
    "subscription": "the subscription {!r} has not handled all of it",
    "parked": "the subscription {!r} has parked events of it",
    "projection": "the projection {!r} has not folded all of it",
    "standing": "it stands still in the projection {!r}",
    "different": "what the object store gave back is not what the table has",
}

Reasons = Sequence[tuple[str, str | None]]


class NotArchived(Conflict):
    """A stream's events stay in the table; `reasons` are what for, each with whose."""

    def __init__(self, stream_id: UUID, reasons: Reasons) -> None:
        words = "; ".join(_WHY[why].format(who) for why, who in reasons)
        super().__init__(f"stream {stream_id} is not archived: {words}")
        self.stream_id = stream_id
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Archived:
    """One stream that was archived."""

    stream_id: UUID
    events: int
    key: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Archiving:
    """What came of archiving many streams."""

    done: list[Archived] = field(default_factory=list[Archived])
    kept: list[NotArchived] = field(default_factory=list[NotArchived])


@dataclass(frozen=True, slots=True)
class Archive:
    """One tenant's archived streams."""

    scope: Scope
    segments: SegmentStore | None

    # Archiving

    async def archive_closed(self, *, up_to: Place, limit: int = 1000) -> Archiving:
        """Archive streams closed at or before a place, the oldest first, `limit` at most.

        What something still needs is left, and told; the others go. Raises as `archive` otherwise.
        """
        archiving = Archiving()
        async for stream in self._closed(up_to):
            if len(archiving.done) >= limit:
                break
            try:
                archiving.done.append(await self.archive(stream))
            except NotArchived as exc:
                archiving.kept.append(exc)
        return archiving

    async def closed(self, *, up_to: Place, limit: int = 1000) -> list[UUID]:
        """Streams closed at or before a place that are still in the table, the oldest first."""
        return [stream for stream, _ in await self._closed_after(BEGINNING, up_to, limit)]

    async def archive(self, stream_id: UUID) -> Archived:
        """Move a closed stream's events to the object store.

        Raises NotArchived, AccessDenied where it is no operator who acts, EngineError.
        """
        if self.scope.by.kind not in (Kind.OPERATOR, Kind.SYSTEM):
            raise AccessDenied("streams are archived by operators and by the layer itself")
        await self._take_out(stream_id, 0, None)
        lines = [row[0] for row in await self.scope.fetch(sql.stream_lines, {"stream": stream_id})]
        segment, content = segment_of(cast("UUID", self.scope.tenant), lines)
        await self._store().put(segment, content)
        crash_point("events.after_segment")
        stored = await self._store().lines(segment, fresh=True)
        removed = await self._take_out(stream_id, len(content), sha256(stored).hexdigest())
        return Archived(stream_id, removed, segment.key, len(content))

    async def _take_out(self, stream_id: UUID, size: int, lines_hash: str | None) -> int:
        """Out of the table, where that is the hash of its lines; without one, whether it may go."""
        params = {"stream": stream_id, "bytes": size, "lines_hash": lines_hash}
        async with self.scope.transaction() as tx:
            row = await tx.one(sql.archive_stream, params)
            assert row is not None
            if lines_hash is not None:
                crash_point("events.before_removal")
        answer: dict[str, Any] = row[0]
        if answer.get("kept"):
            raise NotArchived(stream_id, [(why, who) for why, who in answer["kept"]])
        return answer.get("events", 0)

    async def _closed(self, up_to: Place) -> AsyncIterator[UUID]:
        after = BEGINNING
        while page := await self._closed_after(after, up_to, PAGE_STREAMS):
            for stream, after in page:  # noqa: B007 - where the next page begins
                yield stream

    async def _closed_after(
        self, after: Place, up_to: Place, limit: int
    ) -> list[tuple[UUID, Place]]:
        params = {
            "after_transaction": str(after.transaction),
            "after_index": after.index,
            "transaction": str(up_to.transaction),
            "index": up_to.index,
            "limit": limit,
        }
        rows = await self.scope.fetch(sql.closed_streams, params)
        return [(stream, Place(transaction, index)) for stream, transaction, index in rows]

    # Reading

    async def read(self, stream_id: UUID) -> Sequence[RecordedEvent]:
        """An archived stream's events in order; none where it is not archived.

        Raises SegmentDamaged, EngineUnavailable.
        """
        row = await self.scope.one(sql.archived_stream, {"stream": stream_id})
        return () if row is None else await self.events(stream_id, Segment(*row))

    async def events(self, stream_id: UUID, segment: Segment) -> list[RecordedEvent]:
        """The events that a segment has. Raises as `read`."""
        lines = await self._store().lines(segment)
        return events_of(lines, self.scope.tenant, stream_id, segment)

    async def lines(self, at: Sequence[tuple[Segment, int]]) -> list[str]:
        """Lines of segments, by their number. Raises as `read`."""
        split = {
            segment: (await self._store().lines(segment)).decode().split("\n")
            for segment in {segment for segment, _ in at}
        }
        return [split[segment][number] for segment, number in at]

    def _store(self) -> SegmentStore:
        if self.segments is None:
            raise NotSupported("objects", "the event store was opened without an object store")
        return self.segments


@dataclass(frozen=True, slots=True)
class Marker:
    """An archived stream that has events behind a place: where the first one of all stands."""

    stream_id: UUID
    category: str
    segment: Segment
    first: Place


@dataclass(frozen=True, slots=True)
class Page:
    """What one statement saw: events in the table, and archived streams, those that begin first."""

    events: list[RecordedEvent]
    markers: list[Marker]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for."""

    after: Place
    limit: int
    is_wanted: Callable[[RecordedEvent], bool]
    categories: Sequence[str] | None = None

    def may_have(self, marker: Marker) -> bool:
        """Whether an archived stream can have such events."""
        return self.categories is None or marker.category in self.categories


async def merged(
    archive: Archive, wanted: Wanted, page_of: Callable[[int], Awaitable[Page]]
) -> list[RecordedEvent]:
    """A page of events in reading order, wherever they lie.

    Segments are opened only as far as the page goes. `page_of(most)` reads the table, with so many
    markers; where they are not all, it is read again with more until the page is full.
    """
    most = MOST_MARKERS
    while True:
        page = await page_of(most)
        found = await _merge(archive, wanted, page, has_more=len(page.markers) == most)
        if len(found) == wanted.limit or len(page.markers) < most:
            return found
        most *= 4


async def _merge(
    archive: Archive, wanted: Wanted, page: Page, *, has_more: bool
) -> list[RecordedEvent]:
    """The first events up to where what was read is all there is."""
    found, markers = page.events, page.markers
    ends = [found[-1].place] if len(found) == wanted.limit else []
    if has_more:
        ends.append(markers[-1].first)
    end = min(ends, default=None)
    opened = [marker for marker in markers if wanted.may_have(marker)]
    for start in range(0, len(opened), _AT_ONCE):
        chunk = [m for m in opened[start : start + _AT_ONCE] if end is None or m.first <= end]
        streams = await asyncio.gather(*(archive.events(m.stream_id, m.segment) for m in chunk))
        found = found + [
            event
            for events in streams
            for event in events
            if event.place > wanted.after and wanted.is_wanted(event)
        ]
        found = sorted(found, key=lambda event: event.place)[: wanted.limit]
        if len(found) == wanted.limit:
            end = found[-1].place if end is None else min(end, found[-1].place)
        if len(chunk) < _AT_ONCE:
            break
    return [event for event in found if end is None or event.place <= end]
