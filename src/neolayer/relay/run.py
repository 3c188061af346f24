"""Run the relay: for each database connect, stream, and start again after whatever breaks.

A session lasts as long as its replication connection. At its start the slot is made where there is
none, or anew where it is of no use (the server gave up on it, or the log it reads was written
while the publication was not there). Then the stream resumes where the segment log ends, and each
sink is served from its own checkpoint on; one that misses changes from before the log's start
first gets the tables as they stand. What a sink is given twice loses by its version.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from neolayer.catalogue import DataClass
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.replication import (
    PublicationMissing,
    ReplicationConnection,
    Server,
    SlotMissing,
)
from neolayer.errors import NeolayerError, RelayError
from neolayer.freshness import PutBack
from neolayer.position import Position, pack_version
from neolayer.relay.copying.progress import OwnProgress, Progress
from neolayer.relay.decoder import Decoder
from neolayer.relay.folder import HeldFolder, hold_folder
from neolayer.relay.known_server import KnownServer
from neolayer.relay.lane import Lane
from neolayer.relay.operations.desk import Desk, desk_of
from neolayer.relay.operations.masks import Masks
from neolayer.relay.operations.watch import Watch
from neolayer.relay.reader import Reader
from neolayer.relay.segments import SegmentLog
from neolayer.relay.sinks.declared import declared_sinks
from neolayer.relay.sinks.sink import Forgetful, Sink
from neolayer.relay.snapshot import ExportedSnapshot, export_snapshot
from neolayer.relay.spool import Spool
from neolayer.relay.state import (
    PUBLICATION,
    SLOT,
    STATE_FILE,
    FlowState,
    LaneState,
    RelayState,
    slot_of,
)
from neolayer.relay.status import publication_exists, slot_state
from neolayer.relay.table_names import TableNames, look_up, published_tables
from neolayer.settings import RelaySettings
from neolayer.waiting import answered, honour_cancellation

_FIRST_RETRY_S: Final = 0.2
_LAST_RETRY_S: Final = 10.0
_FAREWELL_S: Final = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Source:
    """One database's commit log, and what reads it."""

    database: str
    dsn: str = field(repr=False)
    slot: str = SLOT
    publication: str = PUBLICATION


async def run(
    endpoints: Endpoints,
    settings: RelaySettings,
    stop: asyncio.Event,
    *,
    classes: Collection[DataClass],
    more: Sequence[Sink] = (),
    folder: Path | None = None,
) -> None:
    """Relay every declared copy until `stop` is set. Failures are retried with back-off, for ever.

    `more` are sinks that need what this room does not have. `folder` holds the segment logs and the
    state file; without one they last as long as this call.
    """
    sinks = [*declared_sinks(endpoints, settings, classes), *more]
    async with desk_of(endpoints, Role.RELAY, masks=Masks(classes)) as desk:
        flows = [
            _Flow(_source(database, endpoints), fed, settings, desk)
            for database, fed in _by_database(sinks)
        ]
        await _run_flows(flows, stop, folder)


async def run_sinks(
    dsn: str,
    sinks: Sequence[Sink],
    settings: RelaySettings,
    stop: asyncio.Event,
    *,
    folder: Path | None = None,
    slot: str = SLOT,
    publication: str = PUBLICATION,
    desk: Desk | None = None,
) -> None:
    """`run` with sinks of your choice, which all read one database.

    Without a desk nothing can be asked of it, what a sink refuses is only counted, and a copy that
    its process does not end starts over.
    """
    source = Source(str(Database.CORE), dsn, slot, publication)
    await _run_flows([_Flow(source, sinks, settings, desk)], stop, folder)


def _by_database(sinks: Iterable[Sink]) -> Iterator[tuple[Database, list[Sink]]]:
    sinks = list(sinks)
    for database in Database:
        if fed := [sink for sink in sinks if sink.database == database]:
            yield database, fed


def _source(database: Database, endpoints: Endpoints) -> Source:
    dsn = endpoints.cluster(database).dsn(Role.RELAY, database)
    return Source(str(database), dsn, slot_of(database))


async def _run_flows(flows: Sequence[_Flow], stop: asyncio.Event, folder: Path | None) -> None:
    async with hold_folder(folder, stop) as held:
        if held is None:
            return
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(_write_state(flows, held))
            try:
                async with asyncio.TaskGroup() as running:
                    for flow in flows:
                        running.create_task(flow.run(stop, held))
            finally:
                writer.cancel()


