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


def redis_answers(port: int, password: str) -> Callable[[], Awaitable[bool]]:
    """A probe that asks a loopback Redis for a PONG, by hand: its client takes long to load."""

    async def probe() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"AUTH {password}\r\nPING\r\n".encode())
            await writer.drain()
            return [await reader.readline() for _ in "12"] == [b"+OK\r\n", b"+PONG\r\n"]
        finally:
            writer.close()

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
