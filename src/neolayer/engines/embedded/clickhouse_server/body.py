"""A request's body as a stream: read slowly, decoded, looked at before it is consumed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from aiohttp import StreamReader

from neolayer.engines.embedded.clickhouse_server.coding import PIECE_BYTES, Decoder
from neolayer.engines.embedded.clickhouse_server.faults import QUERY_IS_TOO_LARGE, ClickHouseFault
from neolayer.engines.embedded.clickhouse_server.threads import Threads

IDLE_SECONDS = 60.0


class ClientTooSlow(Exception):
    """A client sent nothing for too long."""


@contextlib.asynccontextmanager
async def patience() -> AsyncGenerator[None]:
    """Wait for a client, but not for ever."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            yield
    except TimeoutError as exc:
        raise ClientTooSlow from exc


class Body:
    """`peek` first, then `pieces`; each byte is held once and only until it is handed on."""

    def __init__(self, stream: StreamReader, threads: Threads, *, encoding: str | None) -> None:
        self._stream = stream
        self._threads = threads
        self._decoder = Decoder(encoding) if encoding else None
        self._decoded: Iterator[bytes] = iter(())
        self._held = bytearray()
        self._ended = False

    async def peek(self, size: int) -> bytes:
        """The body's beginning: `size` bytes or a little more, or all of it if it is shorter."""
        while not self._ended and len(self._held) < size:
            self._held += await self._read()
        return bytes(self._held)

    async def all(self, limit: int) -> bytes:
        """The whole body, refused with 413 where it is longer than `limit`."""
        content = await self.peek(limit + 1)
        if len(content) > limit:
            raise ClickHouseFault.of(QUERY_IS_TOO_LARGE, f"The query exceeds {limit} bytes")
        self._held.clear()
        return content

    async def pieces(self, skip: int) -> AsyncIterator[bytes]:
        """What follows the first `skip` bytes, in pieces fit for the engine."""
        del self._held[:skip]
        while True:
            while not self._ended and len(self._held) < PIECE_BYTES // 2:
                self._held += await self._read()
            if not self._held:
                return
            piece = bytes(self._held)
            self._held.clear()
            yield piece

    async def _read(self) -> bytes:
        if self._decoder is None:
            return await self._receive()
        piece = await self._threads.call(next, self._decoded, b"")
        while not piece and not self._ended:
            raw = await self._receive()
            if self._ended:
                self._decoder.finish()
            self._decoded = self._decoder.feed(raw)
            piece = await self._threads.call(next, self._decoded, b"")
        return piece

    async def _receive(self) -> bytes:
        async with patience():
            raw = await self._stream.readany()
        self._ended = not raw
        return raw