class _Flow:
    """One database's way to its sinks."""

    def __init__(
        self, source: Source, sinks: Sequence[Sink], settings: RelaySettings, desk: Desk | None
    ) -> None:
        self._source = source
        self._desk = desk
        self._progress: Progress = desk or OwnProgress()
        self._sinks = sinks
        self._settings = settings
        self._unpublished = False
        self._epoch = 0
        self._renamings: set[tuple[int, str]] = set()
        self._lanes: Sequence[Lane] = ()
        self._segments: SegmentLog | None = None
        self.state = FlowState(source.slot, {sink.name: LaneState() for sink in sinks})
        self._log = _log.bind(database=source.database)

    @property
    def database(self) -> str:
        return self._source.database

    async def run(self, stop: asyncio.Event, folder: HeldFolder) -> None:
        pause_s = _FIRST_RETRY_S
        try:
            while not stop.is_set():
                honour_cancellation()
                started = time.monotonic()
                try:
                    folder.hold_on()
                    with answered(f"the stream of {self.database}"):
                        await self._session(stop, folder.path / self._source.slot)
                except* NeolayerError as group:
                    self._report(group)
                if self.state.put_back:
                    await self._let_nothing_be_believed()
                if time.monotonic() - started > _LAST_RETRY_S:
                    pause_s = _FIRST_RETRY_S
                await _pause(stop, pause_s)
                pause_s = min(pause_s * 2, _LAST_RETRY_S)
        finally:
            for sink in self._sinks:
                await sink.close()

    def show(self) -> FlowState:
        """The state as it is now."""
        for lane in self._lanes:
            lane.show()
        if self._segments is not None:
            self.state.log_bytes = self._segments.held_bytes
            self.state.copy_bytes = self._segments.wanted_bytes
            self.state.free_bytes = None
            with contextlib.suppress(RelayError):  # the stream itself says what is wrong there
                self.state.free_bytes = self._segments.free_bytes
        return self.state

    def _report(self, group: BaseExceptionGroup[NeolayerError]) -> None:
        error = group.exceptions[0]
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.state.error, self.state.hint = error.message, error.hint
        self.state.put_back = isinstance(error, PutBack)
        self._unpublished = isinstance(error, PublicationMissing)
        self._log.warning("the stream stopped, will start again", error=error.message)

    async def _let_nothing_be_believed(self) -> None:
        """What lies in a cache is older than the next timeline, from which on it is used again."""
        for sink in self._sinks:
            if isinstance(sink, Forgetful):
                with contextlib.suppress(NeolayerError), answered(sink.name):
                    await sink.open(0)
                    await sink.forget_below(pack_version(self._epoch + 1, 0))

    async def _session(self, stop: asyncio.Event, folder: Path) -> None:
        segments = await SegmentLog.open(folder, bound=self._settings.log_bytes)
        spool = Spool(folder / "open")
        stream = await ReplicationConnection.connect(self._source.dsn, application_name="relay")
        try:
            server = await stream.identify()
            self._epoch = server.timeline
            self._require_no_older_epoch(segments)
            await self._admit(server, segments)
            after = await self._start(stream, segments)
            names = await self._table_names(server, segments.folder)
            decoder = Decoder(epoch=self._epoch, spool=spool, after=after.lsn, names=names)
            await self._stream(stream, decoder, segments, server, stop)
        finally:
            await stream.close()
            spool.close()

    async def _start(self, stream: ReplicationConnection, segments: SegmentLog) -> Position:
        """Begin the stream where the log ends, or the log where the slot begins; say where."""
        slot, confirmed = self._source.slot, await self._confirmed(stream)
        if confirmed is None:
            created = await stream.create_slot(slot)
            self._log.info("made the slot", slot=slot)
            segments.resume(pack_version(self._epoch, created.consistent_lsn), new_slot=True)
        else:
            segments.resume(pack_version(self._epoch, confirmed), new_slot=False)
        after = Position.from_version(segments.position)
        await stream.start(
            slot, publication=self._source.publication, lsn=after.lsn, streaming=True
        )
        self.state.error = self.state.hint = None
        self.state.put_back = False
        self._log.info("streaming", slot=slot, after=str(after))
        return after

    async def _table_names(self, server: Server, folder: Path) -> TableNames:
        """As of where the server said it was before it is asked, so that nothing is news twice."""
        live = await published_tables(self._source.dsn, self._source.publication)
        declared = frozenset[str]().union(*(sink.tables for sink in self._sinks))
        as_of, told = server.flushed_lsn, self._renamings
        return await asyncio.to_thread(look_up, folder, live, declared, as_of=as_of, told=told)

    def _require_no_older_epoch(self, segments: SegmentLog) -> None:
        known = Position.from_version(segments.position).epoch
        if known > self._epoch:
            raise RelayError(
                f"{self._source.database} is on timeline {self._epoch}, and what was read from it"
                f" on {known}: this is an older server, or another",
                hint="point the DSN at the server that was promoted",
            )

    async def _admit(self, server: Server, segments: SegmentLog, reflected: int = 0) -> None:
        """Raises PutBack for a server whose positions say nothing of what is newer."""
        known = KnownServer(segments.folder, self._source.database)
        reflected = max(reflected, segments.position)
        await asyncio.to_thread(known.admit, server, reflected=reflected)

    async def _stream(
        self,
        stream: ReplicationConnection,
        decoder: Decoder,
        segments: SegmentLog,
        server: Server,
        stop: asyncio.Event,
    ) -> None:
        lanes = [self._lane(sink, segments, server) for sink in self._sinks]
        reader = Reader(stream, decoder, segments, lanes)
        self._lanes, self._segments = lanes, segments
        watch = Watch(self._desk, lanes, self._snapshot) if self._desk else None
        if watch is not None:
            await watch.hold()
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(_endless(lane.sink.name, partial(lane.run, self._snapshot)))
                for lane in lanes
            ]
            beside.append(tasks.create_task(_endless("the log", segments.keep_durable)))
            if watch is not None:
                beside.append(tasks.create_task(_endless("the desk", watch.run)))
            await reader.run(stop)
            await reader.confirm_last()
            await _let_finish(lanes)
            for task in beside:
                task.cancel()

    def _lane(self, sink: Sink, segments: SegmentLog, server: Server) -> Lane:
        async def require_server_beyond(checkpoint: int) -> None:
            """It was put back where a sink reflects what lies ahead of it. Raises PutBack."""
            found = await slot_state(self._source.dsn, self._source.slot)
            if found is not None:
                now = dataclasses.replace(server, flushed_lsn=found.flushed_lsn)
                await self._admit(now, segments, checkpoint)

        state = self.state.lanes[sink.name]
        park = partial(self._desk.park, sink.name, sink.database) if self._desk else None
        rows = self._settings.batch_rows
        return Lane(
            sink,
            segments,
            rows=rows,
            state=state,
            park=park,
            progress=self._progress,
            ahead=require_server_beyond,
        )

    def _snapshot(self) -> contextlib.AbstractAsyncContextManager[ExportedSnapshot]:
        return export_snapshot(self._source.dsn, epoch=self._epoch)

    async def _confirmed(self, stream: ReplicationConnection) -> int | None:
        """The slot's confirmed position; None where one must be made, also if one is of no use."""
        found = await slot_state(self._source.dsn, self._source.slot)
        if found is None:
            return None
        if found.lost or await self._reads_unpublished():
            self._log.error("the slot is of no use: every copy starts over")
            with contextlib.suppress(SlotMissing):
                await stream.drop_slot(self._source.slot)
            return None
        return found.confirmed_lsn

    async def _reads_unpublished(self) -> bool:
        """Whether the slot stands before the publication was made (a migration was taken back and
        applied again): the server reads the log by the catalogue of its time, and stays there."""
        return self._unpublished and await publication_exists(
            self._source.dsn, self._source.publication
        )


async def _endless(who: str, work: Callable[[], Awaitable[None]]) -> None:
    """It ends with the session, or the session with it. Raises Unanswered."""
    with answered(who):
        await work()


async def _let_finish(lanes: Sequence[Lane]) -> None:
    """Give the sinks a moment for what waits; what stays behind is in the log."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            for lane in lanes:
                await lane.caught_up()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds * random.uniform(0.5, 1.0)):  # noqa: S311
            await stop.wait()


async def _write_state(flows: Sequence[_Flow], folder: HeldFolder) -> None:
    started_at = time.time()
    while True:
        state = RelayState(
            os.getpid(), started_at, time.time(), {flow.database: flow.show() for flow in flows}
        )
        try:
            folder.hold_on()  # another relay's state is its own
            state.write(folder.path / STATE_FILE)
        except (OSError, RelayError) as exc:  # a full disk must not stop the flow
            _log.warning("cannot write the state file", error=str(exc))
        await asyncio.sleep(1)
