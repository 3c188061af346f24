"""Whether a process that has just been started does its work yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from neolayer.engines.engine import Engine


def engine_answers(engine: Callable[[], Engine]) -> Callable[[], Awaitable[bool]]:
    """A probe that opens a fresh engine and pings it. Its errors mean "not yet"."""

    async def probe() -> bool:
        opened = engine()
        try:
            await opened.open()
            await opened.ping()
        finally:
            await opened.close()
        return True

    return probe


def http_answers(host: str, port: int, path: str) -> Callable[[], Awaitable[bool]]:
    """A probe that asks an HTTP server for `path` and wants a 200."""

    async def probe() -> bool:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            await writer.drain()
            return b" 200 " in await reader.readline()
        finally:
            writer.close()

    return probe
