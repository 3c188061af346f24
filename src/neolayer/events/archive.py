"""Closed streams, moved to the object store and read from there as if they were still in the table.

A segment is a stream's events, a JSON line each, compressed, under a key that is the hash of its
bytes. What is taken out of the table was read back from the store before, and the database compares
its hash with that of its own rows: no other way leads to a DELETE of events. A segment that a kill
left behind without its row is found by the next try, because it has the same name.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

import orjson
from obstore.exceptions import BaseError

from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import ObjectsEndpoint
from neolayer.engines.objects.engine import Store, explain, open_store
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict, EngineError, NotSupported
from neolayer.events.model import Place, RecordedEvent
from neolayer.tenancy import Scope

sql = load_queries(__name__, "archive.sql")
_WHY = {
    "open": "it is not closed",
    "archived": "it is archived already",
    "unread": "a subscription has not handled all of it",
    "different": "what the object store gave back is not what the table has",
}


class NotArchived(Conflict):
    """A stream's events stay in the table."""

    def __init__(self, stream_id: UUID, reason: str) -> None:
        super().__init__(f"stream {stream_id} is not archived: {_WHY.get(reason, reason)}")
        self.stream_id = stream_id
        self.reason = reason


class SegmentDamaged(EngineError):
    """An archived segment is missing or is not what was stored."""


@dataclass(frozen=True, slots=True)
class Archived:
    """One stream that was archived."""

    stream_id: UUID
    events: int
    key: str
    bytes: int


@dataclass(slots=True)
class SegmentStore:
    """Segments as objects."""

    endpoint: ObjectsEndpoint
    _store: Store | None = field(default=None)

    async def put(self, key: str, content: bytes) -> None:
        """Store a segment; one of that name has the same bytes. Raises EngineUnavailable."""
        try:
            await self._opened().put_async(key, content)
        except (BaseError, OSError) as exc:
            raise explain(exc, self.endpoint) from exc

    async def get(self, key: str, hash_: str) -> bytes:
        """A segment's bytes. Raises SegmentDamaged, EngineUnavailable."""
        try:
            answer = await self._opened().get_async(key)
            content = bytes(await answer.bytes_async())
        except FileNotFoundError:
            raise SegmentDamaged("objects", f"the segment {key} is missing") from None
        except (BaseError, OSError) as exc:
            raise explain(exc, self.endpoint) from exc
        if sha256(content).hexdigest() != hash_:
            raise SegmentDamaged("objects", f"the segment {key} is not what was stored")
        return content

    def _opened(self) -> Store:
        self._store = self._store or open_store(self.endpoint)
        return self._store


@dataclass(frozen=True, slots=True)
class Archive:
    """One tenant's archived streams."""

    scope: Scope
    segments: SegmentStore | None

    async def closed(self, *, up_to: Place, limit: int = 1000) -> list[UUID]:
        """Streams closed at or before a place that are still in the table, the oldest first."""
        params = {"transaction": str(up_to.transaction), "index": up_to.index, "limit": limit}
        return [row[0] for row in await self.scope.fetch(sql.closed_streams, params)]

    async def archive(self, stream_id: UUID) -> Archived:
        """Move a closed stream's events to the object store. Raises NotArchived, EngineError."""
        lines = [row[0] for row in await self.scope.fetch(sql.stream_lines, {"stream": stream_id})]
        if not lines:
            raise NotArchived(stream_id, "archived")
        content = gzip.compress("\n".join(lines).encode(), mtime=0)
        hash_ = sha256(content).hexdigest()
        key = f"events/archive/{self.scope.tenant}/{hash_}.jsonl.gz"
        await self._store().put(key, content)
        crash_point("events.after_segment")
        stored = gzip.decompress(await self._store().get(key, hash_))
        params = {
            "stream": stream_id,
            "key": key,
            "hash": hash_,
            "bytes": len(content),
            "lines_hash": sha256(stored).hexdigest(),
        }
        async with self.scope.transaction() as tx:
            row = await tx.one(sql.archive_stream, params)
            assert row is not None
            crash_point("events.before_removal")
        if not row[0].isdecimal():
            raise NotArchived(stream_id, row[0])
        return Archived(stream_id, int(row[0]), key, len(content))

    async def read(self, stream_id: UUID) -> Sequence[RecordedEvent]:
        """An archived stream's events in order; none where it is not archived.

        Raises SegmentDamaged, EngineUnavailable.
        """
        row = await self.scope.one(sql.archived_stream, {"stream": stream_id})
        if row is None:
            return ()
        content = gzip.decompress(await self._store().get(row[0], row[1]))
        return [_event(line) for line in content.split(b"\n")]

    def _store(self) -> SegmentStore:
        if self.segments is None:
            raise NotSupported("objects", "the event store was opened without an object store")
        return self.segments


def _event(line: bytes) -> RecordedEvent:
    (tenant, event, stream, category, kind, version, data, metadata, *rest) = orjson.loads(line)
    user, correlation, causation, at, schema_version, key_id, transaction, index = rest
    return RecordedEvent(
        UUID(tenant),
        UUID(event),
        UUID(stream),
        category,
        kind,
        version,
        data,
        metadata,
        user and UUID(user),
        correlation and UUID(correlation),
        causation and UUID(causation),
        datetime.fromisoformat(at),
        schema_version,
        key_id,
        Place(transaction, index),
    )
