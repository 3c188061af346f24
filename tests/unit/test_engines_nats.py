"""The NATS client lets go of what it opened, whatever the server does.

The servers here are stand-ins that misbehave on purpose: they hang up before a word is said, say
nothing at all, or stop reading in the midst of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import NatsEndpoint
from neolayer.engines.engine import Level
from neolayer.engines.nats.client import connect
from neolayer.errors import EngineUnavailable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_INFO = b'INFO {"server_id":"x","version":"2.10.0","max_payload":8388608,"headers":true}\r\n'


def sockets() -> set[str]:
    """The sockets this process has open, by the kernel's names for them."""
    named: set[str] = set()
    for opened in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            named.add(str(opened.readlink()))
    return {one for one in named if one.startswith("socket:")}


@asynccontextmanager
async def stand_in(serve: Serve) -> AsyncIterator[NatsEndpoint]:
    """A server in this process, which keeps what it accepted open until it ends."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield NatsEndpoint(Level.REAL, f"nats://{address}", address)
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def fall_silent_before_tls(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(_INFO.replace(b'"headers"', b'"tls_required":true,"headers"'))
    await reader.read()


async def stop_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_INFO)
    await reader.readuntil(b"PING\r\n")
    writer.write(b"PONG\r\n")
    await writer.drain()
    reader._transport.pause_reading()  # type: ignore[attr-defined]


@pytest.mark.parametrize("serve", [hang_up, say_nothing, fall_silent_before_tls])
async def test_C5_a_connection_that_fails_leaves_no_socket_open(serve: Serve) -> None:
    async with stand_in(serve) as endpoint:
        before = sockets()
        for _ in range(3):
            with pytest.raises(EngineUnavailable):
                await connect(endpoint, timeout_s=0.2)
        await until_few(before, served=0 if serve is hang_up else 3)


@pytest.mark.parametrize("serve", [say_nothing, fall_silent_before_tls])
async def test_C5_a_connection_given_up_while_it_is_made_is_gone_at_once(serve: Serve) -> None:
    """Nobody waits for a server that said nothing, and no socket stays open."""
    async with stand_in(serve) as endpoint:
        before = sockets()
        connecting = asyncio.create_task(connect(endpoint, timeout_s=PATIENCE_S * 10))
        await asyncio.sleep(0.1)
        connecting.cancel()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(asyncio.CancelledError):
                await connecting
        await until_few(before, served=1)


async def test_a_url_that_the_client_refuses_is_told_as_such() -> None:
    with pytest.raises(EngineUnavailable, match="invalid connect url"):
        await connect(NatsEndpoint(Level.REAL, "nats://here:4222:33", "here"))


async def test_an_answer_that_the_client_cancels_is_an_engine_that_did_not_answer() -> None:
    async with stand_in(stop_reading) as endpoint:
        connection = await connect(endpoint)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.cancel()
        with pytest.raises(EngineUnavailable, match="without an answer"):
            await connection.ask(answer)
        await connection.close()


async def test_C5_a_server_that_reads_no_more_keeps_no_socket_of_ours() -> None:
    async with stand_in(stop_reading) as endpoint:
        before = sockets()
        connection = await connect(endpoint)
        for _ in range(16):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connection.client.publish("subject", bytes(1_000_000))
        await connection.close(seconds=0.2)
        await until_few(before, served=1)


async def until_few(before: set[str], *, served: int) -> None:
    """Nothing of the client's is open: at most the server's own ends, which it holds itself."""
    async with asyncio.timeout(PATIENCE_S):
        while len(sockets() - before) > served:
            await asyncio.sleep(0.01)
