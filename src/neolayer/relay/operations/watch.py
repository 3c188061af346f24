"""The running relay's look at the desk, each second: who is paused, what to send again, to rebuild.

None of it holds up the others: pauses, replays and rebuilds have a loop each, and where one fails
it is tried again at the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from neolayer.errors import EngineUnavailable, NeolayerError, RelayError
from neolayer.relay.copying.progress import Wanted
from neolayer.relay.lane import Lane, SnapshotMaker
from neolayer.relay.operations.desk import Desk
from neolayer.relay.operations.rebuild import rebuild
from neolayer.relay.operations.replay import replay
from neolayer.relay.sinks.sink import CopyLost, Rebuildable

LOOK_S: Final = 1.0

_log = structlog.get_logger()


class Watch:
    """The looks of one database's relay."""

    def __init__(self, desk: Desk, lanes: Sequence[Lane], snapshot: SnapshotMaker) -> None:
        self._desk = desk
        self._lanes = {lane.sink.name: lane for lane in lanes}
        self._snapshot = snapshot
        self._said: str | None = None

    async def hold(self) -> None:
        """Let the lanes stand still that are paused. Raises EngineUnavailable."""
        try:
            paused = await self._desk.pauses()
        except EngineUnavailable:
            raise
        except RelayError as exc:  # a database that is not migrated yet asks for nothing
            self._say(exc)
            return
        for name, lane in self._lanes.items():
            (lane.pause if name in paused else lane.resume)()

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for look in (self.hold, self._replay, self._rebuild):
                tasks.create_task(self._again_and_again(look))

    async def _again_and_again(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await look()
            except* NeolayerError as group:
                self._say(_first(group))
            except* Exception:  # a fault of ours in what was asked for must not stop the flow
                _log.exception("what was asked for failed unexpectedly, will try again")

    def _say(self, error: NeolayerError) -> None:
        """Once, and not each second."""
        if error.message != self._said:
            _log.warning("cannot do what was asked for, will try again", error=error.message)
        self._said = error.message

    async def _replay(self) -> None:
        takers = [name for name in self._ready() if isinstance(self._lanes[name].sink, Rebuildable)]
        found = await self._desk.requested_letters(takers) if takers else {}
        for (sink, table), keys in found.items():
            if table not in self._lanes[sink].sink.tables:
                self._say(RelayError(f"{sink} has no copy of {table} any more: its letters stay"))
                continue
            await replay(self._desk, self._lanes[sink], table, keys, self._snapshot)

    async def _rebuild(self) -> None:
        ready = self._ready()
        for wanted in await self._desk.wanted_rebuilds(ready) if ready else ():
            lane = self._lanes[wanted.sink]
            if wanted.whole:  # its sink works, so it ended: who did it died before saying so
                await self._desk.end_copy(wanted.sink, wanted.version or 0)
                continue
            try:
                await self._require(lane, wanted)
                await rebuild(self._desk, lane, wanted, self._snapshot)
            except* NeolayerError as group:
                error = _first(group)
                if isinstance(error, EngineUnavailable | CopyLost):
                    raise
                await self._desk.end_rebuild(wanted, error.message[:1000])

    async def _require(self, lane: Lane, wanted: Wanted) -> None:
        if wanted.table not in lane.sink.tables:
            raise RelayError(f"{wanted.sink} has no copy of {wanted.table}")

    def _ready(self) -> list[str]:
        return [name for name, lane in self._lanes.items() if lane.working]


def _first(group: BaseExceptionGroup[NeolayerError]) -> NeolayerError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NeolayerError)
    return error
