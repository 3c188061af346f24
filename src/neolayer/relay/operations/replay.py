"""Send again what a sink refused: the row as it is now, by the sink's own idempotent way.

What was refused may have changed since, so nothing of the letter is sent. The row is read from
PostgreSQL under a snapshot and bears its version; one that is gone is sent as a deletion. The
sink's checkpoint stays where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import structlog

from neolayer.relay.changes import Batch
from neolayer.relay.comparable import Key
from neolayer.relay.comparing.source import open_source
from neolayer.relay.lane import Lane, SnapshotMaker
from neolayer.relay.operations.desk import Desk
from neolayer.relay.sinks.sink import Rebuildable, Rejected
from neolayer.relay.snapshot import ExportedSnapshot

_log = structlog.get_logger()


async def replay(
    desk: Desk,
    lane: Lane,
    table: str,
    keys: Sequence[tuple[str | None, ...]],
    snapshot: SnapshotMaker,
) -> None:
    """Send these keys' rows again; letters of those that the sink takes are removed.

    Raises what engines say; then every letter is still there, and still to be sent.
    """
    sink = lane.sink
    assert isinstance(sink, Rebuildable), "only stores of rows can be sent a row by itself"
    wanted = [cast(Key, key) for key in keys if None not in key]
    async with snapshot() as exported:
        assert isinstance(exported, ExportedSnapshot)
        source = await open_source(exported, table, sink.shape(table))
        changes = await source.changes(wanted)
        version = exported.version
    refused: Sequence[Rejected] = ()
    if wanted:
        async with lane.turn:
            batch = Batch((changes,), lane.position, None, len(wanted), 0, None)
            refused = await sink.write([batch])
    await desk.park(sink.name, sink.database, refused)
    again = {one.key for one in refused}
    await desk.remove_letters(
        sink.name, table, (key for key in keys if key not in again), version=version
    )
    _log.info("sent again", sink=sink.name, table=table, rows=len(keys), refused=len(again))
