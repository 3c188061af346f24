"""Our relay with two sinks: one takes everything, the other is down all the time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from bench.contenders.protocol import Job, serve
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import Batch
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Rejected
from neolayer.settings import RelaySettings
from neolayer.telemetry import configure_logging


class _Taking(NullSink):
    """Counts every row and tells when it has had them all."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._all = rows
        self.done = asyncio.Event()

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        rejected = await super().write(batches)
        if self.rows >= self._all:
            self.done.set()
        return rejected


class _Down(NullSink):
    name = "down"

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        raise EngineUnavailable(self.name, "is down")


def run(job: Job) -> int:
    """Relay `rows` changes past the sink that is down."""
    configure_logging(level=logging.CRITICAL)
    return asyncio.run(_run(job["dsn"], job["slot"], job["rows"]))


async def _run(dsn: str, slot: str, rows: int) -> int:
    taking, stop = _Taking(rows), asyncio.Event()
    relay = asyncio.create_task(run_sinks(dsn, [taking, _Down()], RelaySettings(), stop, slot=slot))
    await taking.done.wait()
    stop.set()
    await relay
    return taking.rows


if __name__ == "__main__":
    serve(run)
