"""The reader: the slot's stream, decoded, in batches for the lanes.

It confirms to PostgreSQL only what every lane has durably, so nothing is lost with this process.
On an idle database it asks how far the log has got and moves the confirmed position along, so that
the slot does not hold back log that concerns no sink. When a lane is full it stops reading, and
goes on confirming, so that the server does not take it for dead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from neolayer.engines.postgres.replication import ReplicationConnection
from neolayer.position import Position
from neolayer.relay.decoder import Decoder
from neolayer.relay.lane import Lane

_MESSAGES_AT_ONCE: Final = 2_000
_SPLIT_BYTES: Final = 16 << 20
_IDLE_S: Final = 0.25
_CONFIRM_S: Final = 0.1


class Reader:
    """One stream into several lanes."""

    def __init__(
        self, stream: ReplicationConnection, lanes: Sequence[Lane], *, confirmed: int, epoch: int
    ) -> None:
        self._stream = stream
        self._lanes = lanes
        self._decoder = Decoder(epoch=epoch)
        self._confirmed = Position.from_version(confirmed).lsn
        self._told_at = 0.0
        self._moved = asyncio.Event()

    def lane_moved(self) -> None:
        """A lane's sink has more than before, or room again."""
        self._moved.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`. Raises EngineUnavailable, SlotError or RelayError."""
        while not stop.is_set():
            received = self._stream.receive(self._decoder.feed, limit=_MESSAGES_AT_ONCE)
            self._hand_over()
            if received == 0:
                await self._stream.wait(_IDLE_S)
            else:
                await asyncio.sleep(0)
            self._confirm(idle=received == 0)
            await self._wait_for_room(stop)

    def confirm_last(self) -> None:
        """Tell the server where we stop, so that it sends nothing twice."""
        self._told_at = 0.0
        self._confirm(idle=False)

    def _hand_over(self) -> None:
        """A batch for every lane, cut between transactions or inside one that is too large."""
        decoder = self._decoder
        if decoder.in_transaction and decoder.size < _SPLIT_BYTES:
            return
        batch = decoder.take()
        if batch is not None:
            for lane in self._lanes:
                lane.offer(batch)

    def _confirm(self, *, idle: bool) -> None:
        durable = Position.from_version(min(lane.position for lane in self._lanes)).lsn
        now = time.monotonic()
        due = now - self._told_at >= _IDLE_S or (
            durable > self._confirmed and now - self._told_at >= _CONFIRM_S
        )
        if not (due or self._decoder.asked):
            return
        self._confirmed = max(durable, self._confirmed)
        received = max(self._decoder.position, self._confirmed)
        self._stream.confirm(received=received, durable=self._confirmed, ask=idle)
        self._decoder.asked = False
        self._told_at = now

    async def _wait_for_room(self, stop: asyncio.Event) -> None:
        while any(lane.full for lane in self._lanes) and not stop.is_set():
            self._moved.clear()
            try:
                async with asyncio.timeout(_IDLE_S):
                    await self._moved.wait()
            except TimeoutError:
                pass
            self._confirm(idle=False)
