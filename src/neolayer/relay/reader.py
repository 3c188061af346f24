"""The reader: one slot's stream, decoded into batches, into the segment log.

It confirms to PostgreSQL what is durable in that log, however far the sinks are. On an idle
database it asks how far the server's log has got and moves along, so that the slot does not hold
back log that concerns no sink. While even the fastest sink that works has half of the segment log
before it, reading on would only cut sinks off: then it waits, and goes on confirming, so that the
server does not take it for dead.

The server sends each change by itself, the moment it has decoded it. A reader that is faster than
the server and waits for the next one is woken for each, which costs the server more than decoding
it does. So inside a transaction, of which nothing can be passed on before its end, the reader rests
for a moment and finds the changes gathered; where there is a backlog, for as long as it takes the
server to fill the socket, from when on sending is cheap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from neolayer.crash_points import crash_point
from neolayer.engines.postgres.replication import ReplicationConnection
from neolayer.position import Position
from neolayer.relay.decoder import Decoder
from neolayer.relay.lane import Lane
from neolayer.relay.segments import SegmentLog

_MESSAGES_AT_ONCE: Final = 2_000
_IDLE_S: Final = 0.25
_REST_S: Final = 0.001
_LONG_REST_S: Final = 0.008
_BUSY: Final = 200  # messages after which a rest is long: in a short one a backlog brings more
_CONFIRM_S: Final = 0.1


class Reader:
    """One stream into one log."""

    def __init__(
        self,
        stream: ReplicationConnection,
        decoder: Decoder,
        log: SegmentLog,
        lanes: Sequence[Lane],
    ) -> None:
        self._stream = stream
        self._decoder = decoder
        self._log = log
        self._lanes = lanes
        self._confirmed = 0
        self._told_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`. Raises EngineUnavailable, SlotError or RelayError."""
        while not stop.is_set():
            received = self._receive()
            self._append()
            await self._log.roll()
            await self._let_come(received)
            self._confirm(idle=received == 0)
            await self._wait_for_sinks(stop)

    def _receive(self) -> int:
        """Messages of a large transaction that has committed, or else those that have arrived."""
        return self._decoder.replay(limit=_MESSAGES_AT_ONCE) or self._stream.receive(
            self._decoder.feed, limit=_MESSAGES_AT_ONCE
        )

    async def _let_come(self, received: int) -> None:
        if received == 0:
            await self._stream.wait(_IDLE_S)
        elif received < _MESSAGES_AT_ONCE and self._expects_more():
            await asyncio.sleep(_LONG_REST_S if received > _BUSY else _REST_S)
        else:
            await asyncio.sleep(0)

    def _expects_more(self) -> bool:
        return self._stream.gathers and self._decoder.expects_more

    async def confirm_last(self) -> None:
        """Tell the server where we stop, so that it sends nothing twice."""
        await self._log.sync()
        self._told_at = 0.0
        self._confirm(idle=False)

    def _append(self) -> None:
        """A batch into the log, cut between transactions or inside one that is too large."""
        decoder = self._decoder
        if decoder.in_transaction and not decoder.is_part_full:
            return
        batch = decoder.take()
        if batch is not None:
            self._log.append(batch)

    def _confirm(self, *, idle: bool) -> None:
        durable = Position.from_version(self._log.durable).lsn
        now = time.monotonic()
        due = now - self._told_at >= _IDLE_S or (
            durable > self._confirmed and now - self._told_at >= _CONFIRM_S
        )
        if not (due or self._decoder.asked):
            return
        crash_point("relay.before_confirm")
        received = max(self._decoder.position, durable)
        self._stream.confirm(received=received, durable=durable, ask=idle)
        crash_point("relay.after_confirm")
        self._confirmed = durable
        self._decoder.asked = False
        self._told_at = now
        self._forget()

    def _forget(self) -> None:
        needed = [lane.needs for lane in self._lanes if lane.needs is not None]
        self._log.forget(min(needed, default=None), first=self._keep_marks)

    def _keep_marks(self) -> None:
        for lane in self._lanes:
            lane.keep_mark()

    async def _wait_for_sinks(self, stop: asyncio.Event) -> None:
        while self._is_far_ahead() and not stop.is_set():
            await asyncio.sleep(_CONFIRM_S)
            self._confirm(idle=False)

    def _is_far_ahead(self) -> bool:
        unread = [lane.unread_bytes for lane in self._lanes if lane.working]
        return min(unread, default=0) > self._log.bound // 2
