"""Where a sink's checkpoint lies in NATS: a key-value bucket beside the streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from neolayer.engines.endpoints import NatsEndpoint
from neolayer.engines.nats.client import connect, explain


def bucket_of(endpoint: NatsEndpoint) -> str:
    return f"{endpoint.prefix}_checkpoints"


def key_of(sink: str) -> str:
    """A bucket's keys know no colon."""
    return sink.replace(":", ".")


@asynccontextmanager
async def reading(
    endpoint: NatsEndpoint, sink: str
) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """A function that reads the checkpoint (0: none), over one connection. Raises
    EngineUnavailable."""
    connection = await connect(endpoint)
    from nats.errors import Error
    from nats.js.errors import NotFoundError

    async def read() -> int:
        try:
            bucket = await connection.ask(connection.stream.key_value(bucket_of(endpoint)))
            entry = await connection.ask(bucket.get(key_of(sink)))
        except NotFoundError:
            return 0
        except Error as exc:
            raise explain(exc, endpoint) from exc
        return int(entry.value or b"0")

    try:
        yield read
    finally:
        await connection.close()
