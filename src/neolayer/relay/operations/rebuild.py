"""Make one table anew in one sink, because somebody asked: see `relay/copying/tables.py`.

A cache just forgets. A stream is told a table once its checkpoint is behind the snapshot, because
it tells by its last message's version how far it has come.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from neolayer.errors import RelayError
from neolayer.relay.copying.progress import Wanted
from neolayer.relay.copying.tables import Way, copy_tables
from neolayer.relay.lane import Lane, SnapshotMaker
from neolayer.relay.operations.desk import Desk
from neolayer.relay.sinks.sink import Forgetful, Rebuildable, Resendable

_CATCH_UP_S: Final = 0.05

_log = structlog.get_logger()


async def rebuild(desk: Desk, lane: Lane, wanted: Wanted, snapshot: SnapshotMaker) -> None:
    """Do it, or go on with it; returns early where the sink is paused.

    Raises what engines say; then the parts that are in the sink stay there.
    """
    sink = lane.sink
    _log.info("rebuilding", sink=sink.name, table=wanted.table)
    async with snapshot() as tables:
        if isinstance(sink, Rebuildable | Resendable):
            park = partial(desk.park, sink.name, sink.database)
            way = Way(sink, desk, park, lambda: lane.working, lane.turn)
            if isinstance(sink, Resendable) and not await _caught_up(lane, tables.version):
                return
            if not await copy_tables(way, [wanted], tables):
                return
        elif isinstance(sink, Forgetful):
            await desk.begin_table(wanted, tables.version, [])
            await sink.forget_below(tables.version)
        else:
            raise RelayError(f"{sink.name} keeps nothing of {wanted.table}")
    await desk.end_rebuild(wanted)
    _log.info("rebuilt", sink=sink.name, table=wanted.table)


async def _caught_up(lane: Lane, version: int) -> bool:
    """Return when the sink has all that was before; False where it cannot take it now."""
    while lane.position < version:
        if not lane.working:
            return False
        await asyncio.sleep(_CATCH_UP_S)
    return True
