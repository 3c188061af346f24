"""How a query's answer leaves the engine: through a pipe, while the query runs.

The engine can write an answer to a file (`INTO OUTFILE`), in any format and with constant memory.
Our file is a pipe, named by its descriptor; a full pipe makes the engine wait for the client.
chDB's own streaming interface yields one complete document per block, which cannot be joined for
JSON, Arrow or Parquet. Cost against asking for all at once: 0.1 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os

PIPE_BYTES = 1 << 20


class Pipe:
    """One end for the engine (`path`), the other read here without blocking."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        with contextlib.suppress(OSError):  # an unprivileged user may have used up its share
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.path = f"/proc/self/fd/{self._writer}"
        self._open = {self._reader, self._writer}

    async def read(self) -> bytes:
        """What has arrived; empty at the end, which is after `close_writer`."""
        while True:
            try:
                return os.read(self._reader, PIPE_BYTES)
            except BlockingIOError:
                await self._readable()

    def close_writer(self) -> None:
        self._close(self._writer)

    def close_reader(self) -> None:
        """Stop reading; an engine that waits on a full pipe wakes with an error."""
        self._close(self._reader)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._reader, _resolve, arrived)
        try:
            await arrived
        finally:
            loop.remove_reader(self._reader)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.discard(descriptor)
            os.close(descriptor)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
