"""Segments: archived events as objects, a JSON line each, compressed.

A segment's key and hash are of its lines and are the database's own; it computes them from its rows
when it takes these out. So whatever comes back from the object store is compared with what the
table once held, and not with what somebody said of it.
"""

from __future__ import annotations

import gzip
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

import orjson
from obstore.exceptions import BaseError

from neolayer.engines.endpoints import ObjectsEndpoint
from neolayer.engines.objects.engine import Store, explain, open_store
from neolayer.errors import EngineError
from neolayer.events.model import RecordedEvent

_MOST_KEPT_BYTES = 16 << 20
_GZIP = 31  # what zlib calls gzip's header and checksum


class SegmentDamaged(EngineError):
    """An archived segment is missing or is not what was stored."""


class SegmentMissing(SegmentDamaged):
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Where a stream's events lie. `lines_bytes` is None where the hash is of the compressed bytes:
    what was archived before 0066_parked_by_projections.sql."""

    key: str
    hash: str
    lines_bytes: int | None


def segment_of(tenant: UUID, lines: Sequence[str]) -> tuple[Segment, bytes]:
    """The segment that these lines are, and its bytes."""
    text = "\n".join(lines).encode()
    hash_ = sha256(text).hexdigest()
    key = f"events/archive/{tenant}/{hash_}.jsonl.gz"
    return Segment(key, hash_, len(text)), gzip.compress(text, mtime=0)


@dataclass(slots=True)
class SegmentStore:
    """Segments in the object store. Those read last are kept: they never change."""

    endpoint: ObjectsEndpoint
    _store: Store | None = field(default=None)
    _kept: OrderedDict[str, bytes] = field(default_factory=OrderedDict[str, bytes])
    _kept_bytes: int = 0

    async def put(self, segment: Segment, content: bytes) -> None:
        """Store a segment; one of that key has the same lines. Raises EngineUnavailable."""
        try:
            await self._opened().put_async(segment.key, content)
        except (BaseError, OSError) as exc:
            raise explain(exc, self.endpoint) from exc

    async def lines(self, segment: Segment, *, fresh: bool = False) -> bytes:
        """A segment's lines; `fresh` from the object store itself.

        Raises SegmentDamaged, EngineUnavailable.
        """
        if not fresh and (kept := self._kept.get(segment.hash)) is not None:
            self._kept.move_to_end(segment.hash)
            return kept
        lines = _checked(segment, await self._get(segment.key))
        self._keep(segment.hash, lines)
        return lines

    async def _get(self, key: str) -> bytes:
        try:
            answer = await self._opened().get_async(key)
            return bytes(await answer.bytes_async())
        except FileNotFoundError:
            raise SegmentMissing("objects", f"the segment {key} is missing") from None
        except (BaseError, OSError) as exc:
            raise explain(exc, self.endpoint) from exc

    def _keep(self, hash_: str, lines: bytes) -> None:
        if hash_ not in self._kept:
            self._kept[hash_] = lines
            self._kept_bytes += len(lines)
        while self._kept_bytes > _MOST_KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    def _opened(self) -> Store:
        self._store = self._store or open_store(self.endpoint)
        return self._store


def _checked(segment: Segment, content: bytes) -> bytes:
    """The lines, if they are what was archived. Raises SegmentDamaged."""
    if segment.lines_bytes is None:
        if sha256(content).hexdigest() == segment.hash:
            return gzip.decompress(content)
    else:
        # Never more than there should be: bytes that are not ours may unpack to anything.
        try:
            lines = zlib.decompressobj(_GZIP).decompress(content, segment.lines_bytes + 1)
        except zlib.error:
            lines = b""
        if sha256(lines).hexdigest() == segment.hash:
            return lines
    raise SegmentDamaged("objects", f"the segment {segment.key} is not what was stored")


def events_of(
    lines: bytes, tenant: UUID | None, stream: UUID, segment: Segment
) -> list[RecordedEvent]:
    """The events of a segment, which must be one stream's. Raises SegmentDamaged."""
    events = [_event(line) for line in lines.split(b"\n")]
    for version, event in enumerate(events, 1):
        if (event.tenant_id, event.stream_id, event.version) != (tenant, stream, version):
            raise SegmentDamaged("objects", f"the segment {segment.key} is of another stream")
    return events


def _event(line: bytes) -> RecordedEvent:
    (tenant, event, stream, category, kind, version, data, metadata, *rest) = orjson.loads(line)
    user, correlation, causation, at, schema_version, key_id, transaction, index = rest
    return RecordedEvent(
        (
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
            transaction,
            index,
        )
    )
