"""The running relay's look at the desk, each second: who is paused, what to send again, to rebuild.

None of it holds up the others: what is asked of a sink is a task of its own, one for its letters
and one for its rebuilds, and where one fails it is tried again at a later look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

import structlog

from neolayer.errors import EngineUnavailable, NeolayerError, RelayError
from neolayer.relay.changes import Misfit
from neolayer.relay.copying.progress import Wanted
from neolayer.relay.lane import Lane, SnapshotMaker
from neolayer.relay.operations.desk import Desk
from neolayer.relay.operations.rebuild import rebuild
from neolayer.relay.operations.replay import replay
from neolayer.relay.sinks.sink import CopyLost, Rebuildable
from neolayer.waiting import answered, honour_cancellation

LOOK_S: Final = 1.0
_REPLAY, _REBUILD = "replay", "rebuild"
_Keys: TypeAlias = Sequence[tuple[str | None, ...]]

_log = structlog.get_logger()


class Watch:
    """The looks of one database's relay."""

    def __init__(self, desk: Desk, lanes: Sequence[Lane], snapshot: SnapshotMaker) -> None:
        self._desk = desk
        self._lanes = {lane.sink.name: lane for lane in lanes}
        self._snapshot = snapshot
        self._said: dict[tuple[str, ...], str] = {}  # of what was asked for, the last trouble
        self._at_work: set[tuple[str, str]] = set()  # what is being done, and in which sink

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
            for look in (self.hold, partial(self._replay, tasks), partial(self._rebuild, tasks)):
                tasks.create_task(self._again_and_again(look))

    async def _again_and_again(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            honour_cancellation()
            await asyncio.sleep(LOOK_S)
            await self._try(look)

    async def _try(self, work: Callable[[], Awaitable[None]], *about: str) -> None:
        try:
            with answered(" ".join(about) or "the desk"):
                await work()
        except* NeolayerError as group:
            self._say(_first(group), *about)
        except* Exception:  # a fault of ours in what was asked for must not stop the flow
            _log.exception("what was asked for failed unexpectedly, will try again")
        else:
            self._said.pop(about, None)

    def _begin(
        self, tasks: asyncio.TaskGroup, what: str, sink: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Do it beside all else; until it ends the sink is not asked for more of its kind."""
        self._at_work.add((what, sink))

        async def do() -> None:
            try:
                await self._try(work, what, sink)
            finally:
                self._at_work.discard((what, sink))

        tasks.create_task(do())

    def _say(self, error: NeolayerError, *about: str) -> None:
        """Once, and not each second."""
        if self._said.get(about) != error.message:
            _log.warning(
                "cannot do what was asked for, will try again",
                about=" ".join(about),
                error=error.message,
            )
        self._said[about] = error.message

    async def _replay(self, tasks: asyncio.TaskGroup) -> None:
        ready = self._ready(_REPLAY)
        takers = [name for name in ready if isinstance(self._lanes[name].sink, Rebuildable)]
        found = await self._desk.requested_letters(takers) if takers else {}
        for sink in {sink for sink, _ in found}:
            letters = {table: keys for (of, table), keys in found.items() if of == sink}
            self._begin(
                tasks, _REPLAY, sink, partial(self._replay_into, self._lanes[sink], letters)
            )

    async def _replay_into(self, lane: Lane, letters: Mapping[str, _Keys]) -> None:
        """Table by table: one whose letters cannot be sent now holds up no other."""
        for table, keys in letters.items():
            if table in lane.sink.tables:
                work = partial(replay, self._desk, lane, table, keys, self._snapshot)
            else:
                work = partial(self._end_replay, lane.sink.name, table)
            await self._try(work, _REPLAY, lane.sink.name, table)

    async def _end_replay(self, sink: str, table: str) -> None:
        await self._desk.end_replay(sink, table)
        _log.warning("no copy of this table any more: its letters stay", sink=sink, table=table)

    async def _rebuild(self, tasks: asyncio.TaskGroup) -> None:
        ready = self._ready(_REBUILD)
        found = await self._desk.wanted_rebuilds(ready) if ready else []
        for sink in {wanted.sink for wanted in found}:
            asked = [wanted for wanted in found if wanted.sink == sink]
            self._begin(tasks, _REBUILD, sink, partial(self._rebuild_in, self._lanes[sink], asked))

    async def _rebuild_in(self, lane: Lane, asked: Sequence[Wanted]) -> None:
        for wanted in asked:
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
                cause = _with_way_out(error)[:1000]
                await self._desk.end_rebuild(wanted, cause)
                _log.warning(
                    "the rebuild failed", sink=wanted.sink, table=wanted.table, error=cause
                )

    async def _require(self, lane: Lane, wanted: Wanted) -> None:
        if wanted.table not in lane.sink.tables:
            raise RelayError(f"{wanted.sink} has no copy of {wanted.table}")

    def _ready(self, what: str) -> list[str]:
        """The sinks that can take it, and have not been given it yet."""
        return [
            name
            for name, lane in self._lanes.items()
            if lane.working and (what, name) not in self._at_work
        ]


def _with_way_out(error: NeolayerError) -> str:
    """What a person reads of it who asked for a rebuild, which is not done again by itself."""
    way_out = error.remedy if isinstance(error, Misfit) else error.hint
    return f"{error.message}: {way_out}" if way_out else error.message


def _first(group: BaseExceptionGroup[NeolayerError]) -> NeolayerError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NeolayerError)
    return error
