"""Run the relay: connect, stream, and start again after whatever breaks.

A session lasts as long as its replication connection. At its start the slot is made where there is
none, or anew where it is of no use (the server gave up on it, or the log it reads was written
while the publication was not there), and each sink says up to where it is: one that misses
changes from before the slot's position first gets the tables as they stand. Then the stream
resumes at the confirmed position; what a sink has already is recognised by its checkpoint or
loses by its version.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import structlog

from neolayer.catalogue import DataClass
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.replication import (
    PublicationMissing,
    ReplicationConnection,
    SlotMissing,
)
from neolayer.errors import NeolayerError
from neolayer.position import CURRENT_EPOCH, pack_version
from neolayer.relay.lane import Lane
from neolayer.relay.reader import Reader
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.redis import RedisSink
from neolayer.relay.sinks.sink import Sink
from neolayer.relay.snapshot import export_snapshot
from neolayer.relay.status import (
    PUBLICATION,
    SLOT,
    LaneState,
    RelayState,
    publication_exists,
    slot_state,
)
from neolayer.settings import RelaySettings

_FIRST_RETRY_S: Final = 0.2
_LAST_RETRY_S: Final = 10.0
_FAREWELL_S: Final = 5.0

_log = structlog.get_logger()


async def run(
    endpoints: Endpoints,
    settings: RelaySettings,
    stop: asyncio.Event,
    *,
    classes: Collection[DataClass],
    state_file: Path | None = None,
) -> None:
    """Relay until `stop` is set. Failures are retried with back-off, for ever."""
    sinks: list[Sink] = [
        ClickHouseSink(endpoints.clickhouse, classes, wait_s=settings.batch_seconds),
        RedisSink(endpoints.redis, classes),
    ]
    await run_sinks(
        endpoints.postgres.dsn(Role.RELAY), sinks, settings, stop, state_file=state_file
    )


async def run_sinks(
    dsn: str,
    sinks: Sequence[Sink],
    settings: RelaySettings,
    stop: asyncio.Event,
    *,
    state_file: Path | None = None,
    slot: str = SLOT,
    publication: str = PUBLICATION,
) -> None:
    """`run` with sinks of your choice."""
    relay = _Relay(dsn, sinks, settings, slot, publication)
    async with asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(_write_state(relay.state, state_file))
        try:
            await relay.run(stop)
        finally:
            writer.cancel()
            for sink in sinks:
                await sink.close()


class _Relay:
    def __init__(
        self,
        dsn: str,
        sinks: Sequence[Sink],
        settings: RelaySettings,
        slot: str,
        publication: str,
    ) -> None:
        self._dsn = dsn
        self._sinks = sinks
        self._settings = settings
        self._slot = slot
        self._publication = publication
        self._unpublished = False
        now = time.time()
        lanes = {sink.name: LaneState() for sink in sinks}
        self.state = RelayState(os.getpid(), now, now, None, lanes)

    async def run(self, stop: asyncio.Event) -> None:
        pause_s = _FIRST_RETRY_S
        while not stop.is_set():
            started = time.monotonic()
            try:
                await self._session(stop)
            except* NeolayerError as group:
                self._report(group)
            if time.monotonic() - started > _LAST_RETRY_S:
                pause_s = _FIRST_RETRY_S
            await _pause(stop, pause_s)
            pause_s = min(pause_s * 2, _LAST_RETRY_S)

    def _report(self, group: BaseExceptionGroup[NeolayerError]) -> None:
        error = group.exceptions[0]
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.state.error = error.message
        self._unpublished = isinstance(error, PublicationMissing)
        _log.warning("the stream stopped, will start again", error=error.message)

    async def _session(self, stop: asyncio.Event) -> None:
        stream = await ReplicationConnection.connect(self._dsn, application_name="relay")
        try:
            confirmed = await self._ensure_slot(stream)
            await stream.start(self._slot, publication=self._publication)
            self.state.error = None
            _log.info("streaming", slot=self._slot, confirmed=confirmed)
            await self._stream(stream, confirmed, stop)
        finally:
            await stream.close()

    async def _stream(
        self, stream: ReplicationConnection, confirmed: int, stop: asyncio.Event
    ) -> None:
        lanes = [self._lane(sink, confirmed) for sink in self._sinks]
        reader = Reader(stream, lanes, confirmed=confirmed, epoch=CURRENT_EPOCH)
        for lane in lanes:
            lane.moved = reader.lane_moved
        async with asyncio.TaskGroup() as tasks:
            serving = [
                tasks.create_task(lane.run(lambda: export_snapshot(self._dsn, epoch=CURRENT_EPOCH)))
                for lane in lanes
            ]
            await reader.run(stop)
            await _let_finish(lanes)
            reader.confirm_last()
            for task in serving:
                task.cancel()

    def _lane(self, sink: Sink, confirmed: int) -> Lane:
        state = self.state.lanes[sink.name]
        state.waiting_rows = state.waiting_bytes = 0
        return Lane(sink, rows=self._settings.batch_rows, confirmed=confirmed, state=state)

    async def _ensure_slot(self, stream: ReplicationConnection) -> int:
        """The slot's confirmed position as a version; a slot that is of no use is made anew."""
        found = await slot_state(self._dsn, self._slot)
        if found is not None and (found.lost or await self._reads_unpublished()):
            _log.error("the slot is of no use: every copy starts over", slot=self._slot)
            with contextlib.suppress(SlotMissing):
                await stream.drop_slot(self._slot)
            found = None
        if found is not None:
            return pack_version(CURRENT_EPOCH, found.confirmed_lsn)
        created = await stream.create_slot(self._slot)
        _log.info("made the slot", slot=self._slot)
        return pack_version(CURRENT_EPOCH, created.consistent_lsn)

    async def _reads_unpublished(self) -> bool:
        """Whether the slot stands before the publication was made (a migration was taken back and
        applied again): the server reads the log by the catalogue of its time, and stays there."""
        return self._unpublished and await publication_exists(self._dsn, self._publication)


async def _let_finish(lanes: Sequence[Lane]) -> None:
    """Give the sinks a moment for what waits; what stays behind comes again at the next start."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL_S):
            for lane in lanes:
                await lane.idle()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds * random.uniform(0.5, 1.0)):  # noqa: S311
            await stop.wait()


async def _write_state(state: RelayState, path: Path | None) -> None:
    while path is not None:
        try:
            state.write(path)
        except OSError as exc:  # a full disk must not stop the flow
            _log.warning("cannot write the state file", error=str(exc))
        await asyncio.sleep(1)
