"""A lane feeds one sink: it gathers batches, writes, tries again, and knows how far it is.

Each sink has its own lane, so that a slow one does not slow the others while there is room. What
waits in a lane is bounded: a full lane makes the reader stop, and PostgreSQL keeps the log.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

import structlog

from neolayer.errors import NeolayerError
from neolayer.relay.changes import Batch
from neolayer.relay.sinks.sink import CopyLost, Rejected, Sink, Snapshot
from neolayer.relay.status import LaneState

FULL_BYTES = 64 << 20
_WRITE_BYTES: Final = 32 << 20
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 10.0

SnapshotMaker = Callable[[], AbstractAsyncContextManager[Snapshot]]


class Lane:
    """One sink's queue. `position` is what the sink has durably."""

    def __init__(self, sink: Sink, *, rows: int, confirmed: int, state: LaneState) -> None:
        self.sink = sink
        self.moved: Callable[[], None] = lambda: None
        self.position = confirmed
        self.state = state
        self._rows = rows
        self._confirmed = confirmed
        self._queue: deque[Batch] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._log = structlog.get_logger().bind(sink=sink.name)

    def offer(self, batch: Batch) -> None:
        """Queue a batch; it waits until the sink has what came before."""
        self._queue.append(batch)
        self._idle.clear()
        self.state.waiting_rows += batch.rows
        self.state.waiting_bytes += batch.size
        self._arrived.set()

    async def idle(self) -> None:
        """Return when the sink has everything that was offered, or cannot take it now."""
        await self._idle.wait()

    @property
    def full(self) -> bool:
        return self.state.waiting_bytes >= FULL_BYTES

    async def run(self, snapshot: SnapshotMaker) -> None:
        """Serve the sink until cancelled."""
        await self._until_done(partial(self._open, snapshot))
        while True:
            batches = await self._gather()
            await self._until_done(partial(self._write_or_copy, batches, snapshot))

    async def _open(self, snapshot: SnapshotMaker) -> None:
        checkpoint = await self.sink.open(self._confirmed)
        if checkpoint is None:
            checkpoint = await self._copy(snapshot)
        self._reached(checkpoint)

    async def _copy(self, snapshot: SnapshotMaker) -> int:
        self._log.info("copying the tables as they stand")
        async with snapshot() as tables:
            await self.sink.copy(tables)
            version = tables.version
        self._log.info("copied")
        return version

    async def _write_or_copy(self, batches: list[Batch], snapshot: SnapshotMaker) -> None:
        """Write; where the sink lost what it had, give it the tables as they stand first."""
        try:
            await self._write(batches)
        except CopyLost as lost:
            self._log.warning("lost what it had", error=lost.message)
            self.position = await self._copy(snapshot)
            await self._write(batches)

    async def _gather(self) -> list[Batch]:
        """The next batches to write as one: full, old enough, or ending inside a transaction."""
        batches = [await self._next()]
        rows, size = batches[0].rows, batches[0].size
        deadline = time.monotonic() + self.sink.wait_s
        while rows < self._rows and size < _WRITE_BYTES and batches[-1].unfinished is None:
            batch = await self._next_before(deadline)
            if batch is None:
                break
            batches.append(batch)
            rows += batch.rows
            size += batch.size
        return batches

    async def _next(self) -> Batch:
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()

    async def _next_before(self, deadline: float) -> Batch | None:
        if self._queue:
            return self._queue.popleft()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._next()
        except TimeoutError:
            return None

    async def _write(self, batches: list[Batch]) -> None:
        # A sink that is ahead of the stream has some already: a restart replays them. Of a large
        # transaction in pieces it must not see the first piece again without the rest.
        fresh = [batch for batch in batches if not batch.contained_in(self.position)]
        if fresh:
            self._park(await self.sink.write(fresh))
            self.state.writes += 1
        for batch in batches:
            self.state.waiting_rows -= batch.rows
            self.state.waiting_bytes -= batch.size
            self.state.written_rows += batch.rows
            self.state.committed_at = batch.committed_at or self.state.committed_at
        self._reached(batches[-1].position)

    def _park(self, rejected: Sequence[Rejected]) -> None:
        for one in rejected:
            self.state.rejected += 1
            self._log.error("a change is refused for ever", table=one.table, cause=one.cause)

    def _reached(self, position: int) -> None:
        self.position = max(self.position, position)
        self.state.position = self.position
        self.moved()
        if not self.state.waiting_bytes and not self._queue:
            self._idle.set()

    async def _until_done(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, and again after each failure, with growing pauses; never gives up."""
        pause_s = _FIRST_RETRY_S
        while True:
            try:
                await work()
            except NeolayerError as exc:
                self.state.failed(exc)
                self._idle.set()
                self._log.warning("cannot write, will try again", error=exc.message)
            else:
                _honour_cancellation()
                self.state.error = None
                return
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(pause_s * 2, _LAST_RETRY_S)


def _honour_cancellation() -> None:
    """Raise CancelledError where it was lost.

    In Python 3.11 `asyncio.wait_for`, which redis-py uses, swallows a cancellation that arrives in
    the moment its work ends; a lane that missed it would keep the whole relay from starting again.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
