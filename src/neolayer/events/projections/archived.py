"""Events of archived streams, fetched from the object store while a read model is made anew.

A replay of all of history needs what was archived as well, in its place in reading order: it is put
into a temporary table of the connection, from which pages are read beside the events.
"""

from __future__ import annotations

from uuid import UUID

from neolayer.engines.endpoints import Endpoints
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.segments import Segment, SegmentStore

QUERIES = load_queries(__name__)

Streams = frozenset[tuple[UUID, UUID]]


async def fetch_archived(owner: Connection, at: Endpoints) -> Streams:
    """Put them all into the temporary table; which streams they are of.

    Raises SegmentDamaged, EngineUnavailable.
    """
    segments = await (await owner.execute(QUERIES.archived_segments)).fetchall()
    if segments:
        await owner.execute(QUERIES.make_archived_events)
    store = SegmentStore(at.objects)
    for _, _, *segment in segments:
        lines = (await store.lines(Segment(*segment))).decode().split("\n")
        await owner.execute(QUERIES.put_archived_events, {"lines": lines})
    return frozenset((row[0], row[1]) for row in segments)


async def archived_streams(owner: Connection) -> Streams:
    """Which streams are archived now."""
    segments = await (await owner.execute(QUERIES.archived_segments)).fetchall()
    return frozenset((row[0], row[1]) for row in segments)
